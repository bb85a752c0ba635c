"""What runs take: from a short probe of each method on this machine, or from a ledger."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automixsearch.config.catalogue import column_of
from automixsearch.config.recipe import Recipe
from automixsearch.config.upgrade import SCHEMA_VERSION
from automixsearch.data.base import ImageSet, Part, split
from automixsearch.results.documents import parse_config
from automixsearch.results.schema import encode, to_arrow
from automixsearch.search.task import Task
from automixsearch.studies.plan.lengths import Length, cooled

if TYPE_CHECKING:
    from automixsearch.config.data import Data
    from automixsearch.config.trial import TrialConfig
    from automixsearch.results.study import Study


PROBE_STEPS, PROBE_PARTS = 20, 4
"""Steps that are timed for each method, and the equal parts in which they are: their scatter gives the band."""


@dataclass(frozen=True)
class Cost:
    """What one run of a method takes: device-seconds with a band of 95 %, and what its checkpoint holds."""

    stratum: str
    device_s: float
    low: float
    high: float
    checkpoint_mb: float | None
    source: str


def rows_mb(config: TrialConfig, lengths: Sequence[Length]) -> float:
    """What the rows take before they are merged: a file for each trial and each epoch."""
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    task = Task("t00000", 0, "study", 0, "0" * 16, "study", 1, config)
    trial = {"schema_version": SCHEMA_VERSION, **task.row("complete")}
    epoch = {name: trial[name] for name in ("schema_version", "study", "trial_id", "method")}
    epoch |= {"epoch": 1, "ended_at": now}
    trial_size, epoch_size = len(encode(to_arrow("trials", [trial]))), len(encode(to_arrow("epochs", [epoch])))
    return sum(one.runs * (trial_size + one.epochs * epoch_size) for one in lengths) / 1e6


# Times -----------------------------------------------------------------------------------------------------------


def probe(stratum: str, config: TrialConfig, images: ImageSet, cpus: float, passes: float = 0.0) -> Cost:
    """Train a config for a few steps on this machine, on part of the data, and take the times of a whole run from it.

    The first part warms up and does not count; the band is that of a mean of the others, at 95 %.

    Args:
        passes: over the test set beside the one that scores it, of what every network is asked.
    """
    import torch
    from scipy import stats

    from automixsearch.training.run import TrainingRun, pick_device

    torch.set_num_threads(max(1, int(cpus)))
    steps = PROBE_STEPS // PROBE_PARTS
    batch, epochs = config.recipe.batch_size, config.recipe.epochs
    part = _part(images, math.ceil(steps * batch / (1 - config.data.val_fraction)) + len(images.classes))
    short = {"steps_per_epoch": steps} if config.recipe.steps_per_epoch else {}
    longer = config.model_copy(update={"knobs": {**config.knobs, "epochs": max(epochs, PROBE_PARTS + 1), **short}})
    run = TrainingRun(longer, part, pick_device())
    train_s, val_s, before = [], [], 0.0
    for metrics in run.epochs():
        trained = run.steps_per_epoch * batch / metrics.images_per_s
        train_s.append(trained / run.steps_per_epoch)
        val_s.append((metrics.wall_s - before - trained) / len(run.val))
        before = metrics.wall_s
        if metrics.epoch > PROBE_PARTS:
            break
    whole = split(images, config.data.val_fraction, config.split_seed)
    looked_at = len(whole.val) * epochs + (1 + passes) * len(images.test.labels)
    total = [
        epochs * config.recipe.steps(len(whole.train)) * step + looked_at * look
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

    if count >= len(images.train) or images.unlabelled is not None:
        return images
    by_class = np.argsort(images.train.labels, kind="stable")
    chosen = np.sort(by_class[np.linspace(0, len(by_class) - 1, count).astype(int)])
    train = Part(np.ascontiguousarray(images.train.images[chosen]), images.train.labels[chosen])
    return dataclasses.replace(images, train=train)


def costs_of(
    study: Study, settings: Mapping[str, Mapping[str, Any]], epochs: int, data: Data | None = None
) -> tuple[list[Cost], list[str]]:
    """The costs of runs like those of a ledger: of each method, from its seconds per epoch; and what does not fit.

    The band holds 95 % of further runs, whose times are log-normal and scatter alike in all methods; NaN where no
    method has two runs. data: those of the plan; the ledger should be of the same.
    """
    from scipy.special import stdtrit

    frame: Any = study.trials()
    frame = frame[frame["state"].isin(["complete", "pruned"]) & (frame["epochs_run"] > 0)]
    frame = frame.assign(trained=frame["epochs_run"] + _cooled_epochs(study, frame))
    plain = Recipe()
    seconds = frame["device_s"] / frame["trained"] * epochs
    logs = seconds.clip(lower=1e-9).map(math.log)
    by_method = logs.groupby(frame["method"])
    freedom, left = len(logs) - by_method.ngroups, logs - by_method.transform("mean")
    sd = math.sqrt(float((left**2).sum()) / freedom) if freedom else math.nan
    half = float(stdtrit(max(freedom, 1), 0.975)) * sd
    found, odd = [], other_data(study, data, frame) if data is not None else []
    for stratum, values in settings.items():
        own = frame[frame["method"] == values["method"]]
        if own.empty:
            odd.append(f"study {study.name} has no run of {values['method']}: its time is left out")
            continue
        for knob in ("backbone", "width", "batch_size", "train_size"):
            here = values.get(knob, getattr(plain, knob))
            there = set(own[column_of(knob)])
            note = f"times of study {study.name} are of {knob} {', '.join(map(str, there))}, not {here}"
            if there != {here} and note not in odd:
                odd.append(note)
        middle, more = float(logs[own.index].mean()), half * math.sqrt(1 + 1 / len(own))
        source = f"{len(own)} run{'s' if len(own) > 1 else ''} of {study.name}"
        mean = float(seconds[own.index].mean())
        found.append(Cost(stratum, mean, math.exp(middle - more), math.exp(middle + more), None, source))
    return found, odd


def other_data(study: Study, data: Data, frame: Any) -> list[str]:
    """What a ledger is about, where that is not what is planned with."""
    configs = [
        parse_config(text, "a trial")["data"] for text in frame.drop_duplicates("data_fingerprint")["config"].dropna()
    ]
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
            found[row["trial_id"]] += cooled(share[row["trial_id"]], row["epoch"])
    return frame["trial_id"].map(found)
