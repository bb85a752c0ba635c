"""Run a search: one study, from its space to its ledger, to its total number of trials."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from automixsearch.config.space import SearchSpace
from automixsearch.registry import texts
from automixsearch.results.documents import written_plugins
from automixsearch.results.schema import TABLES, listed
from automixsearch.results.store import Store
from automixsearch.search.claim import refuse_other_space
from automixsearch.search.failures import STORAGE_PATIENCE_S, TRIES
from automixsearch.search.on_ray import run_on_ray
from automixsearch.search.plugins import changes
from automixsearch.search.prepare import prepare
from automixsearch.search.task import Task
from automixsearch.search.watcher import Watcher
from automixsearch.stopping import as_interrupt, in_background
from automixsearch.studies.design import enumerate_runs, space_of

if TYPE_CHECKING:
    from automixsearch.studies.design import Design
    from automixsearch.studies.file import StudyFile

COMPACT_FROM = 500
"""A study with more files than this is compacted, at the end and before it goes on: all its rows are read then."""


@dataclass(frozen=True)
class SearchResult:
    """How a search ended. `place` is the study's directory or URI; `finished` trials have their row."""

    study: str
    place: str
    finished: int
    total: int
    interrupted: bool


def run_search(
    space: SearchSpace,
    results: str | Path = "results",
    address: str | None = None,
    watcher: Watcher | None = None,
    *,
    retry_failed: bool = False,
    force: bool = False,
    debug: bool = False,
    design: Design | None = None,
) -> SearchResult:
    """Run or continue the study `space.name` under `results` until it has `space.budget.trials` trials.

    Args:
        results: directory, or any URI that pyarrow can open.
        address: of a running Ray cluster (`auto` finds one on this machine); None starts one for this search.
        watcher: is told what happens.
        retry_failed: let the trials that failed run again, with the configs they had; but for those that have failed
            three times of one cause, unless `force`.
        debug: run the trials in this process, one after the other and without Ray, so that breakpoints work; none is
            stopped early.
        design: the runs, where they are known beforehand; see `run_study`.

    Raises:
        StudyError: the study belongs to another space; StudyBusy: another driver holds it.
        DataError, ResourceError: the data or the cluster do not fit.

    Examples:
        >>> from automixsearch import SearchSpace, open_study
        >>> space = SearchSpace(name="tiny", knobs={"method": "mixup", "width": 4}, budget={"trials": 1, "epochs": 1})
        >>> result = run_search(space, debug=True)
        >>> open_study(result.place).trials().state.tolist()
        ['complete']
    """
    watcher = watcher or Watcher()
    texts(space.plugins)  # what is missing is told before anything is written
    store = Store(results, space.name, STORAGE_PATIENCE_S, note=watcher.note)
    with as_interrupt(), store.lock(), _leaving_nothing_behind(store):
        store.repair()
        refuse_other_space(store, space, design)
        space = _with_what_has_begun(store, space, watcher)
        store.plugins = space.plugins
        for text in changes(written_plugins(store.info()), space.plugins, store.uri):
            watcher.note(text)
        _compact(store)
        # Reading the data and starting Ray take seconds each and wait for different things.
        loading = in_background(prepare, space, store.shared(), design)
        if retry_failed:
            loading.result()  # where the data are refused, the ledger stays as it is
            again, left = _set_failed_free(store, space, force)
            watcher.note(f"failed trials that run again: {again}")
            if left:
                watcher.note(f"failed trials that stay so: {left}, which failed {TRIES} times of one cause; --force")
        watcher.begin(space, store.trial_rows())
        if store.left_out:
            watcher.note(f"left out as damaged: {listed(store.left_out[:3], len(store.left_out))}")
        if _is_complete(store, space):
            loading.result()
            interrupted = False
        elif debug:
            from automixsearch.search.in_process import run_in_process

            interrupted = run_in_process(space, store, watcher, *loading.result(), design)
        else:
            run_on_ray(space, store, address, watcher, loading, design)
            interrupted = not _is_complete(store, space)
        watcher.end()
        if _is_complete(store, space):
            _compact(store)
        finished = len(store.finished())
    return SearchResult(space.name, store.uri, finished, space.budget.trials, interrupted)


def run_study(
    study: StudyFile,
    results: str | Path = "results",
    address: str | None = None,
    watcher: Watcher | None = None,
    *,
    retry_failed: bool = False,
    force: bool = False,
    debug: bool = False,
) -> SearchResult:
    """Run or continue the study of a study file until all runs of its design have ended; see `run_search`.

    Raises:
        StudyError: the study belongs to a search or another design, or no run has a score and a confirmation should
            follow.
    """
    design = enumerate_runs(study)
    more = {"retry_failed": retry_failed, "force": force, "debug": debug}
    return run_search(space_of(study, design), results, address, watcher, design=design, **more)


@contextlib.contextmanager
def _leaving_nothing_behind(store: Store) -> Iterator[None]:
    """Where a search is refused before its study exists, remove its log, so that an empty folder goes too."""
    try:
        yield
    except Exception:
        log = store.local_path("driver.log")
        if log is not None and not log.with_name("study.json").exists():
            with contextlib.suppress(OSError):  # why the search was refused matters more than what stays
                log.unlink(missing_ok=True)
        raise


def _with_what_has_begun(store: Store, space: SearchSpace, watcher: Watcher) -> SearchSpace:
    """The space with a total of no fewer trials than were ever begun: these have happened, or go on."""
    begun = len(store.finished() | set(Task.in_flight(store)))
    if begun <= space.budget.trials:
        return space
    watcher.note(f"{begun} trials have begun, more than the {space.budget.trials} asked for: no others will")
    return space.model_copy(update={"budget": space.budget.model_copy(update={"trials": begun})})


def _set_failed_free(store: Store, space: SearchSpace, force: bool) -> tuple[int, int]:
    """Take the rows of failed trials out of the ledger, so that they run again.

    Returns how many, and how many were left because they have failed `TRIES` times of one cause. With `force` there are
    none, and what they have failed of is forgotten.
    """
    failed = [row for row in store.trial_rows() if row["state"] == "failed"]
    again = [row for row in failed if force or (row["attempts"] or 1) < TRIES]
    for row in again:
        task = Task.of_row(row, space.branches)
        (replace(task, failures=()) if force else task).save(store)
        store.put_document(f"retried/{row['trial_id']}-{row['ended_at']:%Y%m%dT%H%M%S}.json", row)
    store.drop([row["trial_id"] for row in again])
    return len(again), len(failed) - len(again)


def _compact(store: Store) -> None:
    if sum(len(store.live(table)) for table in TABLES) > COMPACT_FROM:
        store.compact()


def _is_complete(store: Store, space: SearchSpace) -> bool:
    return len(store.finished()) >= space.budget.trials
