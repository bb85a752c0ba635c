"""The bridge from Tune to the Optuna study.

Ray's own OptunaSearch reports stopped trials as complete, refuses warm starts with conditional spaces and loses
its way after a crash, hence our own `Searcher` (an official extension point).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from automixsearch.search.scheduler import PerMethodASHA
from automixsearch.search.task import Task
from automixsearch.search.trial_rows import crashed_row, pruned_row

if TYPE_CHECKING:
    from automixsearch.search.designed import Designed
    from automixsearch.search.proposer import Proposer

Heard = Callable[[str, Task, dict[str, Any]], None]


class StudySearcher(Searcher):
    """Proposes the trials of a `Proposer`, or the runs of a `Designed`, to Tune and hands back what Tune reports.

    `heard(event, task, values)` is told of every start, epoch and end, for whoever watches. All state lies in the
    study and the ledger; Tune's snapshots of this object are empty on purpose.
    """

    def __init__(self, proposer: Proposer | Designed, scheduler: PerMethodASHA | None, heard: Heard) -> None:
        super().__init__()
        self.proposer, self.scheduler, self.heard = proposer, scheduler, heard
        self.tasks: dict[str, Task] = {}
        self.closing = False

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's config: its id, method and length.

        FINISHED at the study's total; None where the next one cannot be named before others have ended.
        """
        if self.closing:
            return Searcher.FINISHED
        task = self.proposer.next()
        if task is None:
            return None if self.proposer.waiting else Searcher.FINISHED
        self.tasks[trial_id] = task
        self.heard("start", task, {})
        return {
            "trial_id": task.trial_id,
            "method": task.config.method,
            "epochs": task.config.recipe.epochs,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch has ended."""
        task = self.tasks.get(trial_id)
        if task is not None and "epoch" in result:
            value = result.get(self.proposer.space.objective[0])
            self.proposer.report(task.number, result["epoch"], value)
            self.heard("epoch", task, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False, **_: Any
    ) -> None:
        """A trial has ended: by itself (its row says how), stopped by the scheduler, or with its process."""
        task = self.tasks.pop(trial_id, None)
        if task is None:
            return
        store = self.proposer.store
        if self.scheduler is not None and task.trial_id in self.scheduler.stopped:
            store.write_trial(pruned_row(store, task, result or {}))
        elif error and not self.closing:
            store.write_trial(crashed_row(store, task))
        row = self.proposer.finish(task)
        if row is not None:
            self.heard("end", task, row)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a study continues with a fresh searcher."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
