"""Which configs are best, which cannot be told from the best, and what it takes to tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import ceil, inf, isfinite, nan, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.analysis.estimate import Estimate, unit_of
from automixsearch.analysis.verdict import margin_of
from automixsearch.errors import StudyError, unknown
from automixsearch.results.schema import column_named, in_percent
from automixsearch.results.study import fetch
from automixsearch.show import duration

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pandas import DataFrame

    from automixsearch.results.study import Study

MOST = 2000
"""Configs with the highest means that are looked at; of those beyond it their number counts, and their scatter."""
LEAST_FREEDOM = 5
"""With fewer degrees of freedom the scatter of a method's configs is that of all methods together."""
ENOUGH = 10
"""Degrees of freedom of the noise of the better half with which it stands for itself."""
FIRST = 5
"""Places whose order is priced."""
SEEDS = r"""regexp_replace(config, '"(split_)?seed": ?-?\d+,?', '', 'g')"""
"""The text of a config without its seeds: the key of a config in ledgers that were written without one."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Noise:
    """The variance of single runs of a config, over seeds and splits.

    freedom: its degrees of freedom. known: whether configs were run twice; else it is that of single runs of different
    configs, which is as much as it can be.
    """

    variance: float
    freedom: float
    known: bool


@dataclass(frozen=True)
class Place:
    """A config among the best.

    row: of its first run, with the means over all of its runs in place of the scores and times of that one.
    worth: what a further run is expected to score, drawn towards the mean of its method as far as noise explains it.
    alike: whether it cannot be told from the best.
    """

    row: Row
    runs: int
    mean: float
    worth: Estimate
    alike: bool

    @property
    def trial_id(self) -> str:
        """The first run of the config, which stands for it."""
        return self.row["trial_id"]

    @property
    def numbers(self) -> list[int]:
        """The numbers of its runs."""
        return self.row["numbers"]

    def content(self) -> Row:
        """The row with what is known of the config."""
        known = {"runs": self.runs, "mean": self.mean, "alike": self.alike}
        return self.row | known | self.worth.row("worth")


@dataclass(frozen=True)
class Best:
    """The best configs, by what a further run of each is expected to score.

    configs, alike: how many there are, and how many of them cannot be told from the best. sd: the deviation of a single
    run. more_runs, more_device_s: what tells the first places apart where they differ by `margin`.
    """

    metric: str
    places: tuple[Place, ...]
    configs: int
    alike: int
    noise: Noise
    margin: float
    more_runs: int
    more_device_s: float

    def content(self) -> Row:
        """What is known of all of them."""
        names = ("configs", "alike", "margin", "more_runs", "more_device_s")
        noise = {"noise_sd": sqrt(self.noise.variance) if isfinite(self.noise.variance) else None,
                 "noise_freedom": self.noise.freedom, "noise_known": self.noise.known}  # fmt: skip
        return {name: getattr(self, name) for name in names} | noise

    @property
    def sentence(self) -> str:
        """What the order of the configs rests on, and what would settle it."""
        if self.winner is None or self.configs < 2:
            return "" if self.winner is None else "One config has ended: there is nothing to tell it from."
        unit, name = unit_of(self.metric), self.winner.trial_id
        sd = sqrt(self.noise.variance)
        if not self.noise.known:
            most = f", but no more than {sd:.2g}{unit}, by which configs of a method scatter" if isfinite(sd) else ""
            basis = f"each config was run once: what another seed does is unknown{most}"
        else:
            basis = f"another seed moves a run by {sd:.2g}{unit} (one standard deviation)"
        if self.alike < 2:
            return f"{name} is told from all {self.configs - 1} other configs at 95 %; {basis}."
        more = ""
        if self.more_runs:
            first = min(self.alike, FIRST, len(self.places))
            cost = f", {duration(self.more_device_s)} of device time" if self.more_device_s else ""
            up = "up to " if not self.noise.known else "about "
            more = (
                f" To tell the first {first} apart by {self.margin:g}{unit} takes {up}{self.more_runs} more runs{cost}."
            )
        return (
            f"Unresolved: {'at least ' * (self.alike == MOST)}{self.alike} of {self.configs} configs (those with =) "
            f"cannot be told from the best at 95 %; {basis}.{more}"
        )

    def frame(self) -> DataFrame:
        """The places in order: columns of the ledger with means over the runs of each config, and runs, mean, alike
        (cannot be told from the best), worth with its interval."""
        import pandas as pd

        return pd.DataFrame([place.content() for place in self.places])

    @property
    def winner(self) -> Place | None:
        """The config that ranks first."""
        return self.places[0] if self.places else None


def best(
    study: Study, n: int = 5, per: str | None = None, metric: str | None = None, margin: float | None = None
) -> Best:
    """The n best configs, or the n best for each value of the column `per`.

    Configs rank by their worth: mean scores shrunk towards the mean of their method by the share of their variance that
    is noise (empirical Bayes). One is told from the best where its mean is further below that of another than all
    means would ever be apart by noise alone in 95 % of studies (Tukey and Kramer), so configs that are as good as the
    best are all kept, together, in 95 %. Noise is pooled over all configs that were run again. Where none was, it can
    be as large as the scatter of configs within a method, and is taken to be.

    Args:
        margin: differences up to it are of no interest, the study's own by default; it prices what is open.

    Source: Morris, JASA 78 (1983); Kramer, Biometrics 12 (1956); Hsu, Multiple Comparisons (1996), chapter 4.

    Raises:
        StudyError: no such metric or column, or trials of several data sets.

    Examples:
        >>> from importlib.resources import files
        >>> answer = best(open_study(files("automixsearch") / "example"), n=3)
        >>> answer.frame()[["trial_id", "runs"]].shape
        (3, 2)
        >>> answer.winner.trial_id == answer.frame().trial_id[0]
        True
    """
    metric, per = metric or study.objective[0], per and column_named(per, study.plugins)
    sign = study.sign(metric)
    margin = margin_of(study, metric, margin)

    def answer(con: DuckDBPyConnection) -> Best:
        study.compare_in(con)
        _check_columns(study, con, [metric, *([per] if per else [])])
        return _best(con, n, metric, per, sign, margin, study.metrics)

    return study.ask(answer)


def _check_columns(study: Study, con: DuckDBPyConnection, names: Iterable[str]) -> None:
    columns = con.table("trials").columns
    for name in names:
        if name not in columns:
            raise StudyError(f"study {study.name}: {unknown('column', name, columns)}")


def _best(
    con: DuckDBPyConnection, n: int, metric: str, per: str | None, sign: int, margin: float, averaged: Iterable[str]
) -> Best:
    configs = _configs(con, metric, per, sign, n)
    if not configs:
        return Best(metric, (), 0, 0, Noise(nan, 0, False), margin, 0, 0.0)
    count, noise = configs[0]["configs"], _noise(configs, metric)
    means, runs = (np.array([row[name] for row in configs], float) for name in ("mean", "runs"))
    worth, error = _shrunk(configs, means, runs, noise)
    alike = _alike(means, runs, noise, count)
    order = np.lexsort((-means, -worth))
    chosen = _first_of([configs[i] for i in order], n)
    places = [order[i] for i in chosen]
    rows = _rows(con, [configs[i] for i in places], metric, averaged)
    half = _t(noise.freedom) * error
    legal = (0.0, 100.0) if unit_of(metric) else (-inf, inf)

    def estimate(i: int) -> Estimate:
        value, low, high = (
            (float(worth[i] + way * half[i]) for way in (0, -1, 1)) if noise.known else (worth[i], nan, nan)
        )
        found = Estimate(float(value), low, high, note="" if noise.known else "no config was run twice")
        return (found if sign > 0 else found.flipped()).within(legal)

    made = [Place(row, int(runs[i]), sign * float(means[i]), estimate(i), bool(alike[i]) or i == order[0])
            for i, row in zip(places, rows, strict=True)]  # fmt: skip
    more, seconds = _price([place for place in made if place.alike][:FIRST], noise, margin)
    return Best(metric, tuple(made), count, int(alike.sum()), noise, margin, more, seconds)


def _key(con: DuckDBPyConnection) -> str:
    """What tells configs apart, seeds left out, in SQL."""
    known = "config_key" in con.table("trials").columns
    if known and con.execute("SELECT count(*) = count(config_key) FROM trials").fetchone() == (True,):
        return "config_key"
    return f"coalesce({SEEDS}, trial_id)"


def _configs(con: DuckDBPyConnection, metric: str, per: str | None, sign: int, n: int) -> list[Row]:
    """The configs with the highest means, larger is better, with what is known of their methods and of all."""
    key = _key(con)
    of = f'any_value("{per}")' if per else "NULL"
    images = "test_images" if metric.startswith("test_") else "val_images"
    # A score for which a config was chosen to run again is an extreme, and tells nothing of how its runs scatter.
    fresh = "purpose IS NOT DISTINCT FROM 'confirm'"
    parts = [f'CASE WHEN {which} THEN "{metric}" END' for which in (fresh, f"NOT ({fresh})")]
    again = [(own, f"greatest(count({own}) - 1, 0)") for own in parts]
    where = f"state = 'complete' AND \"{metric}\" IS NOT NULL" + (f' AND "{per}" IS NOT NULL' if per else "")
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE configs AS
            SELECT method, {key} AS key, {of} AS part, {sign} * avg("{metric}") AS mean, count(*) AS runs,
                   min(number) AS number, max({images}) AS images,
                   {" + ".join(f"coalesce(var_samp({own}), 0) * {n}" for own, n in again)} AS squares,
                   {" + ".join(n for _, n in again)} AS again
            FROM trials WHERE {where} GROUP BY method, {key}""")
    of_each = f"""
            UNION (SELECT * FROM configs
                   QUALIFY row_number() OVER (PARTITION BY part ORDER BY mean DESC, number) <= {max(n, 50)})"""
    answer = con.execute(f"""
        WITH first AS (
            (SELECT * FROM configs ORDER BY mean DESC, number LIMIT {MOST}){of_each if per else ""}
        ), methods AS (
            SELECT method, count(*) AS n_method, avg(mean) AS centre, coalesce(var_samp(mean), 0) AS spread,
                   avg(1.0 / runs) AS per_run FROM configs GROUP BY method
        ), whole AS (
            SELECT count(*) AS configs, avg(mean) AS centre_all, coalesce(var_samp(mean), 0) AS spread_all,
                   sum(squares) AS squares_all, sum(again) AS freedom, avg(1.0 / runs) AS per_run_all,
                   median(mean) AS middle FROM configs
        ), better AS (
            SELECT sum(squares) AS squares_better, sum(again) AS freedom_better
            FROM configs, whole WHERE mean >= middle
        ), scatter AS (
            SELECT sum(spread * (n_method - 1)) AS within, sum(n_method - 1) AS within_freedom FROM methods
        )
        SELECT * FROM first JOIN methods USING (method), whole, better, scatter ORDER BY mean DESC, number""")
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, values, strict=True)) for values in answer.fetchall()]


def _noise(configs: list[Row], metric: str) -> Noise:
    """The pooled noise of runs; that of one image at least, for accuracies.

    Bad configs are often unsteady, so it is that of the better half of the configs, where enough of them were repeated.
    """
    one = configs[0]
    quantum = 100 / one["images"] if in_percent(metric) and one["images"] else 0.0
    if one["freedom_better"] >= ENOUGH:
        return Noise(
            max(one["squares_better"] / one["freedom_better"], quantum**2 / 2), float(one["freedom_better"]), True
        )
    if one["freedom"]:
        return Noise(max(one["squares_all"] / one["freedom"], quantum**2 / 2), float(one["freedom"]), True)
    within = one["within_freedom"] >= LEAST_FREEDOM
    freedom = one["within_freedom"] if within else one["configs"] - 1
    variance = one["within"] / freedom if within else one["spread_all"]
    return Noise(max(variance, quantum**2 / 2), float(freedom), False) if freedom else Noise(inf, 0, False)


def _shrunk(configs: list[Row], means: np.ndarray, runs: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """What configs are worth, and its standard error; the means as they are where the noise is not known."""
    if not noise.known:
        return means, np.full(len(means), nan)
    worth, error = np.empty(len(means)), np.empty(len(means))
    for i, row in enumerate(configs):
        alone = row["n_method"] - 1 >= LEAST_FREEDOM
        count, centre, spread, per_run = (
            (row["n_method"], row["centre"], row["spread"], row["per_run"]) if alone
            else (row["configs"], row["centre_all"], row["spread_all"], row["per_run_all"])
        )  # fmt: skip
        own, between = noise.variance / runs[i], max(spread - noise.variance * per_run, 0.0)
        away = means[i] - centre
        # How far configs scatter is an estimate itself: Morris's corrections for few of them.
        drawn = own / (own + between) * (count - 3) / (count - 1) if count > 3 and own > 0 else 0.0
        worth[i] = means[i] - drawn * away
        error[i] = sqrt(own * (1 - drawn * (count - 1) / count) + 2 * (drawn * away) ** 2 / max(count - 3, 1))
    return worth, error


def _alike(means: np.ndarray, runs: np.ndarray, noise: Noise, count: int) -> np.ndarray:
    """Which configs no other beats: Tukey's test of the largest of all differences, Kramer's for unequal runs."""
    if not isfinite(noise.variance):
        return np.ones(len(means), bool)
    far = range_quantile(count, noise.freedom) * sqrt(noise.variance / 2)
    return np.array([bool((means - mean <= far * np.sqrt(1 / runs + 1 / own)).all())
                     for mean, own in zip(means, runs, strict=True)])  # fmt: skip


def _first_of(configs: list[Row], n: int) -> list[int]:
    """The places of the first n of each part, best first."""
    counts: dict[Any, int] = {}
    chosen = []
    for place, row in enumerate(configs):
        counts[row["part"]] = counts.get(row["part"], 0) + 1
        if counts[row["part"]] <= n:
            chosen.append(place)
    return chosen


def _rows(con: DuckDBPyConnection, configs: list[Row], metric: str, averaged: Iterable[str]) -> list[Row]:
    """The row of the first run of each config, with means over its runs and their ids and numbers."""
    key = _key(con)
    where = f"state = 'complete' AND \"{metric}\" IS NOT NULL AND {key} IN (SELECT unnest(?))"
    runs: dict[tuple[str, str], list[Row]] = {}
    sql = f"SELECT trial_id, number, {key} FROM trials WHERE {where} ORDER BY number"
    keys = con.execute(sql, [[row["key"] for row in configs]]).fetchall()
    rows = fetch(con, [(trial_id, number) for trial_id, number, _ in keys])
    for row, (_, _, name) in zip(rows, keys, strict=True):
        runs.setdefault((row["method"], name), []).append(row)
    made = []
    for config in configs:
        group = runs[config["method"], config["key"]]
        names = [name for name in group[0] if name in {"wall_s", "device_s", "energy_j", *averaged}]
        means = {name: _mean(row.get(name) for row in group) for name in names}
        known = {"trials": [row["trial_id"] for row in group], "numbers": [row["number"] for row in group]}
        made.append(group[0] | means | known)
    return made


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _price(places: list[Place], noise: Noise, margin: float) -> tuple[int, float]:
    """The further runs that tell the first places apart where they differ by the margin, and their device-seconds."""
    if len(places) < 2 or not isfinite(noise.variance) or margin <= 0:
        return 0, 0.0
    needed = ceil((range_quantile(len(places), inf) ** 2) * noise.variance / margin**2)
    runs = [max(needed - place.runs, 0) for place in places]
    seconds = sum(more * (place.row.get("device_s") or 0.0) for more, place in zip(runs, places, strict=True))
    return sum(runs), seconds


def _t(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975)) if isfinite(freedom) and freedom >= 1 else 1.96


@cache
def range_quantile(count: int, freedom: float, level: float = 0.95) -> float:
    """The quantile of the range of `count` normal means over their standard error, which has `freedom` degrees.

    By quadrature; `scipy.stats.studentized_range` takes seconds for thousands of means.

    Source: Tukey, The Problem of Multiple Comparisons (1953).
    """
    from scipy import special

    if count < 2:
        return 0.0
    z = np.linspace(-9, 9, 361)
    density = np.exp(-(z**2) / 2) / sqrt(2 * np.pi) * (z[1] - z[0])
    scales = np.ones(1)
    if isfinite(freedom):
        scales = np.sqrt(special.chdtri(freedom, (np.arange(60) + 0.5) / 60) / freedom)

    def holds(q: float) -> float:
        inside = special.ndtr(z) - special.ndtr(z - q * scales[:, None])
        return float((count * density * inside ** (count - 1)).sum(1).mean())

    low, high = 0.0, 4.0
    while holds(high) < level:
        high *= 2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) > level else (middle, high)
    return (low + high) / 2
