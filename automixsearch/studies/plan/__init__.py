"""What a study or a search will cost, and what it will be able to say, before anything runs.

Times come from a short probe of each method on this machine, or from a ledger; the noise of seeds from a ledger, or
from what the number of validation images leaves at best.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automixsearch.analysis.power import detectable_at
from automixsearch.config.space import SearchSpace
from automixsearch.studies.design import enumerate_runs, space_of
from automixsearch.studies.plan.costs import Cost, costs_of, probe, rows_mb
from automixsearch.studies.plan.lengths import Length, expected_lengths
from automixsearch.studies.plan.noise import (
    Noise,
    Resolved,
    images_of,
    least_noise,
    noise_of,
    resolve,
    train_images,
    unlike_methods,
)
from automixsearch.studies.plan.settings import config_of, method_settings, study_settings, teacher_settings
from automixsearch.studies.plan.warnings import few_images, range_warnings, search_warnings, study_warnings

__all__ = [
    "Cost",
    "Length",
    "Noise",
    "Plan",
    "Resolved",
    "config_of",
    "costs_of",
    "expected_lengths",
    "images_of",
    "least_noise",
    "method_settings",
    "noise_of",
    "plan_search",
    "plan_study",
    "probe",
    "study_settings",
    "teacher_settings",
    "train_images",
    "unlike_methods",
]

if TYPE_CHECKING:
    from automixsearch.studies.file import StudyFile


@dataclass(frozen=True)
class Plan:
    """A plan: runs by purpose, epochs, costs of each stratum, disk, what can be resolved, and what to think about.

    full_epochs: of a run in full. lengths: which runs there are; in a search with rungs, as many at each as are
    expected there. unstopped: the same if no run were short or stopped.
    """

    name: str
    question: str
    runs: Mapping[str, int]
    full_epochs: int
    lengths: tuple[Length, ...]
    unstopped: tuple[Length, ...]
    costs: tuple[Cost, ...]
    disk_mb: float
    checkpoint_mb: float | None
    val_images: int | None
    noise: Noise | None
    metric: str
    resolved: tuple[Resolved, ...]
    aliases: Mapping[str, Sequence[str]]
    warnings: tuple[str, ...]
    sampled: bool = False
    """Whether a sampler says how many runs a method gets."""

    @property
    def epochs(self) -> int:
        """Of all runs, as expected."""
        return round(sum(one.runs * one.epochs for one in self.lengths))

    @property
    def most_epochs(self) -> int:
        """Of all runs, if none were short or stopped."""
        return round(sum(one.runs * one.epochs for one in self.unstopped))

    @property
    def device_h(self) -> tuple[float, float, float] | None:
        """Device-hours, and their band; None where no times are known."""
        return self._hours(self.lengths)

    @property
    def most_device_h(self) -> tuple[float, float, float] | None:
        """Device-hours if no run were short or stopped."""
        return self._hours(self.unstopped)

    @property
    def settles(self) -> tuple[tuple[str, float], tuple[str, float]] | None:
        """The method that would take least and the one that would take most if all runs were of it, with device-hours;
        None where the design says how many runs a method gets."""
        if not self.sampled or len(self.costs) < 2:
            return None
        whole = sum(self._whole(self.lengths, cost.stratum) for cost in self.costs)
        hours = sorted((whole * cost.device_s / 3600, cost.stratum) for cost in self.costs)
        return (hours[0][1], hours[0][0]), (hours[-1][1], hours[-1][0])

    def _hours(self, lengths: Sequence[Length]) -> tuple[float, float, float] | None:
        if not self.costs:
            return None
        parts = [(self._whole(lengths, cost.stratum), cost) for cost in self.costs]
        middle = sum(count * cost.device_s for count, cost in parts)
        # Errors of the methods' times are independent of one another; within a method they are the same error.
        down = math.hypot(*(count * (cost.device_s - cost.low) for count, cost in parts))
        up = math.hypot(*(count * (cost.high - cost.device_s) for count, cost in parts))
        return middle / 3600, (middle - down) / 3600, (middle + up) / 3600

    def _whole(self, lengths: Sequence[Length], stratum: str) -> float:
        """The runs of a stratum, counted in full schedules."""
        return sum(one.runs * one.epochs for one in lengths if one.stratum == stratum) / self.full_epochs

    def rows(self) -> list[dict[str, Any]]:
        """One row per stratum: runs, what one in full takes, and what all of them do."""
        by_stratum = {cost.stratum: dataclasses.asdict(cost) for cost in self.costs}
        found = []
        for name in dict.fromkeys(one.stratum for one in self.lengths):
            cost = by_stratum.get(name, {})
            total = {"all_s": self._whole(self.lengths, name) * cost["device_s"]} if cost else {}
            runs = sum(one.runs for one in self.lengths if one.stratum == name)
            found.append({"stratum": name, "runs": runs, **cost, **total})
        return found

    def by_length(self) -> dict[int, float]:
        """Runs by their epochs, short ones first."""
        found: dict[int, float] = {}
        for one in sorted(self.lengths, key=lambda one: one.epochs):
            found[one.epochs] = found.get(one.epochs, 0.0) + one.runs
        return found

    def content(self) -> dict[str, Any]:
        """All of it as plain values."""
        names = ("name", "question", "epochs", "most_epochs", "disk_mb", "checkpoint_mb", "val_images", "metric")
        hours: dict[str, Any] = dict(
            zip(("device_h", "device_h_low", "device_h_high"), self.device_h or (None,) * 3, strict=True)
        )
        hours["most_device_h"] = None if self.most_device_h is None else self.most_device_h[0]
        hours["settles"] = None if self.settles is None else dict(self.settles)
        lengths = [{"epochs": epochs, "runs": runs} for epochs, runs in self.by_length().items()]
        noise = None if self.noise is None else dataclasses.asdict(self.noise)
        made = {name: getattr(self, name) for name in names} | hours | {"runs": dict(self.runs), "noise": noise}
        made |= {"lengths": lengths, "strata": self.rows(), "resolved": [one.row() for one in self.resolved]}
        return made | {"aliases": dict(self.aliases), "warnings": list(self.warnings)}


def plan_study(study: StudyFile, costs: Sequence[Cost], noise: Noise | None, images: int | None) -> Plan:
    """The plan of a study file.

    Args:
        images: of the training set, from which the validation split is taken; None: unknown.
    """
    design = enumerate_runs(study)
    counts = Counter(run.stratum for run in design.runs if run.stratum)
    for run in design.runs:
        if not run.stratum:  # winners of the whole study: any of the strata
            counts[design.strata[0]] += 1
    lengths = tuple(Length(stratum, count, study.budget.epochs) for stratum, count in counts.items())
    val_images = None if images is None else round(images * study.data.val_fraction)
    resolved = tuple(resolve(study, design, noise)) if noise else ()
    space = space_of(study, design)
    return Plan(
        name=study.name,
        question=study.question,
        runs=Counter(run.purpose for run in design.runs),
        full_epochs=study.budget.epochs,
        lengths=lengths,
        unstopped=lengths,
        costs=tuple(costs),
        disk_mb=rows_mb(config_of(study, design.runs[0].values), lengths),
        checkpoint_mb=_largest(costs),
        val_images=val_images,
        noise=noise,
        metric=study.metric,
        resolved=resolved,
        aliases={name: same for name, same in design.aliases.items() if same},
        warnings=(*study_warnings(study, design, space, resolved, noise), *few_images(study.metric, val_images)),
    )


def plan_search(space: SearchSpace, costs: Sequence[Cost], noise: Noise | None, images: int | None) -> Plan:
    """The plan of a search, its trials spread evenly over the methods.

    A search with rungs is rehearsed with scores by chance: how many trials are short or stopped hardly depends on what
    they score.
    """
    settings = method_settings(space)
    lengths, unstopped = expected_lengths(space, next(iter(settings.values())))
    val_images = None if images is None else round(images * space.data.val_fraction)
    full = sum(one.runs for one in lengths if one.epochs == max(other.epochs for other in lengths))
    resolved = ()
    if noise is not None:
        pairs = round(full) - 1
        alone, after = (detectable_at(noise.sd * math.sqrt(2), 1e6, level=0.05 / n) for n in (1, max(pairs, 1)))
        resolved = (Resolved("the best trial against another", pairs, 1, alone, after),)
    return Plan(
        name=space.name,
        question=space.about,
        runs={space.purpose: space.budget.trials},
        full_epochs=space.budget.epochs,
        lengths=lengths,
        unstopped=unstopped,
        costs=tuple(costs),
        disk_mb=rows_mb(config_of(space, next(iter(settings.values()))), lengths),
        checkpoint_mb=_largest(costs),
        val_images=val_images,
        noise=noise,
        metric=space.objective[0],
        resolved=resolved,
        aliases={},
        warnings=(
            *search_warnings(space, full),
            *range_warnings(space, space.dimensions),
            *few_images(space.objective[0], val_images),
        ),
        sampled=True,
    )


def _largest(costs: Sequence[Cost]) -> float | None:
    return max((cost.checkpoint_mb for cost in costs if cost.checkpoint_mb is not None), default=None)
