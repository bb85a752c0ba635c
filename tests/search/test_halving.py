"""Halving on top of the sampler and the ledger, with trainings that end as told instead of being run."""

from __future__ import annotations

import json

import pytest
from optuna.trial import TrialState

from automixsearch import open_study
from automixsearch.analysis.fidelity import fidelity
from automixsearch.config.files import parse_space
from automixsearch.results.store import Store
from automixsearch.search.proposers.halving import Halving
from automixsearch.search.trial_rows import pruned_row

KNOBS = {
    "method": ["vanilla", "mixup", "cutmix"],
    "alpha": {"low": 0.1, "high": 4.0, "log": True},
    "lr": {"low": 0.01, "high": 0.1, "log": True},
    "warmup_epochs": {"low": 0.0, "high": 5.0},
}


def space(trials=24, **more):
    content = {"name": "s", "knobs": KNOBS, "budget": {"trials": trials, "epochs": 12}, "scheduler": "asha", **more}
    return parse_space({"sampler": {"name": "tpe", "startup_trials": 3}, **content}, "test")


def made(tmp_path, of=None, note=lambda text: None) -> Halving:
    return Halving(of or space(), Store(tmp_path, "s"), "f", note=note)


def quality(task) -> float:
    """A made-up accuracy of a config, which longer training raises for all alike."""
    knobs = task.config.knobs
    return 40 + 100 * knobs["lr"] + 5 * (task.config.method == "mixup") + knobs["epochs"] / 10


def end(proposer: Halving, task, score=quality) -> dict:
    """Let a training run to the end of its schedule; its epochs before that look better than its end."""
    epochs = task.config.knobs["epochs"]
    for epoch in (epochs - 1, epochs):
        value = score(task) if epoch == epochs else 99.0
        row = {"study": "s", "trial_id": task.trial_id, "epoch": epoch, "val_top1": value, "epochs_total": epochs}
        proposer.store.write_epoch(row)
        proposer.report(task.number, epoch, value)
    value = score(task)
    state = "failed" if value is None else "complete" if task.stop_reason is None else "pruned"
    proposer.store.write_trial(task.row(state, val_top1=value, epochs_run=epochs, wall_s=1.0))
    row = proposer.finish(task)
    assert row is not None
    return row


def run(proposer: Halving, count: int, score=quality) -> list[dict]:
    rows = []
    for _ in range(count):
        task = proposer.next()
        assert task is not None
        rows.append(end(proposer, task, score))
    return rows


def decisions(rows) -> list[tuple]:
    return [(row["trial_id"], row["candidate"], row["rung"], row["config_id"]) for row in rows]


def test_each_rung_of_a_config_is_a_row_of_its_own_with_its_own_complete_schedule(tmp_path):
    proposer = made(tmp_path)
    rows = run(proposer, 24)
    assert proposer.next() is None
    assert not proposer.waiting
    full = [row for row in rows if row["rung"] == 1]
    assert 6 <= len(full) < 16
    by_id = {row["trial_id"]: row for row in rows}
    for row in rows:
        assert row["epochs_total"] == (3, 12)[row["rung"]]
        assert row["state"] == ("pruned", "complete")[row["rung"]]
        assert row["stop_reason"] == ("a short schedule, rung 1 of 2", None)[row["rung"]]
    for row in full:
        first = by_id[row["candidate"]]
        assert first["candidate"] == first["trial_id"]
        ours, before = (json.loads(one["config"]) for one in (row, first))
        assert ours["seed"] == before["seed"]
        assert ours["knobs"].pop("warmup_epochs") == pytest.approx(4 * before["knobs"].pop("warmup_epochs"))
        assert (ours["knobs"].pop("epochs"), before["knobs"].pop("epochs")) == (12, 3)
        assert ours["knobs"] == before["knobs"]


def test_only_the_best_third_of_a_method_is_promoted_once_all_methods_are_through(tmp_path):
    proposer = made(tmp_path)
    rows = run(proposer, 24)
    early = {row["method"] for row in rows[:12] if row["rung"] == 1}
    assert early == {"vanilla", "mixup", "cutmix"}
    for number, row in enumerate(rows):
        if row["rung"] == 1 and number >= 12 and number < 23:
            past = [r for r in rows[:number] if r["rung"] == 0 and r["method"] == row["method"]]
            ranked = sorted(past, key=lambda r: -r["val_top1"])
            assert row["candidate"] in [r["trial_id"] for r in ranked[: len(past) // 3]]


def test_no_value_from_the_middle_of_a_schedule_reaches_the_sampler(tmp_path):
    proposer = made(tmp_path)
    rows = run(proposer, 10)
    for again in (proposer, made(tmp_path)):  # as it ran, and as it is taken up from the ledger
        for row in rows:
            trial = again.trials.view[row["number"]]
            assert trial.intermediate_values == {row["epochs_total"]: row["val_top1"]}
            assert trial.state == (TrialState.PRUNED, TrialState.COMPLETE)[row["rung"]]
            assert trial.value == row["val_top1"]


@pytest.mark.parametrize(("sampler", "stop"), [("tpe", 5), ("tpe", 13), ("sobol", 8)])
def test_a_search_that_goes_on_decides_as_one_that_was_never_interrupted(tmp_path, stop, sampler):
    of = space(20, sampler={"name": sampler, "startup_trials": 2}, priors="published")
    whole = run(made(tmp_path / "a", of), 20)
    parts = run(made(tmp_path / "b", of), stop)
    parts += run(made(tmp_path / "b", of), 20 - stop)
    assert decisions(parts) == decisions(whole)


def test_trainings_in_flight_keep_their_identity_and_a_lost_journal_changes_nothing(tmp_path):
    whole = run(made(tmp_path / "a"), 24)
    first = made(tmp_path / "b")
    run(first, 9)
    left = first.next()
    (tmp_path / "b" / "s" / "optuna.journal").unlink()
    again = made(tmp_path / "b")
    task = again.next()
    assert task == left
    rows = [end(again, task), *run(again, 14)]
    assert decisions(rows) == decisions(whole)[9:]


def test_a_training_whose_row_is_lost_runs_again_as_it_was(tmp_path):
    rows = run(made(tmp_path), 12)
    lost = next(row for row in rows if row["rung"] == 1)
    Store(tmp_path, "s").drop([lost["trial_id"]])
    task = made(tmp_path).next()
    assert (task.trial_id, task.candidate, task.rung, task.stop_reason) == (
        lost["trial_id"],
        lost["candidate"],
        1,
        None,
    )
    assert task.config.knobs["lr"] == json.loads(lost["config"])["knobs"]["lr"]
    assert task.config.seed == lost["seed"]


def test_a_failed_training_takes_its_config_out(tmp_path):
    rows = run(made(tmp_path), 24, lambda task: None if task.config.knobs["lr"] > 0.03 else quality(task))
    failed = {row["candidate"] for row in rows if row["state"] == "failed"}
    assert failed
    assert not failed & {row["candidate"] for row in rows if row["rung"] == 1}


def test_priors_of_every_method_come_in_its_turns(tmp_path):
    priors = [{"method": "cutmix", "cutmix.alpha": alpha} for alpha in (0.5, 1.5, 2.5)]
    rows = run(made(tmp_path, space(priors=priors)), 24)
    cut = [row["alpha"] for row in rows if row["rung"] == 0 and row["method"] == "cutmix"]
    assert cut[:3] == [0.5, 1.5, 2.5]
    assert [row["method"] for row in rows[:3]] == ["vanilla", "mixup", "cutmix"]


DEMAND = {"min_lower_bound": 0.3, "anchors": 9}


def test_rungs_that_rank_as_the_full_schedule_does_are_trusted(tmp_path):
    said = []
    rows = run(made(tmp_path, space(30, fidelity=DEMAND), said.append), 30)
    anchors = {row["candidate"] for row in rows[:18]}
    assert len(anchors) == 9
    assert [row["rung"] for row in rows[:18]].count(1) == 9
    assert len(said) == 1
    assert "rank correlation of 3 with 12 epochs over 9 configs: 1.00" in said[0]
    assert [row["rung"] for row in rows[18:]].count(0) > 6
    halving = json.loads(Store(tmp_path, "s").get("study.json") or b"")["halving"]
    assert (halving["stopped"], halving["why"]) == (False, said[0])


def turned(task) -> float:
    """What is good after a short schedule is bad after the full one."""
    return quality(task) if task.rung else 100 - quality(task)


def test_halving_stops_and_says_why_where_the_rungs_mislead(tmp_path):
    of, said = space(30, fidelity=DEMAND), []
    rows = run(made(tmp_path, of, said.append), 22, turned)
    rows += run(made(tmp_path, of, said.append), 8, turned)
    assert [row["rung"] for row in rows[18:]] == [1] * 12
    assert len({row["candidate"] for row in rows[18:]}) == 12
    assert len(set(said)) == 1
    assert "halving stops, and every further config is trained in full" in said[0]
    assert decisions(rows) == decisions(run(made(tmp_path / "b", of), 30, turned))
    assert json.loads(Store(tmp_path, "s").get("study.json") or b"")["halving"]["stopped"]
    assert open_study(tmp_path / "s").halving == f"What halving rests on: {said[0]}."


COOLDOWN = {"scheduler": {"name": "asha", "rungs": "cooldown"}, "knobs": {**KNOBS, "schedule": "trapezoid"}}


def cool(proposer: Halving, task, agrees: bool) -> None:
    """Let a trial cool down at its rung and go on to its end."""
    for epoch in (3, 12):
        cooled = {"rung": 0, "val_top1.cooled": quality(task) if agrees else 100 - quality(task)} if epoch == 3 else {}
        row = {"study": "s", "trial_id": task.trial_id, "epoch": epoch, "val_top1": 99.0 - epoch, "epochs_total": 12}
        proposer.store.write_epoch(row | cooled | {"method": task.config.method})
    proposer.store.write_trial(task.row("complete", val_top1=quality(task), epochs_run=12))
    proposer.finish(task)


@pytest.mark.parametrize("agrees", [True, False])
def test_cool_downs_of_anchors_are_judged_and_anchors_are_not_stopped(tmp_path, agrees):
    proposer = made(tmp_path, space(20, fidelity=DEMAND, **COOLDOWN))
    for _ in range(9):
        task = proposer.next()
        assert (task.branches, task.rung, task.config.knobs["epochs"]) == ((3,), None, 12)
        assert proposer.spares(task.trial_id)
        cool(proposer, task, agrees)
    task = proposer.next()
    assert proposer.spares(task.trial_id) == (not agrees)
    assert proposer.trials.view[0].intermediate_values.keys() == {3, 12}
    assert max(proposer.trials.view[0].intermediate_values.values()) < 60


def test_a_trial_that_was_stopped_at_a_cool_down_is_ranked_by_it(tmp_path):
    proposer = made(tmp_path, space(20, **COOLDOWN))
    task = proposer.next()
    row = {"study": "s", "trial_id": task.trial_id, "epoch": 3, "val_top1": 99.0, "rung": 0, "val_top1.cooled": 42.0}
    proposer.store.write_epoch(row)
    proposer.store.write_trial(pruned_row(proposer.store, task, {}))
    proposer.finish(task)
    assert proposer.trials.view[0].value == 42.0
    assert made(tmp_path, space(20, **COOLDOWN)).trials.view[0].value == 42.0


@pytest.mark.parametrize("rungs", ["schedules", "cooldown"])
def test_the_fidelity_of_a_search_is_that_of_its_anchors(tmp_path, rungs):
    more = COOLDOWN if rungs == "cooldown" else {}
    of = space(24, fidelity={"anchors": 9}, **more)
    proposer = made(tmp_path, of)
    proposer.store.put("study.json", json.dumps({"name": "s", "space": of.model_dump(mode="json")}).encode())
    for _ in range(22):
        task = proposer.next()
        assert task is not None
        if rungs == "cooldown":
            cool(proposer, task, agrees=task.number < 9)
        else:
            end(proposer, task, quality if task.number < 18 else turned)
    found = fidelity(open_study(tmp_path / "s"))
    assert [(one.rung, one.full) for one in found] == [(3, 12)] * 4
    assert {one.method: one.n for one in found[:3]} == {"vanilla": 3, "mixup": 3, "cutmix": 3}
    assert (found[3].method, found[3].n, found[3].rho.value) == (None, 9, pytest.approx(1.0))
    assert found[3].rho.low > 0.3
