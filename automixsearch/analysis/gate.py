"""Whether a search was worth it: its winner against TrivialMix, which needs none, at equal device time.

Every search report ends with it, so it is plain Python over a few rows: no pandas, no scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, inf, isfinite, nan, pi, sin, sqrt
from statistics import NormalDist, fmean, median, variance
from typing import TYPE_CHECKING, Any

from automixsearch.analysis.estimate import Estimate
from automixsearch.analysis.sample import config_key
from automixsearch.analysis.verdict import Verdict, judge_interval
from automixsearch.errors import StudyError, unknown
from automixsearch.results.schema import metric_directions

if TYPE_CHECKING:
    from automixsearch.results.study import Study

BASELINE = "trivialmix"
MOST_ROWS = 1000
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

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        return [
            {"winner": self.winner, "baseline": BASELINE, "metric": self.metric}
            | self.difference.row("difference")
            | {"device_s_winner": self.device_s[0], "device_s_baseline": self.device_s[1]}
            | {"n_winner": self.n[0], "n_baseline": self.n[1]}
            | {"verdict": str(self.verdict), "sentence": self.sentence}
        ]


def gate(study: Study, metric: str | None = None) -> Gate:
    """Whether the winner of a study beats TrivialMix at equal device time.

    The score that made a trial the winner is too high, for it was chosen by it. So the winner is judged by its
    confirmation runs where there are any, else by its score drawn towards the mean of its method as far as the noise
    demands; likewise the baseline, where it was run with several settings.

    Source: the search-free baseline, after TrivialAugment, arXiv 2103.10158; shrinkage against the winner's curse,
        Efron, JASA 106 (2011); noise guessed from the number of images where nothing was repeated, sqrt(error / 2n),
        Jordan, arXiv 2304.01910.

    Raises:
        StudyError: no such metric.
    """
    metric = metric or study.objective[0]
    known = metric_directions()
    if metric not in known:
        raise StudyError(f"study {study.name}: {unknown('metric', metric, known)}")
    sign = 1 if known[metric] == "max" else -1
    rows = _rows(study, metric, sign)
    winner = next((row for row in rows if row["first"]), None)
    if winner is None:
        return _silent(metric, None, "No trial of a searched method has ended: there is no winner yet.")
    name = f"{winner['trial_id']} ({winner['method']})"
    theirs = [row for row in rows if row["method"] == BASELINE]
    if not theirs:
        unknown_yet = f"Whether {name} beats the search-free baseline is unknown: {BASELINE} was not run"
        return _silent(metric, winner, f"{unknown_yet}; add it to method, with a few seeds.")
    return _judged(metric, sign, winner, name, [row for row in rows if row["method"] != BASELINE], theirs)


def _rows(study: Study, metric: str, sign: int) -> list[Row]:
    """The winner (`first`) with what its method does, repeated runs, and runs of the baseline; with keys of configs.

    Two questions, for the configs of a million trials must not be read to find the few that count.
    """
    sql = f"""
        WITH own AS (
            SELECT trial_id, number, method, purpose, epochs_total, device_s, val_images, "{metric}" AS score,
                   method <> '{BASELINE}' AND coalesce(purpose, 'search') NOT IN ('confirm', 'replicate') AS searched
            FROM trials WHERE state = 'complete' AND "{metric}" IS NOT NULL
        ), winner AS (SELECT * FROM own WHERE searched ORDER BY {-sign} * score, number LIMIT 1), pool AS (
            SELECT avg(own.score) AS centre, var_samp(own.score) AS spread, count(*) AS configs FROM own, winner
            WHERE own.searched AND own.method = winner.method AND own.epochs_total = winner.epochs_total
        )
        SELECT own.*, pool.*, own.number = winner.number AS first FROM own, pool LEFT JOIN winner ON true
        WHERE first OR own.method = '{BASELINE}' OR NOT own.searched ORDER BY first DESC NULLS LAST, own.number
        LIMIT {MOST_ROWS}"""
    rows = study.rows(sql)
    numbers = ", ".join(str(row["number"]) for row in rows) or "NULL"
    configs = {row["trial_id"]: row["config"] for row in
               study.rows(f"SELECT trial_id, config FROM trials WHERE number IN ({numbers})")}  # fmt: skip
    return [row | {"key": config_key(configs.get(row["trial_id"]), row["trial_id"])} for row in rows]


def _silent(metric: str, winner: Row | None, sentence: str) -> Gate:
    taken = nan if winner is None or winner["device_s"] is None else winner["device_s"]
    name = None if winner is None else winner["trial_id"]
    return Gate(name, metric, Estimate(nan, note=sentence), (taken, nan), (0, 0), Verdict.UNRESOLVED, sentence)


def _judged(metric: str, sign: int, winner: Row, name: str, ours: list[Row], theirs: list[Row]) -> Gate:
    same = [row for row in ours if row["key"] == winner["key"] and row["purpose"] == "confirm"]
    same = same or [row for row in ours if row["key"] == winner["key"]]
    taken = _seconds(same)
    theirs = _of_equal_time(theirs, taken)
    noise, freedom = _noise([*ours, *theirs])
    guessed = not freedom
    if guessed:
        noise, freedom = _guess(winner, metric), inf
    pool = (sign * winner["centre"], winner["spread"], winner["configs"])
    ahead = _side(same, pool, sign, noise)
    first = _first(theirs, sign)
    behind = _side([row for row in theirs if row["key"] == first["key"]], _pool(theirs, sign), sign, noise)
    gain = ahead[0] - behind[0]
    error = sqrt(ahead[1] + behind[1]) if isfinite(noise) else nan
    half = t_quantile(freedom) * error if isfinite(error) else nan
    note = "the noise is guessed from the number of images" if guessed and isfinite(noise) else ""
    estimate = Estimate(gain, gain - half, gain + half, note=note)
    verdict, times = judge_interval(estimate), (taken, _seconds(theirs))
    ratio = times[0] / times[1] if times[1] > 0 else nan
    unit = " points" if metric.endswith("top1") else ""
    far = f"{abs(gain):.2f}{unit}"
    if estimate.known:
        far += f" (95 % interval of the difference: {estimate.low:.2f} to {estimate.high:.2f})"
    if ratio > EQUAL:
        more = f"though one run takes {ratio:.1f} times the device time"
        if verdict is Verdict.BETTER:
            verdict = Verdict.UNRESOLVED
            more += f", so equal time asks for {BASELINE} at about {round(ratio * theirs[0]['epochs_total'])} epochs"
    else:
        more = "at equal device time" if ratio > 1 / EQUAL else f"at {ratio:.1f} of the device time"
    advice = "run both again with fresh seeds" if not (ahead[2] > 1 and behind[2] > 1) else ""
    tail = "; ".join(part for part in (note, advice) if part)
    tail = f" ({tail})" if tail and verdict is Verdict.UNRESOLVED else f" ({note})" if note else ""
    side = "above" if gain >= 0 else "below"
    words = {
        Verdict.BETTER: f"{name} beats the search-free {BASELINE} by {far} {more}{tail}.",
        Verdict.WORSE: f"{name} does not beat the search-free {BASELINE}: it is {far} below it, {more}{tail}.",
        Verdict.UNRESOLVED: f"Unresolved: {name} is {far} {side} the search-free {BASELINE}, {more}{tail}.",
    }
    shown = estimate if sign > 0 else estimate.flipped()
    return Gate(winner["trial_id"], metric, shown, times, (ahead[2], behind[2]), verdict, words[verdict])


def _first(rows: Sequence[Row], sign: int) -> Row:
    chosen = [row for row in rows if row["purpose"] not in ("confirm", "replicate")] or rows
    return max(chosen, key=lambda row: sign * row["score"])


def _seconds(rows: Sequence[Row]) -> float:
    known = [row["device_s"] for row in rows if row["device_s"] is not None]
    return median(known) if known else nan


def _of_equal_time(rows: list[Row], seconds: float) -> list[Row]:
    """The runs of the shortest schedule that takes as long as the winner does; else those of the longest there is."""
    lengths = sorted({row["epochs_total"] for row in rows})
    parts = [[row for row in rows if row["epochs_total"] == length] for length in lengths]
    enough = [part for part in parts if _seconds(part) * EQUAL >= seconds]
    return enough[0] if enough else parts[-1]


def _noise(rows: Sequence[Row]) -> tuple[float, int]:
    """The variance of one config over seeds, pooled over all that were run twice, and its degrees of freedom."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["key"], []).append(row["score"])
    freedom = sum(len(scores) - 1 for scores in groups.values())
    total = sum(variance(scores) * (len(scores) - 1) for scores in groups.values() if len(scores) > 1)
    return (total / freedom, freedom) if freedom else (nan, 0)


def _guess(winner: Row, metric: str) -> float:
    if not metric.endswith("top1") or not winner["val_images"]:
        return nan
    error = min(max(1 - winner["score"] / 100, 1 / winner["val_images"]), 1)
    return 100**2 * error / (2 * winner["val_images"])


Pool = tuple[float, float | None, int]
"""Mean and variance of the scores among which one was chosen, and their number."""


def _pool(rows: Sequence[Row], sign: int) -> Pool:
    by_config: dict[str, list[float]] = {}
    for row in rows:
        by_config.setdefault(row["key"], []).append(sign * row["score"])
    means = [fmean(scores) for scores in by_config.values()]
    return fmean(means), variance(means) if len(means) > 1 else None, len(means)


def _side(own: Sequence[Row], pool: Pool, sign: int, noise: float) -> tuple[float, float, int]:
    """What a chosen config is worth (larger is better), its variance, and the runs that say so."""
    fresh = [sign * row["score"] for row in own if row["purpose"] == "confirm"]
    if fresh:
        return fmean(fresh), noise / len(fresh), len(fresh)
    scores = [sign * row["score"] for row in own]
    value, n = fmean(scores), len(scores)
    centre, spread, configs = pool
    if configs < 3 or not spread or not isfinite(noise):
        return value, noise / n, n
    kept = max(0.0, 1 - noise / n / spread)
    # What the scores do not decide is as wide as the posterior; the mean of the method is known to spread / configs.
    return centre + kept * (value - centre), kept * noise / n + (1 - kept) ** 2 * spread / configs, n


def t_quantile(freedom: float, level: float = 0.95) -> float:
    """What |t| of Student's t stays below with probability `level`; whole degrees of freedom, or infinite.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4, inverted by bisection.
    """
    if freedom == inf or freedom > 300:
        return NormalDist().inv_cdf((1 + level) / 2)
    low, high = 0.0, 1e3
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, int(freedom)) < level else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """P(|T| < t)."""
    angle = atan(t / sqrt(freedom))
    s, c = sin(angle), cos(angle)
    odd = freedom % 2
    term, total = (c, c) if odd else (1.0, 1.0)
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * c * c
        total += term
    if odd:
        return 2 / pi * (angle + (s * total if freedom > 1 else 0))
    return s * total
