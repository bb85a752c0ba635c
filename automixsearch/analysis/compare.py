"""Which method is better, and whether that is known: paired differences, a family of tests, equivalence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from automixsearch.analysis import intervals
from automixsearch.analysis.estimate import Estimate, p_text, unit_of
from automixsearch.analysis.power import detectable
from automixsearch.analysis.robustness import Scorecard, scorecards
from automixsearch.analysis.selection import Column, Frame, Sample, take_sample
from automixsearch.analysis.verdict import Verdict, judge
from automixsearch.errors import StudyError, unknown
from automixsearch.results.schema import column_named

if TYPE_CHECKING:
    from automixsearch.results.study import Study

MARGIN = 0.3


@dataclass(frozen=True)
class Comparison:
    """`a` against `b`.

    difference: of the mean scores, a - b, in the unit of the metric.
    p, p_holm: of the t test, and corrected for all comparisons of the family. p_equivalent: that the difference lies
        beyond the margin (two one-sided tests), corrected likewise.
    mde: the smallest difference that this many runs find with 80 % power. n: pairs; of unpaired runs the smaller side.
    wins: the share of pairs in which a is better (of all pairs of runs, where they are unpaired).
    """

    a: str
    b: str
    metric: str
    difference: Estimate
    p: float
    p_holm: float
    p_equivalent: float
    margin: float
    mde: float
    n: int
    paired: bool
    wins: float
    verdict: Verdict
    note: str = ""

    @property
    def sentence(self) -> str:
        """The verdict in words, with what it rests on."""
        unit, what = unit_of(self.metric), "pairs" if self.paired else "unpaired runs"
        size = f"{Estimate(abs(self.difference.value))}{unit}"
        span = f"difference {self.difference}{unit}, {self.n} {what}"
        match self.verdict:
            case Verdict.BETTER | Verdict.WORSE:
                return f"{self.a} is {self.verdict} than {self.b} by {size} ({span}, Holm {p_text(self.p_holm)})."
            case Verdict.EQUIVALENT:
                return f"{self.a} and {self.b} are equivalent within {self.margin:g}{unit} ({span})."
        more = f"; these runs find {self.mde:.2f}{unit} with 80 % power" if isfinite(self.mde) else ""
        return f"Unresolved: {self.a} against {self.b} ({span}{more})."

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        names = ("p", "p_holm", "p_equivalent", "margin", "mde", "n", "paired", "wins")
        return [
            {"a": self.a, "b": self.b, "metric": self.metric}
            | self.difference.row("difference")
            | {name: getattr(self, name) for name in names}
            | {"verdict": str(self.verdict), "note": self.note}
        ]


def compare(
    study: Study,
    metric: str | None = None,
    by: str = "method",
    margin: float | None = None,
    family: Sequence[tuple[str, str]] | None = None,
) -> list[Comparison]:
    """Every value of the column `by` against every other, or the pairs of `family`.

    Runs that share their seed and split are pairs: in a design, these are the same point of the shared columns, seen
    by each method.

    Args:
        margin: differences up to it are of no interest; the study's own by default, else 0.3.

    Raises:
        StudyError: as `take_sample`; no such column, or fewer than two values of it.
    """
    sample = take_sample(study, metric)
    frame = sample.frame
    by = column_named(by)
    if by not in frame.columns:
        raise StudyError(f"study {study.name}: {unknown('column', by, frame.columns)}")
    names = [str(name) for name in dict.fromkeys(frame[by].dropna())]
    if len(names) < 2:
        raise StudyError(f"study {study.name}: nothing to compare: every trial has {by} = {', '.join(names) or 'null'}")
    for name in (name for pair in family or () for name in pair):
        if name not in names:
            raise StudyError(f"study {study.name}: {unknown(by, name, names)}")
    margin = margin_of(study, margin)
    parts = {name: part for name, part in frame.groupby(frame[by].astype(str), sort=False)}
    pairs = list(family) if family is not None else list(combinations(names, 2))
    return holm([_compare(sample, a, b, parts[a], parts[b], margin) for a, b in pairs], sample.sign)


def margin_of(study: Study, margin: float | None) -> float:
    """The margin of equivalence: as given, as the study declares it, or 0.3."""
    declared = (study.info.get("design") or {}).get("margin")
    return margin if margin is not None else declared if declared is not None else MARGIN


def pairs_of(a: Frame, b: Frame) -> tuple[Column, Column]:
    """The scores of a and b that share seed and split, means where there are several, in one order."""
    keys = ["seed", "split_seed"]
    left, right = a.groupby(keys)["score"].mean(), b.groupby(keys)["score"].mean()
    both = left.index.intersection(right.index)
    return left.loc[both], right.loc[both]


LEAST_PAIRS = 3
"""Shared seeds and splits, each with several runs, that make pairs; from fewer an interval says next to nothing."""


def _shared(a: Frame, b: Frame) -> float:
    """The share of the runs of a whose seed and split b has too."""
    keys = ["seed", "split_seed"]
    return float(a.set_index(keys).index.isin(b.set_index(keys).index).mean())


def _compare(sample: Sample, a: str, b: str, left: Frame, right: Frame, margin: float) -> Comparison:
    x, y = (part.to_numpy(float) for part in pairs_of(left, right))
    shared = min(_shared(left, right), _shared(right, left))
    paired = len(x) >= (2 if 2 * len(x) > min(len(left), len(right)) else LEAST_PAIRS) and shared > 0.5
    if paired:
        found = paired_difference(x - y, margin)
        wins = float((np.sign(sample.sign * (x - y)) / 2 + 0.5).mean())
        n, note = len(x), ""
        mde = detectable(float(np.std(x - y, ddof=1)), n)
        alone = round((1 - _shared(left, right)) * len(left)) + round((1 - _shared(right, left)) * len(right))
        if alone:
            note = f"{alone} runs without a partner are left out"
    else:
        x, y = left["score"].to_numpy(float), right["score"].to_numpy(float)
        found = unpaired_difference(x, y, margin)
        below, upto = (np.searchsorted(np.sort(sample.sign * y), sample.sign * x, side) for side in ("left", "right"))
        wins = float((below + upto).mean()) / (2 * len(y))
        n, note = min(len(x), len(y)), "unpaired: too few shared seeds and splits"
        sd = sqrt((np.var(x, ddof=1) + np.var(y, ddof=1)) / 2) if n > 1 else nan
        mde = detectable(sd, len(x), len(y))
    difference, p, p_equivalent = found
    return Comparison(a, b, sample.metric, difference, p, p, p_equivalent, margin, mde, n, paired, wins,
                      Verdict.UNRESOLVED, note)  # fmt: skip


def paired_difference(d: np.ndarray, margin: float) -> tuple[Estimate, float, float]:
    """The mean of differences with Student's interval, its p-value, and that of equivalence within `margin`.

    Source of the last: two one-sided tests; Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987).
    """
    n = len(d)
    if n < 2:
        return Estimate(float(d.mean()) if n else nan, note="one pair has no interval"), nan, nan
    return _tests(float(d.mean()), float(np.std(d, ddof=1)) / sqrt(n), n - 1, margin)


def unpaired_difference(x: np.ndarray, y: np.ndarray, margin: float) -> tuple[Estimate, float, float]:
    """As `paired_difference`, for two independent samples of unequal variance (Welch)."""
    if min(len(x), len(y)) < 2:
        return Estimate(float(x.mean() - y.mean()), note="one run has no interval"), nan, nan
    a, b = np.var(x, ddof=1) / len(x), np.var(y, ddof=1) / len(y)
    freedom = (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1)) if a + b > 0 else len(x) + len(y) - 2
    return _tests(float(x.mean() - y.mean()), sqrt(a + b), float(freedom), margin)


def _tests(value: float, error: float, freedom: float, margin: float) -> tuple[Estimate, float, float]:
    half = float(stats.t.ppf(0.975, freedom)) * error
    if error == 0:
        p, p_equivalent = float(value == 0), float(abs(value) >= margin)
    else:
        p = float(2 * stats.t.sf(abs(value) / error, freedom))
        p_equivalent = float(stats.t.cdf((abs(value) - margin) / error, freedom))
    return Estimate(value, value - half, value + half), p, p_equivalent


def holm(found: Sequence[Comparison], sign: int) -> list[Comparison]:
    """The comparisons with p-values corrected for their number, and with verdicts.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    from dataclasses import replace

    tested = adjusted([one.p for one in found])
    alike = adjusted([one.p_equivalent for one in found])
    return [
        replace(one, p_holm=p, p_equivalent=q, verdict=judge(sign * one.difference.value, p, q))
        for one, p, q in zip(found, tested, alike, strict=True)
    ]


def adjusted(p: Sequence[float]) -> list[float]:
    """Holm's p-values of a family; those that are NaN stay so and do not count."""
    values = np.array(p, float)
    there = np.flatnonzero(np.isfinite(values))
    order = there[np.argsort(values[there], kind="stable")]
    values[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return values.tolist()


@dataclass(frozen=True)
class Contrast:
    """Whether `a` is less sensitive to its hyperparameters than `b`: S_hp of a minus S_hp of b.

    p_holm: corrected for all pairs that can be compared. verdict: better where a is less sensitive. `comparable` is
    empty where both priors hold the same information, else it says how they differ, and there is no verdict.
    """

    a: str
    b: str
    difference: Estimate
    p_holm: float
    comparable: str
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.comparable:
            return f"{self.a} and {self.b} cannot be compared in sensitivity: {self.comparable}."
        span = f"difference of S_hp {self.difference}"
        if self.verdict is Verdict.UNRESOLVED:
            return f"Unresolved: which of {self.a} and {self.b} is less sensitive ({span})."
        less, more = (self.a, self.b) if self.verdict is Verdict.BETTER else (self.b, self.a)
        return f"{less} is less sensitive than {more} ({span}, Holm {p_text(self.p_holm)})."

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        more = {"p_holm": self.p_holm, "comparable": self.comparable or "yes", "verdict": str(self.verdict)}
        return [{"a": self.a, "b": self.b} | self.difference.row("difference") | more]


def compare_sensitivity(
    study: Study, metric: str | None = None, cards: Sequence[Scorecard] | None = None
) -> list[Contrast]:
    """S_hp of every method against every other's; needs replicates, and priors of equal information.

    The p-value is that of the interval: the level at which it would reach 0.
    """
    cards = list(cards) if cards is not None else scorecards(study, metric)
    sample = take_sample(study, metric)
    found = [(a, b, intervals.difference(a.s_hp, b.s_hp), _unequal(sample, a.method, b.method))
             for a, b in combinations(cards, 2)]  # fmt: skip
    holm = adjusted([nan if problem else difference_p(gap) for _, _, gap, problem in found])
    return [
        Contrast(a.method, b.method, gap, p, problem, judge(-gap.value, p))
        for (a, b, gap, problem), p in zip(found, holm, strict=True)
    ]


def difference_p(gap: Estimate) -> float:
    """That a difference is 0, from the end of its interval on that side, as if it were normal there."""
    if not gap.known:
        return nan
    half = gap.high - gap.value if gap.value < 0 else gap.value - gap.low
    return float(2 * stats.norm.sf(abs(gap.value) / half * stats.norm.ppf((1 + gap.level) / 2))) if half > 0 else 1.0


def _unequal(sample: Sample, a: str, b: str) -> str:
    """How the priors of two methods differ in information; empty where they do not."""
    knobs = {method: sample.varied(method) for method in (a, b)}
    if len(knobs[a]) != len(knobs[b]):
        return f"{a} varies {len(knobs[a])} knobs, {b} {len(knobs[b])}"
    for name in set(knobs[a]) & set(knobs[b]):
        ranges = [_range(sample.of(method)[name]) for method in (a, b)]
        if not np.allclose(ranges[0], ranges[1], rtol=0.1):
            return f"{name} has another range"
    return ""


def _range(values: Column) -> tuple[float, float]:
    values = values.dropna()
    if values.dtype == object or str(values.dtype) in ("str", "string", "bool"):
        return float(values.nunique()), 0.0
    return float(values.min()), float(values.max())
