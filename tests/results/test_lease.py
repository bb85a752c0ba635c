"""One driver holds a study, whatever clocks and locks do, and one that has lost it writes no more."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from automixsearch.errors import StorageError, StudyBusy, StudyTaken
from automixsearch.process import Process
from automixsearch.results import files, lease
from automixsearch.results.documents import encode_document
from automixsearch.results.lease import Holder
from automixsearch.results.store import Store

ROW = {"trial_id": "t00000", "number": 0, "state": "complete"}
HOLD = """
import sys, time
from automixsearch.results import lease
from automixsearch.results.store import Store
lease.BEAT_S = 0.05
store = Store(sys.argv[1], "s")
with store.lock():
    for number in range(100_000):
        store.write_epoch({"trial_id": "t00000", "epoch": number + 1})
        print("held", flush=True)
        time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BEAT_S", 0.05), ("TAKEOVER_S", 0.6), ("SETTLE_S", 0.05)):
        monkeypatch.setattr(lease, name, value)


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"fsspec+memory:///{uuid.uuid4().hex}"


@pytest.fixture
def local_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that only count on the machine that took them, as some shared file systems have them."""
    monkeypatch.setattr(files.fcntl, "flock", lambda file, how: None)


def elsewhere(host: str = "far") -> Process:
    """A process that cannot be seen from here, though its pid is that of one which runs here."""
    return replace(Process.here(), host=host, boot="another machine")


def leave(store: Store, process: Process, beats: int = 0, **more: Any) -> None:
    """Leave a lease as a driver does that is gone."""
    holder = Holder("theirs", process, "2026-01-01 00:00:00 UTC", beats, **more)
    store.files.replace("s/.lock.json", encode_document(holder))


@pytest.fixture
def renewing() -> Iterator[Callable[[Store], None]]:
    """Lets a driver on another machine renew its lease on a study."""
    ended, threads = threading.Event(), []

    def start(store: Store) -> None:
        def live() -> None:
            for beats in range(1, 10_000):
                leave(store, elsewhere(), beats)
                if ended.wait(0.05):
                    return

        leave(store, elsewhere())
        threads.append(threading.Thread(target=live))
        threads[-1].start()

    yield start
    ended.set()
    for thread in threads:
        thread.join()


def seconds_to_hold(store: Store) -> float:
    began = time.monotonic()
    with store.lock():
        return time.monotonic() - began


def test_a_lease_that_is_renewed_is_left_alone_whatever_the_clocks_say(
    place: str, renewing: Callable[[Store], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    renewing(Store(place, "s"))
    told: list[str] = []
    for ahead in (-1e6, 60.0, 1e6):
        monkeypatch.setattr(time, "time", lambda ahead=ahead: 1.8e9 + ahead)
        with pytest.raises(StudyBusy, match=r"study s is held by process .* on far since 2026"):
            Store(place, "s", note=told.append).lock().__enter__()
    assert len(told) == 3
    assert "study s was held by process" in told[0]
    assert "its lease is watched for" in told[0]


def test_a_lease_that_nobody_renews_is_taken_over_after_it_was_watched(place: str) -> None:
    store = Store(place, "s")
    leave(store, elsewhere())
    assert lease.TAKEOVER_S <= seconds_to_hold(store) < lease.TAKEOVER_S + 5
    assert store.files.read("s/.lock.json") is None
    assert seconds_to_hold(store) < lease.TAKEOVER_S


def test_a_lease_that_is_let_go_of_while_it_is_watched_is_free_at_once(place: str) -> None:
    store = Store(place, "s")
    lease.TAKEOVER_S = 60.0
    leave(store, elsewhere())
    threading.Timer(0.3, Store(place, "s").files.delete, ["s/.lock.json"]).start()
    assert seconds_to_hold(store) < 20


def dead() -> Process:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return replace(Process.here(), pid=child.pid, start=1)


@pytest.mark.parametrize(
    "holder",
    [dead, lambda: replace(Process.here(), start=Process.here().start - 1)],
    ids=["no such process", "a later process of that number"],
)
def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(
    place: str, holder: Callable[[], Process]
) -> None:
    store = Store(place, "s")
    lease.TAKEOVER_S = 60.0
    leave(store, holder())
    assert seconds_to_hold(store) < 20


def test_the_lease_of_a_dead_container_of_this_machine_is_taken_at_once_by_its_lock(tmp_path: Path) -> None:
    """Its process cannot be seen, but the kernel would still hold its lock."""
    store, far = Store(tmp_path, "s"), replace(Process.here(), namespace=1)
    lease.TAKEOVER_S = 60.0
    store.put("study.json", b"{}")
    (tmp_path / "s" / ".lock").touch()
    leave(store, far, lock=(tmp_path / "s" / ".lock").stat().st_ino)
    assert seconds_to_hold(store) < 20
    lease.TAKEOVER_S = 0.6
    leave(store, far, lock=1)  # another file, of which our lock says nothing
    assert seconds_to_hold(store) > 0.6


def test_a_suspended_process_of_this_machine_still_holds_its_study(place: str, local_locks: None) -> None:
    """A machine where locks do not count, and a holder that renews nothing: it is seen to be there."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        store = Store(place, "s")
        os.kill(child.pid, signal.SIGSTOP)
        leave(store, replace(Process.here(), pid=child.pid, start=int(stat[19])))
        with pytest.raises(StudyBusy, match=rf"is held by process {child.pid} on .*kill {child.pid}"):
            store.lock().__enter__()
    finally:
        child.kill()
        child.wait()


def test_a_lock_that_is_local_to_its_machine_does_not_count_alone(
    tmp_path: Path, local_locks: None, renewing: Callable[[Store], None]
) -> None:
    renewing(Store(tmp_path, "s"))
    with pytest.raises(StudyBusy, match="on far"):
        Store(tmp_path, "s").lock().__enter__()
    with pytest.raises(StudyBusy, match="on far"):
        Store(tmp_path, "s").compact()


def test_a_damaged_lease_holds_nobody_up(place: str) -> None:
    store = Store(place, "s")
    lease.TAKEOVER_S = 60.0
    for damage in (b"", b"{", b"[]", b"null", b'{"token": 1}', b"\xff"):
        store.files.replace("s/.lock.json", damage)
        assert seconds_to_hold(store) < 20


CHANGES: dict[str, Callable[[Store], Any]] = {
    "a row": lambda store: store.write_trial(ROW),
    "an epoch": lambda store: store.write_epoch({"trial_id": "t00000", "epoch": 7}),
    "a document": lambda store: store.put("study.json", b"{}"),
    "a deletion": lambda store: store.delete("pending/t00000.json"),
    "a merger": lambda store: store.compact(),
    "a retry": lambda store: store.drop(["t00001"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_driver_that_has_lost_its_study_changes_nothing(place: str, change: Callable[[Store], Any]) -> None:
    lease.BEAT_S = 60.0
    first, reader = Store(place, "s", patience_s=100), Store(place, "s")
    for number in (1, 2):
        first.write_trial(ROW | {"trial_id": f"t{number:05d}", "number": number})
    first.put("pending/t00000.json", b"{}")

    def content() -> dict[str, bytes | None]:
        names = [name for kind in ("", "/trials", "/epochs", "/pending") for name in files_in(reader, f"s{kind}")]
        return {name: reader.files.read(name) for name in names}

    with first.lock():
        worker = Store(place, "s", token=first.token)
        worker.put("pending/t00009.json", b"{}")
        leave(reader, elsewhere())
        before = content()
        for store in (first, worker):
            with pytest.raises(StudyTaken, match=r"study s is held by process .* on far .*nothing is lost"):
                change(store)
        assert content() == before
    assert content() == before, "nor does it let go of what others hold"
    reader.files.delete("s/.lock.json")
    with pytest.raises(StudyTaken, match="study s has lost its lease"):
        change(worker)


def files_in(store: Store, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in store.files.names(folder) if name != ".lock"]


def test_a_driver_that_was_suspended_stops_before_its_next_write(tmp_path: Path, local_locks: None) -> None:
    """Stopped for longer than a takeover takes, as by a closed laptop, while another one went on elsewhere."""
    code = "from automixsearch.results import files; files.fcntl.flock = lambda file, how: None" + HOLD
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline()
        os.kill(child.pid, signal.SIGSTOP)
        path = tmp_path / "s" / ".lock.json"
        content = json.loads(path.read_bytes())
        content["process"]["boot"] = "another machine"
        path.write_text(json.dumps(content))
        store = Store(tmp_path, "s")
        with store.lock():
            before = {path.name for path in (tmp_path / "s" / "epochs").iterdir()}
            os.kill(child.pid, signal.SIGCONT)
            _, errors = child.communicate(timeout=60)
            assert b"StudyTaken: study s is held by process" in errors
            whole = {path.name for path in (tmp_path / "s" / "epochs").iterdir() if path.name[0] != "."}
            assert whole == {name for name in before if name[0] != "."}
            store.write_trial(ROW)
    finally:
        child.kill()
        child.communicate()


def test_a_driver_that_was_suspended_goes_on_where_nobody_has_come(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It renews its lease first, so that whoever watches sees it."""
    store = Store(place, "s")
    with store.lock():
        held = store.files.fence
        assert isinstance(held, lease.Lease)
        held._ended.set()
        held._beating.join()
        before = Holder.decode(store.files.read("s/.lock.json"))
        held.renewed -= 1000
        store.write_trial(ROW)
        after = Holder.decode(store.files.read("s/.lock.json"))
        assert before is not None
        assert after is not None
        assert after == replace(before, beats=before.beats + 1)
    assert store.finished() == {"t00000"}


def test_who_waits_for_the_storage_is_told_so_and_of_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    store, sync, full = Store(tmp_path, "s", note=told.append), os.fsync, threading.Event()

    def fsync(file: int) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with store.lock():
        full.set()
        with pytest.raises(StorageError, match="No space left on device; free some space"):
            store.write_trial(ROW)
        wait_for(lambda: len(told) == 1)
        time.sleep(5 * lease.BEAT_S)
        full.clear()
        wait_for(lambda: len(told) == 2)
        assert store.write_trial(ROW)
    assert [text.partition(": ")[2] for text in told[:1]] == [
        "cannot be written: No space left on device; waiting for it"
    ]
    assert told[1:] == ["the results can be written again"]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_of_those_that_come_in_one_moment_one_holds_the_study(place: str, local_locks: None) -> None:
    """Ten at once on a study of a dead driver: never two of them think that they hold it after all have settled."""
    leave(Store(place, "s"), elsewhere())
    barrier, over, holding, refused = threading.Barrier(10), threading.Event(), [], []

    def come() -> None:
        store = Store(place, "s")
        barrier.wait()
        try:
            with store.lock():
                store.check_held()
                holding.append(store.token)
                over.wait(20)
        except (StudyBusy, StudyTaken):
            refused.append(store)

    threads = [threading.Thread(target=come) for _ in range(10)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(holding) + len(refused) == 10)
    over.set()
    for thread in threads:
        thread.join()
    assert (len(holding), len(refused)) == (1, 9)


def test_a_hold_leaves_no_folder_behind_that_it_made(tmp_path: Path) -> None:
    with Store(tmp_path, "s").lock():
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "s").mkdir()
    with Store(tmp_path, "s").lock():
        pass
    assert [path.name for path in (tmp_path / "s").iterdir()] == [".lock"]
    store = Store(tmp_path, "t")
    with store.lock():
        store.put("study.json", b"{}")
    assert (tmp_path / "t" / "study.json").exists()
