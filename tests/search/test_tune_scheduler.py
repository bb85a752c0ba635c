"""Stopping at cool-downs, inside each method."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.schedulers import TrialScheduler

from automixsearch.config.files import parse_space
from automixsearch.search.tune_scheduler import PerMethodASHA

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def scheduler(objective="val_top1", **more) -> PerMethodASHA:
    asha = {"name": "asha", "rungs": "cooldown", "reduction": 2}
    content = {"knobs": {"method": "all", "schedule": "trapezoid"}, "budget": {"epochs": 8}, "scheduler": asha}
    return PerMethodASHA(parse_space({**content, "objective": objective}, "test"), **more)


def report(made, number, method, value, rung=0):
    trial = SimpleNamespace(config={"trial_id": f"t{number}", "method": method})
    return made.on_trial_result(None, trial, {"rung": rung, made.column: value, "val_top1": 0.0})


def test_a_bad_trial_of_a_method_is_stopped_and_remembered():
    made = scheduler()
    assert report(made, 0, "mixup", 80.0) == CONTINUE
    assert report(made, 1, "mixup", 20.0) == STOP
    assert report(made, 2, "mixup", 70.0) == STOP
    assert report(made, 3, "mixup", 75.0) == CONTINUE  # one of the best two of four
    assert made.stopped == {"t1", "t2"}


def test_a_method_is_never_halved_against_another():
    made = scheduler()
    for number in range(6):
        assert report(made, number, "vanilla", 90.0 + number) == CONTINUE
    assert report(made, 6, "cutmix", 10.0) == CONTINUE
    assert report(made, 7, "resizemix", 5.0) == CONTINUE


def test_lower_is_better_for_a_loss():
    made = scheduler("val_loss")
    assert report(made, 0, "mixup", 0.5) == CONTINUE
    assert report(made, 1, "mixup", 2.0) == STOP


def test_the_scores_of_the_trunk_are_never_judged():
    made = scheduler()
    report(made, 0, "mixup", 80.0)
    trial = SimpleNamespace(config={"trial_id": "t1", "method": "mixup"})
    assert made.on_trial_result(None, trial, {"epoch": 2, "val_top1": 1.0}) == CONTINUE
    assert made.on_trial_result(None, trial, {"done": True}) == CONTINUE
    assert made.on_trial_result(None, trial, {"rung": 0, "val_top1": 99.0, made.column: 1.0}) == STOP


def test_rungs_are_judged_each_by_themselves():
    made = scheduler()
    assert report(made, 0, "mixup", 80.0) == CONTINUE
    assert report(made, 0, "mixup", 90.0, rung=1) == CONTINUE
    assert report(made, 1, "mixup", 85.0) == CONTINUE
    assert report(made, 1, "mixup", 85.0, rung=1) == STOP


def test_the_rungs_of_an_earlier_run_are_known_after_a_replay():
    made = scheduler()
    made.replay([{"trial_id": "t0", "method": "mixup", "rung": 0, made.column: 90.0, "val_top1": 10.0}])
    made.replay([{"trial_id": "t0", "method": "mixup", "rung": None, made.column: None, "val_top1": 10.0}])
    assert report(made, 9, "mixup", 50.0) == STOP


def test_spared_trials_are_measured_and_not_stopped():
    made = scheduler(spares=lambda trial_id: trial_id == "t1")
    assert report(made, 0, "mixup", 80.0) == CONTINUE
    assert report(made, 1, "mixup", 20.0) == CONTINUE
    assert report(made, 2, "mixup", 10.0) == STOP
