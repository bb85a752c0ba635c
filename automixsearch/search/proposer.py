"""The trials of a study: proposed by a sampler of Optuna, told how they ended, through any number of drivers.

The ledger is the truth: at every start, what the sampler sees is made from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.trial import FrozenTrial

from automixsearch.config.points import Suggester, check_point, published_points, suggest, whole
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.results.documents import parse_config
from automixsearch.results.exports import Recorder
from automixsearch.search.journal import Journal
from automixsearch.search.retention import Retention
from automixsearch.search.samplers import active_part, make_sampler, sobol_point
from automixsearch.search.task import Task, trial_id_of
from automixsearch.search.view import BLOCK, View, best_of, ended, frozen, number_of, outcome
from automixsearch.seeds import derive_seed

if TYPE_CHECKING:
    from automixsearch.config.knobs import Scalar
    from automixsearch.results.store import Store


class Proposer:
    """Hands out the trials of one study and tells Optuna how they ended.

    Trials that an earlier driver left unfinished are handed out first, under their own number; after that, new
    ones until the study has its total.
    """

    waiting = False
    """A search can always name its next trial."""
    problem = None
    """And nothing can end it early."""

    def __init__(self, space: SearchSpace, store: Store, data_fingerprint: str, workers: int = 1) -> None:
        self.space, self.store = space, store
        self.fingerprint, self.workers = data_fingerprint, workers
        self.notes: list[str] = []
        self.view = View(space)
        self.unfinished: list[int] = []
        self.handed_out = 0
        """Trials of the study that were ever started."""
        journal = store.local_path("optuna.journal")
        self.journal = None if journal is None else Journal(journal, space)
        self._take_up()
        self.priors = self._priors()

    # Taking up a study -----------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Begin where the ledger and the documents of trials in flight say that the study is."""
        space = self.space
        slim = ["number", "trial_id", "state", "config_id", "epochs_run", "rung", "candidate", *space.objective]
        rows = {row["number"]: row for row in self.store.trial_rows(list(dict.fromkeys(slim)))}
        tasks = {task.number: task for task in map(self._task, Task.in_flight(self.store)) if task is not None}
        for number in rows.keys() & tasks.keys():
            tasks.pop(number).close(self.store)
        lost = self._open_journal(rows, tasks)
        self.handed_out = max([*rows, *tasks, *lost, -1]) + 1
        seen = self._seen(rows)
        unwritten = set() if self.journal is None else {number for number in rows if number >= self.journal.held}
        trials = self._frozen(rows, seen | unwritten)
        running = [
            frozen(space, task.number, task.config.config_id, whole(space, task.config.knobs))
            for task in tasks.values()
        ]
        self.view.open(self.handed_out, [*(trials[number] for number in seen), *running])
        if self.journal is not None:
            self.journal.add(trials[number] for number in sorted(unwritten))
        self.unfinished = [number for number in range(self.handed_out) if number not in rows]
        for number in self.unfinished:
            if number not in tasks:  # its config was never written down, or is gone: what it has trained fits no other
                self.store.drop([trial_id_of(number)])

    def _open_journal(self, rows: Mapping[int, Any], tasks: dict[int, Task]) -> set[int]:
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
        return self._task_of(trial.number, suggest(self.space, Recorder(trial.params)))

    def _seen(self, rows: Mapping[int, Mapping[str, Any]]) -> set[int]:
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

    def _frozen(self, rows: Mapping[int, Mapping[str, Any]], numbers: set[int]) -> dict[int, FrozenTrial]:
        """Ended trials as Optuna knows trials."""
        ids = [rows[number]["trial_id"] for number in numbers]
        if not ids:
            return {}
        configs = self.store.read("trials", ["number", "config_id", "config"], ids).to_pylist()
        epochs = self._heard(ids, [rows[number] for number in numbers])
        return {
            row["number"]: frozen(
                self.space,
                row["number"],
                row["config_id"],
                whole(
                    self.space, parse_config(row["config"], f"study {self.store.study}, trial {row['number']}")["knobs"]
                ),
                rows[row["number"]],
                dict(sorted(epochs.get(rows[row["number"]]["trial_id"], {}).items())),
            )
            for row in configs
        }

    def _heard(self, ids: list[str], rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
        """The values that Optuna hears while trials run, by epoch, of ended trials by their ids."""
        metric, found = self.space.objective[0], dict[str, dict[int, float]]()
        for row in self.store.read("epochs", ["trial_id", "epoch", metric], ids).to_pylist():
            if row[metric] is not None:
                found.setdefault(row["trial_id"], {})[row["epoch"]] = row[metric]
        return found

    def _task(self, trial_id: str) -> Task | None:
        return Task.load(self.store, trial_id)

    def _priors(self) -> list[dict[str, Scalar]]:
        """The points that the first trials try."""
        points: list[dict[str, Scalar]] = []
        if self.space.priors == "published":
            for point, problem in published_points(self.space):
                points.append(point)
                note = f"{problem}; the sampler chooses it"
                if problem and note not in self.notes and not self.handed_out:
                    self.notes.append(note)
        elif isinstance(self.space.priors, list):
            points = [check_point(self.space, point, f"priors[{i}]") for i, point in enumerate(self.space.priors)]
        return points

    # Proposing -------------------------------------------------------------------------------------------------

    def next(self) -> Task | None:
        """The next trial to run; None when the study has its total number of trials."""
        if self.unfinished:
            number = self.unfinished.pop(0)
            # The driver may have died between asking and writing the document: then it is asked again.
            return self._task(trial_id_of(number)) or self._ask(number)
        if self.handed_out >= self.space.budget.trials:
            return None
        number = self.handed_out
        task = self._ask(number)
        self.handed_out = number + 1
        return task

    def again(self, task: Task) -> None:
        """Hand out a trial once more, before any other; its document has been saved."""
        self.unfinished.insert(0, task.number)

    def _ask(self, number: int) -> Task:
        point = self.priors[number] if number < len(self.priors) else None
        if self.space.sampler.name == "sobol" and point is None:
            point = active_part(self.space, sobol_point(self.space, number))
        trial, values = self._propose(number, point)
        task = self._task_of(number, values)
        trial.set_user_attr("config_id", task.config.config_id)
        task.save(self.store)
        return task

    def _propose(self, number: int, point: Mapping[str, Scalar] | None) -> tuple[optuna.Trial, dict[str, Scalar]]:
        """A trial of Optuna and its values: those of `point`, and the sampler's."""
        trial = self.view.ask(number, make_sampler(self.space, number), point)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return trial, suggest(self.space, cast(Suggester, trial))

    def _task_of(self, number: int, values: dict[str, Scalar]) -> Task:
        seeds = self.space.seeds
        shared = seeds.training == "shared"
        config = TrialConfig(
            data=self.space.data,
            data_fingerprint=self.fingerprint,
            split_seed=seeds.split,
            seed=derive_seed(seeds.study, "training", "all" if shared else number),
            knobs=values,
        )
        return Task(
            trial_id=trial_id_of(number),
            number=number,
            study=self.space.name,
            study_seed=seeds.study,
            space_id=self.space.space_id,
            purpose=self.space.purpose,
            workers=self.workers,
            config=config,
            branches=self.space.branches,
        )

    # Telling ---------------------------------------------------------------------------------------------------

    def report(self, number: int, epoch: int, value: float | None) -> None:
        """Pass an intermediate value on; studies with several objectives have none."""
        if len(self.space.objective) == 1 and value is not None:
            self.view.report(number, epoch, value)

    def finish(self, task: Task) -> dict[str, Any] | None:
        """Tell Optuna the end of a trial as its ledger row has it; None where there is no row."""
        row = self.store.trial_row(task.trial_id)
        if row is None:
            return None
        if task.number in self.view:
            self._catch_up(task, row)
            trial = self.view.tell(task.number, row)
            if self.journal is not None:
                self.store.check_held()
                self.journal.add([trial])
        task.close(self.store)
        Retention.of(self.space).prune(self.store)
        return row

    def _catch_up(self, task: Task, row: Mapping[str, Any]) -> None:
        """Let Optuna hear the epochs of a trial that an earlier driver heard."""
        heard, single = self.view[task.number].intermediate_values, len(self.space.objective) == 1
        if single and len(heard) < (row["epochs_run"] or 0):
            for epoch in self.store.epoch_rows(task.trial_id):
                self.report(task.number, epoch["epoch"], epoch.get(self.space.objective[0]))
