"""Run the trials of a search in this process, one after the other and without Ray, so that breakpoints work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from automixsearch.errors import AutoMixError, ResourceError, StudyError, remedy
from automixsearch.search.checkpoints import Retention
from automixsearch.search.failures import Place, cause_of, is_of_world
from automixsearch.search.plugins import renewed
from automixsearch.search.proposers import make_proposer
from automixsearch.search.trial import limit_threads, run_trial
from automixsearch.search.trial_rows import after, failed_row
from automixsearch.training.run import pick_device
from automixsearch.training.world import World

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.results.store import Store
    from automixsearch.search.task import Task
    from automixsearch.search.watcher import Watcher
    from automixsearch.studies.design import Design


def run_in_process(
    space: SearchSpace, store: Store, watcher: Watcher, fingerprint: str, notes: list[str], design: Design | None
) -> bool:
    """Run the missing trials in this process; return whether the user interrupted."""
    if space.resources.workers > 1:
        raise StudyError(f"debug runs trials in this process; resources.workers = {space.resources.workers} must be 1")
    limit_threads(space.resources.cpus)
    log = store.local_path("driver.log") or Path(os.devnull)
    proposer = make_proposer(space, store, fingerprint, design, watcher.note, log)
    for note in (*notes, *proposer.notes):
        watcher.note(note)
    try:
        while (task := proposer.next()) is not None:
            task = renewed(task, space.plugins)
            watcher.heard("start", task, {})
            try:
                for metrics in run_trial(store, task, pick_device(), World(), Retention.of(space), space.evaluate):
                    if "note" in metrics:
                        watcher.note(metrics["note"])
                    proposer.report(task.number, metrics["epoch"], metrics.get(space.objective[0]))
                    watcher.heard("epoch", task, metrics)
            except Exception as error:  # where breakpoints are, once is enough
                if is_of_world(*cause_of(error)):
                    raise _hindered(task, error) from error
                store.write_trial(failed_row(store, after(store, task, error, Place.here())))
            row = proposer.finish(task)
            watcher.heard("end", task, row or {})
    except KeyboardInterrupt:
        return True
    if proposer.problem is not None:
        raise StudyError(proposer.problem)
    return False


def _hindered(task: Task, error: Exception) -> AutoMixError:
    """The error that ends a search because something else than a trial's config has failed."""
    if isinstance(error, StudyError):
        return error
    what = f"{error.filename or error}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
    more = f"; {remedy(error)}" if isinstance(error, OSError) else ""
    return ResourceError(
        f"{task.trial_id} cannot go on, which is no fault of its config: {type(error).__name__}: {what}{more}; when it "
        "is mended, the same command goes on with the trial: nothing is lost"
    )
