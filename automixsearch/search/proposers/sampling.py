"""Proposes the trials of a search without halving: each is a config of its own, trained in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from automixsearch.config.points import check_point, published_points
from automixsearch.config.space import SearchSpace
from automixsearch.search.proposers.optuna_trials import OptunaTrials, Row
from automixsearch.search.proposers.samplers import active_part, sobol_point
from automixsearch.search.task import Task

if TYPE_CHECKING:
    from automixsearch.config.knobs import Scalar
    from automixsearch.results.store import Store


class Sampling:
    """Hands out new configs until the study has its total of trials; Optuna hears every epoch."""

    waiting = False
    """The next trial can always be named."""
    problem = None
    """Nothing can end it early."""

    def __init__(self, space: SearchSpace, store: Store, fingerprint: str) -> None:
        self.space, self.store = space, store
        self.trials = OptunaTrials(space, store, fingerprint, self._values)
        self.priors, problems = priors(space)
        self.notes = self.trials.notes + ([] if self.trials.handed_out else problems)

    def _values(self, rows: Sequence[Row]) -> dict[str, dict[int, float]]:
        """The first objective after every epoch."""
        metric, values = self.space.objective[0], dict[str, dict[int, float]]()
        ids = [row["trial_id"] for row in rows]
        for row in self.store.read("epochs", ["trial_id", "epoch", metric], ids).to_pylist():
            if row[metric] is not None:
                values.setdefault(row["trial_id"], {})[row["epoch"]] = row[metric]
        return values

    def next(self) -> Task | None:
        """The next trial to run; None when the study has its total."""
        return self.trials.next(self._ask)

    def again(self, task: Task) -> None:
        """Hand out a trial once more, before any other."""
        self.trials.unfinished.insert(0, task.number)

    def _ask(self, number: int) -> Task:
        point = self.priors[number] if number < len(self.priors) else None
        if self.space.sampler.name == "sobol" and point is None:
            point = active_part(self.space, sobol_point(self.space, number))
        trial, values = self.trials.propose(number, point)
        task = self.trials.task(number, values)
        trial.set_user_attr("config_id", task.config.config_id)
        task.save(self.store)
        return task

    def report(self, number: int, epoch: int, value: float | None) -> None:
        """Pass an intermediate value on; studies with several objectives have none."""
        if len(self.space.objective) == 1 and value is not None:
            self.trials.view.report(number, epoch, value)

    def finish(self, task: Task) -> dict[str, Any] | None:
        """Tell Optuna the end of a trial as its ledger row has it; None where there is no row."""
        return self.trials.end(task)


def priors(space: SearchSpace) -> tuple[list[dict[str, Scalar]], list[str]]:
    """The points that the first trials try, and what of them the space does not hold."""
    if isinstance(space.priors, list):
        return [check_point(space, point, f"priors[{i}]") for i, point in enumerate(space.priors)], []
    published = list(published_points(space)) if space.priors == "published" else []
    points, problems = [point for point, _ in published], dict.fromkeys(problem for _, problem in published if problem)
    return points, [f"{problem}; the sampler chooses it" for problem in problems]
