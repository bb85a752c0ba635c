"""What one knob does, and what two do together: curves, isolation plots, heat maps, interaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from automixsearch.analysis import intervals
from automixsearch.analysis.compare import adjusted
from automixsearch.analysis.contrasts import Arms
from automixsearch.analysis.estimate import Estimate, p_text, unit_of
from automixsearch.analysis.failures import Failures, fail_unlike
from automixsearch.analysis.selection import CENTRE, Column, Frame, Sample, knob_columns, take_sample
from automixsearch.analysis.units import TOLERANCE, by_config, image_error
from automixsearch.config.catalogue import column_of
from automixsearch.config.knobs import Scalar
from automixsearch.errors import StudyError, unknown
from automixsearch.show import brief

if TYPE_CHECKING:
    from automixsearch.results.study import Study

BINS = 5
"""A knob that was drawn from a range is shown in this many bins of equal counts."""
PERMUTATIONS = 999
MOST_LEVELS = 12
"""More values than this are a range, not a list."""
MOST_BLOCKS = 300
"""Of more seeds and splits than this, the noise of each matters little."""
NONE = Estimate(nan)
NO_FAILURES = Failures(0, 0)


@dataclass(frozen=True)
class Point:
    """One value of a knob (of a bin: its middle), or a bin from `start` to `end`; `n` runs.

    gap: in a design of curves, its mean minus that of the centre, within seeds and splits. failed: how many of its
    configs (in a design of curves, runs) failed; `n` are the others.
    """

    value: Scalar
    estimate: Estimate
    n: int
    start: float = nan
    end: float = nan
    gap: Estimate = NONE
    failed: Failures = NO_FAILURES

    @property
    def at(self) -> str:
        """The value, or the ends of the bin, in words."""
        if self.start == self.start:
            return f"{brief(self.start)} to {brief(self.end)}"
        return brief(self.value)


@dataclass(frozen=True)
class Curve:
    """Scores over the values of one knob, one method.

    kind: `curve` (all else at the centre), `mean` (averaged over all other knobs), or `best` (the best over all other
    knobs: an isolation plot). effect: highest minus lowest point; its interval holds for whichever two these are.
    p: that all values do the same (F test, within seeds and splits where the values share them), NaN where it cannot be
    tested. p_holm: corrected for the curves that are asked for together (`together`), else p. counted_p: p with each
    failure at the worst score of the study. lost: values of which every run failed.
    """

    knob: str
    method: str
    metric: str
    kind: str
    points: tuple[Point, ...]
    effect: Estimate
    p: float
    p_holm: float
    counted_p: float = nan
    lost: tuple[Point, ...] = ()

    @property
    def failures(self) -> str:
        """Why failures forbid a verdict; empty where they do not."""
        points = (*self.points, *self.lost)
        worst = max(points, key=lambda point: point.failed.failed / max(point.failed.units, 1))
        if fail_unlike([point.failed for point in points]):
            return f"at {worst.at} {worst.failed} failed, more than elsewhere"
        if isfinite(self.counted_p) and (self.counted_p < 0.05) != (self.p < 0.05):
            return f"it turns on how the failures count, of which {worst.failed} are at {worst.at}"
        return ""

    @property
    def sentence(self) -> str:
        """What the curve says in words."""
        knob, unit = self.knob.removeprefix("knob."), unit_of(self.metric)
        at = ", with all else at its best" if self.kind == "best" else ""
        if not isfinite(self.p):
            return f"Unresolved: {knob} of {self.method} was not run twice at its values{at}."
        holm = "Holm " if self.p_holm != self.p else ""
        found = f"{self.effect}{unit} between its best and its worst value, {holm}{p_text(self.p_holm)}"
        if self.failures:
            return f"Unresolved: whether {knob} of {self.method} matters{at}: {self.failures} ({found})."
        if self.p_holm < 0.05:
            return f"{knob} of {self.method} matters{at}: {found}."
        return f"Unresolved: whether {knob} of {self.method} matters{at} ({found})."

    def rows(self) -> list[dict[str, Any]]:
        """One row per value."""
        head: dict[str, Any] = {
            "method": self.method, "knob": self.knob, "metric": self.metric, "kind": self.kind
        }  # fmt: skip
        head |= self.effect.row("effect") | {"p": self.p, "p_holm": self.p_holm}
        return [
            head | {"value": point.value, "start": point.start, "end": point.end, "n": point.n}
            | point.estimate.row("score") | point.gap.row("gap")
            | {"failed": point.failed.failed, "ended": point.failed.units} for point in (*self.points, *self.lost)
        ]  # fmt: skip


@dataclass(frozen=True)
class Heat:
    """Mean scores over two knobs of one method.

    cells[i][j] is at a[i], b[j]; NaN where nothing ran. interaction: by how much the effect of a, over its range,
    differs between the ends of b; p of its test.
    """

    knob_a: str
    knob_b: str
    method: str
    metric: str
    a: tuple[Scalar, ...]
    b: tuple[Scalar, ...]
    cells: tuple[tuple[Estimate, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    interaction: Estimate
    p: float

    @property
    def sentence(self) -> str:
        """Whether the knobs interact, in words."""
        both = f"{self.knob_a.removeprefix('knob.')} and {self.knob_b.removeprefix('knob.')} of {self.method}"
        if not isfinite(self.p):
            return f"Unresolved: whether {both} interact ({self.interaction.note})."
        unit = unit_of(self.metric)
        found = f"the effect of the one changes by {self.interaction}{unit} over the other, {p_text(self.p)}"
        return f"{both} interact: {found}." if self.p < 0.05 else f"Unresolved: whether {both} interact ({found})."

    def rows(self) -> list[dict[str, Any]]:
        """One row per cell."""
        head = {"method": self.method, "metric": self.metric}
        return [
            head | {self.knob_a: x, self.knob_b: y, "n": self.counts[i][j]} | self.cells[i][j].row("score")
            for i, x in enumerate(self.a) for j, y in enumerate(self.b)
        ]  # fmt: skip


def curve(study: Study, knob: str, method: str | None = None, metric: str | None = None) -> Curve:
    """Scores over the values of a knob, each with its interval.

    In a design of curves, of the runs in which all other knobs are at the centre; else averaged over all other knobs.

    Args:
        knob: a ledger column or a knob's name: `alpha`, `knob.lr`, `lr`, `mixup.alpha`.
        method: needed where the study has several.

    Raises:
        StudyError: as `take_sample`; no such knob, or it has one value only.
    """
    sample, frame, column, method = _take(study, knob, method, metric)
    curves = (study.info.get("design") or {}).get("name") == "curve"
    plain = _curve(study, sample, frame, column, method, curves)
    failed = sample.failed[sample.failed["method"] == method]
    if failed.empty:
        return plain
    whole = by_config(sample.counted.of(method), sample.drawn)
    return replace(plain, counted_p=_curve(study, sample, whole, column, method, curves).p)


def _curve(study: Study, sample: Sample, frame: Frame, column: str, method: str, curves: bool) -> Curve:
    """The curve of the rows of one method; curves: only those in which all other knobs are at the centre."""
    kind = "curve" if curves else "mean"
    if curves and any(_is(study, level, column) for levels in frame["levels"].tolist() for level in levels):
        frame = frame[[all(_is(study, name, column) for name in levels) for levels in frame["levels"]]]
    places = _groups(sample, frame, column)
    groups = [place for place in places if len(place.runs)]
    centre = next((i for i, group in enumerate(groups) if CENTRE in set(group.runs["arm"])), None)
    effect, p, gaps = NONE, nan, [NONE] * len(groups)
    if not sample.drawn:
        effect, p, gaps = _within([group.runs for group in groups], centre if curves else None, sample.quantum)
    if not isfinite(p):
        effect, p = _one_way([group.scores for group in groups], sample.quantum)
    points = tuple(
        replace(group.point(intervals.t_interval(group.scores).within(sample.legal)), gap=gap)
        for group, gap in zip(groups, gaps, strict=True)
    )
    lost = tuple(place.point(NONE) for place in places if not len(place.runs))
    return Curve(column, method, sample.metric, kind, points, effect, p, p, lost=lost)


def together(curves: Sequence[Curve]) -> list[Curve]:
    """Curves that are looked at together, their p-values corrected for their number (Holm)."""
    return [replace(one, p_holm=p) for one, p in zip(curves, adjusted([one.p for one in curves]), strict=True)]


def isolation(study: Study, knob: str, method: str | None = None, metric: str | None = None) -> Curve:
    """The best score over all other knobs, for each value of a knob.

    What counts is the expected best of half as many configs as the value with the fewest has, so that no value gains
    from having been tried more often. It is what a search shows: all values gain alike from the noise of single runs.

    Source: isolation plots of the Deep Learning Tuning Playbook; for the best of n, `intervals.weights_of_best`.
    """
    sample, frame, column, method = _take(study, knob, method, metric)
    places = _groups(sample, frame, column)
    groups = [place for place in places if len(place.runs)]
    n = min(len(group.runs) for group in groups)
    points = []
    for group in groups:
        best = intervals.best_interval(sample.sign * group.scores, max(1, n // 2))
        points.append(group.point((best if sample.sign > 0 else best.flipped()).within(sample.legal)))
    p = _permuted_range([sample.sign * group.scores for group in groups], max(1, n // 2))
    means = [point.estimate.value for point in points]
    effect = Estimate(max(means) - min(means))
    lost = tuple(place.point(NONE) for place in places if not len(place.runs))
    return Curve(column, method, sample.metric, "best", tuple(points), effect, p, p, lost=lost)


def heat(study: Study, knob_a: str, knob_b: str, method: str | None = None, metric: str | None = None) -> Heat:
    """Mean scores over two knobs, and whether they interact."""
    sample, frame, a, method = _take(study, knob_a, method, metric)
    b = _column(study, sample, frame, knob_b)
    if a == b:
        raise StudyError(f"study {study.name}: a heat map needs two knobs, not {a} twice")
    left, right = ([group for group in _groups(sample, frame, knob) if len(group.runs)] for knob in (a, b))
    parts = [[x.runs.loc[x.runs.index.intersection(y.runs.index), "score"].to_numpy() for y in right] for x in left]
    cells = tuple(tuple(intervals.t_interval(part).within(sample.legal) for part in row) for row in parts)
    interaction, p = _interaction(frame[a], frame[b], frame["score"].to_numpy())
    return Heat(a, b, method, sample.metric, tuple(x.value for x in left), tuple(y.value for y in right), cells,
                tuple(tuple(len(part) for part in row) for row in parts), interaction, p)  # fmt: skip


def varies(study: Study, knobs: Sequence[str], metric: str | None = None) -> list[str]:
    """The methods that vary all of these knobs.

    Raises:
        StudyError: there are none.
    """
    sample, found, problem = take_sample(study, metric), [], None
    for method in sample.methods:
        try:
            for knob in knobs:
                _column(study, sample, sample.of(method), knob)
            found.append(method)
        except StudyError as error:
            problem = problem or error
    if not found and problem:
        raise problem
    return found


def _take(study: Study, knob: str, method: str | None, metric: str | None) -> tuple[Sample, Frame, str, str]:
    sample = take_sample(study, metric)
    if method is None:
        if len(sample.methods) > 1:
            raise StudyError(
                f"study {study.name}: a knob is looked at within one method; choose one: {', '.join(sample.methods)}"
            )
        method = sample.methods[0]
    frame = by_config(sample.of(method), sample.drawn)
    return sample, frame, _column(study, sample, frame, knob), method


def _is(study: Study, name: str, column: str) -> bool:
    return name in study.catalogue and column_of(name) == column


def _column(study: Study, sample: Sample, frame: Frame, knob: str) -> str:
    known = knob_columns(frame.columns)
    column = column_of(knob) if knob in study.catalogue else knob
    for name in (column, f"knob.{knob}"):
        if name in known:
            if frame[name].nunique() < 2:
                method = frame["method"].iloc[0]
                vary = ", ".join(sample.varied(method)) or "none"
                raise StudyError(f"study {study.name}: {knob} has one value only with {method} (varied: {vary})")
            return name
    raise StudyError(f"study {study.name}: {unknown('knob', knob, [name.removeprefix('knob.') for name in known])}")


@dataclass(frozen=True)
class _Group:
    """The configs (or runs) at one value of a knob, or in a bin of its range from `start` to `end`."""

    value: Scalar
    start: float
    end: float
    runs: Frame
    failed: Failures

    @property
    def scores(self) -> np.ndarray:
        return self.runs["score"].to_numpy(float)

    def point(self, estimate: Estimate) -> Point:
        return Point(self.value, estimate, len(self.runs), self.start, self.end, failed=self.failed)


def _groups(sample: Sample, frame: Frame, column: str) -> list[_Group]:
    """The rows by value, or by bins of a range that hold equally many runs, failed ones included."""
    import pandas as pd

    method = frame["method"].iloc[0]
    failed: Frame = sample.failed[sample.failed["method"] == method]
    values: Column = pd.concat([frame[column], failed[column]]) if len(failed) else frame[column]
    ranged = values.nunique() > MOST_LEVELS and pd.api.types.is_numeric_dtype(values)
    edges = np.unique(values.dropna().quantile(np.linspace(0, 1, BINS + 1))) if ranged else ()

    def label(part: Frame) -> Column:
        return pd.cut(part[column], edges, labels=False, include_lowest=True) if ranged else part[column]

    labels, lost, groups = label(frame), label(failed), []
    for key in sorted({*labels.dropna(), *lost.dropna()}):
        runs = frame[labels == key]
        inside = runs[column] if len(runs) else failed[lost == key][column]
        value, low, high = (inside.median(), inside.min(), inside.max()) if ranged else (_plain(key), nan, nan)
        complete = runs[~runs["trial_id"].isin(failed["trial_id"])]
        groups.append(_Group(value, low, high, runs, Failures.of(complete, failed[lost == key], sample.drawn)))
    return groups


def _plain(value: Any) -> Scalar:
    return value.item() if hasattr(value, "item") else value


def _one_way(groups: list[np.ndarray], quantum: float) -> tuple[Estimate, float]:
    """Highest minus lowest mean, and that all groups have one mean, where each has two values or more.

    Groups whose values are all equal are taken to scatter as the others do.

    Source: Welch's test for several groups; the interval by Games and Howell, J. Educational Statistics 1 (1976).
    """
    means = [float(group.mean()) for group in groups]
    top, low = int(np.argmax(means)), int(np.argmin(means))
    gap = means[top] - means[low]
    if len(groups) < 2 or any(len(group) < 2 for group in groups):
        return Estimate(gap, note="a value was run once only"), nan
    variances = np.array([float(np.var(group, ddof=1)) for group in groups])
    if not (variances > TOLERANCE).any():
        return Estimate(gap, note="all runs of a value are equal, which says nothing about their noise"), nan
    unlike = bool((variances > TOLERANCE).all())
    if not unlike:
        frees = np.array([len(group) - 1 for group in groups])
        variances = np.full(len(groups), float(frees @ variances) / float(frees.sum()))
    a, b = (variances[i] / len(groups[i]) for i in (top, low))
    freedom = (a + b) ** 2 / (a**2 / (len(groups[top]) - 1) + b**2 / (len(groups[low]) - 1))
    p = float(stats.f_oneway(*groups, equal_var=not unlike).pvalue)
    error = max(sqrt(a + b), image_error(gap, quantum, 1 / len(groups[top]) + 1 / len(groups[low])))
    return _widest(gap, error / sqrt(2), len(groups), freedom), p


def _widest(gap: float, error: float, groups: int, freedom: float) -> Estimate:
    half = float(stats.studentized_range.ppf(0.95, groups, max(freedom, 1))) * error
    return Estimate(gap, max(gap - half, 0.0), gap + half)


def _permuted_range(groups: Sequence[np.ndarray], n: int) -> float:
    """How often the best of n differ between groups as much as they do, where groups are drawn anew."""
    sizes = [len(group) for group in groups]
    if len(sizes) < 2 or min(sizes) < 2:
        return nan
    y = np.concatenate(groups)
    rng = np.random.default_rng(len(y))
    drawn = np.vstack([y, rng.permuted(np.tile(y, (PERMUTATIONS, 1)), axis=1)])
    ends = np.cumsum(sizes)[:-1]
    bests = [np.sort(part, axis=1) @ intervals.weights_of_best(part.shape[1], n) for part in np.split(drawn, ends, 1)]
    span = np.ptp(bests, axis=0)
    return float((span >= span[0] - 1e-12).mean())


def _within(parts: list[Frame], centre: int | None, quantum: float) -> tuple[Estimate, float, list[Estimate]]:
    """Highest minus lowest value within seeds and splits, the p-value of the F test that all have one mean, and the
    difference of each from the centre; NaN where the values share too few of these to tell.

    Differences and their errors are those of `Arms`, for values that scatter unlike too; the widest has the interval of
    Games and Howell. The F test takes for granted that all scatter alike.

    Source: randomised blocks; Box, Hunter and Hunter, Statistics for Experimenters, chapter 4.
    """
    import pandas as pd

    gaps = [NONE] * len(parts)
    frame = pd.concat(parts)
    values = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    blocks = frame.groupby(["seed", "split_seed"], sort=False).ngroup().to_numpy()
    if len(parts) < 2 or 2 * (blocks.max() + 1) > len(frame) or blocks.max() >= MOST_BLOCKS:
        return NONE, nan, gaps
    y = frame["score"].to_numpy(float)
    arms = Arms.of(values, blocks, y)
    many, left = len(parts) - 1, float(arms.residual @ arms.residual)
    alone = y - np.bincount(blocks, y)[blocks] / np.bincount(blocks)[blocks]
    # All arms and blocks hang together where nothing more is spent than on them.
    if not arms.repeated or arms.freedom > len(y) - blocks.max() - 1 - many or left <= 1e-12 * max(1.0, float(y @ y)):
        return NONE, nan, gaps
    rest = max(left / arms.freedom, quantum**2 / 2)
    p = float(stats.f.sf((alone @ alone - left) / many / rest, many, arms.freedom))

    def difference(value: int, other: int) -> tuple[float, float, float]:
        c = np.zeros(len(parts))
        c[value], c[other] = 1, -1
        gap, error, freedom = arms.contrast(c)
        return gap, max(error, image_error(gap, quantum, arms.weight(c))), freedom

    if centre is not None:
        for value in range(len(parts)):
            if value != centre:
                gap, error, freedom = difference(value, centre)
                half = float(stats.t.ppf(0.975, freedom)) * error
                gaps[value] = Estimate(gap, gap - half, gap + half)
    gap, error, freedom = difference(int(np.argmax(arms.means)), int(np.argmin(arms.means)))
    return _widest(gap, error / sqrt(2), len(parts), freedom), p, gaps


def unit(values: Column) -> np.ndarray:
    """Values of a knob as places from 0 to 1 in its range: by logarithm where it is wide; names by rank."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(values) or values.dtype == bool:
        codes = pd.Categorical(values).codes.astype(float)
        return codes / max(codes.max(), 1)
    x = values.to_numpy(float)
    if np.nanmin(x) > 0 and np.nanmax(x) / np.nanmin(x) > 8:
        x = np.log(x)
    span = np.nanmax(x) - np.nanmin(x)
    return (x - np.nanmin(x)) / (span or 1)


def _interaction(a: Column, b: Column, y: np.ndarray) -> tuple[Estimate, float]:
    """The coefficient of the product of both places in y ~ 1 + a + b + a b, Student's interval, HC3 errors."""
    import statsmodels.api as sm

    x = np.column_stack([np.ones(len(y)), unit(a), unit(b), unit(a) * unit(b)])
    if len(y) < 8 or np.linalg.matrix_rank(x) < 4:
        return Estimate(nan, note="too few runs"), nan
    fit = sm.OLS(y, x).fit(cov_type="HC3", use_t=True)
    low, high = fit.conf_int()[3]
    return Estimate(float(fit.params[3]), float(low), float(high)), float(fit.pvalues[3])
