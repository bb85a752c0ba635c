"""The bridge from Tune to the Optuna study: what runs next and where, and what follows when a trial fails.

Ray's own OptunaSearch reports stopped trials as complete, refuses warm starts with conditional spaces and loses
its way after a crash, hence our own `Searcher` (an official extension point). Tune's own retries know neither causes
nor places nor memory, so there are none: a trial that may try again is handed out again, as a new one of Tune's.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, TuneError
from ray.tune.search import Searcher

from automixsearch.cluster.room import Need, Room
from automixsearch.errors import AutoMixError, ResourceError, StudyError, remedy
from automixsearch.search.deaths import death_of
from automixsearch.search.failures import (
    DIED,
    MEMORY,
    NO_ROOM,
    NODE,
    SIGNALS,
    TRIES,
    Attempt,
    Failure,
    Nodes,
    Place,
    cause_of,
    doublings,
    is_of_world,
    stuck,
)
from automixsearch.search.task import Task
from automixsearch.search.trial_rows import failed_row, last_epoch, pruned_row
from automixsearch.search.tune_scheduler import PerMethodASHA

if TYPE_CHECKING:
    from automixsearch.search.proposers import Proposer

    pass

Heard = Callable[[str, Task, dict[str, Any]], None]
PATIENCE_S = 900.0
"""How long a search waits for room when nothing of it runs, before it gives up."""


class StudySearcher(Searcher):
    """Proposes the trials of a `Proposer` to Tune and hands back what Tune reports.

    `heard(event, task, values)` is told of every start, epoch and end, for whoever watches, and `note` of what went
    wrong. All state lies in the study and the ledger; Tune's snapshots of this object are empty on purpose.
    """

    def __init__(
        self,
        proposer: Proposer,
        scheduler: PerMethodASHA | None,
        room: Room,
        heard: Heard,
        note: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.proposer, self.scheduler, self.room = proposer, scheduler, room
        self.heard, self.note = heard, note
        self.tasks: dict[str, Task] = {}
        self.needs: dict[str, Need] = {}
        self.broken: dict[str, Task] = {}
        self.reached: set[str] = set()
        self.stillborn: set[str] = set()
        self.nodes = Nodes()
        self.signals: dict[str, set[str]] = {}
        """The trials that each signal has ended."""
        self.told: set[str] = set()
        self.hindered: Counter[tuple[str, str, int]] = Counter()
        """Failures of the world, by trial, cause and epoch."""
        self.halt: AutoMixError | None = None
        self._next: Task | None = None
        self._waits_since: float | None = None

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's config: its id, method, length and what it holds.

        FINISHED at the study's total, or when the search has to stop; None while there is no room, or while others run
        that may have to run again, or that must end before the next one can be named.
        """
        config = None
        if self.halt is None:
            with self._halting():
                config = self._suggest(trial_id)
        return config if self.halt is None else Searcher.FINISHED

    @contextmanager
    def _halting(self) -> Iterator[None]:
        """Let the search stop, with what is in flight left for the next one, where its storage fails for good: what is
        raised inside Tune would end as a traceback."""
        try:
            yield
        except StudyError as error:
            self._stop(error)
        except OSError as error:  # of the journal, which is not in the store
            self._stop(StudyError(f"{error.filename or 'the study'}: {error.strerror or error}; {remedy(error)}"))

    def _stop(self, reason: AutoMixError | str) -> None:
        """Start no more trials; those that run go on, unless what stops the search stops them too."""
        if self.halt is None:
            self.halt = ResourceError(reason) if isinstance(reason, str) else reason
            if self.tasks:
                self.note(f"no more trials start, {len(self.tasks)} go on to their end or their next failure: {reason}")

    def _suggest(self, trial_id: str) -> Any:
        concurrent = self.room.resources.concurrent
        if concurrent != "auto" and len(self.tasks) >= concurrent:
            return None
        # A trial is not proposed before it can start: the proposal would miss what is learned until then.
        if self._next is None and self.tasks and not self._any_room():
            return None
        self._next = self._next or self.proposer.next()
        task = self._next
        if task is None:
            return None if self.tasks or self.proposer.waiting else Searcher.FINISHED
        need = self.room.need(task.config.method, doublings(task.failures))
        if not self.room.has_for(need, self.needs.values()):
            return self._wait(need)
        self._next = self._waits_since = None
        self.tasks[trial_id], self.needs[trial_id] = task, need
        self.heard("start", task, {})
        share = self.room.resources.share(task.config.method)
        return {
            "trial_id": task.trial_id,
            "method": task.config.method,
            "epochs": task.config.recipe.epochs,
            "cpus": share.cpus or self.room.resources.cpus,
            "held": need.held,
            "worker": need.worker,
            "avoid": self._avoid(task, need),
        }

    def _any_room(self) -> bool:
        needs = {repr(need): need for need in map(self.room.need, self.proposer.space.methods)}
        return any(self.room.has_for(need, self.needs.values()) for need in needs.values())

    def _wait(self, need: Need) -> None:
        """Nothing can start now; give up where nothing runs whose end could change that."""
        if self.tasks:
            return
        if self._waits_since is None:
            self._waits_since = time.monotonic()
            self.note(f"no room for a trial, which needs {_said(need)}; waiting for nodes")
        elif time.monotonic() - self._waits_since > PATIENCE_S:
            self._stop(
                f"the cluster has had no room for one trial ({_said(need)}) for {PATIENCE_S:.0f} s; run the same "
                "command again when its nodes are back: nothing is lost"
            )

    def _avoid(self, task: Task, need: Need) -> list[str]:
        """The nodes on which a trial shall not run: bad ones, and those where it failed if it fits elsewhere."""
        failed = {f.place.node for f in task.failures if f.cause != MEMORY and f.place.node}
        others = [held for node, held in self.room.nodes().items() if node not in failed]
        elsewhere = failed if others and self.room.fits(need, others) else set()
        return sorted((elsewhere | self.nodes.bad.keys()) & self.room.nodes(everywhere=True).keys())

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch has ended."""
        with self._halting():
            self._heard_of(trial_id, result)

    def _heard_of(self, trial_id: str, result: dict[str, Any]) -> None:
        task = self.tasks.get(trial_id)
        if task is not None and "epoch" in result:
            self.reached.add(trial_id)
            self.nodes.passed(Place(result.get("node", ""), result.get("host", ""), result.get("devices", "")))
            if "note" in result:
                self.note(result["note"])
            value = result.get(self.proposer.space.objective[0])
            self.proposer.report(task.number, result["epoch"], value)
            self.heard("epoch", task, result)
            if self.room.resources.distributed and result.get("rung") is not None:  # its workers wait for that
                self.tasks[trial_id] = task = replace(task, cleared=result["epoch"])
                task.save(self.proposer.store)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False, **_: Any
    ) -> None:
        """A trial has ended: by itself (its row says how), stopped by the scheduler, or with an error; for those
        Tune calls `failed` next, with the error."""
        task = self.tasks.pop(trial_id, None)
        self.needs.pop(trial_id, None)
        if task is None:
            return
        if error:
            self.broken[trial_id] = task
            return
        with self._halting():
            if self.scheduler is not None and task.trial_id in self.scheduler.stopped:
                self.proposer.store.write_trial(pruned_row(self.proposer.store, task, result or {}))
            self._finish(task)

    def _finish(self, task: Task) -> None:
        row = self.proposer.finish(task)
        if row is not None:
            self.heard("end", task, row)

    def failed(self, trial_id: str, error: BaseException | None) -> None:
        """A trial has ended with an error: let it try again or set it aside, and keep away from a node that is bad."""
        task = self.broken.pop(trial_id, None)
        if task is not None:
            with self._halting():
                self._judge(task, error, quick=trial_id not in self.reached)

    def _judge(self, task: Task, error: BaseException | None, quick: bool) -> None:
        store = self.proposer.store
        if store.trial_row(task.trial_id) is not None:  # the row was written and the process died after it
            self._finish(task)
            return
        failure = self._failure(task, error, quick)
        task = replace(task, failures=(*task.failures, failure))
        if self.nodes.failed(task.trial_id, failure):
            self._keep_away(failure)
        if failure.cause in SIGNALS:
            self._tell_of_signal(task, failure)
        told = f"{task.trial_id} failed after epoch {failure.epoch} ({failure.cause}"
        told += f" on {failure.place.host})" if failure.place.host else ")"
        if failure.of_world and failure.cause != NODE:  # nodes come and go: there is always a wait for room
            told += f": {failure.message[:500]}"
            reason = (task.trial_id, failure.cause, failure.epoch)
            self.hindered[reason] += 1
            # A trial has waited for its storage for minutes; another node may reach it, the same one will not.
            tries = 1 if failure.cause == "StorageError" and len(self.room.nodes()) == 1 else TRIES
            if self.hindered[reason] >= tries:
                self._stop(
                    f"{told}; that is no fault of its config, so the search stops; when it is mended, the same command "
                    "goes on: nothing is lost"
                )
        if stuck([f for f in task.failures if f.place.node not in self.nodes.bad]):
            store.write_trial(failed_row(store, task))
            self._finish(task)
            return
        if failure.cause == MEMORY and not failure.counts:
            method = task.config.method
            self.room.tight[method] = max(self.room.tight.get(method, 0), doublings(task.failures))
            told += ", tries again with fewer neighbours, as all of its method do from now on"
        elif failure.cause == NO_ROOM:
            told += ", waits for room"
        elif self.halt is not None:
            told += "; it goes on with the next search"
        else:
            told += ", tries again"
        self.note(told)
        task.save(store)
        self.proposer.again(task)

    def _failure(self, task: Task, error: BaseException | None, quick: bool) -> Failure:
        store = self.proposer.store
        cause, message = (DIED, "") if error is None else cause_of(error)
        attempt = Attempt.load(store, task.trial_id)
        if attempt is None:
            attempt = Attempt(Place())
            self._stillborn(task, message)
        Attempt.close(store, task.trial_id)
        if cause == DIED and not attempt.cause:
            known = death_of(message)
            if known is not None:
                cause, message = known[0], f"the trial's process died by {known[0]}: {known[1]}"
        if attempt.cause:  # the process has told more than Ray does
            cause, message = attempt.cause, attempt.message
        epoch = last_epoch(store, task.trial_id).get("epoch", 0)
        more = cause == MEMORY and self.room.grows(task.config.method, doublings(task.failures))
        counts = cause != NO_ROOM and not more and not is_of_world(cause, message)
        return Failure(cause, message, epoch, quick, counts, attempt.place)

    def _tell_of_signal(self, task: Task, failure: Failure) -> None:
        """Say once where several configs die of one signal."""
        died = self.signals.setdefault(failure.cause, set())
        died.add(task.trial_id)
        if failure.cause not in self.told and len(died) >= TRIES:
            self.told.add(failure.cause)
            self.note(
                f"{len(died)} trials have died by {failure.cause}: what their configs have in common, or this build of "
                f"torch, is to blame, not a node ({failure.message[:200]})"
            )

    def _stillborn(self, task: Task, message: str) -> None:
        """A trial's process has never begun; stop where none ever has, since then it is not the trials."""
        self.stillborn.add(task.trial_id)
        if len(self.stillborn) >= TRIES and not self.reached:
            self._stop(
                f"{len(self.stillborn)} trials have died before they began, and none has got through an epoch: the "
                f"cluster cannot run their processes ({' '.join(message.split())[:300]}); check that its nodes have "
                "this version of Ray and the token that this machine has, or none (RAY_AUTH_MODE); then run the same "
                "command again"
            )

    def _keep_away(self, failure: Failure) -> None:
        """Give a node no more trials, or stop the search where it is the only one."""
        place = failure.place
        where = f"node {place.host}" + (f" (accelerator {place.devices})" if place.devices else "")
        why = f"{where} has failed {failure.cause} on three trials one after another, before their first epoch"
        others = [node for node in self.room.nodes() if node != place.node]
        self.room.avoided.add(place.node)
        if others:
            self.note(f"{why}; it gets no more of them ({failure.message[:200]})")
        else:
            self._stop(
                f"{why}, and there is no other: {failure.message[:500]}; mend it and run the same command again; the "
                "trials in flight go on"
            )

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a study continues with a fresh searcher."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _said(need: Need) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in need.total.items())


class Errors(Callback):
    """Hands the errors that end trials, which Tune does not tell its searchers, to ours."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune has given a trial up."""
        self.searcher.failed(trial.trial_id, _error_of(trial))

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _error_of(trial: Any) -> BaseException | None:
    """The error that ended a trial; where it cannot be made again here, one of Tune's with the end of its text."""
    if trial.pickled_error_file is not None:
        with suppress(Exception):  # whatever the error's own class needs to be made again; its text needs nothing
            return pickle.loads(Path(trial.pickled_error_file).read_bytes())
    if trial.error_file is not None:
        with suppress(OSError):  # a full disk, on which it was not written: then nothing is known of the end
            return TuneError(Path(trial.error_file).read_text(errors="replace").strip().rpartition("\n")[2])
    return None
