"""Asynchronous successive halving inside each method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from automixsearch.spec import METRICS, SearchSpace


class PerMethodASHA(FIFOScheduler):
    """One of Ray's ASHA schedulers for each mixing method, so that a method is never halved against another.

    Methods pay off at different times: strong mixing is behind at an early rung and ahead at the end. A trial's
    last epoch is never judged: a fully trained trial is complete.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.objective = space.objective[0]
        self.stopped: set[str] = set()
        self._brackets: dict[str, ASHAScheduler] = {}

    def _bracket(self, method: str) -> ASHAScheduler:
        if method not in self._brackets:
            epochs = self.space.budget.epochs
            self._brackets[method] = ASHAScheduler(
                time_attr="epoch",
                metric=self.objective,
                mode=METRICS[self.objective],
                max_t=epochs,
                grace_period=self.space.scheduler.grace_epochs or max(1, epochs // 4),
                reduction_factor=self.space.scheduler.reduction,
                stop_last_trials=False,
            )
        return self._brackets[method]

    def replay(self, epochs: Iterable[Mapping[str, Any]]) -> None:
        """Let the rungs know the epochs of an earlier run of the study."""
        for row in sorted(epochs, key=lambda row: (row["trial_id"], row["epoch"])):
            if row[self.objective] is None or row["epoch"] >= self.space.budget.epochs:
                continue
            past = SimpleNamespace(trial_id=row["trial_id"])
            bracket = self._bracket(row["method"])
            bracket.on_trial_add(None, past)  # type: ignore[arg-type]
            bracket.on_trial_result(None, past, dict(row))  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._bracket(trial.config["method"]).on_trial_add(tune_controller, self._named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result.get("epoch", self.space.budget.epochs) >= self.space.budget.epochs:
            return TrialScheduler.CONTINUE
        bracket = self._bracket(trial.config["method"])
        action = bracket.on_trial_result(tune_controller, self._named(trial), result)
        if action == TrialScheduler.STOP:
            self.stopped.add(trial.config["trial_id"])
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing to do: all that a rung needs was reported."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: a rung keeps what it has seen."""

    @staticmethod
    def _named(trial: Any) -> Any:
        # Rungs know trials by our id, which survives the driver, not by Tune's.
        return SimpleNamespace(trial_id=trial.config["trial_id"])
