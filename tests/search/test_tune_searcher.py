"""What Tune is told to run, and what follows when trials fail, with Tune played by the test."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, LocalRayletDiedError
from ray.tune.search import Searcher

from automixsearch.cluster.room import Room
from automixsearch.config.files import parse_space
from automixsearch.errors import ResourceError, StorageError
from automixsearch.results.store import Store
from automixsearch.search import driver
from automixsearch.search import tune_searcher as module
from automixsearch.search.failures import Attempt, Place
from automixsearch.search.proposers.sampling import Sampling
from automixsearch.search.task import Task
from automixsearch.search.tune_searcher import StudySearcher
from automixsearch.show import failures

HERE, THERE = Place("a", "host-a"), Place("b", "host-b")


class Play:
    """A search of three trials on nodes given by their CPUs; `start` and the others are what Tune would do."""

    def __init__(self, tmp_path, nodes, trials=3, **resources):
        self.store = Store(tmp_path, "s")
        content = {"name": "s", "knobs": {"method": ["mixup", "automix"]}, "budget": {"trials": trials, "epochs": 4}}
        self.space = parse_space({**content, "sampler": "random", "resources": resources}, "test")
        self.nodes = {name: {"CPU": float(cpus), "memory": 2.0**34} for name, cpus in nodes.items()}
        self.open()

    def open(self):
        self.notes: list[str] = []
        self.ends: list[dict] = []
        room = Room(self.space.resources, lambda: dict(self.nodes))
        heard = lambda event, task, values: self.ends.append(values) if event == "end" else None  # noqa: E731
        self.searcher = StudySearcher(Sampling(self.space, self.store, "f"), None, room, heard, self.notes.append)
        self.number = 0

    def start(self):
        self.number += 1
        return f"tune{self.number}", self.searcher.suggest(f"tune{self.number}")

    def epoch(self, tune, config, epoch, place=HERE):
        self.store.write_epoch({"trial_id": config["trial_id"], "epoch": epoch, "val_top1": 50.0})
        values = {"epoch": epoch, "val_top1": 50.0, "node": place.node, "host": place.host, "devices": place.devices}
        self.searcher.on_trial_result(tune, values)

    def fail(self, tune, config, error, place=HERE):
        Attempt(place).save(self.store, config["trial_id"])
        self.searcher.on_trial_complete(tune, error=True)
        self.searcher.failed(tune, error)

    def end(self, tune, config):
        task = Task.load(self.store, config["trial_id"])
        self.store.write_trial(task.row("complete", val_top1=50.0))
        self.searcher.on_trial_complete(tune, {})


def test_a_trial_that_failed_runs_again_and_the_search_waits_for_it(tmp_path):
    play = Play(tmp_path, {"a": 2}, trials=2)
    first, second = play.start(), play.start()
    assert play.start()[1] is None
    play.end(*second)
    assert play.start()[1] is None, "the first may have to run again"
    play.epoch(*first, 1)
    play.fail(*first, KeyError("k"))
    tune, again = play.start()
    assert again["trial_id"] == first[1]["trial_id"]
    assert play.notes == ["t00000 failed after epoch 1 (KeyError on host-a), tries again"]
    play.end(tune, again)
    assert play.start()[1] == Searcher.FINISHED
    assert play.store.finished() == {"t00000", "t00001"}


def test_three_failures_of_one_cause_set_a_trial_aside_over_interruptions_too(tmp_path):
    play = Play(tmp_path, {"a": 1}, trials=1)
    for _ in range(2):
        play.fail(*play.start(), ValueError("the cause"))
    play.open()
    play.fail(*play.start(), ValueError("the cause"))
    (row,) = play.store.trial_rows()
    assert (row["state"], row["error_class"], row["attempts"], row["host"]) == ("failed", "ValueError", 3, "host-a")
    assert row["error_message"] == "the cause"
    assert play.start()[1] == Searcher.FINISHED
    assert play.store.names("pending") == play.store.names("attempts") == []

    assert driver._set_failed_free(play.store, play.space, force=False) == (0, 1)
    assert driver._set_failed_free(play.store, play.space, force=True) == (1, 0)
    play.open()
    tune, config = play.start()
    play.fail(tune, config, ValueError("the cause"))
    assert play.start()[1]["trial_id"] == config["trial_id"]


def test_a_failed_trial_is_freed_twice_and_then_left(tmp_path):
    """An error that its config is to blame for, as a trial's own process records it."""
    play = Play(tmp_path, {"a": 1}, trials=1)
    for attempts in (1, 2, 3):
        tune, config = play.start()
        task = Task.load(play.store, config["trial_id"])
        play.store.write_trial(module.failed_row(play.store, driver_after(play.store, task)))
        play.searcher.on_trial_complete(tune, {})
        assert play.store.trial_rows()[0]["attempts"] == attempts
        assert driver._set_failed_free(play.store, play.space, force=False) == ((1, 0) if attempts < 3 else (0, 1))
        play.open()


def driver_after(store, task):
    from automixsearch.errors import NonFiniteLoss
    from automixsearch.search.trial_rows import after

    return after(store, task, NonFiniteLoss("nan"), HERE)


def test_a_retried_trial_goes_elsewhere_and_a_bad_node_gets_no_more(tmp_path):
    play = Play(tmp_path, {"a": 2, "b": 2}, trials=4)
    failing = [play.start() for _ in range(3)]
    play.fail(*failing[0], OSError("no /mnt/data"))
    tune, again = play.start()
    assert (again["trial_id"], again["avoid"]) == ("t00000", ["a"])
    assert play.start()[1]["avoid"] == []
    for trial in failing[1:]:
        play.fail(*trial, OSError("no /mnt/data"))
    assert "node host-a has failed OSError on three trials one after another" in play.notes[-2] + play.notes[-1]
    assert play.searcher.halt is None
    assert play.start()[1] is None, "the other node is taken"
    play.end(tune, again)
    assert play.start()[1]["avoid"] == ["a"]


def test_when_the_only_node_is_bad_the_search_stops_and_says_so(tmp_path):
    play = Play(tmp_path, {"a": 4}, trials=9)
    for trial in [play.start() for _ in range(3)]:
        play.fail(*trial, OSError("no /mnt/data"))
    assert play.start()[1] == Searcher.FINISHED
    assert isinstance(play.searcher.halt, ResourceError)
    assert "host-a has failed OSError on three trials" in str(play.searcher.halt)
    assert "there is no other: no /mnt/data; mend it" in str(play.searcher.halt)
    assert play.store.finished() == set()
    play.open()
    assert [play.start()[1]["trial_id"] for _ in range(3)] == ["t00000", "t00001", "t00002"]


def test_a_trial_that_the_world_hinders_is_never_failed_and_stops_the_search_at_the_third_time(tmp_path):
    """Its first epoch is behind it, so it says nothing about its node."""
    play = Play(tmp_path, {"a": 2, "b": 2}, trials=2)
    trial, other = play.start(), play.start()
    for time in range(3):
        assert play.searcher.halt is None, time
        play.epoch(*trial, 1)
        play.fail(*trial, StorageError("/r: cannot be written: No space left on device; free some space"))
        trial = play.start()
    assert play.notes[0].startswith(
        "t00000 failed after epoch 1 (StorageError on host-a): /r: cannot be written: No sp"
    )
    assert play.notes[0].endswith(", tries again")
    assert "no more trials start, 1 go on to their end" in play.notes[2]
    assert trial[1] == Searcher.FINISHED
    play.end(*other)
    with pytest.raises(ResourceError, match=r"no fault of its config.*the same command goes on: nothing is lost"):
        raise play.searcher.halt
    assert play.store.finished() == {"t00001"}
    play.open()
    again = play.start()
    assert again[1]["trial_id"] == "t00000"
    play.fail(*again, StorageError("/r: cannot be written"))
    assert play.searcher.halt is None, "what an earlier search met is no reason to stop this one"
    del play.nodes["b"]
    play.open()
    play.fail(*play.start(), StorageError("/r: cannot be written"))
    with pytest.raises(ResourceError, match="cannot be written"):  # it has waited, and there is no other node to try
        raise play.searcher.halt


def test_nodes_that_die_are_waited_for_and_cost_a_trial_nothing(tmp_path):
    play = Play(tmp_path, {"a": 1}, trials=1)
    for _ in range(9):
        trial = play.start()
        play.epoch(*trial, 1)
        play.fail(*trial, LocalRayletDiedError())
    assert play.searcher.halt is None
    tune, config = play.start()
    assert config["held"]["CPU"] == 1, "nor is it given more memory"
    play.end(tune, config)
    assert play.store.finished() == {"t00000"}


def test_where_no_process_ever_begins_the_search_stops(tmp_path):
    play = Play(tmp_path, {"a": 4}, trials=9)
    for tune, _ in [play.start() for _ in range(3)]:
        assert play.searcher.halt is None
        play.searcher.on_trial_complete(tune, error=True)
        play.searcher.failed(tune, ActorDiedError())
    assert play.start()[1] == Searcher.FINISHED
    with pytest.raises(ResourceError, match=r"3 trials have died before they began, .*RAY_AUTH_MODE"):
        raise play.searcher.halt
    assert play.store.finished() == set()


def test_out_of_memory_gives_a_trial_fewer_neighbours_until_it_is_alone(tmp_path):
    play = Play(tmp_path, {"a": 4}, trials=1)
    held = []
    for _ in range(5):
        tune, config = play.start()
        held.append((config["held"]["CPU"], config["cpus"]))
        play.fail(tune, config, MemoryError())
    assert held == [(1, 1), (2, 1), (4, 1), (4, 1), (4, 1)]
    assert "tries again with fewer neighbours" in play.notes[0]
    (row,) = play.store.trial_rows()
    assert (row["error_class"], row["attempts"]) == ("OutOfMemory", 3)


def test_a_process_that_died_after_its_row_is_no_failure(tmp_path):
    play = Play(tmp_path, {"a": 1}, trials=1)
    tune, config = play.start()
    play.store.write_trial(Task.load(play.store, config["trial_id"]).row("complete", val_top1=1.0))
    play.fail(tune, config, None)
    assert [row["state"] for row in play.ends] == ["complete"]
    assert play.store.names("pending") == []


def test_trials_wait_for_nodes_and_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("automixsearch.cluster.room.LOOK_S", 0)
    play = Play(tmp_path, {"a": 1}, trials=2)
    play.end(*play.start())
    node = play.nodes.pop("a")
    assert play.start()[1] is None
    assert play.notes == ["no room for a trial, which needs 1 CPU; waiting for nodes"]
    play.nodes["b"] = node
    assert play.start()[1]["trial_id"] == "t00001"
    play.searcher.on_trial_complete("tune3", error=True)
    play.searcher.failed("tune3", None)
    del play.nodes["b"]
    assert play.start()[1] is None
    monkeypatch.setattr(module, "PATIENCE_S", -1.0)
    assert play.start()[1] == Searcher.FINISHED
    with pytest.raises(ResourceError, match="has had no room for one trial"):
        raise play.searcher.halt
    assert play.start()[1] == Searcher.FINISHED


def test_storage_that_fails_for_good_ends_the_search_with_its_error_and_keeps_what_is_in_flight(tmp_path, monkeypatch):
    play = Play(tmp_path, {"a": 2})
    first, second = play.start(), play.start()
    monkeypatch.setattr(Store, "trial_row", lambda *_: (_ for _ in ()).throw(StorageError("s3://b: cannot be read")))
    play.end(*first)
    assert play.start()[1] == Searcher.FINISHED
    play.fail(*second, StorageError("s3://b: cannot be read"))
    with pytest.raises(StorageError, match="s3://b: cannot be read"):
        raise play.searcher.halt
    monkeypatch.undo()
    play.open()
    assert play.start()[1]["trial_id"] == second[1]["trial_id"]


class Unmakeable(Exception):
    """An error of a library that only the trial's process has."""

    def __reduce__(self):
        return (int, ("no number",))


def test_an_error_that_cannot_be_made_again_here_keeps_its_text(tmp_path):
    play = Play(tmp_path / "results", {"a": 1}, trials=1)
    errors = module.Errors(play.searcher)
    pickled, text = tmp_path / "error.pkl", tmp_path / "error.txt"
    pickled.write_bytes(pickle.dumps(Unmakeable()))
    text.write_text("Failure # 1\nTraceback (most recent call last):\nlib.Unmakeable: CUDA out of memory\n")
    for files, cause in (((pickled, text), "OutOfMemory"), ((None, text), "OutOfMemory"), ((None, None), "WorkerDied")):
        tune, config = play.start()
        play.searcher.on_trial_complete(tune, error=True)
        made = SimpleNamespace(trial_id=tune, pickled_error_file=files[0], error_file=files[1])
        errors.on_trial_error(0, [], made)
        assert Task.load(play.store, config["trial_id"]).failures[-1].cause == cause


def test_with_one_at_a_time_nothing_is_proposed_before_the_last_has_ended(tmp_path):
    play = Play(tmp_path, {"a": 4}, concurrent=1)
    first = play.start()
    assert play.start()[1] is None
    assert play.searcher.proposer.trials.handed_out == 1
    play.end(*first)
    assert play.start()[1]["trial_id"] == "t00001"


def test_a_trial_of_several_workers_is_told_that_it_may_go_on_after_a_cool_down(tmp_path):
    play = Play(tmp_path, {"a": 4}, workers=2)
    tune, config = play.start()
    play.searcher.on_trial_result(tune, {"epoch": 2, "val_top1": 50.0, "rung": 0})
    assert Task.load(play.store, config["trial_id"]).cleared == 2
    play.fail(tune, config, KeyError("x"))
    assert Task.load(play.store, config["trial_id"]).cleared == 2


def test_several_configs_that_die_of_one_signal_blame_no_node(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "death_of", lambda message: ("SIGABRT", "free(): invalid pointer"))
    play = Play(tmp_path, {"a": 1}, trials=3)
    while (started := play.start())[1] != Searcher.FINISHED:
        play.fail(*started, ActorDiedError())
    assert play.searcher.halt is None
    assert not play.searcher.nodes.bad
    rows = play.store.trial_rows()
    assert [(row["error_class"], row["attempts"]) for row in rows] == [("SIGABRT", 3)] * 3
    assert {row["error_message"] for row in rows} == {"the trial's process died by SIGABRT: free(): invalid pointer"}
    told = [note for note in play.notes if note.startswith("3 trials have died by SIGABRT: what their configs have")]
    assert len(told) == 1
    assert not [note for note in play.notes if "neighbours" in note]
    ((count, name, message, hint),) = failures(rows)
    assert (count, name) == (3, "SIGABRT")
    assert "memory" not in message + hint
    assert "batch_size" not in hint
