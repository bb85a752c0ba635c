"""Rows get into the files once, whole, and whatever happens to the writer."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from automixsearch.errors import StudyBusy, StudyError
from automixsearch.results.schema import encode, schema, to_arrow
from automixsearch.results.store import Store

WRITER = """
import sys
import pyarrow.parquet
from automixsearch.results.schema import schema
from automixsearch.results.store import Store
schema("trials")
store, first, count = Store(sys.argv[1], "s"), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
print(sum(store.write_trial({"trial_id": f"t{n:05d}", "number": n, "state": "complete", "host": "h" * 5000})
          for n in range(first, first + count)), flush=True)
"""
HOLDER = """
import sys, time
from automixsearch.results.store import Store
with Store(sys.argv[1], "s").lock():
    print("held", flush=True)
    time.sleep(60)
"""


def trial(number: int, **columns: Any) -> dict[str, Any]:
    return {"trial_id": f"t{number:05d}", "number": number, "state": "complete"} | columns


def epoch(number: int, epoch: int, **columns: Any) -> dict[str, Any]:
    return {"trial_id": f"t{number:05d}", "epoch": epoch} | columns


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `script` and has printed its first line."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "my results", "s")


def test_a_trial_has_one_row_however_often_it_is_written(store: Store) -> None:
    assert store.write_trial(trial(7, val_top1=1.0))
    assert not store.write_trial(trial(7, val_top1=2.0))
    assert [row["val_top1"] for row in store.trial_rows()] == [1.0]


def test_an_epoch_has_one_row_however_often_it_is_written(store: Store) -> None:
    assert store.write_epoch(epoch(7, 1, lr=0.1))
    assert store.write_epoch(epoch(7, 2, lr=0.2))
    assert not store.write_epoch(epoch(7, 2, lr=0.3))
    assert [row["lr"] for row in store.epoch_rows("t00007")] == [0.1, 0.2]
    assert store.epoch_rows("t00070") == []


def test_files_are_named_by_their_keys(store: Store, tmp_path: Path) -> None:
    store.write_trial(trial(7))
    store.write_epoch(epoch(7, 12))
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["my results/s/epochs/t00007-e000012.parquet", "my results/s/trials/t00007.parquet"]


def test_pandas_and_duckdb_read_the_ledger_alone(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "my results" / "s" / "trials"
    for number in range(4):
        method = {"method": "mixup", "alpha": 0.5} if number % 2 else {"method": "vanilla"}
        store.write_trial(trial(number, val_top1=float(number), **method))
    frame = pd.read_parquet(folder).sort_values("number")
    assert list(frame.columns) == schema("trials").names
    assert frame["alpha"].isna().tolist() == [True, False, True, False]
    sql = f"SELECT count(*), max(val_top1), sum(alpha) FROM '{folder}/*.parquet'"
    assert duckdb.sql(sql).fetchall() == [(4, 3.0, 1.0)]


def test_rows_come_in_order_of_their_numbers_with_the_columns_asked_for(store: Store) -> None:
    for number in (3, 100000, 20):
        store.write_trial(trial(number))
    assert store.trial_rows(["number"]) == [{"number": 3}, {"number": 20}, {"number": 100000}]
    assert store.finished() == {"t00003", "t00020", "t100000"}
    assert (store.trial_row("t00020") or {})["number"] == 20
    assert store.trial_row("t00021") is None
    with pytest.raises(StudyError, match="unknown column 'alhpa'; did you mean 'alpha'"):
        store.trial_rows(["alhpa"])


def test_an_empty_study_has_no_rows(store: Store) -> None:
    assert store.trial_rows() == store.epoch_rows() == []
    assert store.finished() == set()
    assert not store.exists()


def test_a_row_of_another_study_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="study is 'other', but the store is of 's'"):
        store.write_trial(trial(1, study="other"))


@pytest.mark.parametrize("name", ["../t1", "a/b", ".hidden", "", "merged-1", "t1; DROP TABLE trials", "x" * 101])
def test_a_trial_id_that_is_no_file_name_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="no legal name"):
        store.write_trial(trial(1, trial_id=name))
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("name", ["..", "../s", "a/b", "", ".s", "s'; DROP TABLE trials; --", "a b", "s\n"])
def test_a_study_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="no legal name"):
        Store(tmp_path, name)


def test_documents_are_replaced_whole_listed_and_deleted(store: Store) -> None:
    assert store.get("checkpoints/t1.pt") is None
    store.put("checkpoints/t1.pt", b"old")
    store.put("checkpoints/t1.pt", b"new")
    store.put("study.json", b"{}")
    assert store.get("checkpoints/t1.pt") == b"new"
    assert store.names("checkpoints") == ["t1.pt"]
    assert store.names() == ["study.json"]
    store.delete("checkpoints/t1.pt")
    store.delete("checkpoints/t1.pt")
    assert store.names("checkpoints") == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a//b", ".lock", "a/", ""])
def test_a_document_cannot_leave_its_study(store: Store, name: str) -> None:
    with pytest.raises(StudyError, match="no legal name"):
        store.put(name, b"x")


def test_a_document_cannot_lie_among_the_rows(store: Store) -> None:
    with pytest.raises(StudyError, match="would lie among the rows"):
        store.put("trials/t1.parquet", b"x")


def test_a_store_can_be_sent_to_another_process(store: Store) -> None:
    store.write_trial(trial(1))
    copy = pickle.loads(pickle.dumps(store))
    assert copy.finished() == {"t00001"}
    assert not copy.write_trial(trial(1))


def test_a_relative_path_stays_valid_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("results", "s")
    monkeypatch.chdir("/")
    store.write_trial(trial(1))
    assert (tmp_path / "results/s/trials/t00001.parquet").is_file()


def test_a_full_disk_leaves_nothing_behind(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.write_trial(trial(1))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StudyError, match=r"t00002.parquet: cannot be written: No space left on device; free some"):
        store.write_trial(trial(2))
    with pytest.raises(StudyError, match="No space left"):
        store.put("study.json", b"x")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["t00001.parquet"]
    assert store.write_trial(trial(2))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(StudyError, match=r"cannot be written: .*; check the path"):
        Store(tmp_path / "results", "s").write_trial(trial(1))


def test_a_file_system_without_hard_links_works_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert store.write_trial(trial(1, val_top1=1.0))
    assert not store.write_trial(trial(1, val_top1=2.0))
    assert [row["val_top1"] for row in store.trial_rows()] == [1.0]


def test_a_truncated_file_is_left_out_and_reported(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        store.write_trial(trial(number))
    torn = tmp_path / "my results/s/trials/t00001.parquet"
    torn.write_bytes(torn.read_bytes()[:1000])
    assert store.finished() == {"t00000", "t00002"}
    assert list(store.corrupt) == ["s/trials/t00001.parquet"]
    assert "Parquet" in store.corrupt["s/trials/t00001.parquet"]


def test_damage_inside_a_file_is_left_out_and_reported(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        store.write_trial(trial(number))
    damaged = tmp_path / "my results/s/trials/t00001.parquet"
    content = bytearray(damaged.read_bytes())
    content[4:200] = b"\xff" * 196
    damaged.write_bytes(content)
    assert [row["number"] for row in store.trial_rows()] == [0, 2]
    assert list(store.corrupt) == ["s/trials/t00001.parquet"]


def test_a_trial_whose_file_is_torn_can_be_written_again(store: Store, tmp_path: Path) -> None:
    store.write_trial(trial(1))
    torn = tmp_path / "my results/s/trials/t00001.parquet"
    torn.write_bytes(b"PAR1")
    assert store.finished() == set()
    assert store.write_trial(trial(1))
    assert store.finished() == {"t00001"}
    assert store.corrupt == {}


def test_a_ledger_of_a_newer_version_is_refused(store: Store, tmp_path: Path) -> None:
    store.write_trial(trial(1))
    path = tmp_path / "my results/s/trials/t00001.parquet"
    newer = pq.read_table(path).replace_schema_metadata({"schema_version": "99"})
    path.write_bytes(encode(newer))
    with pytest.raises(StudyError, match=r"t00001\.parquet: has schema version 99; upgrade"):
        store.trial_rows()


def test_a_column_of_other_code_is_kept(store: Store, tmp_path: Path) -> None:
    store.write_trial(trial(1))
    path = tmp_path / "my results/s/trials/t00001.parquet"
    more = to_arrow("trials", [pq.read_table(path).to_pylist()[0] | {"trial_id": "t00002", "knob.fresh": 0.5}])
    path.with_name("t00002.parquet").write_bytes(encode(more))
    assert [row["knob.fresh"] for row in store.trial_rows()] == [None, 0.5]
    store.compact()
    assert [row["knob.fresh"] for row in store.trial_rows()] == [None, 0.5]


def test_writers_in_several_processes_agree_on_one_row_each(tmp_path: Path) -> None:
    writers = [start(WRITER, tmp_path, 0, 20) for _ in range(3)]
    written = [int(writer.communicate("go\n")[0]) for writer in writers]
    assert sum(written) == 20
    frame = pd.read_parquet(tmp_path / "s" / "trials")
    assert sorted(frame["number"]) == list(range(20))
    assert not [path for path in tmp_path.rglob(".*")]


def test_killed_writers_leave_only_readable_files(tmp_path: Path) -> None:
    folder = tmp_path / "s" / "trials"
    for turn in range(3):
        writer = start(WRITER, tmp_path, 1000 * turn, 1000)
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
        while not list(folder.glob(f"t0{turn}*.parquet")):
            time.sleep(0.01)
        time.sleep(0.05 + 0.037 * turn)
        end(writer)
    frame = pd.read_parquet(folder)
    names = {path.stem for path in folder.glob("t*.parquet")}
    assert set(frame["trial_id"]) == names
    store = Store(tmp_path, "s")
    assert store.finished() == names
    assert store.corrupt == {}


def test_repair_removes_old_temporary_files_only(store: Store, tmp_path: Path) -> None:
    store.write_trial(trial(1))
    folder = tmp_path / "my results/s/trials"
    for name, age in (("old", 7200), ("new", 60)):
        path = folder / f".t1.parquet.{name}.tmp"
        path.write_bytes(b"PAR1")
        os.utime(path, (time.time() - age, time.time() - age))
    store.repair()
    assert sorted(path.name for path in folder.iterdir()) == [".t1.parquet.new.tmp", "t00001.parquet"]


def test_rows_can_be_read_while_they_are_written_and_merged(store: Store) -> None:
    written: list[str] = []
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(60):
                store.write_trial(trial(number))
                written.append(f"t{number:05d}")
                if number % 8 == 7:
                    store.compact()
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    reader = Store(store.results, "s")
    while writer.is_alive():
        before = list(written)
        seen = [row["trial_id"] for row in reader.trial_rows(["trial_id"])]
        assert len(seen) == len(set(seen))
        assert set(before) <= set(seen)
    assert not failures
    assert reader.corrupt == {}
    assert len(reader.finished()) == 60


def test_a_second_driver_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    store = Store(tmp_path, "s")
    holder = start(HOLDER, tmp_path)
    try:
        with pytest.raises(StudyBusy, match=rf"study s is held by process {holder.pid} on .*kill {holder.pid}"):
            store.lock().__enter__()
        with pytest.raises(StudyBusy, match="is held by process"):
            store.compact()
    finally:
        end(holder)
    with store.lock():
        pass


def test_a_store_may_take_its_own_lock_again(store: Store) -> None:
    with store.lock(), store.lock():
        store.repair()
    with store.lock(), pytest.raises(StudyBusy, match=f"held by process {os.getpid()}"):
        Store(store.results, "s").lock().__enter__()
