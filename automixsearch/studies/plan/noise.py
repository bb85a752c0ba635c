"""How far seeds move a metric, and so what a study can resolve: from a ledger, or from the number of images at best."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automixsearch.analysis.power import detectable_at, runs_needed
from automixsearch.analysis.selection import take_sample
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


@dataclass(frozen=True)
class Noise:
    """How much the metric scatters from seed to seed: a standard deviation in its unit, and how that is known."""

    sd: float
    source: str


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
    from automixsearch.analysis.contrasts import expected_freedom

    replicates, strata = study.replicates, len(design.strata)
    arms = {
        stratum: {run.arm: run.levels for run in design.runs if run.stratum == stratum and run.purpose == "study"}
        for stratum in design.strata
    }
    most = max(map(len, arms.values()))

    def found(what: str, count: int, runs: float, error: float, freedom: float) -> Resolved:
        alone, after = (detectable_at(error, freedom, level=0.05 / n) for n in (1, max(count, 1)))
        needed = None
        if study.effect is not None and math.isfinite(after):
            # The same comparison with other runs: its error falls with their root.
            scatter = error * math.sqrt(runs / 2)
            needed = runs_needed(study.effect, scatter, level=0.05 / max(count, 1))
        return Resolved(what, count, round(runs), alone, after, needed)

    match design.name:
        case "sobol":
            points = most * replicates
            pairs = strata * (strata - 1) // 2
            error = noise.sd * math.sqrt(2 / points)
            return [found("a method against another, means over the space", pairs, points, error, points - 1)]
        case "curve" | "grid":
            count = sum(len(own) - 1 for own in arms.values())
            error = noise.sd * math.sqrt(2 / replicates)
            if design.name == "grid":
                return [found("a cell against another", count, replicates, error, 2 * (replicates - 1))]
            freedom = expected_freedom(replicates, most, 2)
            return [found("a value against the centre", count, replicates, error, freedom)]
    count = strata * len(study.factors)
    if design.name != "factorial":
        error = noise.sd * math.sqrt(2 / replicates)
        return [found("a part on against off", count, replicates, error, expected_freedom(replicates, most, 2))]
    rows = next(iter(arms.values())).values()
    there = [frozenset(name for name, on in levels.items() if on) for levels in rows]
    pairs = [sum(own | {factor} in there for own in there if factor not in own) for factor in study.factors]
    worst = (len(there) / 2 if design.aliases else min(pairs)) * replicates
    freedom = expected_freedom(replicates, most, 2 * worst / replicates)
    if freedom < 1:  # then the error is what interactions of three and more factors leave
        freedom = len(there) - 1 - len(study.factors) - len(study.factors) * (len(study.factors) - 1) // 2
    return [found("a part on against off", count, worst, noise.sd * math.sqrt(2 / worst), freedom)]


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
