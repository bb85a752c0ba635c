"""Whether a search was worth it: its winner against TrivialMix, which needs none, at equal device time.

Every search report ends with it, so it needs no pandas, scipy for the interval alone, and reads a few rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan, sqrt
from statistics import fmean, median, variance
from typing import TYPE_CHECKING, Any

from automixsearch.analysis.best import Best, Place, best
from automixsearch.analysis.estimate import Estimate, unit_of
from automixsearch.analysis.selection import config_key
from automixsearch.analysis.verdict import Verdict, judge_interval

if TYPE_CHECKING:
    from automixsearch.results.study import Study

BASELINE = "trivialmix"
MOST_ROWS, MOST_RIVALS = 1000, 400
DRAWS = 1000
LEAST_FREEDOM = 5
EQUAL = 1.1
"""A winner that takes up to so much more device time than the baseline is taken to take the same."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Gate:
    """The winner minus the search-free baseline, in the unit of the metric.

    device_s: what one run of each takes, winner first. n: runs of each behind the difference. sentence: all of it in
    words.
    """

    winner: str | None
    metric: str
    difference: Estimate
    device_s: tuple[float, float]
    n: tuple[int, int]
    verdict: Verdict
    sentence: str

    @property
    def answered(self) -> bool:
        """Whether both the winner and the baseline were run."""
        return isfinite(self.difference.value)

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        return [
            {"winner": self.winner, "baseline": BASELINE, "metric": self.metric}
            | self.difference.row("difference")
            | {"device_s_winner": self.device_s[0], "device_s_baseline": self.device_s[1]}
            | {"n_winner": self.n[0], "n_baseline": self.n[1]}
            | {"verdict": str(self.verdict), "sentence": self.sentence}
        ]


def gate(study: Study, metric: str | None = None, answer: Best | None = None) -> Gate:
    """Whether the winner of a study beats TrivialMix at equal device time.

    The score that made a trial the winner is too high, for it was chosen by it. So the winner is judged by its
    confirmation runs where there are any. Else the choice is drawn again many times, among all that it was made from,
    freed of noise as far as it is known; by how much the chosen then score above their worth is taken off, and is in
    the interval. Likewise the baseline, where it was run with several settings.

    Source: the search-free baseline, after TrivialAugment, arXiv 2103.10158; the parametric bootstrap of a maximum
        with shrunken scores, after Efron, JASA 106 (2011).

    Args:
        answer: that of `best`, where it was asked already.

    Raises:
        StudyError: no such metric.
    """
    metric = metric or study.objective[0]
    sign = study.sign(metric)
    if answer is None:
        study.check_comparable()
    first = _winner(answer) if answer else None
    first = first or _winner(best(study, 1, "method", metric))
    rows = _rows(study, metric, first)
    winner = next((row for row in rows if row["first"]), None)
    if winner is None:
        return _silent(metric, None, "No trial of a searched method has ended: there is no winner yet.")
    name = f"{winner['trial_id']} ({winner['method']})"
    theirs = [row for row in rows if row["method"] == BASELINE]
    if not theirs:
        unknown_yet = f"Whether {name} beats the search-free baseline is unknown: {BASELINE} was not run"
        return _silent(metric, winner, f"{unknown_yet}; add it to method, with a few seeds.")
    field, rivals = _field(study, metric, sign, winner)
    seen = {row["number"] for row in field}
    ours = [*field, *(row for row in rows if row["method"] != BASELINE and row["number"] not in seen)]
    return _judged(metric, sign, winner, name, ours, theirs, rivals)


def _winner(answer: Best) -> Place | None:
    """The best config of a searched method."""
    return next((place for place in answer.places if place.row["method"] != BASELINE), None)


def _searched(metric: str) -> str:
    """What a winner is chosen from, as a condition."""
    return (
        f"state = 'complete' AND \"{metric}\" IS NOT NULL AND method <> '{BASELINE}' "
        "AND coalesce(purpose, 'search') NOT IN ('confirm', 'replicate')"
    )


def _rows(study: Study, metric: str, winner: Place | None) -> list[Row]:
    """The runs of the winner, its first one as `first`, repeated runs and those of the baseline; with their keys."""
    numbers = ", ".join(str(number) for number in winner.numbers[:MOST_ROWS]) if winner else "NULL"
    sql = f"""
        WITH own AS (
            SELECT trial_id, number, method, purpose, epochs_total, device_s, val_images, "{metric}" AS score,
                   {_searched(metric)} AS searched, number IN ({numbers}) AS winning
            FROM trials WHERE state = 'complete' AND "{metric}" IS NOT NULL
        )
        SELECT *, number = {winner.row["number"] if winner else -1} AS first FROM own
        WHERE winning OR method = '{BASELINE}' OR NOT searched ORDER BY first DESC, winning DESC, number
        LIMIT {MOST_ROWS}"""
    return _with_keys(study, study.rows(sql))


def _with_keys(study: Study, rows: list[Row]) -> list[Row]:
    """Rows with the keys of their configs; asked for by themselves, for those of a million trials must not be read."""
    numbers = ", ".join(str(row["number"]) for row in rows) or "NULL"
    configs = {row["trial_id"]: row["config"] for row in
               study.rows(f"SELECT trial_id, config FROM trials WHERE number IN ({numbers})")}  # fmt: skip
    return [row | {"key": config_key(configs.get(row["trial_id"]), row["trial_id"])} for row in rows]


@dataclass(frozen=True)
class Rivals:
    """Scores of the configs of which the best was chosen (larger is better), the mean of each one's group, and the
    variance within groups."""

    scores: Sequence[float]
    centres: Sequence[float]
    spread: float
    freedom: int

    @classmethod
    def of(cls, groups: Sequence[Sequence[float]]) -> Rivals:
        """From the scores of each group; one group, where there are too few in each to tell what is usual for it."""
        freedom = sum(len(group) - 1 for group in groups)
        if freedom < LEAST_FREEDOM:
            groups = [[score for group in groups for score in group]]
            freedom = len(groups[0]) - 1
        spread = sum(variance(group) * (len(group) - 1) for group in groups if len(group) > 1) / max(freedom, 1)
        pairs = [(score, fmean(group)) for group in groups for score in group]
        return cls([score for score, _ in pairs], [centre for _, centre in pairs], spread, freedom)


def _field(study: Study, metric: str, sign: int, winner: Row) -> tuple[list[Row], Rivals]:
    """What the winner was chosen from, the best rows of its schedule first, and their configs grouped by method."""
    length = winner["epochs_total"]
    where = f"{_searched(metric)} AND epochs_total IS NOT DISTINCT FROM {'NULL' if length is None else length}"
    rows = study.rows(
        f'SELECT trial_id, number, method, purpose, epochs_total, device_s, val_images, "{metric}" AS score, '
        f"number = {winner['number']} AS first FROM trials WHERE {where} "
        f'ORDER BY {-sign} * "{metric}", number LIMIT {MOST_RIVALS}'
    )
    if len(rows) < MOST_RIVALS:
        rows = _with_keys(study, rows)
    else:  # spread over a large ledger; each counts as a config of its own
        rows = [row | {"key": winner["key"] if row["first"] else row["trial_id"]} for row in rows]
    configs: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        configs.setdefault((str(row["method"]), row["key"]), []).append(sign * row["score"])
    groups: dict[str, list[float]] = {}
    for (method, _), scores in configs.items():
        groups.setdefault(method, []).append(fmean(scores))
    found = Rivals.of(list(groups.values()))
    if len(rows) < MOST_RIVALS:
        return rows, found
    # The rest cannot win, but tells what is usual.
    rest = study.rows(
        f'SELECT method, avg("{metric}") AS centre, var_samp("{metric}") AS spread, count(*) AS n FROM trials '
        f"WHERE {where} GROUP BY method HAVING count(*) > 1"
    )
    centres: dict[str, float] = {row["method"]: sign * row["centre"] for row in rest}
    freedom = sum(row["n"] - 1 for row in rest)
    if freedom < LEAST_FREEDOM:
        return rows, found
    of = [(score, centres.get(method, score)) for method, scores in groups.items() for score in scores]
    spread = sum(row["spread"] * (row["n"] - 1) for row in rest) / freedom
    return rows, Rivals([score for score, _ in of], [centre for _, centre in of], spread, freedom)


def _silent(metric: str, winner: Row | None, sentence: str) -> Gate:
    taken = nan if winner is None or winner["device_s"] is None else winner["device_s"]
    name = None if winner is None else winner["trial_id"]
    return Gate(name, metric, Estimate(nan, note=sentence), (taken, nan), (0, 0), Verdict.UNRESOLVED, sentence)


def _judged(metric: str, sign: int, winner: Row, name: str, ours: list[Row], theirs: list[Row], rivals: Rivals) -> Gate:
    taken = _seconds(_runs(ours, winner["key"]))
    theirs = _of_equal_time(theirs, taken)
    ahead, behind = _runs(ours, winner["key"]), _runs(theirs, _first(theirs, sign))
    noise, freedom = _noise([*ours, *theirs], winner)
    note = ""
    if not freedom:
        noise, freedom = rivals.spread if rivals.freedom else nan, rivals.freedom
        note = "no config was run twice, so the noise of seeds may be all of what configs scatter by"
    gain = _gain(
        _Side.of(ahead, rivals, sign),
        _Side.of(behind, Rivals.of([list(_means(theirs, sign).values())]), sign),
        noise,
        freedom,
    )
    estimate = replace(gain, note=note)
    gain = estimate.value
    verdict, times = judge_interval(estimate), (taken, _seconds(theirs))
    ratio = times[0] / times[1] if times[1] > 0 else nan
    far = f"{abs(gain):.2f}{unit_of(metric)}"
    if estimate.known:
        far += f" (95 % interval of the difference: {estimate.low:.2f} to {estimate.high:.2f})"
    if ratio > EQUAL:
        more = f"though one run takes {ratio:.1f} times the device time"
        if verdict is Verdict.BETTER:
            verdict = Verdict.UNRESOLVED
            more += f", so equal time asks for {BASELINE} at about {round(ratio * theirs[0]['epochs_total'])} epochs"
    else:
        more = "at equal device time" if ratio > 1 / EQUAL else f"at {ratio:.1f} of the device time"
    advice = "run both again with fresh seeds" if min(len(ahead), len(behind)) < 2 else ""
    tail = "; ".join(part for part in (note, advice) if part)
    tail = f" ({tail})" if tail and verdict is Verdict.UNRESOLVED else f" ({note})" if note else ""
    side = "better" if gain >= 0 else "worse"
    words = {
        Verdict.BETTER: f"{name} beats the search-free {BASELINE} by {far} {more}{tail}.",
        Verdict.WORSE: f"{name} does not beat the search-free {BASELINE}: it is {far} worse, {more}{tail}.",
        Verdict.UNRESOLVED: f"Unresolved: {name} is {far} {side} than the search-free {BASELINE}, {more}{tail}.",
    }
    shown = estimate if sign > 0 else estimate.flipped()
    return Gate(winner["trial_id"], metric, shown, times, (len(ahead), len(behind)), verdict, words[verdict])


def _runs(rows: Sequence[Row], key: str) -> list[Row]:
    """The runs that say what a chosen config is worth: fresh ones, where there are any."""
    own = [row for row in rows if row["key"] == key]
    return [row for row in own if row["purpose"] == "confirm"] or own


def _means(rows: Sequence[Row], sign: int) -> dict[str, float]:
    """The mean score of each config by its key, larger is better; of other than fresh runs, where there are any."""
    groups: dict[str, list[float]] = {}
    for row in [row for row in rows if row["purpose"] != "confirm"] or rows:
        groups.setdefault(row["key"], []).append(sign * row["score"])
    return {key: fmean(scores) for key, scores in groups.items()}


def _first(rows: Sequence[Row], sign: int) -> str:
    """The key of the best setting of the baseline."""
    means = _means(rows, sign)
    return max(means, key=lambda key: means[key])


def _seconds(rows: Sequence[Row]) -> float:
    known = [row["device_s"] for row in rows if row["device_s"] is not None]
    return median(known) if known else nan


def _of_equal_time(rows: list[Row], seconds: float) -> list[Row]:
    """The runs of the shortest schedule that takes as long as the winner does; else those of the longest there is."""
    lengths = sorted({row["epochs_total"] for row in rows})
    parts = [[row for row in rows if row["epochs_total"] == length] for length in lengths]
    enough = [part for part in parts if _seconds(part) * EQUAL >= seconds]
    return enough[0] if enough else parts[-1]


def _noise(rows: Sequence[Row], winner: Row) -> tuple[float, int]:
    """The variance of one config over seeds, pooled over all that were run twice, and its degrees of freedom.

    The run that made the winner is left out where others can stand for it: it scored too high.
    """
    fresh = any(row["key"] == winner["key"] and row["purpose"] == "confirm" for row in rows)
    groups: dict[str, list[float]] = {}
    for row in rows:
        if not (fresh and row["number"] == winner["number"]):
            groups.setdefault(row["key"], []).append(row["score"])
    freedom = sum(len(scores) - 1 for scores in groups.values())
    total = sum(variance(scores) * (len(scores) - 1) for scores in groups.values() if len(scores) > 1)
    return (total / freedom, freedom) if freedom else (nan, 0)


@dataclass(frozen=True)
class _Side:
    """A config: the mean of the runs that stand for it, their number, and what it was chosen from by them."""

    value: float
    runs: int
    rivals: Rivals | None

    @classmethod
    def of(cls, rows: Sequence[Row], rivals: Rivals, sign: int) -> _Side:
        chosen = rows[0]["purpose"] != "confirm" and len(rivals.scores) > 2 and rivals.spread > 0
        return cls(fmean(sign * row["score"] for row in rows), len(rows), rivals if chosen else None)

    def excess(self, noise: Any, rng: Any) -> Any:
        """By how much the value is above the worth, drawn for each of these variances of single runs, [R]."""
        import numpy as np

        error = np.sqrt(noise / self.runs)
        if self.rivals is None:
            return error * rng.standard_normal(len(noise))
        scores, centres = np.array(self.rivals.scores), np.array(self.rivals.centres)
        kept = np.sqrt(np.maximum(0, 1 - error**2 / self.rivals.spread))
        one = rng.integers(len(scores), size=(len(noise), len(scores)))
        worth = centres[one] + kept[:, None] * (scores - centres)[one]
        above = error[:, None] * rng.standard_normal(worth.shape)
        chosen = (worth + above).argmax(1)
        return above[np.arange(len(noise)), chosen]


def _gain(ahead: _Side, behind: _Side, noise: float, freedom: float) -> Estimate:
    """What one is worth more than the other: the wider of Student's interval and the bootstrap's, at either end."""
    import numpy as np
    from scipy.special import stdtrit

    gain = ahead.value - behind.value
    if not isfinite(noise):
        return Estimate(gain)
    rng = np.random.default_rng(0)
    drawn = np.full(DRAWS, noise)
    if isfinite(freedom) and noise:
        drawn = drawn * freedom / rng.chisquare(freedom, DRAWS)
    excess = ahead.excess(drawn, rng) - behind.excess(drawn, rng)
    low, middle, high = (float(end) for end in np.quantile(excess, [0.025, 0.5, 0.975]))
    chosen = ahead.rivals is not None or behind.rivals is not None
    middle = middle if chosen else 0.0
    half = float(stdtrit(freedom, 0.975)) * sqrt(noise * (1 / ahead.runs + 1 / behind.runs))
    if not chosen:
        return Estimate(gain, gain - half, gain + half)
    value = gain - middle
    return Estimate(value, min(gain - high, value - half), max(gain - low, value + half))
