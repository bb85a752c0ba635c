"""What a study or a search will cost, and what it will be able to say, before anything runs.

Times come from a short probe of each method on this machine, or from a ledger; the noise of seeds from a ledger, or
from what the number of validation images leaves at best.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automixsearch.designs import Design, enumerate_runs, known_setting, space_of
from automixsearch.mixers import MIXERS
from automixsearch.spec import Data, SearchSpace, TrialConfig

if TYPE_CHECKING:
    from automixsearch.data.base import ImageSet
    from automixsearch.results.study import Study
    from automixsearch.space import Dimension
    from automixsearch.studyfile import StudyFile

PROBE_STEPS, PROBE_PARTS = 20, 4
"""Steps that are timed for each method, and the equal parts in which they are: their scatter gives the band."""
FEW_IMAGES = 1000
"""Validation images below which one image is more than a tenth of a point."""
IMAGES = {"digits": 1438, "cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000, "imagenet": 1_281_167}
"""Training images of sets of known size, for a plan without the data."""
ERRORS = {"digits": 0.05, "cifar10": 0.04, "cifar100": 0.20, "tiny_imagenet": 0.33, "imagenet": 0.30}
"""Error rates that are assumed of them, as shares; of all others OTHER_ERROR."""
OTHER_ERROR = 0.2


@dataclass(frozen=True)
class Cost:
    """What one run of a method takes: device-seconds with a band of 95 %, and what its checkpoint holds."""

    stratum: str
    device_s: float
    low: float
    high: float
    checkpoint_mb: float | None
    source: str


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


@dataclass(frozen=True)
class Length:
    """Runs of a stratum that are expected to train for so many epochs, cool-downs that branch off included."""

    stratum: str
    runs: float
    epochs: int


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
    resolved = tuple(_resolved(study, design, noise)) if noise else ()
    space = space_of(study, design)
    return Plan(
        name=study.name,
        question=study.question,
        runs=Counter(run.purpose for run in design.runs),
        full_epochs=study.budget.epochs,
        lengths=lengths,
        unstopped=lengths,
        costs=tuple(costs),
        disk_mb=_rows_mb(config_of(study.data, design.runs[0].values), lengths),
        checkpoint_mb=_largest(costs),
        val_images=val_images,
        noise=noise,
        metric=study.metric,
        resolved=resolved,
        aliases={name: same for name, same in design.aliases.items() if same},
        warnings=(*_warnings(study, design, space, resolved, noise), *_few(study.metric, val_images)),
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
        from automixsearch.analysis.power import detectable_at

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
        disk_mb=_rows_mb(config_of(space.data, next(iter(settings.values()))), lengths),
        checkpoint_mb=_largest(costs),
        val_images=val_images,
        noise=noise,
        metric=space.objective[0],
        resolved=resolved,
        aliases={},
        warnings=(*_of_search(space, full), *_ranges(space, space.dimensions), *_few(space.objective[0], val_images)),
        sampled=True,
    )


def expected_lengths(space: SearchSpace, values: Mapping[str, Any]) -> tuple[tuple[Length, ...], tuple[Length, ...]]:
    """The trials of a search by method and epochs: as expected, and if none were short or stopped.

    Args:
        values: a setting of the space, which says how long cool-downs are.
    """
    methods, trials, rungs = space.methods, space.budget.trials, space.rungs
    anchors = 0 if space.fidelity is None else space.fidelity.anchors
    even = {method: trials // len(methods) + (place < trials % len(methods)) for place, method in enumerate(methods)}
    if space.branches:
        cooldown = config_of(space.data, values).recipe.cooldown
        trained = [end + sum(_cooled(cooldown, branch) for branch in space.branches if branch <= end) for end in rungs]
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
    from automixsearch.search.promotion import Promotion, rehearsed

    found: dict[tuple[str, int], float] = {}
    rehearsals = REHEARSALS if trials <= MANY else 1
    for seed in range(rehearsals):
        made = Promotion(methods, len(rungs), space.scheduler.reduction, trials, space.scheduler.protect, anchors)
        for key, count in rehearsed(made, seed).items():
            found[key] = found.get(key, 0.0) + count / rehearsals
    return tuple(Length(method, found[method, rung], rungs[rung]) for method, rung in sorted(found)), unstopped


REHEARSALS, MANY = 4, 1000
"""Searches with scores by chance whose mean is planned with, as they differ by a few trials; one of many trials."""


def _cooled(share: float, epochs: int) -> int:
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


def config_of(data: Data, values: Mapping[str, Any]) -> TrialConfig:
    """The config of a run, without seeds."""
    return TrialConfig(data=data, knobs=dict(values))


def method_settings(space: SearchSpace) -> dict[str, Mapping[str, Any]]:
    """A setting in the middle of the space for each method."""
    (methods,) = (dimension.choices or () for dimension in space.dimensions if dimension.name == "method")
    return {str(method): known_setting(space, {"method": method}) for method in methods}


def study_settings(design: Design) -> dict[str, Mapping[str, Any]]:
    """The first setting of each stratum."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in design.runs:
        if run.stratum and not run.waits:
            found.setdefault(run.stratum, run.values)
    return found


TEACHER = ("ema", "ema_start", "ema_end", "ema_hold", "report")


def teacher_settings(design: Design) -> list[Mapping[str, Any]]:
    """A setting for each way in which the design lets the teacher of AutoMix follow."""
    names = ("method", "batch_size", *(f"automix.{name}" for name in TEACHER))
    settings = (run.values for run in design.runs if not run.waits)
    return list({tuple(values.get(name) for name in names): values for values in settings}.values())


def _largest(costs: Sequence[Cost]) -> float | None:
    return max((cost.checkpoint_mb for cost in costs if cost.checkpoint_mb is not None), default=None)


def _rows_mb(config: TrialConfig, lengths: Sequence[Length]) -> float:
    """What the rows take before they are merged: a file for each trial and each epoch."""
    from datetime import UTC, datetime

    from automixsearch.results.schema import encode, to_arrow
    from automixsearch.search.task import Task

    now = datetime.now(UTC)
    task = Task("t00000", 0, "study", 0, "0" * 16, "study", 1, config)
    trial = {"schema_version": 1, **task.row("complete")}
    epoch = {name: trial[name] for name in ("schema_version", "study", "trial_id", "method")}
    epoch |= {"epoch": 1, "ended_at": now}
    trial_size, epoch_size = len(encode(to_arrow("trials", [trial]))), len(encode(to_arrow("epochs", [epoch])))
    return sum(one.runs * (trial_size + one.epochs * epoch_size) for one in lengths) / 1e6


# Times -----------------------------------------------------------------------------------------------------------


def probe(stratum: str, config: TrialConfig, images: ImageSet, cpus: float) -> Cost:
    """Train a config for a few steps on this machine, on part of the data, and take the times of a whole run from it.

    The first part warms up and does not count; the band is that of a mean of the others, at 95 %.
    """
    import torch
    from scipy import stats

    from automixsearch.data.base import split
    from automixsearch.training.loop import TrainingRun, pick_device

    torch.set_num_threads(max(1, int(cpus)))
    steps = PROBE_STEPS // PROBE_PARTS
    batch, epochs = config.recipe.batch_size, config.recipe.epochs
    part = _part(images, math.ceil(steps * batch / (1 - config.data.val_fraction)) + len(images.classes))
    longer = config.model_copy(update={"knobs": {**config.knobs, "epochs": max(epochs, PROBE_PARTS + 1)}})
    run = TrainingRun(longer, part, pick_device())
    train_s, val_s, before = [], [], 0.0
    for metrics in run.epochs():
        trained = run.steps_per_epoch * batch / metrics.images_per_s
        train_s.append(trained / run.steps_per_epoch)
        val_s.append((metrics.wall_s - before - trained) / len(run.val.labels))
        before = metrics.wall_s
        if metrics.epoch > PROBE_PARTS:
            break
    whole = split(images, config.data.val_fraction, config.split_seed)
    looked_at = len(whole.val) * epochs + len(images.test.labels)
    total = [
        epochs * (len(whole.train) // batch) * step + looked_at * look
        for step, look in zip(train_s[1:], val_s[1:], strict=True)
    ]
    middle = statistics.fmean(total)
    half = float(stats.t.ppf(0.975, len(total) - 1)) * statistics.stdev(total) / math.sqrt(len(total))
    source = f"{PROBE_STEPS} steps on this machine"
    size = len(run.state()) / 1e6
    return Cost(stratum, middle, max(middle - half, min(total) / 2), middle + half, size, source)


def _part(images: ImageSet, count: int) -> ImageSet:
    """Part of the training images, of all classes alike."""
    import numpy as np

    from automixsearch.data.base import Part

    if count >= len(images.train):
        return images
    by_class = np.argsort(images.train.labels, kind="stable")
    chosen = np.sort(by_class[np.linspace(0, len(by_class) - 1, count).astype(int)])
    train = Part(np.ascontiguousarray(images.train.images[chosen]), images.train.labels[chosen])
    return dataclasses.replace(images, train=train)


def costs_of(
    study: Study, settings: Mapping[str, Mapping[str, Any]], epochs: int, data: Data | None = None
) -> tuple[list[Cost], list[str]]:
    """The costs of runs like those of a ledger: of each method, from its seconds per epoch; and what does not fit.

    The band holds 95 % of its runs. data: those of the plan; the ledger should be of the same.
    """
    from automixsearch.spec import column_of

    frame: Any = study.trials()
    frame = frame[frame["state"].isin(["complete", "pruned"]) & (frame["epochs_run"] > 0)]
    frame = frame.assign(trained=frame["epochs_run"] + _cooled_epochs(study, frame))
    found, odd = [], _other_data(study, data, frame) if data is not None else []
    for stratum, values in settings.items():
        own = frame[frame["method"] == values["method"]]
        if own.empty:
            odd.append(f"study {study.name} has no run of {values['method']}: its time is left out")
            continue
        for knob in ("backbone", "width", "batch_size", "train_size"):
            here, there = TrialConfig(knobs=dict(values), data=Data()).knobs[knob], set(own[column_of(knob)])
            note = f"times of study {study.name} are of {knob} {', '.join(map(str, there))}, not {here}"
            if there != {here} and note not in odd:
                odd.append(note)
        seconds = (own["device_s"] / own["trained"] * epochs).sort_values()
        low, middle, high = (float(seconds.quantile(share)) for share in (0.025, 0.5, 0.975))
        found.append(
            Cost(stratum, float(seconds.mean()), min(low, middle), high, None, f"{len(own)} runs of {study.name}")
        )
    return found, odd


def _other_data(study: Study, data: Data, frame: Any) -> list[str]:
    """What a ledger is about, where that is not what is planned with."""
    configs = [json.loads(text)["data"] for text in frame.drop_duplicates("data_fingerprint")["config"].dropna()]
    here, names = data.model_dump(mode="json"), ("source", "path", "size", "labels", "val_fraction")
    for there in configs:
        differ = [name for name in names if there.get(name) != here[name]]
        if differ:
            was, now = (
                ", ".join(f"{name} {of[name]}" for name in differ if of.get(name) is not None) for of in (there, here)
            )
            return [f"times and noise of study {study.name} are of data with {was}, not {now}"]
    return []


def _cooled_epochs(study: Study, frame: Any) -> Any:
    """The epochs of the cool-downs that branched off each trial; 0 where there are no such rungs."""
    scheduler = (study.info.get("space") or {}).get("scheduler") or {}
    if scheduler.get("name") != "asha" or scheduler.get("rungs") != "cooldown":
        return 0
    share = dict(zip(frame["trial_id"], frame["knob.cooldown"], strict=True))
    found = dict.fromkeys(share, 0)
    for row in study.store.epoch_rows():
        if row["rung"] is not None and row["trial_id"] in found:
            found[row["trial_id"]] += _cooled(share[row["trial_id"]], row["epoch"])
    return frame["trial_id"].map(found)


# Noise and power -------------------------------------------------------------------------------------------------


def noise_of(study: Study, metric: str) -> Noise | None:
    """The scatter of seeds in a ledger: pooled within configs that ran more than once; None where there are none."""
    from automixsearch.analysis.sample import take_sample
    from automixsearch.errors import StudyError

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


def _resolved(study: StudyFile, design: Design, noise: Noise) -> list[Resolved]:
    from automixsearch.analysis.power import detectable_at

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
            from automixsearch.analysis.power import runs_needed

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
            # All values of a method share one error, that within seeds and splits.
            return [found("a value against the centre", count, replicates, error, (most - 1) * (replicates - 1))]
    freedom = (most - 1) * (replicates - 1)
    count = strata * len(study.factors)
    if design.name != "factorial":
        error = noise.sd * math.sqrt(2 / replicates)
        return [found("a part on against off", count, replicates, error, freedom)]
    rows = next(iter(arms.values())).values()
    there = [frozenset(name for name, on in levels.items() if on) for levels in rows]
    pairs = [sum(own | {factor} in there for own in there if factor not in own) for factor in study.factors]
    worst = (len(there) / 2 if design.aliases else min(pairs)) * replicates
    if freedom < 1:  # then the error is what interactions of three and more factors leave
        freedom = len(there) - 1 - len(study.factors) - len(study.factors) * (len(study.factors) - 1) // 2
    return [found("a part on against off", count, worst, noise.sd * math.sqrt(2 / worst), freedom)]


# Warnings --------------------------------------------------------------------------------------------------------


def _of_search(space: SearchSpace, full: float) -> list[str]:
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


def _ranges(space: SearchSpace, dimensions: Iterable[Dimension], centred: bool = False) -> list[str]:
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
        published = MIXERS[one.entry.method].published.get(space.family, {}) if one.entry.method in MIXERS else {}
        known = published.get(name.rpartition(".")[2])
        if known is not None and not centred and not low <= float(known) <= high:
            said.append(
                f"{name} goes from {low:g} to {high:g}, and {float(known):g} is published: the published setting is "
                "left out; widen the range"
            )
    return said


def _few(metric: str, val_images: int | None) -> list[str]:
    if val_images is None or val_images >= FEW_IMAGES or not metric.startswith("val_top"):
        return []
    return [
        f"{metric} is measured on {val_images} validation images: one of them is {100 / val_images:.2f} points; raise "
        "data.val_fraction, or read differences below a few of them as nothing"
    ]


def _warnings(
    study: StudyFile, design: Design, space: SearchSpace, resolved: Sequence[Resolved], noise: Noise | None
) -> list[str]:
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
    said += _ranges(space, [d for d in space.dimensions if d.name in study.varied], centred=design.name == "curve")
    block, freedom = study.replicate_block, 0
    if block is not None and (freedom := block.configs * block.seeds) < 8:
        said.append(
            f"replicate_block has {freedom} further runs: the noise of seeds is known to a factor of two at best; use "
            "configs: 12"
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


def images_of(study: Study, data: Data) -> int | None:
    """How many training images a ledger of the same data had, by its validation split; None where they are others."""
    frame: Any = study.trials()
    known = frame["val_images"].dropna()
    if known.empty or _other_data(study, data, frame):
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
