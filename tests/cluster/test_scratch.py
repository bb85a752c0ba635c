"""Folders of processes are removed when they end, or by the next one; nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from automixsearch.cluster import scratch as module
from automixsearch.cluster.scratch import LONGEST, MARK, SOCKET, scratch
from automixsearch.errors import ResourceError
from automixsearch.process import Process
from automixsearch.results.documents import encode_document


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(module, "LONGEST", 10_000)
    return tmp_path


@pytest.fixture
def dead() -> Process:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return replace(Process.here(), pid=child.pid, start=1)


def left(place: Path, owner: Process, name: str = "automixsearch-left0000") -> Path:
    """What a driver leaves that was killed."""
    folder = place / name
    (folder / "session_1" / "logs").mkdir(parents=True)
    (folder / "session_1" / "logs" / "raylet.out").write_text("x")
    (folder / MARK).write_bytes(encode_document(owner))
    return folder


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started = []

    def begin(*words: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words]))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_a_folder_is_there_for_its_process_alone_and_removed_at_its_end(place: Path) -> None:
    with scratch() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "session_1").mkdir()
        (folder / "session_1" / "file").write_text("x")
        (folder / "session_latest").symlink_to("session_1")
        with scratch() as other:
            assert folder != other
        assert (folder / "session_1" / "file").exists()
    assert list(place.iterdir()) == []


def test_the_next_start_removes_what_a_killed_driver_left_and_ends_what_ray_left_running(
    place: Path, dead: Process, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    folder = left(place, dead)
    agent, raylet = start(f"--temp-dir={folder}"), start("--x", f"--session-dir={folder}/session_1")
    reader, other = start(f"{folder}/session_1/logs"), start(f"--temp-dir={folder}0")
    with scratch():
        pass
    assert not folder.exists()
    assert agent.wait(10) == raylet.wait(10) == -9
    assert (reader.poll(), other.poll()) == (None, None)


def test_what_is_not_seen_to_be_of_a_dead_process_of_ours_stays(place: Path, dead: Process) -> None:
    kept = [
        left(place, Process.here(), "automixsearch-alive000"),
        left(place, replace(dead, boot="another machine"), "automixsearch-elsewher"),
        left(place, replace(dead, namespace=1), "automixsearch-containe"),
        left(place, replace(dead, start=0), "automixsearch-unknown0"),
        left(place, dead, "other-left0000"),
    ]
    for name, mark in (("none", None), ("empty", b""), ("list", b"[1]"), ("torn", b'{"pid":')):
        folder = left(place, dead, f"automixsearch-{name}")
        (folder / MARK).unlink()
        if mark is not None:
            (folder / MARK).write_bytes(mark)
        kept.append(folder)
    precious = place / "precious"
    precious.mkdir()
    left(precious, dead)
    (place / "automixsearch-link0000").symlink_to(precious / "automixsearch-left0000")
    kept.append(precious / "automixsearch-left0000")
    with scratch():
        pass
    for folder in kept:
        assert (folder / "session_1" / "logs" / "raylet.out").exists(), folder


def test_a_folder_lies_where_the_sockets_of_ray_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with scratch() as folder:
        assert folder.parent == Path("/tmp")
        assert len(str(folder) + SOCKET) <= LONGEST
    assert not folder.exists()
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
    with scratch() as folder:
        assert folder.parent == Path("/var/tmp")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 10_000)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "none"))
    with pytest.raises(ResourceError, match=r"none.*: cannot be made: No such file or directory; check the path"):
        scratch().__enter__()
    assert os.listdir(tmp_path) == []
