"""Storage that fails for a while: a store with patience tries again, for a bounded time and where that can help."""

from __future__ import annotations

import errno
import os
import pickle
import re
from pathlib import Path

import pytest

from automixsearch.errors import StorageError
from automixsearch.results import store
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
    told: list[str] = []
    made = Store(tmp_path, "s", patience_s=0.2, note=told.append)
    with pytest.raises(StorageError, match=r"No space left .*free some space, .* and run the same command again"):
        made.write_epoch(ROW)
    assert 0 < len(failing) < 997
    assert made.epoch_rows() == []
    assert len(told) == 1, "once for all that follows of it"
    assert re.fullmatch(r".*: cannot be written: No space left on device; waiting for it, 0 s at most", told[0])


def test_no_patience_is_spent_on_what_no_waiting_mends(tmp_path: Path, failing: list[int]) -> None:
    failing += [errno.EACCES] * 2
    with pytest.raises(StorageError, match="Permission denied"):
        Store(tmp_path, "s", patience_s=1000).put("a", b"x")
    assert len(failing) == 1
    with pytest.raises(StorageError, match="Permission denied"):
        Store(tmp_path, "s").put("a", b"x")
