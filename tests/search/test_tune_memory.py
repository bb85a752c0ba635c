"""Tune forgets trials that have ended, and no other; the ledger is merged while a search runs."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import FIFOScheduler

from automixsearch.results.store import Store
from automixsearch.search import compaction, tune_memory
from automixsearch.search.compaction import Compaction
from automixsearch.search.tune_memory import EndedTrialsCleared, NoProgressLines


class Trial:
    """As much of a trial of Tune as is looked at."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.ended = str(number), False

    def is_finished(self) -> bool:
        return self.ended


def test_old_ended_trials_are_cleared_and_running_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_memory, "EVERY", 5)
    trials = [Trial(number) for number in range(40)]
    controller = SimpleNamespace(
        _trials=list(trials),
        get_trials=lambda: controller._trials,
        _stopped_trials=set(trials[1:30]),
        _failed_trials=set(),
        _trials_to_cache=set(trials),
        _trial_metadata={trial.trial_id: "state" for trial in trials},
    )
    same, scheduler = controller._trials, EndedTrialsCleared()
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

    scheduler, trial = EndedTrialsCleared(Inner()), Trial(0)
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {}) == "STOP"
    scheduler.on_trial_complete(None, trial, {})
    scheduler.on_trial_remove(None, trial)
    scheduler.on_trial_error(None, trial)
    assert heard == ["add", "result", "complete", "remove", "error"]


def test_silence_keeps_no_trial() -> None:
    silence = NoProgressLines()
    before = str(vars(silence))
    silence.on_trial_result(1, [], Trial(0), {})
    silence.on_trial_complete(1, [], Trial(0))
    silence.on_trial_error(1, [], Trial(0))
    assert str(vars(silence)) == before


def test_files_are_merged_by_another_process_while_the_study_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "EVERY", 6)
    store = Store(tmp_path, "s")
    with store.lock():
        merger = Compaction(store)
        for number in range(7):
            store.write_trial({"trial_id": f"t{number:05d}", "number": number, "state": "complete"})
            merger.count()
        merger.close()
        assert not store.write_trial({"trial_id": "t00002", "number": 2, "state": "failed"})
    names = sorted(path.name for path in (tmp_path / "s" / "trials").glob("*.parquet"))
    assert names[0].startswith("merged-")
    assert len(names) <= 3  # one or two came too late
    assert [row["number"] for row in store.trial_rows()] == list(range(7))


def test_a_merger_that_fails_is_told_in_the_log_and_ends_nothing(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(compaction, "EVERY", 1)
    monkeypatch.setattr(compaction.log, "warning", lambda text, *values: told.append(text % values))
    store = Store(tmp_path, "s")
    for number in range(2):
        store.write_epoch({"trial_id": f"t{number:05d}", "epoch": 1})
    (tmp_path / "s" / ".merged-epochs").write_bytes(b"a file where a folder should be")
    merger = Compaction(store)
    merger.count()
    merger.close()
    (line,) = told
    assert line.startswith("the ledger was not merged: ")
    assert ".merged-epochs" in line


def test_a_merger_whose_driver_is_killed_ends_at_once(tmp_path):
    store = Store(tmp_path, "s")
    slow = "import time; from automixsearch.results.store import Store; Store.compact = lambda *_: time.sleep(60)"
    code = f"{slow}; import sys; from automixsearch.search.compaction import main; main(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, store.results, "s", "token"], stdin=subprocess.PIPE)
    process.stdin.close()
    assert process.wait(timeout=30) == 1
