"""The ledger rows of trials that did not reach their end."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from automixsearch.config.catalogue import PER_EPOCH
from automixsearch.errors import AutoMixError
from automixsearch.search.failures import Failure, Place, cause_of, same
from automixsearch.search.task import Task

if TYPE_CHECKING:
    from automixsearch.registry import Plugin
    from automixsearch.results.store import Store


def run_columns(last: dict[str, Any], plugins: tuple[Plugin, ...]) -> dict[str, Any]:
    """The columns of a trial row that come from its last epoch; empty `last`: nothing was measured. plugins: those of
    its config, whose metrics have columns of their own."""
    names = [*PER_EPOCH, "wall_s", "device_s", "energy_j"]
    names += [plugin.value for plugin in plugins if plugin.kind == "metrics"]
    return {name: last.get(name) for name in names} | {"epochs_run": last.get("epoch", 0)}


def last_epoch(store: Store, trial_id: str) -> dict[str, Any]:
    """The last epoch of a trial that is in the ledger; empty where there is none."""
    return max(store.epoch_rows(trial_id), key=lambda row: row["epoch"], default={})


def pruned_row(store: Store, task: Task, result: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a trial that the scheduler stopped after it had reported `result`."""
    last = last_epoch(store, task.trial_id)
    reason = f"below the best of its method at epoch {last.get('epoch', 0)}"
    place = {name: result.get(name) for name in ("device", "threads", "host")}
    return task.row("pruned", **run_columns(last, task.config.plugins), **place, stop_reason=reason)


def failed_row(store: Store, task: Task) -> dict[str, Any]:
    """The row of a trial that is set aside: the cause that its last failure had, and how often it had it."""
    last = task.failures[-1]
    return task.row(
        "failed",
        **run_columns(last_epoch(store, task.trial_id), task.config.plugins),
        host=last.place.host or None,
        error_class=last.cause,
        error_message=last.message,
        attempts=same(task.failures),
    )


def after(store: Store, task: Task, error: BaseException, place: Place) -> Task:
    """The trial with one more failure: an error in this process that ends it for good."""
    epoch = last_epoch(store, task.trial_id).get("epoch", 0)
    failure = Failure(cause_of(error)[0], said(error), epoch, place=place)
    return replace(task, failures=(*task.failures, failure))


def said(error: BaseException) -> str:
    """The message of an error, and where it arose if nobody raised it on purpose."""
    if isinstance(error, AutoMixError):
        return str(error)[:4000]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{error}{place}"[:4000]
