"""Hands out the runs of a design.

The list of runs is known beforehand and the ledger says which of them have ended, so there is nothing else to keep,
but for one thing: which configs the confirmation runs again. That is decided once, and written into `study.json`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.search.checkpoints import Retention
from automixsearch.search.task import Task, trial_id_of
from automixsearch.studies.design import Design, Run, settled, winners

if TYPE_CHECKING:
    from automixsearch.results.store import Store


class DesignRuns:
    """Hands out the runs of one study; those that an earlier driver left unfinished first.

    `problem` says why the rest of the study cannot be run, where that turned out on the way.
    """

    def __init__(self, space: SearchSpace, store: Store, fingerprint: str, design: Design) -> None:
        self.space, self.store, self.fingerprint, self.design = space, store, fingerprint, design
        self.notes: list[str] = []
        self.problem: str | None = None
        self.runs = list(design.runs)
        self._take_winners(store.info().get("design", {}).get("runs", []))
        done, begun = store.finished(), set(Task.in_flight(store))
        for trial_id in done & begun:
            Task.load(store, trial_id).close(store)  # type: ignore[union-attr]
        left = [run for run in self.runs if trial_id_of(run.number) not in done]
        left.sort(key=lambda run: (run.waits, trial_id_of(run.number) not in begun, run.number))
        self.todo = deque(run.number for run in left)
        self.out: set[int] = set()

    @property
    def waiting(self) -> bool:
        """Whether runs will follow that cannot be named before others have ended."""
        return bool(self.todo)

    def next(self) -> Task | None:
        """The next run; None where there is none, or (see `waiting`) none yet."""
        if self.todo and self.runs[self.todo[0]].waits:
            if self.out:
                return None
            try:
                self._settle()
            except SpecError as error:
                self.problem = f"study {self.space.name}: {error}; see why runs failed, then use --retry-failed"
                self.todo.clear()
        if not self.todo:
            return None
        number = self.todo.popleft()
        self.out.add(number)
        return self._task(self.runs[number])

    def again(self, task: Task) -> None:
        """Hand out a run once more, before any other; its document has been saved."""
        self.out.discard(task.number)
        self.todo.appendleft(task.number)

    def _task(self, run: Run) -> Task:
        begun = Task.load(self.store, trial_id_of(run.number))
        if begun is not None:
            return begun
        config = TrialConfig.of(
            self.space, run.values, data_fingerprint=self.fingerprint, split_seed=run.split_seed, seed=run.seed
        )
        task = Task(
            trial_id=trial_id_of(run.number),
            number=run.number,
            study=self.space.name,
            study_seed=self.space.seeds.study,
            space_id=self.space.space_id,
            purpose=run.purpose,
            workers=self.space.resources.workers,
            config=config,
        )
        task.save(self.store)
        return task

    def report(self, number: int, epoch: int, value: float | None) -> None:
        """Nothing: nobody decides by what happens on the way."""

    def finish(self, task: Task) -> dict[str, Any] | None:
        """The ledger row of a run that has ended; None where there is no row."""
        self.out.discard(task.number)
        row = self.store.trial_row(task.trial_id)
        if row is not None:
            task.close(self.store)
            Retention.of(self.space).prune(self.store)
        return row

    # The confirmation -------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Decide by the ledger which configs are confirmed, and write it down."""
        metric, sign = self.space.objective[0], self.space.sign
        chosen = winners(self.design, self.store.trial_rows(["number", "state", metric]), metric, sign)
        for run in self.runs:
            if run.waits and run.rank is not None:
                self.runs[run.number] = settled(run, chosen[run.stratum, run.rank])
        content = self.store.info()
        content["design"] = {**content["design"], "runs": [run.row() for run in self.runs]}
        self.store.put_document("study.json", content)

    def _take_winners(self, rows: list[Mapping[str, Any]]) -> None:
        for row in rows:
            if row.get("rank") is not None and row.get("of") is not None and row["number"] < len(self.runs):
                run = self.runs[row["number"]]
                self.runs[run.number] = settled(run, self.design.runs[row["of"]])
