"""What measured runs say about a published figure: reproduced, different, or not resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite, nan, sqrt
from typing import Any

from automixsearch.analysis.estimate import Estimate
from automixsearch.analysis.power import runs_needed
from automixsearch.reproduce.settings import MARGIN

RUNS = 3
"""Runs behind a published deviation."""
MOST_RUNS = 1000


class Verdict(StrEnum):
    """On one published figure."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    UNRESOLVED = "unresolved"
    OTHER_SCALE = "not comparable (scale)"
    OTHER_MACHINE = "not comparable (machine)"
    NOT_RUN = "not run"
    MISSING = "missing"


@dataclass(frozen=True)
class Judgement:
    """The verdict with what it rests on.

    measured: mean over seeds. difference: measured minus published. p_within: of the test that the difference lies
    within the margin. runs_needed: seeds with which it would be resolved, if it is as it looks; None where it is.
    """

    verdict: Verdict
    measured: Estimate
    difference: Estimate
    p_within: float = nan
    runs_needed: int | None = None


def judge(
    values: Sequence[float],
    published: float | None,
    margin: float = MARGIN,
    std: float | None = None,
    level: float = 0.05,
) -> Judgement:
    """Judge the scores of runs that differ in their seeds against a published figure.

    reproduced: two one-sided t tests at `level` place the difference within the margin (Schuirmann 1987). differs: its
    interval lies outside. unresolved: neither, and always with one run. A published deviation counts as one over three
    runs, and the difference is Welch's; without one the figure is taken as it is printed, so the margin has to cover
    the spread of its seeds too.

    Args:
        published, margin, std: in the unit of the values (points).
    """
    count = len(values)
    mean = math.fsum(values) / count if count else nan
    if not count:
        return Judgement(Verdict.NOT_RUN, Estimate(nan), Estimate(nan))
    if count == 1 or published is None:
        note = "one run has no interval" if count == 1 else "the figure is lost"
        gap = mean - published if published is not None else nan
        measured = _interval(mean, *_spread(values), level)
        return Judgement(Verdict.UNRESOLVED, measured, Estimate(gap, note=note))
    from scipy.stats import t

    error, freedom = _spread(values)
    measured = _interval(mean, error, freedom, level)
    if std is not None:
        theirs = std / sqrt(RUNS)
        parts = error**4 / (count - 1) + theirs**4 / (RUNS - 1)
        error, freedom = sqrt(error**2 + theirs**2), (error**2 + theirs**2) ** 2 / parts if parts else count - 1
    gap = mean - published
    difference = _interval(gap, error, freedom, level)
    room = margin - abs(gap)
    p_within = float(t.sf(room / error, freedom)) if error > 0 else 0.0 if room > 0 else 1.0
    if p_within < level:
        verdict = Verdict.REPRODUCED
    elif difference.low > margin or difference.high < -margin:
        verdict = Verdict.DIFFERS
    else:
        verdict = Verdict.UNRESOLVED
    open_ = verdict == Verdict.UNRESOLVED and std is None  # seeds of ours cannot shrink a published deviation
    needed = _runs_needed(abs(room), error * sqrt(count)) if open_ else None
    return Judgement(verdict, measured, difference, p_within, needed)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Standard error of the mean, and its degrees of freedom."""
    count = len(values)
    if count < 2:
        return nan, 0
    mean = math.fsum(values) / count
    return sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count), count - 1


def _interval(value: float, error: float, freedom: float, level: float) -> Estimate:
    """Student's interval."""
    if not isfinite(error):
        return Estimate(value, note="one run has no interval")
    from scipy.stats import t

    half = float(t.ppf(1 - level / 2, freedom)) * error
    return Estimate(value, value - half, value + half)


def _runs_needed(effect: float, sd: float) -> int:
    return runs_needed(effect, sd, paired=True, most=MOST_RUNS) if effect > 0 else MOST_RUNS


@dataclass(frozen=True)
class Agreement:
    """Whether the rows of a column stand in the published order.

    tau: Kendall's tau-b of the measured means and the published figures, p of its exact test. pairs: of rows;
    resolved: those whose paired difference is told from 0 at 95 %; as_published: of these, in the published order.
    """

    rows: int
    tau: float
    p: float
    pairs: int
    resolved: int
    as_published: int


def agreement(scores: Sequence[Mapping[int, float]], published: Sequence[float]) -> Agreement | None:
    """Compare the order of rows with the published one; None for fewer than two rows.

    Args:
        scores: of each row, by replicate; replicates share seeds, so rows are compared within them.
    """
    if len(scores) < 2:
        return None
    from scipy.stats import kendalltau

    means = [math.fsum(row.values()) / len(row) for row in scores]
    order: Any = kendalltau(means, published)
    pairs = [(i, j) for j in range(len(scores)) for i in range(j) if published[i] != published[j]]
    resolved = as_published = 0
    for i, j in pairs:
        gap = paired(scores[j], scores[i])
        if gap.low > 0 or gap.high < 0:
            resolved += 1
            as_published += (gap.value > 0) == (published[j] > published[i])
    return Agreement(len(scores), float(order.statistic), float(order.pvalue), len(pairs), resolved, as_published)


def paired(a: Mapping[int, float], b: Mapping[int, float], level: float = 0.05) -> Estimate:
    """The mean of a minus b over the replicates that both have."""
    gaps = [a[replicate] - b[replicate] for replicate in sorted(a.keys() & b.keys())]
    if not gaps:
        return Estimate(nan, note="no replicate in common")
    error, freedom = _spread(gaps)
    if error == 0:
        return Estimate(gaps[0], gaps[0], gaps[0], note="all differences are equal")
    return _interval(math.fsum(gaps) / len(gaps), error, freedom, level)


def combined(scores: Sequence[tuple[float, Mapping[int, float]]]) -> dict[int, float]:
    """The weighted sum of several rows, replicate by replicate, where all of them have it."""
    common = set.intersection(*(set(row) for _, row in scores)) if scores else set()
    return {replicate: math.fsum(weight * row[replicate] for weight, row in scores) for replicate in sorted(common)}
