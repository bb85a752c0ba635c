"""The ledger rows that the driver writes, for trials that could not write their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from automixsearch.search.task import Task

if TYPE_CHECKING:
    from automixsearch.results.store import Store


def run_columns(last: dict[str, Any]) -> dict[str, Any]:
    """The columns of a trial row that come from its last epoch; empty `last`: nothing was measured."""
    names = ("train_loss", "val_top1", "val_top5", "val_loss", "val_ece", "wall_s", "device_s", "energy_j")
    return {name: last.get(name) for name in names} | {"epochs_run": last.get("epoch", 0)}


def last_epoch(store: Store, trial_id: str) -> dict[str, Any]:
    """The last epoch of a trial that is in the ledger; empty where there is none."""
    return max(store.epoch_rows(trial_id), key=lambda row: row["epoch"], default={})


def pruned_row(store: Store, task: Task, result: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a trial that the scheduler stopped after it had reported `result`."""
    last = last_epoch(store, task.trial_id)
    reason = f"below the best of its method at epoch {last.get('epoch', 0)}"
    place = {name: result.get(name) for name in ("device", "threads", "host")}
    return task.row("pruned", **run_columns(last), **place, stop_reason=reason)


def crashed_row(store: Store, task: Task) -> dict[str, Any]:
    """The row of a trial whose process died again and again."""
    return task.row(
        "failed",
        **run_columns(last_epoch(store, task.trial_id)),
        error_class="WorkerDied",
        error_message="the trial's process ended without an error, more often than it is restarted; "
        "out of memory is the usual cause (see the log of the study)",
    )
