"""How far seeds move a metric, and so what a study can resolve: from a ledger, or from the number of images at best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.analysis.contrasts import Arms, expected_freedom
from automixsearch.analysis.power import detectable_at, runs_needed
from automixsearch.analysis.selection import take_sample
from automixsearch.analysis.units import point_of
from automixsearch.config.data import Data
from automixsearch.errors import StudyError
from automixsearch.studies.design import Design
from automixsearch.studies.plan.costs import other_data

if TYPE_CHECKING:
    from automixsearch.data.base import ImageSet
    from automixsearch.results.study import Study
    from automixsearch.studies.file import StudyFile


IMAGES = {"digits": 1438, "cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000, "imagenet": 1_281_167}
"""Training images of sets of known size, for a plan without the data."""
ERRORS = {"digits": 0.05, "cifar10": 0.04, "cifar100": 0.20, "tiny_imagenet": 0.33, "imagenet": 0.30}
"""Error rates that are assumed of them, as shares; of all others OTHER_ERROR."""
OTHER_ERROR = 0.2
DRAWS = 500
"""Studies that are drawn to see what an analysis finds."""


@dataclass(frozen=True)
class Noise:
    """How much the metric scatters from seed to seed: a standard deviation in its unit, and how that is known.

    unlike: the standard deviation over configs of what two methods truly differ by; None where it is not known.
    """

    sd: float
    source: str
    unlike: float | None = None


@dataclass(frozen=True)
class Resolved:
    """What a kind of comparison can find: the smallest effect with 80 % power, alone and after Holm over all of them.

    runs: on each side. needed: runs on each side for the effect that the question is about, after Holm; None where the
    file names none.
    """

    comparison: str
    comparisons: int
    runs: int
    mde: float
    mde_holm: float
    needed: int | None = None

    def row(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def noise_of(study: Study, metric: str) -> Noise | None:
    """The scatter of seeds in a ledger: pooled within configs that ran more than once; None where there are none."""
    try:
        frame = take_sample(study, metric, ("study", "replicate")).frame
    except StudyError:  # of a search: its configs ran once each
        return None
    frame = frame.assign(level=frame.groupby("split_seed")["score"].transform("mean"))
    rest = (frame["score"] - frame["level"]).groupby(frame["config_key"])
    freedom = int((rest.count() - 1).sum())
    if freedom < 1:
        return None
    pooled = math.sqrt(float((rest.var().fillna(0) * (rest.count() - 1)).sum()) / freedom)
    return Noise(pooled, f"within the configs of {study.name}, {freedom} degrees of freedom")


def unlike_methods(study: Study, metric: str, sd: float) -> float | None:
    """How far the difference of two methods scatters over configs when the noise of seeds, `sd`, is taken off.

    None for a ledger that has no two methods at the same points.
    """
    try:
        sample = take_sample(study, metric)
    except StudyError:
        return None
    frame = sample.frame.assign(point=point_of(sample.frame))
    cells = frame.groupby(["point", "method"])["score"].agg(["mean", "size"]).unstack("method")
    squares, freedom = 0.0, 0
    for a, b in combinations(sample.methods, 2):
        both = cells.loc[:, [("mean", a), ("mean", b), ("size", a), ("size", b)]].dropna().to_numpy()
        if sample.drawn and len(both) > 2:
            noise = sd**2 * (1 / both[:, 2:]).sum(1).mean()
            squares += (float(np.var(both[:, 0] - both[:, 1], ddof=1)) - noise) * (len(both) - 1)
            freedom += len(both) - 1
    return math.sqrt(max(squares / freedom, 0.0)) if freedom else None


def least_noise(data: Data, metric: str, images: int | None, error: float | None = None) -> Noise | None:
    """What the number of validation images leaves at least: sqrt(error / 2n), in points; None where it says nothing.

    Source: Jordan, Calibrated chaos, ICLR 2024; for calibrated networks of several classes it is a guide, and short or
    unstable training scatters more.
    """
    if images is None or metric not in ("val_top1", "val_top5"):
        return None
    share = error if error is not None else ERRORS.get(data.source, OTHER_ERROR)
    validation = max(1, round(images * data.val_fraction))
    text = f"the least that {validation} validation images leave at {100 * share:g} % error: sqrt(error / 2n)"
    return Noise(100 * math.sqrt(share / 2 / validation), text)


def resolve(study: StudyFile, design: Design, noise: Noise) -> list[Resolved]:
    """What each comparison of a study can resolve with such noise."""
    replicates, strata = study.replicates, len(design.strata)
    arms = {
        stratum: {run.arm: run.levels for run in design.runs if run.stratum == stratum and run.purpose == "study"}
        for stratum in design.strata
    }
    most = max(map(len, arms.values()))

    def found(
        what: str, count: int, runs: float, error: float, freedom: float, weights: Sequence[float] = ()
    ) -> Resolved:
        levels = [0.05 / n for n in (1, max(count, 1))]
        alone, after = (detectable_at(error, freedom, level=level) for level in levels)
        if weights and replicates > 1:
            alone, after = (noise.sd * one for one in rehearsed(replicates, tuple(weights), tuple(levels)))
        needed = None
        if study.effect is not None and math.isfinite(after):
            # The same comparison with other runs: its error falls with their root.
            scatter = error * math.sqrt(runs / 2)
            needed = runs_needed(study.effect, scatter, level=levels[1])
            if after > study.effect:
                needed = max(needed, round(runs) + 1)
        return Resolved(what, count, round(runs), alone, after, needed)

    def one_to_one(count: int) -> list[float]:
        return [1.0, -1.0] + [0.0] * (count - 2)

    match design.name:
        case "sobol":
            pairs = strata * (strata - 1) // 2
            error = math.sqrt(((noise.unlike or 0.0) ** 2 + 2 * noise.sd**2 / replicates) / most)
            least = "" if noise.unlike is not None else "; at least, if the knobs move both alike"
            what = f"a method against another, means over the space{least}"
            return [found(what, pairs, most * replicates, error, most - 1)]
        case "curve" | "grid":
            count = sum(len(own) - 1 for own in arms.values())
            error = noise.sd * math.sqrt(2 / replicates)
            if design.name == "grid":
                return [found("a cell against another", count, replicates, error, 2 * (replicates - 1))]
            freedom = expected_freedom(replicates, most, 2)
            return [found("a value against the centre", count, replicates, error, freedom, one_to_one(most))]
    count = strata * len(study.factors)
    if design.name != "factorial":
        error = noise.sd * math.sqrt(2 / replicates)
        freedom = expected_freedom(replicates, most, 2)
        return [found("a part on against off", count, replicates, error, freedom, one_to_one(most))]
    rows = next(iter(arms.values())).values()
    there = [frozenset(name for name, on in levels.items() if on) for levels in rows]
    pairs = [sum(own | {factor} in there for own in there if factor not in own) for factor in study.factors]
    worst = (len(there) / 2 if design.aliases else min(pairs)) * replicates
    freedom = expected_freedom(replicates, most, 2 * worst / replicates)
    if freedom < 1:  # then the error is what interactions of three and more factors leave
        freedom = len(there) - 1 - len(study.factors) - len(study.factors) * (len(study.factors) - 1) // 2
    half = round(worst / replicates)
    weights = [1 / half] * half + [-1 / half] * half + [0.0] * (len(there) - 2 * half)
    return [found("a part on against off", count, worst, noise.sd * math.sqrt(2 / worst), freedom, weights)]


@cache
def rehearsed(replicates: int, weights: tuple[float, ...], levels: tuple[float, ...]) -> list[float]:
    """The smallest contrasts of arms that are found with 80 % power at these levels, where a run scatters by 1.

    Studies without any effect are drawn and judged as the analysis does it. What would have to be added to the contrast
    of each for a verdict is known, and enough for 4 of 5 of them is the answer.
    """
    from scipy.special import stdtrit

    rng, arms = np.random.default_rng(0), len(weights)
    place, block = np.tile(np.arange(arms), replicates), np.repeat(np.arange(replicates), arms)
    drawn = [Arms.of(place, block, rng.standard_normal(len(place))).contrast(np.array(weights)) for _ in range(DRAWS)]
    value, error, freedom = np.array(drawn).T
    missing = [
        np.concatenate([t * error - value, t * error + value])
        for t in (stdtrit(freedom, 1 - level / 2) for level in levels)
    ]
    return [float(np.quantile(one, 0.8)) for one in missing]


def images_of(study: Study, data: Data) -> int | None:
    """How many training images a ledger of the same data had, by its validation split; None where they are others."""
    frame: Any = study.trials()
    known = frame["val_images"].dropna()
    if known.empty or other_data(study, data, frame):
        return None
    return round(float(known.iloc[0]) / data.val_fraction)


def train_images(data: Data, images: ImageSet | None) -> int | None:
    """How many training images there are, as far as that is known."""
    if images is not None:
        return len(images.train.labels)
    known = IMAGES.get(data.source)
    if known is None or data.labels is None:
        return known
    if isinstance(data.labels, float):
        return math.ceil(known * data.labels)
    return None
