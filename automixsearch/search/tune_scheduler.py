"""Stop trials at the rungs of `rungs: cooldown`, each compared with those of its own method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from automixsearch.config.space import SearchSpace


class PerMethodASHA(FIFOScheduler):
    """Asynchronous successive halving by stopping, inside each mixing method.

    What is compared are the scores of cool-downs that branched off at the same epoch, never those of a learning rate
    that is still high. At each rung the best 1 / reduction of a method go on; the best so far always does, so a method
    that has a trial has one that reaches the full schedule. `spares` names trials that are never stopped.
    """

    def __init__(self, space: SearchSpace, spares: Callable[[str], bool] = lambda trial_id: False) -> None:
        super().__init__()
        self.reduction, self.spares = space.scheduler.reduction, spares
        self.column = f"{space.objective[0]}.cooled"
        self.sign = space.sign
        self.stopped: set[str] = set()
        self._scores: dict[tuple[str, int], dict[str, float]] = {}

    def replay(self, epochs: Iterable[Mapping[str, Any]]) -> None:
        """Let the rungs know the epochs of an earlier run of the study."""
        for row in epochs:
            self._goes_on(row["trial_id"], row["method"], row)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune's snapshots; a study continues with a fresh scheduler

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        trial_id = trial.config["trial_id"]
        if self._goes_on(trial_id, trial.config["method"], result) or self.spares(trial_id):
            return TrialScheduler.CONTINUE
        self.stopped.add(trial_id)
        return TrialScheduler.STOP

    def _goes_on(self, trial_id: str, method: str, epoch: Mapping[str, Any]) -> bool:
        """Note the score of an epoch at which a cool-down ended; whether it is among the best of its rung so far."""
        rung, value = epoch.get("rung"), epoch.get(self.column)
        if rung is None or value is None or not math.isfinite(value):
            return True
        scores = self._scores.setdefault((method, int(rung)), {})
        if trial_id in scores:  # resumed from before the rung
            return True
        scores[trial_id] = self.sign * value
        better = sum(other > scores[trial_id] for other in scores.values())
        return better < max(1, len(scores) // self.reduction)
