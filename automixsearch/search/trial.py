"""Run one trial: epochs into the ledger, a checkpoint now and then, one row at the end.

`run_trial` is the same for both executors. It yields after each epoch, when the epoch is already on disk; its
caller reports the epoch to Tune and stops a trial by not asking for the next.
"""

from __future__ import annotations

import gc
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from automixsearch.data import load
from automixsearch.results.store import Store
from automixsearch.search.task import Task
from automixsearch.search.trial_rows import last_epoch, run_columns
from automixsearch.training.loop import EpochMetrics, TrainingRun
from automixsearch.training.world import World

CHECKPOINT_SHARE = 20
"""A checkpoint is written when training has taken this many times as long as the last one took to write."""


def run_trial(store: Store, task: Task, device: torch.device, world: World) -> Iterator[dict[str, Any]]:
    """Run `task` from its checkpoint, if it has one, and yield the metrics of each epoch as plain numbers.

    An error inside the trial ends it with a row of state `failed`; it is not raised, since trying again would give
    the same error. With several workers it is raised too, so that the others are stopped.
    """
    if store.trial_row(task.trial_id) is not None:
        return
    try:
        yield from _train(store, task, device, world)
    except Exception as error:
        if world.size == 1 or not _may_be_a_lost_peer(error):
            store.write_trial(failed_row(store, task, error))
        if world.size > 1:
            raise
    finally:
        _free(device)


def limit_threads(cpus: float) -> None:
    """Use as many threads as the trial holds CPUs, so that neighbours do not slow each other down."""
    torch.set_num_threads(max(1, int(cpus)))


def _may_be_a_lost_peer(error: Exception) -> bool:
    """Whether another worker's death can be behind an error: gloo and nccl raise plain RuntimeErrors for it.

    Ray Train then starts the workers anew from the checkpoint; a trial that always fails gets its row from the driver.
    """
    return isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)


def _train(store: Store, task: Task, device: torch.device, world: World) -> Iterator[dict[str, Any]]:
    image_set = load(task.config.data)
    run = TrainingRun(task.config, image_set, device, world, branches=task.branches, tested=task.stop_reason is None)
    saved = store.get(task.checkpoint)
    if saved is not None:
        run.load(saved)
    place = {"device": device_name(device), "threads": torch.get_num_threads(), "host": socket.gethostname()}
    saved_at, cost = time.perf_counter(), 0.0
    for metrics in run.epochs():
        if world.rank == 0:
            store.write_epoch(epoch_row(task, metrics))
            if time.perf_counter() - saved_at >= CHECKPOINT_SHARE * cost:
                started = time.perf_counter()
                store.put(task.checkpoint, run.state())
                saved_at = time.perf_counter()
                cost = saved_at - started
        if metrics.epoch < run.recipe.epochs:
            yield metrics.row() | place
    last = run.last.row() if run.last else {}
    test = _test_columns(run) if task.stop_reason is None else {}  # all workers together
    if world.rank == 0:
        store.write_trial(
            task.row(
                "complete" if task.stop_reason is None else "pruned",
                **run_columns(last),
                **test,
                val_top1_best=max(run.val_top1s),
                val_top1_median=run.val_top1_median,
                parameters=run.parameters,
                val_images=len(run.val),
                skipped_images=image_set.skipped,
                split_id=run.split.split_id,
                **place,
            )
        )
    yield last | place


def _test_columns(run: TrainingRun) -> dict[str, Any]:
    """Test scores: read once, and only of a full schedule."""
    outcome = run.finish()
    scores = {f"test_{name}": value for name, value in asdict(outcome.test).items()}
    named = {name: getattr(outcome, name) for name in ("test_top1_median", "test_top1_best")}
    return scores | named | {"test_images": len(run.test)}


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


def failed_row(store: Store, task: Task, error: BaseException) -> dict[str, Any]:
    """The row of a trial that ended in `error`: its class, its message and where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    columns = run_columns(last_epoch(store, task.trial_id))
    message = f"{error}{place}"[:4000]
    return task.row("failed", **columns, error_class=type(error).__name__, error_message=message)


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
