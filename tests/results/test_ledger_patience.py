"""Storage that fails for a while: a store with patience tries again, for a bounded time and where that can help."""

from __future__ import annotations

import errno
import json
import os
import pickle
import threading
import time
import uuid
from pathlib import Path

import pytest

from automixsearch.errors import StorageError, StudyBusy
from automixsearch.results import files, store
from automixsearch.results.store import Store

ROW = {"trial_id": "t00000", "epoch": 1, "val_top1": 50.0}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The disk fails with each of these numbers in turn, and works afterwards."""
    left: list[int] = []
    sync = os.fsync

    def fsync(file: int) -> None:
        if left:
            number = left.pop(0)
            raise OSError(number, os.strerror(number))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(store, "PAUSE_S", 0.01)
    return left


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_what_passes_is_waited_for_and_nothing_is_written_twice(
    tmp_path: Path, failing: list[int], number: int
) -> None:
    made = Store(tmp_path, "s", patience_s=30)
    failing += [number] * 3
    assert made.write_epoch(ROW)
    assert not made.write_epoch(ROW)
    failing += [number] * 3
    made.put("checkpoints/t00000.pt", b"x")
    assert made.get("checkpoints/t00000.pt") == b"x"
    assert len(made.epoch_rows()) == 1
    assert not list(tmp_path.rglob(".*.tmp"))
    assert pickle.loads(pickle.dumps(made)).patience_s == 30


def test_patience_ends_with_an_error_that_says_what_to_do(tmp_path: Path, failing: list[int]) -> None:
    failing += [errno.ENOSPC] * 1000
    made = Store(tmp_path, "s", patience_s=0.2)
    with pytest.raises(StorageError, match="No space left on device; free some space and run the same command again"):
        made.write_epoch(ROW)
    assert 0 < len(failing) < 997
    assert made.epoch_rows() == []


def test_no_patience_is_spent_on_what_no_waiting_mends(tmp_path: Path, failing: list[int]) -> None:
    failing += [errno.EACCES] * 2
    with pytest.raises(StorageError, match="Permission denied"):
        Store(tmp_path, "s", patience_s=1000).put("a", b"x")
    assert len(failing) == 1
    with pytest.raises(StorageError, match="Permission denied"):
        Store(tmp_path, "s").put("a", b"x")


def lease(place: str, seen: float) -> Store:
    made = Store(place, "s")
    left = {"pid": 1, "host": "h", "time": "then", "token": "t", "seen": seen}
    made.files.replace("s/.lock.json", json.dumps(left).encode())
    return made


def test_a_lease_from_the_future_is_taken_from_the_dead_and_left_to_the_living(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a clock that was set back leaves it: the time in a lease says nothing then, only whether it changes."""
    monkeypatch.setattr(files, "BEAT_S", 0.1)
    made = lease(f"fsspec+memory:///{uuid.uuid4().hex}", time.time() + 1e6)
    with made.lock():
        pass
    made = lease(f"fsspec+memory:///{uuid.uuid4().hex}", time.time() + 1e6)
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.02):
            lease(made.results, time.time() + 1e6)

    alive = threading.Thread(target=live)
    alive.start()
    try:
        with pytest.raises(StudyBusy, match="is held by process 1 on h"):
            made.lock().__enter__()
    finally:
        ended.set()
        alive.join()
