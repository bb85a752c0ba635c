"""The Optuna study behind a search, with trials that end as told instead of being trained."""

from __future__ import annotations

import json
import pickle

import optuna
import pytest
from optuna.trial import TrialState

from automixsearch.config.files import parse_space
from automixsearch.results.store import Store
from automixsearch.search.proposers.sampling import Sampling
from automixsearch.search.trial_rows import pruned_row

KNOBS = {
    "method": ["vanilla", "mixup", "cutmix"],
    "alpha": {"low": 0.1, "high": 4.0, "log": True},
    "loss": ["mce", "decoupled"],
    "eta": {"low": 0.01, "high": 1.0, "log": True},
    "lr": {"low": 0.01, "high": 0.1, "log": True},
}


def space(trials=8, **more):
    content = {"name": "s", "knobs": KNOBS, "budget": {"trials": trials, "epochs": 4}, **more}
    return parse_space({"sampler": {"name": "tpe", "startup_trials": 3}, **content}, "test")


def quality(task) -> float:
    """A made-up accuracy: a function of the config."""
    knobs = task.config.knobs
    return 50 + 10 * knobs["lr"] + 5 * (task.config.method == "mixup") + knobs.get("mixup.alpha", 0)


def run_to_end(proposer: Sampling, task, state="complete"):
    """Let a trial report two epochs and end."""
    for epoch in (1, 2):
        proposer.store.write_epoch(
            {"study": "s", "trial_id": task.trial_id, "epoch": epoch, "val_top1": quality(task) - 3 + epoch}
        )
        proposer.report(task.number, epoch, quality(task) - 3 + epoch)
    if state == "pruned":
        proposer.store.write_trial(pruned_row(proposer.store, task, {}))
    else:
        values = {"val_top1": quality(task), "wall_s": 1.0 + task.number} if state == "complete" else {}
        proposer.store.write_trial(task.row(state, **values))
    assert proposer.finish(task)["state"] == state


def configs(proposer: Sampling, count: int) -> list[dict]:
    """Run the next `count` trials one after another; their knobs."""
    found = []
    for _ in range(count):
        task = proposer.next()
        found.append(dict(task.config.knobs))
        run_to_end(proposer, task)
    return found


def journal(tmp_path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "s" / "optuna.journal"))
    return optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend)).trials


@pytest.mark.parametrize("sampler", ["tpe", "random", "sobol", "gp", "nsga2"])
def test_every_sampler_reaches_the_total_and_repeats_itself_for_the_same_seed(tmp_path, sampler):
    made = space(6, sampler={"name": sampler, "startup_trials": 2})
    first = configs(Sampling(made, Store(tmp_path / "a", "s"), "f"), 6)
    again = configs(Sampling(made, Store(tmp_path / "b", "s"), "f"), 6)
    other = configs(Sampling(space(6, sampler=sampler, seeds={"study": 1}), Store(tmp_path / "c", "s"), "f"), 6)
    assert first == again != other
    assert Sampling(made, Store(tmp_path / "a", "s"), "f").next() is None


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("sampler", ["tpe", "sobol"])
def test_a_restarted_driver_proposes_what_the_first_would_have(tmp_path, stop, sampler):
    made = space(6, sampler={"name": sampler, "startup_trials": 2})
    whole = configs(Sampling(made, Store(tmp_path / "a", "s"), "f"), 6)
    parts = configs(Sampling(made, Store(tmp_path / "b", "s"), "f"), stop)
    parts += configs(Sampling(made, Store(tmp_path / "b", "s"), "f"), 6 - stop)
    assert parts == whole


@pytest.mark.parametrize("more", [{}, {"objective": ["val_top1", "wall_s"]}, {"sampler": "nsga2"}], ids=str)
def test_a_long_study_is_seen_in_part_and_goes_on_as_if_never_interrupted(tmp_path, monkeypatch, more):
    monkeypatch.setattr("automixsearch.search.proposers.optuna_view.BLOCK", 4)
    monkeypatch.setattr("automixsearch.search.proposers.optuna_trials.BLOCK", 4)
    monkeypatch.setattr("automixsearch.search.proposers.optuna_view.BEST", 3)
    monkeypatch.setattr("automixsearch.search.proposers.optuna_view.POPULATION", 5)
    monkeypatch.setattr("automixsearch.search.proposers.samplers.POPULATION", 5)
    made = space(18, **more)
    proposer = Sampling(made, Store(tmp_path / "a", "s"), "f")
    whole = configs(proposer, 18)
    seen = [trial.user_attrs["number"] for trial in proposer.trials.view.study.trials]
    assert seen[-6:] == list(range(12, 18))
    assert len(seen) == 18 if more.get("sampler") == "nsga2" else 3 < len(seen) <= 3 + 6
    scores = {row["number"]: row["val_top1"] for row in proposer.store.trial_rows()}
    if not more:
        assert set(seen[:3]) == set(sorted(range(12), key=lambda number: -scores[number])[:3])
    for stop in (7, 13):
        parts = configs(Sampling(made, Store(tmp_path / str(stop), "s"), "f"), stop)
        again = Sampling(made, RemoteLike(tmp_path / str(stop), "s"), "f")  # from the ledger alone
        assert parts + configs(again, 18 - stop) == whole
    assert [trial.number for trial in journal(tmp_path / "a")] == list(range(18))


def test_what_the_driver_holds_of_a_long_study_does_not_grow(tmp_path, monkeypatch):
    monkeypatch.setattr("automixsearch.search.proposers.optuna_view.BLOCK", 4)
    monkeypatch.setattr("automixsearch.search.proposers.optuna_view.BEST", 3)
    proposer = Sampling(space(40, sampler="random"), Store(tmp_path, "s"), "f")
    held = []
    for _ in range(40):
        run_to_end(proposer, proposer.next())
        held.append(len(pickle.dumps((proposer.trials.view.study._storage, proposer.trials.journal.__dict__))))
    assert max(held[24:]) < 1.1 * max(held[8:24])


def test_ends_are_told_as_they_were(tmp_path):
    proposer = Sampling(space(), Store(tmp_path, "s"), "f")
    for state in ("complete", "pruned", "failed"):
        run_to_end(proposer, proposer.next(), state)
    proposer.next()
    trials = proposer.trials.view.study.trials
    expected = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert [trial.state for trial in trials] == expected
    assert trials[0].value == proposer.store.trial_row("t00000")["val_top1"]
    assert set(trials[1].intermediate_values) == {1, 2}
    assert trials[1].value == trials[1].intermediate_values[2]


def test_unfinished_trials_come_first_under_their_own_number_and_config(tmp_path):
    proposer = Sampling(space(4), Store(tmp_path, "s"), "f")
    run_to_end(proposer, proposer.next())
    left = [proposer.next(), proposer.next()]
    again = Sampling(space(4), Store(tmp_path, "s"), "f")
    assert [again.next(), again.next()] == left
    assert again.next().number == 3
    assert again.next() is None


def test_a_trial_without_its_document_gets_the_config_that_was_drawn(tmp_path):
    proposer = Sampling(space(4), Store(tmp_path, "s"), "f")
    task = proposer.next()
    proposer.store.delete(f"pending/{task.trial_id}.json")
    again = Sampling(space(4), Store(tmp_path, "s"), "f").next()
    assert (again.trial_id, again.config) == (task.trial_id, task.config)


def test_a_row_that_was_not_told_is_told_at_the_next_start(tmp_path):
    proposer = Sampling(space(4), Store(tmp_path, "s"), "f")
    task = proposer.next()
    proposer.store.write_trial(task.row("complete", val_top1=77.0))
    again = Sampling(space(4), Store(tmp_path, "s"), "f")
    assert again.trials.view.study.trials[0].value == 77.0
    assert again.trials.unfinished == []
    assert again.store.names("pending") == []


def test_a_lost_journal_is_rebuilt_from_the_ledger(tmp_path):
    made = space(6)
    whole = configs(Sampling(made, Store(tmp_path / "a", "s"), "f"), 6)
    store = Store(tmp_path / "b", "s")
    proposer = Sampling(made, store, "f")
    parts = configs(proposer, 3)
    running = proposer.next()
    before = proposer.trials.view.study.trials
    store.delete("optuna.journal")
    again = Sampling(made, store, "f")
    after = again.trials.view.study.trials
    for old, new in zip(before, after, strict=True):
        assert (old.state, old.params, old.values) == (new.state, new.params, new.values)
        assert old.intermediate_values == new.intermediate_values
    assert again.trials.unfinished == [running.number]
    task = again.next()
    assert task == running
    run_to_end(again, task)
    assert [*parts, dict(task.config.knobs), *configs(again, 2)] == whole


def test_a_finished_trial_whose_row_is_lost_runs_again_with_its_config(tmp_path):
    made, store = space(4), Store(tmp_path, "s")
    first = configs(Sampling(made, store, "f"), 4)
    (tmp_path / "s" / "trials" / "t00002.parquet").unlink()
    again = Sampling(made, store, "f")
    assert again.notes == ["the row of t00002 is lost; the trial runs again"]
    task = again.next()
    assert (task.trial_id, task.config.knobs) == ("t00002", first[2])
    run_to_end(again, task)
    assert again.next() is None
    assert [trial.state for trial in again.trials.view.study.trials] == [TrialState.COMPLETE] * 4


def test_storage_without_file_locks_needs_no_journal(tmp_path):
    made = space(4)
    store = RemoteLike(tmp_path, "s")
    first = configs(Sampling(made, store, "f"), 2)
    task = Sampling(made, store, "f").next()
    again = Sampling(made, store, "f")
    assert again.next() == task
    run_to_end(again, task)
    rest = configs(again, 1)
    assert not list(tmp_path.rglob("optuna.journal"))
    whole = configs(Sampling(made, Store(tmp_path / "b", "s"), "f"), 4)
    assert [*first, dict(task.config.knobs), *rest] == whole


class RemoteLike(Store):
    """A local store that has no local paths, as one on S3."""

    def local_path(self, name):
        return None


@pytest.mark.parametrize("damage", ["torn", "locked", "garbage"])
def test_a_journal_of_a_killed_driver_is_mended(tmp_path, damage):
    store = Store(tmp_path, "s")
    configs(Sampling(space(4), store, "f"), 2)
    journal = tmp_path / "s" / "optuna.journal"
    if damage == "torn":
        journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "tri')
    elif damage == "locked":
        (tmp_path / "s" / "optuna.journal.lock").symlink_to(journal)
    else:
        journal.write_bytes(b"garbage\n" + journal.read_bytes())
    again = Sampling(space(4), store, "f")
    assert [trial.state for trial in again.trials.view.study.trials] == [TrialState.COMPLETE] * 2
    assert len(configs(again, 2)) == 2


def test_a_damaged_line_of_the_journal_costs_no_more_than_itself(tmp_path):
    """Whatever stands in a line: the ledger is right, and a trial whose row is lost too is asked anew."""
    other = b'{"op_code": 4, "user_attrs": {"config_id": 7}, "state": 1}'
    damages = [b"[]", b"7", b"null", b'"x"', b"{}", b"[" * 100_000, b'{"op_code": 99}', b"\xff\xfe", other, b"params"]
    for number, damage in enumerate(damages):
        for lost in (False, True):
            store = Store(tmp_path / f"{number}{lost}", "s")
            configs(Sampling(space(4), store, "f"), 2)
            journal = tmp_path / f"{number}{lost}" / "s" / "optuna.journal"
            lines = journal.read_bytes().splitlines()
            if damage == b"params":
                content = json.loads(lines[-1])
                lines[-1] = json.dumps(content | {"params": {}, "distributions": {}}).encode()
            else:
                lines[-1] = damage
            journal.write_bytes(b"\n".join(lines) + b"\n")
            if lost:
                (tmp_path / f"{number}{lost}" / "s" / "trials" / "t00001.parquet").unlink()
            again = Sampling(space(4), store, "f")
            assert len(configs(again, 3 if lost else 2)) == (3 if lost else 2)
            assert store.finished() == {f"t0000{n}" for n in range(4)}


def test_published_settings_are_tried_first_and_what_does_not_fit_is_noted(tmp_path):
    made = space(priors="published", knobs={**KNOBS, "cutmix.alpha": [0.5, 1.0]})
    proposer = Sampling(made, Store(tmp_path, "s"), "f")
    first = configs(proposer, 3)
    assert [knobs["method"] for knobs in first] == ["vanilla", "mixup", "cutmix"]
    assert first[1]["mixup.alpha"] == 1.0
    assert [knobs["loss"] for knobs in first] == ["mce"] * 3
    assert proposer.notes == ["published cutmix.alpha = 0.2 lies outside 0.5, 1.0; the sampler chooses it"]


def test_given_priors_are_tried_first_even_with_sobol(tmp_path):
    made = space(4, sampler="sobol", priors=[{"method": "cutmix", "cutmix.alpha": 3.0, "loss": "mce"}])
    first = configs(Sampling(made, Store(tmp_path, "s"), "f"), 2)
    assert (first[0]["method"], first[0]["cutmix.alpha"]) == ("cutmix", 3.0)


def test_several_objectives_keep_their_values_and_have_no_intermediate_ones(tmp_path):
    made = space(4, objective=["val_top1", "wall_s"], sampler="nsga2")
    proposer = Sampling(made, Store(tmp_path, "s"), "f")
    configs(proposer, 4)
    assert all(len(trial.values) == 2 for trial in proposer.trials.view.study.trials)
    assert proposer.trials.view.study.best_trials


def test_a_complete_trial_without_its_metric_is_a_failure_to_optuna(tmp_path):
    proposer = Sampling(space(4), Store(tmp_path, "s"), "f")
    task = proposer.next()
    proposer.store.write_trial(task.row("complete", val_top1=float("nan")))
    proposer.finish(task)
    assert proposer.trials.view.study.trials[0].state == TrialState.FAIL


def test_parallel_trials_are_counted_as_if_they_had_gone_badly(tmp_path):
    from automixsearch.search.proposers.samplers import make_sampler

    sampler = make_sampler(space(), 5)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert sampler._constant_liar
    assert sampler._multivariate
    assert sampler._group


def test_a_journal_of_another_space_is_written_anew(tmp_path):
    store = Store(tmp_path, "s")
    configs(Sampling(space(knobs={"method": ["mixup"]}), Store(tmp_path / "other", "s"), "f"), 2)
    configs(Sampling(space(), store, "f"), 1)
    (tmp_path / "other" / "s" / "optuna.journal").rename(tmp_path / "s" / "optuna.journal")
    proposer = Sampling(space(), store, "f")
    assert [trial.params for trial in journal(tmp_path)] == [
        trial.params for trial in proposer.trials.view.study.trials
    ]


def test_trials_have_seeds_of_their_own_unless_they_share_one(tmp_path):
    def seeds(name, training):
        proposer = Sampling(space(3, seeds={"training": training}), Store(tmp_path / name, "s"), "f")
        tasks = [proposer.next() for _ in range(3)]
        return {task.config.seed for task in tasks}

    assert len(seeds("a", "per_trial")) == 3
    assert len(seeds("b", "shared")) == 1
