"""The Optuna study behind a search: proposes trials, hears how they end, and survives its driver.

The ledger is the truth about finished trials and the journal a convenience: what they disagree about is settled
in favour of the ledger at every start, and a missing journal is rebuilt from it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from automixsearch.errors import StudyError
from automixsearch.results.exports import Recorder
from automixsearch.search.samplers import active_part, make_sampler, sobol_point
from automixsearch.search.task import Task, trial_id_of
from automixsearch.space import Suggester, check_point, published_points, suggest
from automixsearch.spec import SearchSpace, TrialConfig, derive_seed

if TYPE_CHECKING:
    from automixsearch.knobs import Scalar
    from automixsearch.results.store import Store

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


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
        self.study = self._open()
        if self._save_orphans():
            self.study = self._open()
        self._reconcile()
        running = (TrialState.RUNNING,)
        self.unfinished = [t.number for t in self.study.get_trials(deepcopy=False, states=running)]
        if not self.study.get_trials(deepcopy=False):
            self._enqueue_priors()

    # Opening ---------------------------------------------------------------------------------------------------

    def _open(self) -> optuna.Study:
        journal = self.store.local_path("optuna.journal")
        if journal is None:
            storage: Any = optuna.storages.InMemoryStorage()
        else:
            journal.parent.mkdir(parents=True, exist_ok=True)
            _mend_journal(journal)
            backend = JournalFileBackend(str(journal))
            storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(
            storage=storage,
            study_name=self.space.name,
            directions=list(self.space.directions),
            sampler=optuna.samplers.RandomSampler(0),
            load_if_exists=True,
        )
        known = study.user_attrs.get("space_id")
        if known is None:
            study.set_user_attr("space_id", self.space.space_id)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(self.space.objective))
        elif known != self.space.space_id:
            raise StudyError(f"the journal of study {self.space.name} was made for another space ({known})")
        return study

    def _save_orphans(self) -> bool:
        """Put the journal aside if it has finished trials whose row is lost, so that they run again; whether it has.

        Their configs are kept as documents of trials in flight.
        """
        journal = self.store.local_path("optuna.journal")
        known = {row["number"] for row in self.store.trial_rows(["number"])}
        orphans = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished() and t.number not in known]
        if journal is None or not orphans:
            return False
        for trial in orphans:
            if self._task(trial_id_of(trial.number)) is not None:  # set free on purpose, with what it failed of
                continue
            self._task_of(trial.number, suggest(self.space, Recorder(trial.params))).save(self.store)
            self.notes.append(f"the row of {trial_id_of(trial.number)} is lost; the trial runs again")
        journal.rename(journal.with_name(f"{journal.name}.orphans-{os.getpid()}"))
        return True

    def _reconcile(self) -> None:
        """Bring the Optuna study up to what the ledger says."""
        rows = {row["number"]: row for row in self.store.trial_rows()}
        tasks = {task.number: task for task in map(self._task, Task.in_flight(self.store)) if task is not None}
        known = len(self.study.get_trials(deepcopy=False))
        for number in range(known, max([*rows, *tasks, -1]) + 1):
            config = tasks[number].config if number in tasks else None
            if number in rows:
                config = TrialConfig.model_validate_json(rows[number]["config"])
            self._add_running(config)
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and trial.number in rows:
                self._tell(trial.number, rows[trial.number])
        for number in rows.keys() & tasks.keys():
            tasks[number].close(self.store)

    def _task(self, trial_id: str) -> Task | None:
        return Task.load(self.store, trial_id)

    def _add_running(self, config: TrialConfig | None) -> None:
        recorder = Recorder(config.knobs if config else {})
        if config is not None:
            suggest(self.space, recorder)
        self.study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING, params=recorder.params, distributions=recorder.distributions
            )
        )

    def _enqueue_priors(self) -> None:
        points: list[dict[str, Scalar]] = []
        if self.space.priors == "published":
            for point, problem in published_points(self.space):
                points.append(point)
                note = f"{problem}; the sampler chooses it"
                if problem and note not in self.notes:
                    self.notes.append(note)
        elif isinstance(self.space.priors, list):
            points = [check_point(self.space, point, f"priors[{i}]") for i, point in enumerate(self.space.priors)]
        for point in points:
            self.study.enqueue_trial(point, user_attrs={"origin": "prior"})

    # Proposing -------------------------------------------------------------------------------------------------

    @property
    def handed_out(self) -> int:
        """Trials of the study that were ever started."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
        return len(self.study.get_trials(deepcopy=False, states=states))

    def next(self) -> Task | None:
        """The next trial to run; None when the study has its total number of trials."""
        if self.unfinished:
            return self._resume(self.unfinished.pop(0))
        number = self.handed_out
        if number >= self.space.budget.trials:
            return None
        self.study.sampler = make_sampler(self.space, number)
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if self.space.sampler.name == "sobol" and not waiting:
            point = active_part(self.space, sobol_point(self.space, number))
            self.study.enqueue_trial(point, user_attrs={"origin": "sobol"})
        trial = self.study.ask()
        return self._make(trial)

    def again(self, task: Task) -> None:
        """Hand out a trial once more, before any other; its document has been saved."""
        self.unfinished.insert(0, task.number)

    def _resume(self, number: int) -> Task:
        task = self._task(trial_id_of(number))
        if task is not None:
            return task
        # The driver died between asking and writing the document; asking again gives what was drawn before.
        frozen = self.study.get_trials(deepcopy=False)[number]
        self.study.sampler = make_sampler(self.space, number)
        return self._make(optuna.Trial(self.study, frozen._trial_id))

    def _make(self, trial: optuna.Trial) -> Task:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            values = suggest(self.space, cast(Suggester, trial))
        task = self._task_of(trial.number, values)
        trial.set_user_attr("config_id", task.config.config_id)
        task.save(self.store)
        return task

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
            trial = self.study.get_trials(deepcopy=False)[number]
            if trial.state == TrialState.RUNNING and epoch not in trial.intermediate_values:
                optuna.Trial(self.study, trial._trial_id).report(value, epoch)

    def finish(self, task: Task) -> dict[str, Any] | None:
        """Tell Optuna the end of a trial as its ledger row has it; None where there is no row."""
        row = self.store.trial_row(task.trial_id)
        if row is not None:
            self._tell(task.number, row)
            task.close(self.store)
        return row

    def _tell(self, number: int, row: Mapping[str, Any]) -> None:
        metric = self.space.objective[0]
        for epoch in self.store.epoch_rows(row["trial_id"]):
            self.report(number, epoch["epoch"], epoch.get(metric))
        values = [row[name] for name in self.space.objective if row.get(name) is not None]
        state = STATES[row["state"]]
        if state == TrialState.COMPLETE and len(values) < len(self.space.objective):
            state = TrialState.FAIL
        told = values if state == TrialState.COMPLETE else None
        self.study.tell(number, told, state, skip_if_finished=True)


def _mend_journal(path: Path) -> None:
    """Make a journal readable whose writer was killed: drop its lock and a line that was not finished.

    Only the one driver of a study, which holds the study's lock, may do this. A journal that is damaged in
    another way is put aside; it will be rebuilt from the ledger.
    """
    lock = path.with_name(path.name + ".lock")
    if lock.is_symlink() or lock.exists():
        lock.unlink()
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            file.truncate(complete)
            os.fsync(file.fileno())
    try:
        for line in content[:complete].splitlines():
            json.loads(line)
    except ValueError:
        path.rename(path.with_name(f"{path.name}.damaged-{os.getpid()}"))
