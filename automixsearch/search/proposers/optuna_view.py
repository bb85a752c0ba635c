"""What the sampler sees of a study: its latest trials, and the best of those before.

A sampler's work grows with the trials that it looks at, and so does what they take in memory. It therefore sees the
`BLOCK` to 2 x `BLOCK` latest trials, and the `BEST` best earlier ones. TPE models the best 25 trials against all
others, of which old ones count less: it keeps the former whole, and of the latter those that count.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, TrialState

from automixsearch.config.points import suggest
from automixsearch.results.exports import Recorder
from automixsearch.search.proposers.samplers import POPULATION

if TYPE_CHECKING:
    from automixsearch.config.knobs import Scalar
    from automixsearch.config.space import SearchSpace

BLOCK, BEST = 200, 25
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class View:
    """An Optuna study in memory that holds the trials that matter to the next proposals.

    Trials are known by their number in the whole study, which Optuna's number equals only until the first are
    forgotten. What is seen depends on the numbers and the ends of trials alone, so that a search that goes on sees
    what an uninterrupted one would.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.start = space, 0
        self._fill([])

    def first_seen(self, number: int) -> int:
        """The first of the latest trials that are seen when trial `number` is proposed."""
        if self.space.sampler.name == "nsga2":  # its parents may be of any age
            return 0
        return max(0, (number // BLOCK - 1) * BLOCK)

    def open(self, number: int, trials: Iterable[FrozenTrial]) -> None:
        """Begin with the trials of an earlier driver, made by `frozen`, when `number` is the next new one."""
        self.start = self.first_seen(number)
        trials = sorted(trials, key=number_of)
        if self.space.sampler.name != "nsga2":
            self._fill(trials)
            return
        generation = _write_generations(trials)
        self._fill(trials)
        for past in range(1, generation + 1):  # in the order in which they were chosen
            NSGAIISampler(population_size=POPULATION).get_parent_population(self.study, past)

    def _fill(self, trials: list[FrozenTrial]) -> None:
        self.study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(),
            study_name=self.space.name,
            directions=list(self.space.directions),
            sampler=optuna.samplers.RandomSampler(0),
        )
        self.study.add_trials(trials)
        self._place = {number_of(trial): place for place, trial in enumerate(trials)}

    def ask(self, number: int, sampler: Any, point: Mapping[str, Scalar] | None) -> optuna.Trial:
        """A trial to suggest values for; those of `point` are given."""
        start = self.first_seen(number)
        if start > self.start:
            self._forget(start)
        self.study.sampler = sampler
        if point is not None:
            self.study.enqueue_trial(dict(point))
        trial = self.study.ask()
        trial.set_user_attr("number", number)
        self._place[number] = trial.number
        return trial

    def _forget(self, start: int) -> None:
        trials = self.study.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state.is_finished() and number_of(trial) < start]
        best = {number_of(trial) for trial in best_of(ended, self.space.directions)}
        kept = [t for t in trials if number_of(t) >= start or not t.state.is_finished() or number_of(t) in best]
        self.start = start
        self._fill(sorted(kept, key=number_of))

    def __getitem__(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[self._place[number]]

    def __contains__(self, number: int) -> bool:
        return number in self._place

    def report(self, number: int, epoch: int, value: float) -> None:
        """Pass an intermediate value on, once."""
        if number in self:
            trial = self[number]
            if trial.state == TrialState.RUNNING and epoch not in trial.intermediate_values:
                optuna.Trial(self.study, trial._trial_id).report(value, epoch)

    def tell(self, number: int, row: Mapping[str, Any]) -> FrozenTrial:
        """End a trial as its ledger row has it; the trial as Optuna now knows it."""
        state, values = outcome(self.space, row)
        told = values if state == TrialState.COMPLETE else None
        self.study.tell(self._place[number], told, state, skip_if_finished=True)
        return self[number]


def number_of(trial: FrozenTrial) -> int:
    """The number of a trial in the whole study."""
    return trial.user_attrs["number"]


def outcome(space: SearchSpace, row: Mapping[str, Any]) -> tuple[TrialState, list[float]]:
    """How a trial ended, to Optuna: a complete one that lacks an objective has failed."""
    values = [row[name] for name in space.objective if row.get(name) is not None]
    state = STATES[row["state"]]
    if state == TrialState.COMPLETE and len(values) < len(space.objective):
        state = TrialState.FAIL
    return state, values


def frozen(
    space: SearchSpace,
    number: int,
    config_id: str | None,
    knobs: Mapping[str, Scalar],
    row: Mapping[str, Any] | None = None,
    epochs: Mapping[int, float] | None = None,
) -> FrozenTrial:
    """A trial of the ledger as Optuna knows trials: ended as its `row` has it, or running where there is none.

    epochs: the first objective after each epoch; studies with several objectives have none.
    """
    recorder = Recorder(knobs)
    suggest(space, recorder)
    state, values = (TrialState.RUNNING, []) if row is None else outcome(space, row)
    steps = dict(epochs or {}) if len(space.objective) == 1 else {}
    if state == TrialState.PRUNED and steps:
        values = [steps[max(steps)]]
    halved = {name: row[name] for name in ("rung", "candidate") if row and row.get(name) is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.trial.create_trial(
            state=state,
            values=values if state == TrialState.COMPLETE or (state == TrialState.PRUNED and steps) else None,
            params=recorder.params,
            distributions=recorder.distributions,
            intermediate_values=steps,
            user_attrs={"number": number, "config_id": config_id} | halved,
        )


def ended(space: SearchSpace, number: int, row: Mapping[str, Any], metric: str) -> FrozenTrial:
    """An ended trial as far as `best_of` looks at it."""
    state, values = outcome(space, row)
    last = {} if row.get(metric) is None else {row["epochs_run"] or 0: row[metric]}
    return optuna.trial.create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        intermediate_values=last,
        user_attrs={"number": number},
    )


def best_of(trials: Iterable[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """The `BEST` best of ended trials: complete ones by value, then stopped ones, the longest first.

    With several objectives: the latest that no other beats in all.
    """
    trials = sorted(trials, key=number_of)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    if len(signs) > 1:
        costs = [[sign * value for sign, value in zip(signs, trial.values, strict=True)] for trial in complete]

        def beaten(cost: list[float]) -> bool:
            return any(other != cost and all(o <= c for o, c in zip(other, cost, strict=True)) for other in costs)

        return [trial for trial, cost in zip(complete, costs, strict=True) if not beaten(cost)][-BEST:]

    def by_length(trial: FrozenTrial) -> tuple[int, float]:
        last = max(trial.intermediate_values)
        return -last, signs[0] * trial.intermediate_values[last]

    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED and trial.intermediate_values]
    return (sorted(complete, key=lambda t: signs[0] * t.values[0]) + sorted(stopped, key=by_length))[:BEST]


def _write_generations(trials: list[FrozenTrial]) -> int:
    """Note at each trial what NSGA-II itself would have; the last generation.

    A generation is over when it has `POPULATION` complete trials.
    """
    complete = generation = 0
    for trial in trials:
        generation = complete // POPULATION
        trial.system_attrs = {**trial.system_attrs, NSGAIISampler._get_generation_key(): generation}
        complete += trial.state == TrialState.COMPLETE
    return generation
