"""The same ledger on storage that is no local disk."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from automixsearch.errors import StudyBusy, StudyError
from automixsearch.results import files as module
from automixsearch.results.files import LocalFiles, RemoteFiles
from automixsearch.results.store import Store
from automixsearch.results.study import list_studies, open_study


def trial(number: int, **columns: Any) -> dict[str, Any]:
    return {"trial_id": f"t{number:05d}", "number": number, "state": "complete"} | columns


@pytest.fixture
def memory() -> str:
    return f"fsspec+memory:///{uuid.uuid4().hex}/results"


@pytest.fixture(params=["memory", "folders", "no locks", "s3"])
def store(request: pytest.FixtureRequest, memory: str, tmp_path: Path) -> Store:
    """Storage of both kinds: with and without folders of its own."""
    made = Store(memory, "s")
    if request.param == "s3":
        return Store(request.getfixturevalue("s3"), "s")
    if request.param == "no locks":  # a shared path as on some NFS mounts

        def flock(file: Any, how: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        request.getfixturevalue("monkeypatch").setattr(module.fcntl, "flock", flock)
        return Store(tmp_path, "s")
    if request.param == "folders":
        made.files.__dict__["_opened"] = (SubTreeFileSystem(str(tmp_path), LocalFileSystem()), "results")
    return made


def test_rows_documents_and_merging_work(store: Store) -> None:
    assert not store.exists()
    for number in (2, 0, 1):
        assert store.write_trial(trial(number))
        assert not store.write_trial(trial(number))
        assert store.write_epoch({"trial_id": f"t{number:05d}", "epoch": 1})
    assert store.compact() == 6
    assert not store.write_trial(trial(1))
    assert [row["number"] for row in store.trial_rows()] == [0, 1, 2]
    assert len(store.epoch_rows("t00001")) == 1
    assert len(store.files.names("s/trials")) == 1
    store.put("study.json", b"{}")
    store.put("study.json", b"[]")
    assert store.get("study.json") == b"[]"
    assert store.names() == ["study.json"]
    store.delete("study.json")
    store.delete("study.json")
    assert store.get("study.json") is None


WRITE = """
import sys
from automixsearch.results.store import Store
store = Store(sys.argv[1], "s")
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    store.write_epoch({"trial_id": f"t{number:05d}", "epoch": 1})
    store.write_trial({"trial_id": f"t{number:05d}", "number": number, "state": "complete"})
"""


def test_a_bucket_is_written_by_several_processes_and_read_while_it_is_merged(s3: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, s3, str(first), str(first + 12)]) for first in (0, 8, 16)
    ]  # some rows come from two of them
    store, merged, seen = Store(s3, "s"), 0, set[str]()
    while any(writer.poll() is None for writer in writers):
        time.sleep(0.2)
        merged += store.compact()
        ids = [row["trial_id"] for row in store.trial_rows(["trial_id", "number"])]
        assert len(ids) == len(set(ids)), "a row twice"
        assert seen <= set(ids), "a row that was there is gone"
        seen = set(ids)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    store.compact()
    assert [row["number"] for row in store.trial_rows()] == list(range(28))
    assert len(store.epoch_rows()) == 28
    assert merged


@pytest.mark.parametrize("store", ["memory", "folders"], indirect=True)
def test_a_broken_upload_is_removed_and_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: RemoteFiles, name: str, data: bytes) -> None:
        replace(self, name, data[:10])
        raise StudyError("connection lost")

    replace = RemoteFiles.replace
    monkeypatch.setattr(RemoteFiles, "replace", broken)
    with pytest.raises(StudyError, match="connection lost"):
        store.write_trial(trial(1))
    assert store.files.names("s/trials") == []


def test_a_torn_object_is_left_out_and_reported(store: Store) -> None:
    for number in range(2):
        store.write_trial(trial(number))
    store.files.replace("s/trials/t00001.parquet", b"PAR1 but no more")
    assert store.finished() == {"t00000"}
    assert list(store.corrupt) == ["s/trials/t00001.parquet"]


class Vanishing:
    """Storage on which another process deletes each file just when it was opened."""

    def __init__(self, arrow: Any) -> None:
        self.arrow = arrow

    def __getattr__(self, name: str) -> Any:
        return getattr(self.arrow, name)

    def open_input_file(self, path: str) -> Any:
        file = self.arrow.open_input_file(path)
        self.arrow.delete_file(path)
        return file


def test_an_object_that_goes_between_opening_and_reading_is_not_there(s3: str) -> None:
    store = Store(s3, "s")
    store.put("a.json", b"{}")
    arrow, prefix = store.files._opened
    store.files.__dict__["_opened"] = (Vanishing(arrow), prefix)
    assert store.get("a.json") is None
    store.files.__dict__["_opened"] = (arrow, prefix)
    store.write_trial(trial(0))
    path = store.files.arrow_path("s/trials/t00000.parquet")  # it is there, so something else is wrong
    with pytest.raises(StudyError, match="cannot be read"), store.files._unless_gone(path, "read"):
        raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation")


def test_questions_are_answered_over_a_uri(memory: str) -> None:
    store = Store(memory, "s")
    store.put("study.json", b'{"objective": ["val_loss"], "total_trials": 9}')
    for number in range(5):
        store.write_trial(trial(number, val_loss=float(10 - number), method="mixup"))
        store.write_epoch({"trial_id": f"t{number:05d}", "epoch": 1})
    study = open_study(f"{memory}/s")
    assert [row["number"] for row in study.top_rows(2)] == [4, 3]
    assert study.query("SELECT count(*) AS n FROM trials JOIN epochs USING (trial_id)")["n"].tolist() == [5]
    assert len(study.show(3)["epochs"]) == 1
    assert list_studies(memory) == [study.summary()]
    with pytest.raises(StudyError, match=r"unknown study 'z'.*choices: s"):
        open_study(f"{memory}/z")
    with pytest.raises(StudyError, match="is a directory of studies; open one of them: s"):
        open_study(memory)


def test_a_file_uri_is_local_and_may_hold_spaces(tmp_path: Path) -> None:
    store = Store((tmp_path / "my results").as_uri(), "s")
    assert isinstance(store.files, LocalFiles)
    store.write_trial(trial(1, val_top1=5.0))
    assert len(pd.read_parquet(tmp_path / "my results" / "s" / "trials")) == 1
    assert open_study((tmp_path / "my results" / "s").as_uri()).top()["val_top1"].tolist() == [5.0]


def test_a_lease_keeps_a_second_driver_out(store: Store) -> None:
    other = pickle.loads(pickle.dumps(store))
    other.files.__dict__.update(store.files.__dict__)
    with store.lock():
        with pytest.raises(StudyBusy, match=rf"study s is held by process {os.getpid()} on .* since 20.*; wait until"):
            other.lock().__enter__()
        with store.lock():
            store.put("study.json", b"{}")
    with other.lock():
        other.delete("study.json")
    assert store.names() == []


def test_storage_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(StudyError, match=r"nope://x: cannot be opened: .*; check address"):
        Store("nope://x", "s").trial_rows()


def test_options_of_a_uri_stay_at_its_end() -> None:
    store = Store("s3://bucket/runs/?endpoint_override=http://127.0.0.1:1&region=r", "s")
    assert store.uri == "s3://bucket/runs/s?endpoint_override=http://127.0.0.1:1&region=r"
    assert Store("/a/b?c", "s").uri == "/a/b?c/s"
