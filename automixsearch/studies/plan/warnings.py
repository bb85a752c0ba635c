"""What makes the answer of a study or a search worth less than it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from automixsearch.config.knobs import published_for
from automixsearch.config.points import backbone_of
from automixsearch.config.space import SearchSpace
from automixsearch.studies.design import Design
from automixsearch.studies.plan.noise import Noise, Resolved

if TYPE_CHECKING:
    from automixsearch.config.dimensions import Dimension
    from automixsearch.studies.file import StudyFile


FEW_IMAGES = 1000
"""Validation images below which one image is more than a tenth of a point."""


def search_warnings(space: SearchSpace, full: float) -> list[str]:
    """What to think about before a search; `full`: the trials that are expected to be trained in full."""
    said, methods = [], len(space.methods)
    sampler, trials = space.sampler, space.budget.trials
    if sampler.name in ("tpe", "gp") and trials <= sampler.startup_trials:
        said.append(
            f"the first {sampler.startup_trials} trials are random, and there are {trials}: {sampler.name} never "
            "learns from one; raise the trials, or lower sampler.startup_trials"
        )
    if full < 2 * methods:
        said.append(
            f"about {full:.0f} trials in full for {methods} methods: a method is judged by a config or two, and which "
            "is best is mostly chance; raise the trials, or name fewer methods"
        )
    if space.scheduler.name == "asha":
        said += _of_rungs(space)
    lucky = "each trial has one seed, and the best of many is lucky: confirm it with a study (design: sobol, confirm)"
    return [*said, lucky]


def _of_rungs(space: SearchSpace) -> list[str]:
    rungs, needed = space.rungs, len(space.methods) * len(space.rungs)
    if len(rungs) == 1:
        return [f"scheduler asha has no rung below {rungs[0]} epochs, so every trial is trained in full; raise epochs"]
    said = []
    protected = math.ceil(space.scheduler.protect * space.budget.trials)
    if not space.branches and 0 < protected < needed:
        said.append(
            f"{len(space.methods)} methods at {len(rungs)} rungs take {needed} trials, more than the {protected} in "
            "which each should reach the full schedule; raise the trials"
        )
    if space.fidelity is None:
        short = ", ".join(map(str, rungs[:-1]))
        said.append(
            f"that schedules of {short} epochs rank configs as {rungs[-1]} do is taken on trust; add fidelity: "
            "{min_lower_bound: 0.3} to have it measured first"
        )
    return said


NARROW, WIDE = 1.25, 100.0
"""Ratios of the ends of a range: below the first it hardly varies, above the second it needs a log scale."""


def range_warnings(space: SearchSpace, dimensions: Iterable[Dimension], centred: bool = False) -> list[str]:
    """Ranges within which little can happen, or from which what is published is left out.

    centred: the published setting is tried anyway.
    """
    said = []
    for one in dimensions:
        name, knob = one.name, one.entry.knob
        values = [v for v in one.choices or (one.low, one.high) if isinstance(v, int | float) and v is not True]
        if one.fixed or knob.kind not in (int, float) or not values:
            continue
        low, high = min(values), max(values)
        if low > 0 and high / low < NARROW:
            said.append(
                f"{name} goes from {low:g} to {high:g} only: what it does there is hardly more than noise; widen it"
            )
        if one.choices is None and not one.log and low > 0 and high / low > WIDE:
            said.append(
                f"{name} goes from {low:g} to {high:g} without log: nine in ten draws lie above "
                f"{low + (high - low) / 10:g}; add log: true"
            )
        published = space.catalogue.published(one.entry.method)
        known = published_for(published, space.family, backbone_of(space)).get(name.rpartition(".")[2])
        if known is not None and not centred and not low <= float(known) <= high:
            said.append(
                f"{name} goes from {low:g} to {high:g}, and {float(known):g} is published: the published setting is "
                "left out; widen the range"
            )
    return said


def few_images(metric: str, val_images: int | None) -> list[str]:
    """What one image of the validation split moves, where that is much."""
    if val_images is None or val_images >= FEW_IMAGES or not metric.startswith("val_top"):
        return []
    return [
        f"{metric} is measured on {val_images} validation images: one of them is {100 / val_images:.2f} points; raise "
        "data.val_fraction, or read differences below a few of them as nothing"
    ]


def study_warnings(
    study: StudyFile, design: Design, space: SearchSpace, resolved: Sequence[Resolved], noise: Noise | None
) -> list[str]:
    """What to think about before a study."""
    said = []
    sobol = design.name == "sobol"
    if not sobol and study.replicates < 3:
        said.append(
            f"replicates = {study.replicates}: with fewer than 3 seeds an interval says next to nothing; use 3 or more"
        )
    for one in resolved:
        if one.needed is not None and study.effect is not None and one.mde_holm > study.effect:
            said.append(
                f"an effect of {study.effect:g} points is asked about and {one.mde_holm:.2g} can be found "
                f"({one.comparison}, {one.runs} runs on each side): it would take about {one.needed} runs on each side"
            )
        if not math.isfinite(one.mde):
            said.append(f"{one.comparison}: nothing is repeated, so nothing can be told from noise; use replicates: 3")
    if resolved and noise is not None:
        said += _margin(study, resolved[0], noise)
    if design.name in ("curve", "grid"):
        said += _of_curves(design)
    said += _unequal(space, set(study.varied))
    varied = [dimension for dimension in space.dimensions if dimension.name in study.varied]
    said += range_warnings(space, varied, centred=design.name == "curve")
    block = study.replicate_block
    if block is not None and (freedom := block.configs * block.seeds // len(design.strata)) < 8:
        each = " of each method" if len(design.strata) > 1 else ""
        said.append(
            f"replicate_block has {freedom} further runs{each}: the noise of seeds is known to a factor of two at "
            f"best; use configs: {12 * len(design.strata)}"
        )
    if study.confirm is not None and study.confirm.seeds < 3:
        said.append(
            f"confirm.seeds = {study.confirm.seeds}: what a winner is worth has an interval from 3 seeds on that says "
            "something; use 5"
        )
    if not sobol and study.splits > study.replicates:
        said.append(
            f"splits = {study.splits}, and replicates = {study.replicates} take turns on them: "
            f"{study.splits - study.replicates} are never used; raise replicates"
        )
    if sobol:
        said += _of_sobol(study, design)
    if study.splits == 1 and study.vary:
        said.append("splits = 1: what is found holds for one validation split; use splits: 2 or more")
    return said


def _margin(study: StudyFile, one: Resolved, noise: Noise) -> list[str]:
    # Two one-sided tests find equivalence with 80 % power, where there is no difference, from 2.93 errors on.
    needed = math.ceil(2 * (2.93 * noise.sd / study.margin) ** 2)
    if not study.metric.startswith("val_top") or one.runs >= needed:
        return []
    return [
        f"equivalence within margin = {study.margin:g} points takes about {needed} runs on each side, and there are "
        f"{one.runs}: expect unresolved where there is no difference; widen margin, or add seeds"
    ]


def _unequal(space: SearchSpace, varied: set[str]) -> list[str]:
    """Knobs whose range differs from method to method."""
    ranges: dict[str, dict[str, str]] = {}
    for dimension in space.dimensions:
        if dimension.name in varied and dimension.entry.method is not None:
            owner, _, short = dimension.name.rpartition(".")
            ranges.setdefault(short, {})[owner] = str(dimension)
    return [
        f"{short} has other values for one method than for another ({'; '.join(f'{o}: {r}' for o, r in own.items())}): "
        "the wider one looks more fragile, whatever the method; give all the same"
        for short, own in ranges.items()
        if len(set(own.values())) > 1
    ]


def _of_curves(design: Design) -> list[str]:
    alone = [
        stratum
        for stratum in design.strata
        if len({run.arm for run in design.runs if run.stratum == stratum and run.purpose == "study"}) == 1
    ]
    if len(alone) == len(design.strata):
        return ["nothing varies: a value of vary that is alone is fixed; give two or more"]
    return [f"{', '.join(alone)}: nothing varies there, so it is only something to compare with"] if alone else []


def _of_sobol(study: StudyFile, design: Design) -> list[str]:
    said = []
    if study.design.count < 32:
        said.append(
            f"{study.design.count} configs for each method: the spread over configs is known to about a third at best; "
            "use points: 64"
        )
    if study.replicate_block is None and study.replicates == 1:
        said.append("no config runs twice: what configs do cannot be told from what seeds do; add replicate_block")
    if study.confirm is None:
        said.append("the best of many configs looks better than it is; add confirm to measure it with fresh seeds")
    for stratum in design.strata:
        runs = [run for run in design.runs if run.stratum == stratum and run.purpose == "study"]
        if not runs[0].levels:
            said.append(
                f"{stratum} has none of the varied knobs: its {len(runs)} runs are {len(runs)} seeds of one config"
            )
    return said
