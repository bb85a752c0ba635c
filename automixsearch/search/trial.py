"""Run one trial: epochs into the ledger, a checkpoint now and then, one row at the end.

`run_trial` is the same for both executors. It yields after each epoch, when the epoch is already on disk; its
caller reports the epoch to Tune and stops a trial by not asking for the next.
"""

from __future__ import annotations

import gc
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from automixsearch.data import load
from automixsearch.data.base import ImageSet
from automixsearch.errors import OtherConfig, SpecError, StudyError, TrainingError
from automixsearch.evaluation.run import answered, asked_of, evaluated, keep, subject_of_run
from automixsearch.native import give_memory_back
from automixsearch.results.store import Store, weights_of
from automixsearch.search.checkpoints import Retention, checkpoints
from automixsearch.search.failures import MEMORY, Attempt, Place, cause_of
from automixsearch.search.task import Task
from automixsearch.search.trial_rows import after, failed_row, run_columns, said
from automixsearch.training.run import EpochMetrics, TrainingRun
from automixsearch.training.world import World

CHECKPOINT_SHARE = 20
"""A checkpoint is written when training has taken this many times as long as the last one took to write."""
VERDICT_S = 300.0
"""A trial of several workers goes on by itself when it has waited so long for a word on its cool-down."""

Questions = Mapping[str, Mapping[str, Any]]
DEFAULT = Retention()
NONE: Questions = {}


def run_trial(
    store: Store,
    task: Task,
    device: torch.device,
    world: World,
    retention: Retention = DEFAULT,
    evaluate: Questions = NONE,
) -> Iterator[dict[str, Any]]:
    """Run `task` from its checkpoint, if it has one, and yield the metrics of each epoch as plain numbers.

    evaluate: what its network is asked at the end, see `SearchSpace.evaluate`.

    An error that the config itself is to blame for ends the trial with a row of state `failed`; it is not raised, since
    trying again would give the same error. With several workers it is raised too, so that the others are stopped. All
    other errors are noted for the driver, which decides what follows, and raised.
    """
    if store.trial_row(task.trial_id) is not None:
        return
    place = Place.here()
    try:
        for metrics in _train(store, task, device, world, retention, evaluate):
            yield metrics | {"node": place.node, "devices": place.devices}
    except (SpecError, TrainingError) as error:
        store.write_trial(failed_row(store, after(store, task, error, place)))
        if world.size > 1:
            raise
    except Exception as error:
        if world.size == 1 or not _may_be_a_lost_peer(error):
            cause = cause_of(error)[0]
            if cause == MEMORY:  # what the trial holds is in the way of the note about it
                traceback.clear_frames(error.__traceback__)
                _free(device)
            with suppress(StudyError):  # the storage can be what failed
                Attempt(place, cause, said(error)).save(store, task.trial_id)
        raise
    finally:
        _free(device)


def _may_be_a_lost_peer(error: Exception) -> bool:
    """Whether another worker's death can be behind an error: gloo and nccl raise plain RuntimeErrors for it."""
    return isinstance(error, RuntimeError) and cause_of(error)[0] != MEMORY


def limit_threads(cpus: float) -> None:
    """Use as many threads as the trial holds CPUs, so that neighbours do not slow each other down."""
    torch.set_num_threads(max(1, int(cpus)))


def _train(
    store: Store, task: Task, device: torch.device, world: World, retention: Retention, evaluate: Questions
) -> Iterator[dict[str, Any]]:
    image_set = load(task.config.data, task.config.plugins)
    run, note = _resumed(store, task, image_set, device, world)
    place = {"device": device_name(device), "threads": torch.get_num_threads(), "host": socket.gethostname()}
    saved_at, cost = time.perf_counter(), 0.0
    for metrics in run.epochs():
        if world.rank == 0:
            if not store.write_epoch(epoch_row(task, metrics)) and metrics.epoch == 1:
                note = note or {"note": f"{task.trial_id} starts anew: it had no checkpoint yet"}
            if time.perf_counter() - saved_at >= CHECKPOINT_SHARE * cost:
                started = time.perf_counter()
                retention.save(store, task.trial_id, metrics.epoch, run.state())
                saved_at = time.perf_counter()
                cost = saved_at - started
        if metrics.epoch < run.recipe.epochs:
            yield metrics.row() | place | note
            note = {}
            if world.size > 1 and world.rank == 0 and metrics.epoch in task.branches:
                _await_verdict(store, task, metrics.epoch)
    last = run.last.row() if run.last else {}
    test = _test_columns(run) if task.stop_reason is None else {}  # all workers together
    if world.rank == 0:
        if test and retention.wants(store, last):
            store.put(weights_of(task.trial_id), run.weights())
        if run.answers is not None:
            store.write_outcome(_outcome_row(task, run, run.answers.right))
        if test and evaluate:
            note = _evaluate(store, task, run, image_set, evaluate) or note
        store.write_trial(
            task.row(
                "complete" if task.stop_reason is None else "pruned",
                **run_columns(last, task.config.plugins),
                **test,
                val_top1_best=max(run.val_top1s),
                val_top1_median=run.val_top1_median,
                parameters=run.parameters,
                val_images=len(run.val),
                **_of_classes("val", run.answers.columns() if run.answers else {}),
                skipped_images=image_set.skipped,
                split_id=run.split.split_id,
                **place,
            )
        )
    yield last | place | note


def _evaluate(store: Store, task: Task, run: TrainingRun, images: ImageSet, evaluate: Questions) -> dict[str, str]:
    """Ask what the ledger does not know yet of the network that is reported; a note on what could not be asked.

    A trial that ends in the middle of this goes on from its last checkpoint: its row comes after the answers.
    """
    subject, faults = subject_of_run(run, run.algorithm.reported(), images.classes), []
    for evaluation, code in asked_of(evaluate, store.plugins):
        if answered(store, task.trial_id, evaluation, code) is None:
            try:
                keep(store, evaluated(evaluation, code, subject, task.trial_id, task.config.seed))
            except (SpecError, TrainingError) as error:
                faults.append(f"{evaluation.name}: {error}")
    return {"note": f"{task.trial_id} was not asked {'; '.join(faults)}"} if faults else {}


def _await_verdict(store: Store, task: Task, epoch: int) -> None:
    """Wait until a trial of several workers may go on after a cool-down.

    One that is stopped is killed, and takes a while to die: a row that it wrote meanwhile would be one too many.
    """
    until = time.monotonic() + VERDICT_S
    while time.monotonic() < until:
        known = Task.load(store, task.trial_id)
        if known is None or known.cleared >= epoch:
            return
        time.sleep(0.2)


def _test_columns(run: TrainingRun) -> dict[str, Any]:
    """Test scores: read once, and only of a full schedule."""
    outcome = run.finish()
    scores = outcome.test.columns("test")
    named = {name: getattr(outcome, name) for name in ("test_top1_median", "test_top1_best")}
    return scores | named | _of_classes("test", outcome.test_classes) | {"test_images": len(run.test)}


def _outcome_row(task: Task, run: TrainingRun, right: np.ndarray) -> dict[str, Any]:
    """The row that tells which validation images were answered rightly."""
    return {
        "trial_id": task.trial_id,
        "data_fingerprint": task.config.data_fingerprint,
        "split_id": run.split.split_id,
        "images": len(right),
        "right": int(right.sum()),
        "bits": np.packbits(right).tobytes(),
    }


def _of_classes(part: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}_{name}": value for name, value in columns.items()}


def _resumed(
    store: Store, task: Task, image_set: ImageSet, device: torch.device, world: World
) -> tuple[TrainingRun, dict[str, str]]:
    """The run as its newest checkpoint has it that can be read, else from the start; and a note on that."""

    def fresh() -> TrainingRun:
        tested = task.stop_reason is None
        return TrainingRun(task.config, image_set, device, world, branches=task.branches, tested=tested)

    run, why = fresh(), ""
    for epoch, name in checkpoints(store, task.trial_id):
        saved = store.get(name)
        if saved is None:  # let go of by a process that is about to end
            continue
        try:
            run.load(saved)
            break
        except OtherConfig as error:
            why = why or f": that of epoch {epoch} is not its own: {error}"
        except Exception as error:  # torch's own types too: a damaged file can fail at any depth
            if cause_of(error)[0] == MEMORY:
                raise
            why = why or f": that of epoch {epoch} is damaged: {' '.join(str(error).split())[:200]}"
            run = fresh()
    _agree(run, world)
    after = f"goes on from its checkpoint of epoch {run.epoch}" if run.epoch else "starts anew"
    return run, {"note": f"{task.trial_id} {after}{why}"} if why or run.epoch else {}


def _agree(run: TrainingRun, world: World) -> None:
    """Refuse to go on where workers have read different checkpoints, as one of them could not reach the storage."""
    epochs = world.gather(torch.tensor([run.epoch], device=run.device)).tolist()
    if len(set(epochs)) > 1:
        raise RuntimeError(f"the workers have read checkpoints of different epochs {epochs}; they try again")


def epoch_row(task: Task, metrics: EpochMetrics) -> dict[str, Any]:
    """The ledger row of one epoch."""
    return {
        "study": task.study,
        "trial_id": task.trial_id,
        "method": task.config.method,
        "epochs_total": task.config.knobs["epochs"],
        "ended_at": datetime.now(UTC),
        **metrics.row(),
    }


def device_name(device: torch.device) -> str:
    """`NVIDIA H100 80GB HBM3`, or the model of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"


def _free(device: torch.device) -> None:
    """Give the memory of a finished trial back, so that the next one in this process starts from nothing."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        give_memory_back()
