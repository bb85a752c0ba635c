"""Notes of trials that wait get to the driver once."""

from __future__ import annotations

from automixsearch.results.store import Store
from automixsearch.search import notes
from automixsearch.search.notes import Notes, leave_note


def test_a_note_of_a_trial_is_told_once_and_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "LOOK_S", 0)
    store, told = Store(tmp_path, "s"), []
    with store.lock():
        worker = Store(tmp_path, "s", token=store.token)
        leave_note(worker, "t00003", "results cannot be written")
        leave_note(worker, "t00003", "results cannot be written; waiting " + 2000 * "x")
        callback = Notes(store, told.append)
        for step in range(3):
            callback.on_step_begin(step, [])
        (text,) = told
        assert text.startswith("t00003: results cannot be written; waiting xx")
        assert len(text) < 1100
        assert store.names("notes") == []


def test_a_note_that_cannot_be_left_ends_nothing(tmp_path):
    (tmp_path / "s").write_text("a file where the study should be")
    leave_note(Store(tmp_path, "s"), "t00003", "waiting")
