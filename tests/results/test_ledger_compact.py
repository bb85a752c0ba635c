"""Merging loses no row and shows none twice, wherever it stops."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from automixsearch.results import store as module
from automixsearch.results.files import LocalFiles
from automixsearch.results.schema import encode, schema, to_arrow
from automixsearch.results.store import Store
from automixsearch.results.study import Study

KILLED = """
import os, signal, sys
from automixsearch.results.files import LocalFiles
from automixsearch.results.store import Store
delete, left = LocalFiles.delete, 3

def kill(self, name):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    delete(self, name)

LocalFiles.delete = kill
Store(sys.argv[1], "s").compact()
"""


class Crash(BaseException):
    """The process dies here: nothing but a `finally` runs on."""


def filled(tmp_path: Path, trials: int = 5) -> Store:
    store = Store(tmp_path, "s")
    for number in range(trials):
        store.write_trial({"trial_id": f"t{number:05d}", "number": number, "state": "complete", "wall_s": number / 2})
        for epoch in (1, 2):
            store.write_epoch({"trial_id": f"t{number:05d}", "epoch": epoch})
    return store


def files(tmp_path: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in (tmp_path / "s" / "trials").glob(pattern))


def check(tmp_path: Path, trials: int = 5) -> None:
    """A new reader finds every row once."""
    reader = Store(tmp_path, "s")
    rows = reader.trial_rows(["number", "wall_s"])
    assert rows == [{"number": number, "wall_s": number / 2} for number in range(trials)]
    keys = [(row["trial_id"], row["epoch"]) for row in reader.epoch_rows()]
    assert keys == [(f"t{number:05d}", epoch) for number in range(trials) for epoch in (1, 2)]
    assert reader.corrupt == {}


def test_many_files_become_one_with_the_same_rows(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = store.trial_rows()
    assert store.compact() == 5 + 10
    assert len(files(tmp_path)) == 1
    assert store.trial_rows() == before
    check(tmp_path)
    assert store.compact() == 0
    merged = pq.ParquetFile(tmp_path / "s" / "trials" / files(tmp_path)[0])
    assert merged.schema_arrow.equals(schema("trials"))
    assert len(pd.read_parquet(tmp_path / "s" / "epochs")) == 10


def test_a_merged_row_is_not_written_again(tmp_path: Path) -> None:
    writer = Store(tmp_path, "s")
    store = filled(tmp_path)
    row = {"trial_id": "t00002", "number": 2, "state": "failed"}
    assert not writer.write_trial(row)
    store.compact()
    for one in (writer, store, Store(tmp_path, "s")):
        assert not one.write_trial(row)
        assert not one.write_epoch({"trial_id": "t00002", "epoch": 2})
        assert one.write_epoch({"trial_id": "t00002", "epoch": 3}) == (one is writer)
    store.compact()
    assert len(store.epoch_rows("t00002")) == 3
    assert len(store.finished()) == 5


def test_a_row_that_was_merged_while_it_was_written_again_stays_single(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, late, create = filled(tmp_path), Store(tmp_path, "s"), LocalFiles.create

    def merge_first(self: LocalFiles, name: str, data: bytes) -> bool:
        monkeypatch.setattr(LocalFiles, "create", create)
        store.compact()
        return create(self, name, data)

    monkeypatch.setattr(LocalFiles, "create", merge_first)
    late.write_trial({"trial_id": "t00002", "number": 2, "state": "complete"})
    check(tmp_path)
    assert len(files(tmp_path)) == 1


def test_merged_files_without_marks_and_marks_without_files_are_put_right(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.compact()
    marks = tmp_path / "s" / ".merged-trials"
    (mark,) = marks.iterdir()
    mark.rename(marks / "merged-0.parquet")
    assert not store.write_epoch({"trial_id": "t00002", "epoch": 2})
    late = Store(tmp_path, "s")
    late.repair()
    assert [path.name for path in marks.iterdir()] == [mark.name]
    assert late.trial_row("t00002") == store.trial_rows()[2]
    assert not late.write_trial({"trial_id": "t00002", "number": 2, "state": "complete"})
    check(tmp_path)


def test_one_trial_is_read_and_written_without_listing_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, names = filled(tmp_path), LocalFiles.names

    def listing(self: LocalFiles, folder: str, **options: bool) -> list[str]:
        assert folder.startswith("s/.merged-"), "every row is listed"
        return names(self, folder, **options)

    with monkeypatch.context() as patched:
        patched.setattr(LocalFiles, "names", listing)
        assert store.trial_row("t00003")["number"] == 3  # type: ignore[index]
        assert store.trial_row("t00009") is None
        assert store.write_trial({"trial_id": "t00005", "number": 5, "state": "complete", "wall_s": 2.5})
        assert all(store.write_epoch({"trial_id": "t00005", "epoch": epoch}) for epoch in (1, 2))
    check(tmp_path, 6)


def test_a_listing_taken_across_a_merge_misses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, names = filled(tmp_path), LocalFiles.names

    def across(self: LocalFiles, folder: str, **options: bool) -> list[str]:
        """Pass the merged file's place before it appears, and the parts' places after they are gone."""
        monkeypatch.setattr(LocalFiles, "names", names)
        store.compact()
        return []

    monkeypatch.setattr(LocalFiles, "names", across)
    assert len(Store(tmp_path, "s").live("trials")) == 1


@pytest.mark.parametrize("step", ["_open", "intact"])
def test_reading_goes_on_however_often_files_are_merged_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store, real, left = filled(tmp_path), getattr(Store, step), 5

    def merge_first(self: Store, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        if self is store or not left:
            return real(self, *arguments, **options)
        left -= 1
        number = 10 + left
        store.write_trial({"trial_id": f"t{number:05d}", "number": number, "state": "complete"})
        store.compact()
        raise FileNotFoundError("a file that was merged")

    monkeypatch.setattr(Store, step, merge_first)
    reader = Store(tmp_path, "s")
    if step == "_open":
        assert len(reader.finished()) == 10
    else:
        assert Study(reader).query("SELECT count(*) AS n FROM trials")["n"].tolist() == [10]
    assert left == 0


def test_small_merged_files_are_merged_again_and_big_ones_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MERGED_ROWS", 4)
    store = filled(tmp_path, 3)
    store.compact()
    first = files(tmp_path)
    for number in range(3, 5):
        store.write_trial({"trial_id": f"t{number:05d}", "number": number, "state": "complete"})
    store.compact()
    assert len(files(tmp_path)) == 2
    assert set(first) <= set(files(tmp_path))
    assert [row["number"] for row in store.trial_rows()] == [0, 1, 2, 3, 4]


def test_a_merged_file_that_is_full_takes_no_more_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MERGED_ROWS", 4)
    filled(tmp_path).compact()
    check(tmp_path)
    sizes = [pq.read_metadata(tmp_path / "s" / "trials" / name).num_rows for name in files(tmp_path)]
    assert sorted(sizes) == [1, 4]


def test_a_limited_number_of_files_is_merged_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MERGED_FILES", 3)
    store = filled(tmp_path)
    store.compact()
    assert len(files(tmp_path)) == 1
    check(tmp_path)


def test_a_damaged_file_is_not_merged_away(tmp_path: Path) -> None:
    store = filled(tmp_path)
    torn = tmp_path / "s" / "trials" / "t00001.parquet"
    torn.write_bytes(torn.read_bytes()[:-30])
    store.compact()
    assert len(files(tmp_path, "*.parquet")) == 2
    assert torn.exists()
    assert list(store.corrupt) == ["s/trials/t00001.parquet"]


def test_a_crash_before_any_step_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each table compact() writes journal, mark and merged file, and deletes the parts and the journal."""
    steps = (3 + 3 + 1) + (3 + 6 + 1)
    for step in range(steps):
        left = step

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def crash(self: LocalFiles, *arguments: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Crash("here")
                return real(self, *arguments)

            return crash

        place = tmp_path / str(step)
        store = filled(place, 3)
        with store.lock(), monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "create", dying(LocalFiles.create))
            patch.setattr(LocalFiles, "delete", dying(LocalFiles.delete))
            with pytest.raises(Crash, match="here"):
                store.compact()
            assert left == -1
        check(place, 3)
        assert not Store(place, "s").write_trial({"trial_id": "t00001", "number": 1, "state": "complete"})
        Store(place, "s").compact()
        check(place, 3)
        assert len(files(place)) == 1


def test_a_compact_killed_among_its_deletions_is_finished_by_repair(tmp_path: Path) -> None:
    filled(tmp_path)
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -9
    assert len(files(tmp_path, "t*.parquet")) == 3  # of 5; the merged file holds them all
    assert len(files(tmp_path, "merged-*.parquet")) == len(files(tmp_path, ".journal-*")) == 1
    check(tmp_path)
    Store(tmp_path, "s").repair()
    check(tmp_path)
    assert len(files(tmp_path)) == 1
    assert len(pd.read_parquet(tmp_path / "s" / "trials")) == 5


@pytest.mark.parametrize("merged", [False, True], ids=["one file each", "merged"])
def test_dropped_trials_are_gone_with_their_epochs_and_can_be_written_again(tmp_path: Path, merged: bool) -> None:
    store = filled(tmp_path)
    if merged:
        store.compact()
    store.drop(["t00003", "t00004"])
    reader = Store(tmp_path, "s")
    assert [row["number"] for row in reader.trial_rows()] == [0, 1, 2]
    assert len(reader.epoch_rows()) == 6
    for number in (3, 4):
        row = {"trial_id": f"t{number:05d}", "number": number, "state": "complete", "wall_s": number / 2}
        assert store.write_trial(row)
        assert all(store.write_epoch({"trial_id": row["trial_id"], "epoch": epoch}) for epoch in (1, 2))
    check(tmp_path)
    store.compact()
    check(tmp_path)


@pytest.mark.parametrize("call", range(1, 9))
def test_a_drop_that_dies_loses_no_other_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    store = filled(tmp_path)
    store.compact()
    left = call

    def dying(work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash
            return work(*args)

        return counted

    with monkeypatch.context() as patched:
        for name in ("create", "delete"):
            patched.setattr(LocalFiles, name, dying(getattr(LocalFiles, name)))
        with pytest.raises(Crash):
            store.drop(["t00003"])
    kept = [row["number"] for row in Store(tmp_path, "s").trial_rows()]
    assert kept in ([0, 1, 2, 3, 4], [0, 1, 2, 4])
    Store(tmp_path, "s").drop(["t00003"])
    assert [row["number"] for row in Store(tmp_path, "s").trial_rows()] == [0, 1, 2, 4]
    assert len(Store(tmp_path, "s").epoch_rows()) == 8


def test_outcomes_are_merged_and_read_and_damaged_ones_named(tmp_path: Path) -> None:
    store, generator = Store(tmp_path, "s"), np.random.default_rng(0)
    right = generator.random((4, 13)) < 0.5

    def told(number: int) -> dict[str, Any]:
        bits = np.packbits(right[number]).tobytes()
        known = {"split_id": "a", "images": 13, "right": int(right[number].sum()), "bits": bits}
        return {"trial_id": f"t{number:05d}"} | known

    assert store.write_outcome(told(1) | {"trial_id": "t00000"})  # by a try that was killed before it wrote its row
    for number in range(3):
        assert store.write_outcome(told(number))
    assert store.compact() == 3
    assert not store.write_outcome(told(0)), "a merged one is not written again"
    store.write_outcome(told(3))
    path = tmp_path / "s" / "outcomes" / "t00003.parquet"
    path.write_bytes(path.read_bytes().replace(told(3)["bits"], b"\0\0"))
    foreign = to_arrow("outcomes", [{"study": "s", "schema_version": 2} | told(3) | {"trial_id": "t00004", "right": 1}])
    (tmp_path / "s" / "outcomes" / "t00004.parquet").write_bytes(encode(foreign, sealed=False))
    study = Study(Store(tmp_path, "s"))
    found = study.outcomes()
    assert sorted(found) == ["t00000", "t00001", "t00002"]
    for number in range(3):
        assert (found[f"t{number:05d}"].right == right[number]).all()
    unlike, damaged = study.corrupt
    assert damaged.startswith("s/outcomes/t00003.parquet: is damaged: its digest is not that of its bytes")
    assert unlike == "s/outcomes, trial t00004: its bits are not as many as it says; remove the row"
    assert study.query("SELECT count(*) AS n FROM outcomes")["n"].tolist() == [4]
