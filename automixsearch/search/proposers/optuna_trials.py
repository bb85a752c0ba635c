"""The trials of a study as its sampler knows them: made from the ledger at every start, asked for, told how they ended.

The ledger is the truth: at every start, what the sampler sees is made from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.trial import FrozenTrial

from automixsearch.config.dimensions import scaled
from automixsearch.config.points import Suggester, suggest, whole
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.results.documents import parse_config
from automixsearch.results.exports import Recorder
from automixsearch.search.checkpoints import Retention
from automixsearch.search.proposers.optuna_journal import Journal
from automixsearch.search.proposers.optuna_view import BLOCK, View, best_of, ended, frozen, number_of, outcome
from automixsearch.search.proposers.samplers import make_sampler
from automixsearch.search.task import Task, trial_id_of
from automixsearch.seeds import derive_seed

if TYPE_CHECKING:
    from automixsearch.config.knobs import Scalar
    from automixsearch.results.store import Store

Row = Mapping[str, Any]
Values = Callable[[Sequence[Row]], Mapping[str, Mapping[int, float]]]
"""Of ended trials, by their rows: what Optuna hears of the first objective, by trial id and epoch."""


class OptunaTrials:
    """The trials of one study: which are unfinished, which a sampler sees, and how many there ever were.

    A proposer owns one and decides what is asked of it; `values` says what Optuna hears of trials on their way.
    """

    def __init__(self, space: SearchSpace, store: Store, fingerprint: str, values: Values) -> None:
        self.space, self.store, self.fingerprint, self.values = space, store, fingerprint, values
        self.notes: list[str] = []
        self.view = View(space)
        journal = store.local_path("optuna.journal")
        self.journal = None if journal is None else Journal(journal, space)
        columns = ["number", "trial_id", "state", "config_id", "epochs_run", "rung", "candidate", *space.objective]
        rows = {row["number"]: row for row in store.trial_rows(list(dict.fromkeys(columns)))}
        tasks = {task.number: task for name in Task.in_flight(store) if (task := Task.load(store, name)) is not None}
        for number in rows.keys() & tasks.keys():
            tasks.pop(number).close(store)
        lost = self._open_journal(rows, tasks)
        self.handed_out = max([*rows, *tasks, *lost, -1]) + 1
        """Trials of the study that were ever started."""
        self._open_view(rows, tasks)
        self.unfinished = [number for number in range(self.handed_out) if number not in rows]
        for number in self.unfinished:
            if number not in tasks:  # its config was never written down, or is gone: what it has trained fits no other
                store.drop([trial_id_of(number)])

    # Taking up a study -----------------------------------------------------------------------------------------

    def _open_view(self, rows: Mapping[int, Row], tasks: Mapping[int, Task]) -> None:
        """Show the sampler what it would see by now, and complete the journal."""
        seen = self._seen(rows)
        unwritten = set() if self.journal is None else {number for number in rows if number >= self.journal.held}
        trials = self._frozen(rows, seen | unwritten)
        running = [
            frozen(self.space, task.number, task.config.config_id, whole(self.space, task.config.knobs))
            for task in tasks.values()
        ]
        self.view.open(self.handed_out, [*(trials[number] for number in seen), *running])
        if self.journal is not None:
            self.journal.add(trials[number] for number in sorted(unwritten))

    def _open_journal(self, rows: Mapping[int, Row], tasks: dict[int, Task]) -> set[int]:
        """Make the journal fit the ledger; trials whose rows are lost get back their configs from it, into `tasks`."""
        if self.journal is None:
            return set()
        ends = {n: (row["config_id"], outcome(self.space, row)[0].value) for n, row in rows.items()}
        held = self.journal.holds(ends)
        lost = set(range(held or 0)) - rows.keys() - tasks.keys()
        if lost:
            self.store.drop(list(map(trial_id_of, lost)))  # rows that do not count would keep new ones out
            for trial in self.journal.trials():
                if trial.number in lost:
                    try:
                        task = self._lost(trial)
                    except (KeyError, ValueError, TypeError, SpecError):  # its line is damaged: it is asked anew
                        continue
                    task.save(self.store)
                    tasks[trial.number] = task
                    self.notes.append(f"the row of {task.trial_id} is lost; the trial runs again")
        if held is None or set(range(held)) - rows.keys():
            self.journal.begin()
        return lost

    def _lost(self, trial: FrozenTrial) -> Task:
        """What a trial of the journal was to run."""
        values = suggest(self.space, Recorder(trial.params))
        task, candidate = self.task(trial.number, values), trial.user_attrs.get("candidate")
        if candidate is None:
            return task
        first = self.task(int(candidate[1:]), values)
        return at_rung(self.space, replace(task, config=first.config), trial.user_attrs.get("rung") or 0, candidate)

    def _seen(self, rows: Mapping[int, Row]) -> set[int]:
        """The ended trials that a driver that was never interrupted would see now."""
        start = self.view.first_seen(self.handed_out)
        metric, directions = self.space.objective[0], self.space.directions
        best: list[FrozenTrial] = []
        for first in range(0, start, BLOCK):
            block = [
                ended(self.space, number, rows[number], metric)
                for number in range(first, min(first + BLOCK, start))
                if number in rows
            ]
            best = best_of([*best, *block], directions)
        return {number for number in rows if number >= start} | {number_of(trial) for trial in best}

    def _frozen(self, rows: Mapping[int, Row], numbers: set[int]) -> dict[int, FrozenTrial]:
        """Ended trials as Optuna knows trials."""
        if not numbers:
            return {}
        ids = [rows[number]["trial_id"] for number in numbers]
        configs = self.store.read("trials", ["number", "config_id", "config"], ids).to_pylist()
        values = self.values([rows[number] for number in numbers])
        return {
            row["number"]: frozen(
                self.space,
                row["number"],
                row["config_id"],
                whole(
                    self.space, parse_config(row["config"], f"study {self.store.study}, trial {row['number']}")["knobs"]
                ),
                rows[row["number"]],
                dict(sorted(values.get(rows[row["number"]]["trial_id"], {}).items())),
            )
            for row in configs
        }

    # Proposing -------------------------------------------------------------------------------------------------

    def next(self, ask: Callable[[int], Task]) -> Task | None:
        """The next trial to run; `ask` makes what is not written down. None when the study has its total of trials."""
        if self.unfinished:
            number = self.unfinished.pop(0)
            # The driver may have died between asking and writing the document: then it is asked again.
            return Task.load(self.store, trial_id_of(number)) or ask(number)
        if self.handed_out >= self.space.budget.trials:
            return None
        task = ask(self.handed_out)
        self.handed_out += 1
        return task

    def propose(self, number: int, point: Mapping[str, Scalar] | None) -> tuple[optuna.Trial, dict[str, Scalar]]:
        """A trial of Optuna and its values: those of `point`, and the sampler's."""
        trial = self.view.ask(number, make_sampler(self.space, number), point)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return trial, suggest(self.space, cast(Suggester, trial))

    def task(self, number: int, values: dict[str, Scalar]) -> Task:
        """Trial `number` of these values, with the full schedule."""
        seeds = self.space.seeds
        shared = seeds.training == "shared"
        config = TrialConfig.of(
            self.space,
            values,
            data_fingerprint=self.fingerprint,
            split_seed=seeds.split,
            seed=derive_seed(seeds.study, "training", "all" if shared else number),
        )
        return Task(
            trial_id=trial_id_of(number),
            number=number,
            study=self.space.name,
            study_seed=seeds.study,
            space_id=self.space.space_id,
            purpose=self.space.purpose,
            workers=self.space.resources.workers,
            config=config,
            branches=self.space.branches,
        )

    # Telling ---------------------------------------------------------------------------------------------------

    def end(self, task: Task) -> dict[str, Any] | None:
        """Tell Optuna the end of a trial as its ledger row has it; None where there is no row."""
        row = self.store.trial_row(task.trial_id)
        if row is None:
            return None
        if task.number in self.view:
            heard = self.view[task.number].intermediate_values
            if len(self.space.objective) == 1 and len(heard) < (row["epochs_run"] or 0):  # an earlier driver heard them
                for epoch, value in sorted(self.values([row]).get(task.trial_id, {}).items()):
                    self.view.report(task.number, epoch, value)
            trial = self.view.tell(task.number, row)
            if self.journal is not None:
                self.store.check_held()
                self.journal.add([trial])
        task.close(self.store)
        Retention.of(self.space).prune(self.store)
        return row


def at_rung(space: SearchSpace, task: Task, rung: int, candidate: str) -> Task:
    """A trial of the full schedule as it is trained at a rung; the same where cool-downs are compared."""
    if space.branches:
        return task
    config, reason = task.config, None
    if rung < len(space.rungs) - 1:
        config = with_knobs(config, scaled(config.knobs, space.rungs[rung]))
        reason = f"a short schedule, rung {rung + 1} of {len(space.rungs)}"
    return replace(task, config=config, rung=rung, candidate=candidate, stop_reason=reason)


def with_knobs(config: TrialConfig, knobs: Mapping[str, Scalar]) -> TrialConfig:
    """The config with other knobs."""
    fields = {name: getattr(config, name) for name in TrialConfig.model_fields}
    return TrialConfig(**{**fields, "knobs": dict(knobs)})
