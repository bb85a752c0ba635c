"""Let Tune forget trials that have ended: it keeps each of them, with its history and a snapshot of its state.

The ledger has all that is worth keeping, and a study goes on without Tune's snapshots.
"""

from __future__ import annotations

from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

EVERY = 100
"""Trials that end between two clearings. The latest as many stay: Tune may still be stopping their processes."""


class EndedTrialsCleared(FIFOScheduler):
    """Passes everything on to another scheduler, and clears Tune's controller of old trials now and then."""

    def __init__(self, inner: TrialScheduler | None = None) -> None:
        super().__init__()
        self.inner = inner or FIFOScheduler()
        self._ended: list[Any] = []

    @property
    def supports_buffered_results(self) -> bool:
        return self.inner.supports_buffered_results

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        super().set_search_properties(metric, mode, **spec)
        return self.inner.set_search_properties(metric, mode, **spec)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_error(tune_controller, trial)
        self._clear(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.inner.on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.inner.on_trial_complete(tune_controller, trial, result)
        self._clear(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.inner.on_trial_remove(tune_controller, trial)
        self._clear(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return self.inner.debug_string()

    def _clear(self, controller: Any, trial: Any) -> None:
        self._ended.append(trial)
        if len(self._ended) < 2 * EVERY:
            return
        old, self._ended = self._ended[:EVERY], self._ended[EVERY:]
        # Tune has no public way to drop a trial. Where a later version names these otherwise, memory grows; no more.
        kept = [one for one in old if not one.is_finished()]
        gone = {one for one in old if one.is_finished()}
        self._ended = kept + self._ended
        trials = controller.get_trials()
        trials[:] = [one for one in trials if one not in gone]
        for name in ("_stopped_trials", "_failed_trials", "_trials_to_cache"):
            getattr(controller, name, set()).difference_update(gone)
        states = getattr(controller, "_trial_metadata", {})
        for one in gone:
            states.pop(one.trial_id, None)


class NoProgressLines(TrialProgressCallback):
    """Stands in for Tune's own progress lines, which keep every trial to print nothing."""

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Says nothing."""

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Says nothing."""

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Says nothing."""
