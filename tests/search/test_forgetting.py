"""Tune forgets trials that have ended, and no other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import FIFOScheduler

from automixsearch.search import forgetting
from automixsearch.search.forgetting import Forgetting, Silence


class Trial:
    """As much of a trial of Tune as is looked at."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.ended = str(number), False

    def is_finished(self) -> bool:
        return self.ended


def test_old_ended_trials_are_cleared_and_running_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "EVERY", 5)
    trials = [Trial(number) for number in range(40)]
    controller = SimpleNamespace(
        _trials=list(trials),
        get_trials=lambda: controller._trials,
        _stopped_trials=set(trials[1:30]),
        _failed_trials=set(),
        _trials_to_cache=set(trials),
        _trial_metadata={trial.trial_id: "state" for trial in trials},
    )
    same, scheduler = controller._trials, Forgetting()
    scheduler.on_trial_error(controller, trials[0])  # and it runs again
    for trial in trials[1:30]:
        trial.ended = True
        scheduler.on_trial_complete(controller, trial, {})
    assert controller._trials is same
    assert same[0] is trials[0]
    assert same[-10:] == trials[30:]
    assert len(same) < 1 + 10 + 2 * 5 + 1
    assert set(same) == controller._trials_to_cache
    assert {trial.trial_id for trial in same} == controller._trial_metadata.keys()
    assert controller._stopped_trials == {trial for trial in same if trial.ended}


def test_the_controller_of_this_version_of_ray_keeps_trials_where_we_clear_them() -> None:
    names = TuneController.__init__.__code__.co_names + TuneController.get_trials.__code__.co_names
    assert {"_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache", "_trial_metadata"} <= set(names)


def test_the_inner_scheduler_hears_everything_and_decides() -> None:
    heard = []

    class Inner(FIFOScheduler):
        def on_trial_add(self, tune_controller, trial):
            heard.append("add")

        def on_trial_result(self, tune_controller, trial, result):
            heard.append("result")
            return "STOP"

        def on_trial_complete(self, tune_controller, trial, result):
            heard.append("complete")

        def on_trial_remove(self, tune_controller, trial):
            heard.append("remove")

        def on_trial_error(self, tune_controller, trial):
            heard.append("error")

    scheduler, trial = Forgetting(Inner()), Trial(0)
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {}) == "STOP"
    scheduler.on_trial_complete(None, trial, {})
    scheduler.on_trial_remove(None, trial)
    scheduler.on_trial_error(None, trial)
    assert heard == ["add", "result", "complete", "remove", "error"]


def test_silence_keeps_no_trial() -> None:
    silence = Silence()
    before = str(vars(silence))
    silence.on_trial_result(1, [], Trial(0), {})
    silence.on_trial_complete(1, [], Trial(0))
    silence.on_trial_error(1, [], Trial(0))
    assert str(vars(silence)) == before
