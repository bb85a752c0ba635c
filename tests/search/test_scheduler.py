"""Halving inside each method."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.schedulers import TrialScheduler

from automixsearch.reading import parse_space
from automixsearch.search.scheduler import PerMethodASHA

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def scheduler(objective="val_top1") -> PerMethodASHA:
    asha = {"name": "asha", "grace_epochs": 1, "reduction": 2}
    content = {"knobs": {"method": "all"}, "budget": {"epochs": 8}, "scheduler": asha, "objective": objective}
    return PerMethodASHA(parse_space(content, "test"))


def report(made, number, method, epoch, value):
    trial = SimpleNamespace(trial_id=f"tune{number}", config={"trial_id": f"t{number}", "method": method})
    if epoch == 1:
        made.on_trial_add(None, trial)
    return made.on_trial_result(None, trial, {"epoch": epoch, made.objective: value})


def test_a_bad_trial_of_a_method_is_stopped_and_remembered():
    made = scheduler()
    assert report(made, 0, "mixup", 1, 80.0) == CONTINUE
    assert report(made, 1, "mixup", 1, 20.0) == STOP
    assert made.stopped == {"t1"}


def test_a_method_is_never_halved_against_another():
    made = scheduler()
    for number in range(6):
        assert report(made, number, "vanilla", 1, 90.0 + number) == CONTINUE
    assert report(made, 6, "cutmix", 1, 10.0) == CONTINUE
    assert report(made, 7, "resizemix", 1, 5.0) == CONTINUE


def test_lower_is_better_for_a_loss():
    made = scheduler("val_loss")
    assert report(made, 0, "mixup", 1, 0.5) == CONTINUE
    assert report(made, 1, "mixup", 1, 2.0) == STOP


def test_the_last_epoch_is_never_judged():
    made = scheduler()
    report(made, 0, "mixup", 1, 80.0)
    report(made, 1, "mixup", 1, 81.0)
    assert report(made, 0, "mixup", 8, 99.0) == CONTINUE
    assert report(made, 1, "mixup", 8, 1.0) == CONTINUE


def test_between_rungs_nothing_is_stopped():
    made = scheduler()
    report(made, 0, "mixup", 1, 80.0)
    report(made, 0, "mixup", 2, 80.0)
    report(made, 1, "mixup", 1, 81.0)
    assert report(made, 1, "mixup", 2, 85.0) == CONTINUE
    assert report(made, 1, "mixup", 3, 1.0) == CONTINUE


def test_the_rungs_of_an_earlier_run_are_known_after_a_replay():
    made = scheduler()
    rows = [
        {"trial_id": f"t{number}", "method": "mixup", "epoch": epoch, "val_top1": 90.0}
        for number in range(4)
        for epoch in (1, 2, 8)
    ]
    made.replay(rows)
    assert report(made, 9, "mixup", 1, 50.0) == STOP


def test_a_result_without_an_epoch_is_no_reason_to_stop():
    made = scheduler()
    trial = SimpleNamespace(trial_id="x", config={"trial_id": "t0", "method": "mixup"})
    assert made.on_trial_result(None, trial, {"done": True}) == CONTINUE
