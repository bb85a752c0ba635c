"""How long the runs of a search are expected to be, with its rungs and stops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from automixsearch.config.space import SearchSpace
from automixsearch.search.proposers.promotion import Promotion, rehearsed
from automixsearch.studies.plan.settings import config_of


@dataclass(frozen=True)
class Length:
    """Runs of a stratum that are expected to train for so many epochs, cool-downs that branch off included."""

    stratum: str
    runs: float
    epochs: int


REHEARSALS, MANY = 4, 1000
"""Searches with scores by chance whose mean is planned with, as they differ by a few trials; one of many trials."""


def expected_lengths(space: SearchSpace, values: Mapping[str, Any]) -> tuple[tuple[Length, ...], tuple[Length, ...]]:
    """The trials of a search by method and epochs: as expected, and if none were short or stopped.

    Args:
        values: a setting of the space, which says how long cool-downs are.
    """
    methods, trials, rungs = space.methods, space.budget.trials, space.rungs
    anchors = 0 if space.fidelity is None else space.fidelity.anchors
    even = {method: trials // len(methods) + (place < trials % len(methods)) for place, method in enumerate(methods)}
    if space.branches:
        cooldown = config_of(space, values).recipe.cooldown
        trained = [end + sum(cooled(cooldown, branch) for branch in space.branches if branch <= end) for end in rungs]
        lengths = []
        for method, count in even.items():
            there = [float(count)]
            for _ in space.branches:
                there.append(_go_on(there[-1], space.scheduler.reduction, anchors // len(methods)))
            ended = [a - b for a, b in zip(there, [*there[1:], 0.0], strict=True)]
            lengths += [Length(method, runs, epochs) for runs, epochs in zip(ended, trained, strict=True)]
        return tuple(lengths), tuple(Length(method, count, trained[-1]) for method, count in even.items())
    unstopped = tuple(Length(method, count, rungs[-1]) for method, count in even.items())
    if len(rungs) == 1:
        return unstopped, unstopped
    found: dict[tuple[str, int], float] = {}
    rehearsals = REHEARSALS if trials <= MANY else 1
    for seed in range(rehearsals):
        made = Promotion(methods, len(rungs), space.scheduler.reduction, trials, space.scheduler.protect, anchors)
        for key, count in rehearsed(made, seed).items():
            found[key] = found.get(key, 0.0) + count / rehearsals
    return tuple(Length(method, found[method, rung], rungs[rung]) for method, rung in sorted(found)), unstopped


def cooled(share: float, epochs: int) -> int:
    """Epochs of the cool-down that branches off after so many, as `TrainingRun` trains it."""
    return max(1, round(share * epochs))


def _go_on(arrived: float, reduction: int, spared: int) -> float:
    """How many of so many that arrive at a rung one after the other go on, if their scores are by chance.

    The n-th goes on where it is among the best max(1, n // reduction) so far; those that are spared always do.
    """
    return sum(
        min(1.0, arrived - place + 1) * (1.0 if place <= spared else max(1, place // reduction) / place)
        for place in range(1, math.ceil(arrived) + 1)
    )
