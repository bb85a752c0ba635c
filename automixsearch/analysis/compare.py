"""Which method is better, and whether that is known: paired differences, a family of tests, equivalence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isfinite, nan, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from automixsearch.analysis import intervals
from automixsearch.analysis.estimate import Estimate, p_text, unit_of
from automixsearch.analysis.failures import Failures, fail_unlike
from automixsearch.analysis.power import detectable_at
from automixsearch.analysis.robustness import Scorecard, scorecards
from automixsearch.analysis.selection import Column, Frame, Sample, take_sample
from automixsearch.analysis.units import (
    TOLERANCE,
    ImageContrast,
    block_of,
    contrast_of_images,
    image_error,
    mean_of,
    point_of,
)
from automixsearch.analysis.verdict import Verdict, judge, margin_of
from automixsearch.errors import StudyError, unknown
from automixsearch.results.documents import parse
from automixsearch.results.schema import column_named

if TYPE_CHECKING:
    from automixsearch.results.study import ImageOutcomes, Study

UNKNOWN = Estimate(nan)


@dataclass(frozen=True)
class Comparison:
    """`a` against `b`.

    difference: of the mean scores, a - b, in the unit of the metric.
    p, p_holm: of the t test, and corrected for all comparisons of the family. p_equivalent: that the difference lies
        beyond the margin (two one-sided tests), corrected likewise.
    mde: the smallest difference that this many runs find with 80 % power. n: pairs; of unpaired runs the smaller side.
    wins: the share of pairs in which a is better (of all pairs of runs, where they are unpaired).
    failed: how many of a and of b. counted: the difference with each failure at the worst score of the study. There is
        no verdict where it would be another one, or where one side fails more often than the other.
    images: the difference image by image, where the ledger has the outcomes of all pairs.
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
    failed: tuple[Failures, Failures]
    counted: Estimate = UNKNOWN
    note: str = ""
    images: ImageContrast | None = None

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
        if any(one.failed for one in self.failed):
            fails = " and ".join(
                f"{name} failed {one}" for name, one in zip((self.a, self.b), self.failed, strict=True)
            )
            span += f" without failures, {self.counted} with each at the worst score seen; {fails}"
        more = f"; these runs find {self.mde:.2f}{unit} with 80 % power" if isfinite(self.mde) else ""
        return f"Unresolved: {self.a} against {self.b} ({span}{more})."

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        names = ("p", "p_holm", "p_equivalent", "margin", "mde", "n", "paired", "wins")
        return [
            {"a": self.a, "b": self.b, "metric": self.metric}
            | self.difference.row("difference")
            | {name: getattr(self, name) for name in names}
            | {"failed_a": self.failed[0].failed, "ended_a": self.failed[0].units}
            | {"failed_b": self.failed[1].failed, "ended_b": self.failed[1].units}
            | self.counted.row("difference_counted")
            | {"image_error": self.images.error if self.images else None}
            | {"image_error_unpaired": self.images.unpaired if self.images else None}
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
        margin: differences up to it are of no interest, in the unit of the metric. For accuracies it is the study's own
            by default, else 0.3; for other metrics none.

    Raises:
        StudyError: as `take_sample`; no such column, or fewer than two values of it.
    """
    sample = take_sample(study, metric)
    frame = sample.frame
    by = column_named(by, study.plugins)
    if by not in frame.columns:
        raise StudyError(f"study {study.name}: {unknown('column', by, frame.columns)}")
    names = [str(name) for name in dict.fromkeys(frame[by].dropna())]
    if len(names) < 2:
        raise StudyError(f"study {study.name}: nothing to compare: every trial has {by} = {', '.join(names) or 'null'}")
    for name in (name for pair in family or () for name in pair):
        if name not in names:
            raise StudyError(f"study {study.name}: {unknown(by, name, names)}")
    margin = margin_of(study, sample.metric, margin)
    pairs = list(family) if family is not None else list(combinations(names, 2))
    outcomes = _outcomes(study, sample)
    plain = _comparisons(sample, by, pairs, margin, outcomes)
    if not len(sample.failed):
        return plain
    counted = _comparisons(sample.counted, by, pairs, margin, outcomes)
    return [_agreed(one, other) for one, other in zip(plain, counted, strict=True)]


MOST_RUNS = 20_000
"""Runs up to which comparisons pair on images; of more, which images were drawn is no question of width."""


def _outcomes(study: Study, sample: Sample) -> dict[str, ImageOutcomes]:
    """The outcomes of the runs, as far as they are those of their scores."""
    if sample.metric != "val_top1" or len(sample.frame) > MOST_RUNS:
        return {}
    found = study.outcomes(list(sample.frame["trial_id"]))
    scores = zip(sample.frame["trial_id"], sample.frame["score"], strict=True)
    return {name: found[name] for name, score in scores
            if name in found and abs(100 * found[name].right.mean() - score) < 1e-6}  # fmt: skip


def _comparisons(
    sample: Sample,
    by: str,
    pairs: Sequence[tuple[str, str]],
    margin: float,
    outcomes: Mapping[str, ImageOutcomes],
) -> list[Comparison]:
    parts = dict(iter(sample.frame.groupby(sample.frame[by].astype(str), sort=False)))
    failed = dict(iter(sample.failed.groupby(sample.failed[by].astype(str), sort=False)))
    none = sample.failed.iloc[:0]
    counts = {name: Failures.of(part, failed.get(name, none), sample.drawn) for name, part in parts.items()}
    compared = [_compare(sample, a, b, parts[a], parts[b], margin, outcomes) for a, b in pairs]
    return holm([replace(one, failed=(counts[one.a], counts[one.b])) for one in compared], sample.sign)


def _agreed(plain: Comparison, counted: Comparison) -> Comparison:
    """A comparison whose verdict stands only if it does not depend on what failures count."""
    agree = plain.verdict is counted.verdict and not fail_unlike(plain.failed)
    verdict = plain.verdict if agree else Verdict.UNRESOLVED
    return replace(plain, verdict=verdict, counted=counted.difference)


LEAST_PAIRS = 3
"""Shared seeds and splits, each with several runs, that make pairs; from fewer an interval says next to nothing."""


def _compare(
    sample: Sample,
    a: str,
    b: str,
    left: Frame,
    right: Frame,
    margin: float,
    outcomes: Mapping[str, ImageOutcomes],
) -> Comparison:
    """The comparison without a verdict: p-values are not corrected yet."""
    images = None
    drawn = sample.drawn and max(left["config_key"].nunique(), right["config_key"].nunique()) > 1
    sides = _sides(left, right, drawn)
    both = sides[0].merge(sides[1], on=["point", "block"], suffixes=("_a", "_b"))
    units = ["point"] if drawn else ["block"]
    shared, least = len(both[units].drop_duplicates()), min(len(side[units].drop_duplicates()) for side in sides)
    several = 2 * shared <= min(len(left), len(right)) and not drawn
    if shared >= (LEAST_PAIRS if several else 2) and 2 * shared > least:
        gaps = (both["score_a"] - both["score_b"]).to_numpy(float)
        mean = mean_of(gaps, both["point"].to_numpy(), both["block"].to_numpy(), drawn)
        weights = float((1 / both["runs_a"] + 1 / both["runs_b"]).sum()) / len(both) ** 2
        value, error, freedom, n = mean.value, mean.error, mean.freedom, mean.n
        wins = float((np.sign(sample.sign * mean.units) / 2 + 0.5).mean())
        alone = sum(int(side["runs"].sum()) for side in sides) - int((both["runs_a"] + both["runs_b"]).sum())
        note = f"{alone} runs without a partner are left out" if alone else ""
        images = contrast_of_images(_weights(both), outcomes) if outcomes else None
        note = "; ".join(part for part in (note, images.sentence if images else "") if part)
    else:
        x, y = (
            mean_of(side["score"].to_numpy(), side["point"].to_numpy(), side["block"].to_numpy(), drawn)
            for side in sides
        )
        value, n = x.value - y.value, min(x.n, y.n)
        error, freedom = welch((x.error, x.freedom), (y.error, y.freedom))
        weights = sum(float((1 / side["runs"]).sum()) / len(side) ** 2 for side in sides)
        below, upto = (np.searchsorted(np.sort(sample.sign * y.units), sample.sign * x.units, at)
                       for at in ("left", "right"))  # fmt: skip
        wins, note = float((below + upto).mean()) / (2 * y.n), "unpaired: too few shared seeds and splits"
    spread = max(float(np.ptp(part["score"])) if len(part) else 0.0 for part in (left, right))
    if spread < TOLERANCE and abs(value) < TOLERANCE:
        note, error = "all scores are equal, which says nothing about their noise", nan
    least = max(image_error(value, sample.quantum, weights), images.error if images else 0.0)
    estimate, p, p_equivalent = student(value, error, freedom, margin, least)
    mde = detectable_at(error, freedom) if error > 0 and freedom >= 1 else nan
    paired = not note.startswith("unpaired")
    return Comparison(a, b, sample.metric, estimate, p, p, p_equivalent, margin, mde, n, paired, wins,
                      Verdict.UNRESOLVED, (Failures(0, n), Failures(0, n)), note=note, images=images)  # fmt: skip


def _weights(both: Frame) -> dict[str, float]:
    """The weight of each run in the mean difference of pairs."""
    return {
        trial: sign / len(both) / len(trials)
        for side, sign in (("trials_a", 1), ("trials_b", -1))
        for trials in both[side]
        for trial in trials
    }


@dataclass(frozen=True)
class Apart:
    """The classes and the images on which two sides differ most, in points of accuracy, largest first."""

    classes: list[dict[str, Any]]
    images: list[dict[str, Any]]

    def rows(self) -> list[dict[str, Any]]:
        """One for each class, then one for each image, which is a place in the training part of the data."""
        return [*self.classes, *self.images]

    @property
    def sentence(self) -> str:
        """Both in words; empty where they differ on none."""
        one = [f"{row['class']} ({row['difference']:+.1f} points on {row['images']} images)" for row in self.classes]
        other = [
            f"{row['image']} ({row['class'] + ', ' if row['class'] else ''}{row['difference']:+.0f})"
            for row in self.images
        ]
        parts = [f"{kind} {', '.join(said)}" for kind, said in (("classes", one), ("images", other)) if said]
        if not parts:
            return ""
        return f"{self.images[0]['a']} minus {self.images[0]['b']} is largest on {', and on '.join(parts)}."


def most_apart(study: Study, comparison: Comparison, most: int = 3) -> Apart:
    """The `most` classes and images on which two sides differ most; classes, where the study names those of its split.

    Nothing, where the comparison is not paired on images.
    """
    by_image, label = dict[int, list[float]](), dict[int, str]()
    for split, gaps in comparison.images.gaps.items() if comparison.images else ():
        data = study.store.get(f"splits/{split}.json")
        known = parse(data, f"splits/{split}.json") if data else {}
        places, names = known.get("val") or range(len(gaps)), known.get("classes") or []
        label |= {place: str(names[k]) for place, k in zip(places, known.get("labels") or [], strict=False)}
        for place, gap in zip(places, gaps.tolist(), strict=True):
            by_image.setdefault(place, []).append(100 * gap)
    images = {place: fmean(found) for place, found in by_image.items()}
    by_class: dict[str, list[float]] = {}
    for place, name in label.items():
        by_class.setdefault(name, []).append(images[place])
    pair: dict[str, Any] = {"a": comparison.a, "b": comparison.b}
    classes = [pair | {"class": name, "images": len(found), "difference": fmean(found)}
               for name, found in by_class.items()]  # fmt: skip
    single = [pair | {"class": label.get(place), "image": place, "difference": gap} for place, gap in images.items()]
    return Apart(*(
        sorted((row for row in rows if row["difference"]), key=lambda row: -abs(row["difference"]))[:most]
        for rows in (classes, single)
    ))  # fmt: skip


def _sides(left: Frame, right: Frame, drawn: bool) -> tuple[Frame, Frame]:
    """The mean scores of both sides by point and block, and the runs behind each; by block alone where configs were
    chosen."""
    import pandas as pd

    whole = pd.concat([left, right], ignore_index=True)
    whole = whole.assign(block=block_of(whole), point=point_of(whole) if drawn else 0)
    one, two = (
        part.groupby(["point", "block"], sort=False)
        .agg(score=("score", "mean"), runs=("score", "size"), trials=("trial_id", list))
        .reset_index()
        for part in (whole.iloc[: len(left)], whole.iloc[len(left) :])
    )
    return one, two


def welch(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """The standard error of a difference and its degrees of freedom, from those of its independent sides.

    Source: Welch, Biometrika 34 (1947).
    """
    total = a[0] ** 2 + b[0] ** 2
    spent = sum(error**4 / freedom if freedom else nan for error, freedom in (a, b))
    return sqrt(total), total**2 / spent if spent > 0 else a[1] + b[1]


def student(
    value: float, error: float, freedom: float, margin: float, least: float = 0.0
) -> tuple[Estimate, float, float]:
    """A difference with Student's interval, its p-value, and that of equivalence within `margin`.

    Args:
        error: standard error; NaN or 0 where it is not known, and nothing is tested.
        least: what the error is at least, for scores that are counts of images.

    Source of the last: two one-sided tests; Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987).
    """
    if not (isfinite(error) and freedom >= 1):
        return Estimate(value, note="one unit, or units that are all equal, have no interval"), nan, nan
    error = max(error, least)
    if error <= TOLERANCE * max(1.0, abs(value)):
        return Estimate(value, note="all differences are equal: their noise is unknown"), nan, nan
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = float(2 * stats.t.sf(abs(value) / error, freedom))
    return Estimate(value, value - half, value + half), p, float(stats.t.cdf((abs(value) - margin) / error, freedom))


def holm(found: Sequence[Comparison], sign: int) -> list[Comparison]:
    """The comparisons with p-values corrected for their number, and with verdicts.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
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
