"""What is damaged, doubled or foreign is named, and no answer rests on it."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from automixsearch.cli import main
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import StudyError
from automixsearch.report.sections import make_report
from automixsearch.results.exports import write_csv
from automixsearch.results.rows import RowFile
from automixsearch.results.schema import SCHEMA_VERSION, config_row, encode, schema, to_arrow
from automixsearch.results.seal import SIZE, Damaged
from automixsearch.results.store import Store
from automixsearch.results.study import Study, list_studies, open_study

CONFIG = TrialConfig(data=Data(), knobs={"method": "mixup", "mixup.alpha": 0.5})
WHEN = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCORES = [60.0, 70.0, 65.0, 55.0]


def row(number: int, score: float | None, **more: Any) -> dict[str, Any]:
    made = {"trial_id": f"t{number:05d}", "number": number, "state": "complete", "val_top1": score, "val_loss": 1.0}
    return config_row(CONFIG) | made | {"study": "s", "schema_version": 1, "ended_at": WHEN} | more


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four trials of two epochs, each row a file."""
    store = Store(tmp_path, "s")
    store.put("study.json", json.dumps({"schema_version": 1, "objective": ["val_top1"], "total_trials": 4}).encode())
    for number, score in enumerate(SCORES):
        store.write_trial(row(number, score))
        for epoch in (1, 2):
            store.write_epoch({"trial_id": f"t{number:05d}", "epoch": epoch, "val_top1": score - 2 + epoch})
    return open_study(tmp_path / "s")


def again(study: Study) -> Study:
    """The study, opened anew."""
    return open_study(f"{study.store.results}/s")


def folder(study: Study, table: str = "trials") -> Path:
    return Path(study.store.results) / "s" / table


def scores(study: Study) -> dict[str, dict[int, Any]]:
    """The scores by trial, by every way to ask for them; each way has named the same files."""
    ways: dict[str, Callable[[Study], dict[int, Any]]] = {
        "best": lambda s: {one["number"]: one["val_top1"] for one in s.top_rows(99)},
        "best per": lambda s: {one["number"]: one["val_top1"] for one in s.top_rows(99, per="method")},
        "query": lambda s: dict(
            s.query("SELECT number, val_top1 FROM trials WHERE val_top1 IS NOT NULL").values.tolist()
        ),
        "rows": lambda s: {one["number"]: one["val_top1"] for one in s.rows("SELECT number, val_top1 FROM trials")},
        "trials": lambda s: dict(s.trials()[["number", "val_top1"]].dropna().values.tolist()),
        "store": lambda s: {one["number"]: one["val_top1"] for one in s.store.trial_rows(["number", "val_top1"])},
        "csv": lambda s: dict(pd.read_csv(write_csv(s, folder(s).parent / "out")[0])[["number", "val_top1"]].values),
        "pareto": lambda s: {one["number"]: one["val_top1"] for one in s.pareto_rows()},
    }
    found, named = {}, set()
    for name, ask in ways.items():
        opened = again(study)
        found[name] = ask(opened)
        named.add(tuple(line for line in opened.corrupt if "/trials/" in line))
    assert len(named) == 1, named
    best = found.pop("pareto")
    assert best == {n: top for n, top in found["best"].items() if top == max(found["best"].values())}
    assert all(way == found["best"] for way in found.values()), found
    assert again(study).summary()["ended"] == len(found["best"])
    return found["best"]  # type: ignore[return-value]


# Bits that flip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True], ids=["one row", "merged"])
@pytest.mark.parametrize("table", ["trials", "epochs"])
def test_no_flipped_bit_reads_as_another_value(study: Study, table: Any, merged: bool) -> None:
    """Every region of a file, densely where it is small: magic, pages, seal, footer, its length."""
    if merged:
        study.store.compact()
    path = max(folder(study, table).glob("*.parquet"))
    content, draw = path.read_bytes(), random.Random(0)
    assert RowFile(table, content).sealed
    seal = content.index(b"automixsearch-v")
    edges = [*range(8), *range(len(content) - 12, len(content)), *range(seal, seal + SIZE)]
    for place in [*edges, *(draw.randrange(len(content)) for _ in range(500))]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        with pytest.raises(Damaged, match="is damaged: its digest is not that of its bytes"):
            RowFile(table, bytes(flipped))


def test_a_flipped_bit_is_named_by_every_command(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    path, place = folder(study) / "t00001.parquet", str(folder(study).parent)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    assert scores(study) == {0: 60.0, 2: 65.0, 3: 55.0}
    text = "left out s/trials/t00001.parquet: is damaged: its digest is not that of its bytes"
    out = str(folder(study).parents[1] / "report.html")
    for words in (
        ["best", place],
        ["best", place, "--json"],
        ["query", place, "SELECT 1 FROM trials"],
        ["query", place, "SELECT 1 FROM trials", "--json"],
        ["ls", "--results", study.store.results],
        ["ls", "--results", study.store.results, "--json"],
        ["compact", place],
        ["report", place, "--out", out],
    ):
        assert main(words) == 0, words
        printed = capsys.readouterr()
        assert text in printed.err, words
        if words[0] in ("best", "ls") and "--json" in words:
            assert "s/trials/t00001.parquet" in printed.out
    assert "t00001.parquet: is damaged" in " ".join(one.sentence for one in make_report(again(study)).verdicts)
    assert main(["show", place, "1"]) == 2
    assert "trial t00001: its row is damaged: s/trials/t00001.parquet: is damaged" in capsys.readouterr().err
    assert path.read_bytes() == bytes(content), "compact has left it as it is"


def test_thousands_of_damaged_files_are_counted_and_the_first_named(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2000):
        (folder(study) / f"x{number:05d}.parquet").write_bytes(b"PAR1 nothing PAR1")
    assert main(["best", str(folder(study).parent)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert "left out s/trials/x00000.parquet: cannot be read: " in lines[0]
    assert "left out 1980 more files, s/trials/x00020.parquet to s/trials/x01999.parquet" in lines[-1]


def test_merging_seals_no_rows_that_had_no_seal(study: Study) -> None:
    for path in [folder(study) / "t00000.parquet", folder(study) / "t00001.parquet"]:
        pq.write_table(pq.read_table(path), path)
    study.store.compact()
    sealed = {path.name: b"automixsearch-v" in path.read_bytes() for path in folder(study).glob("*.parquet")}
    assert sorted(sealed.values()) == [False, True]
    assert scores(study) == dict(enumerate(SCORES))


# Rows that several files have --------------------------------------------------------------------------------


def test_equal_rows_count_once_and_unlike_ones_not_at_all(study: Study) -> None:
    for path in list(folder(study).glob("*.parquet")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    assert scores(study) == dict(enumerate(SCORES))
    assert again(study).corrupt == []
    (folder(study) / "other.parquet").write_bytes(encode(to_arrow("trials", [row(1, 99.0)])))
    assert scores(study) == {0: 60.0, 2: 65.0, 3: 55.0}
    named = again(study)
    named.top_rows()
    assert [line.partition(":")[0] for line in named.corrupt] == [
        "s/trials/copy of t00001.parquet", "s/trials/other.parquet", "s/trials/t00001.parquet"
    ]  # fmt: skip
    assert "t00001 has another row in copy of t00001.parquet, t00001.parquet; remove the wrong ones" in named.corrupt[1]
    with pytest.raises(StudyError, match=r"trial t00001: its row is damaged: s/trials/t00001\.parquet: 1 row left out"):
        again(study).show(1)
    (folder(study) / "other.parquet").unlink()
    assert again(study).show(1)["row"]["val_top1"] == 70.0


def test_a_copy_that_was_made_while_files_were_merged_counts_every_row_once(study: Study, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "s", tmp_path / "copy" / "s")
    study.store.compact()
    shutil.copytree(tmp_path / "s", tmp_path / "copy" / "s", dirs_exist_ok=True, ignore=lambda *_: [".merged-trials"])
    copy = open_study(tmp_path / "copy" / "s")
    assert len(pd.read_parquet(tmp_path / "copy" / "s" / "trials")) == 8
    assert scores(copy) == dict(enumerate(SCORES))
    assert len(copy.epochs()) == copy.query("SELECT count(*) AS n FROM epochs")["n"][0] == 8
    assert len(again(copy).show(2)["epochs"]) == 2
    assert again(copy).corrupt == []
    copy.store.compact()
    assert len(pd.read_parquet(tmp_path / "copy" / "s" / "trials")) == 4
    assert scores(copy) == dict(enumerate(SCORES))


def test_unlike_rows_are_not_merged_away_and_a_driver_can_run_the_trial_again(study: Study) -> None:
    (folder(study) / "other.parquet").write_bytes(encode(to_arrow("trials", [row(1, 99.0)])))
    study.store.compact()
    assert {path.name for path in folder(study).glob("*.parquet")} >= {"other.parquet", "t00001.parquet"}
    assert len(list(folder(study).glob("*.parquet"))) == 3
    study.store.drop(["t00001"])
    assert study.store.write_trial(row(1, 71.0))
    assert scores(study) == {0: 60.0, 1: 71.0, 2: 65.0, 3: 55.0}


@pytest.mark.parametrize("objective", ["val_top1", "val_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_score_that_is_no_number_is_never_best(study: Study, objective: str, value: float | None) -> None:
    foreign(study, {**row(9, 1.0), objective: value})
    assert 9 not in [one["number"] for one in again(study).top_rows(9, metric=objective)]
    assert again(study).top_rows(1, metric=objective)[0]["number"] == {"val_top1": 1, "val_loss": 0}[objective]
    assert (again(study).summary()["complete"] == 5) == (value is None)


# Files of other tools ----------------------------------------------------------------------------------------


def foreign(study: Study, *rows: dict[str, Any], table: pa.Table | None = None) -> None:
    """A file that another tool wrote."""
    made = pa.Table.from_pylist(list(rows)) if table is None else table
    pq.write_table(made, folder(study) / "foreign.parquet")


def columns_of(**changed: Any) -> pa.Table:
    """One row as another tool may have it: columns replaced by Arrow arrays, or left out where None."""
    made = pa.Table.from_pylist([row(9, 50.0)])
    for name, array in changed.items():
        name = name.replace("__", ".")
        if name in made.schema.names:
            made = made.drop_columns([name])
        made = made if array is None else made.append_column(name, array)
    return made


READ: dict[str, Callable[[], pa.Table]] = {
    "few columns": lambda: pa.table(
        {"schema_version": [1], "study": ["s"], "trial_id": ["t00009"], "number": [9], "state": ["complete"],
         "method": ["mixup"], "val_top1": [50.0]}),
    "whole numbers as scores": lambda: columns_of(val_top1=pa.array([50])),
    "single precision": lambda: columns_of(val_top1=pa.array([50.0], pa.float32())),
    "half precision": lambda: columns_of(val_top1=pa.array([50.0], pa.float16())),
    "decimals": lambda: columns_of(val_top1=pa.array([50], pa.int64()).cast(pa.decimal128(21, 2))),
    "numbers that are whole": lambda: columns_of(number=pa.array([9.0])),
    "small integers": lambda: columns_of(number=pa.array([9], pa.uint8())),
    "a dictionary of words": lambda: columns_of(state=pa.array(["complete"]).dictionary_encode()),
    "large strings": lambda: columns_of(trial_id=pa.array(["t00009"], pa.large_string())),
    "views of strings": lambda: columns_of(trial_id=pa.array(["t00009"], pa.string_view())),
    "times without a zone": lambda: columns_of(ended_at=pa.array([datetime(2026, 3, 1)], pa.timestamp("ns"))),
    "times of another zone": lambda: columns_of(ended_at=pa.array([WHEN], pa.timestamp("ms", "Asia/Tokyo"))),
    "a column of nothing": lambda: columns_of(host=pa.nulls(1), fresh=pa.nulls(1)),
    "a new column": lambda: columns_of(knob__fresh=pa.array([0.5])),
    "a huge string": lambda: columns_of(error_message=pa.array(["x" * 20_000_000])),
    "no rows": lambda: pa.Table.from_pylist([row(9, 50.0)]).slice(1),
}  # fmt: skip
REFUSED: dict[str, tuple[str, Callable[[], pa.Table]]] = {
    "no id": ("has no column trial_id", lambda: columns_of(trial_id=None)),
    "no number": ("has no column number", lambda: columns_of(number=None)),
    "no columns": ("has no column", lambda: pa.table({"x": [1]})),
    "words as scores": ("column val_top1 is a string", lambda: columns_of(val_top1=pa.array(["50.0"]))),
    "a list of scores": (r"column val_top1 is list<", lambda: columns_of(val_top1=pa.array([[50.0]]))),
    "a structure": (r"column more is struct<", lambda: columns_of(more=pa.array([{"a": 1}]))),
    "bytes as an id": ("column trial_id is binary", lambda: columns_of(trial_id=pa.array([b"t00009"]))),
    "a number as a word": ("column state is a whole number", lambda: columns_of(state=pa.array([1]))),
    "truth as a score": ("column val_top1 is a truth value", lambda: columns_of(val_top1=pa.array([True]))),
    "half a number": ("column number is double and must be int64", lambda: columns_of(number=pa.array([9.5]))),
    "nanoseconds": (
        "column ended_at is timestamp", lambda: columns_of(ended_at=pa.array([1], pa.timestamp("ns", "UTC")))),
    "an id of another case": ("'TRIAL_ID' beside one of that name", lambda: columns_of(TRIAL_ID=pa.array(["x"]))),
    "a name with an escape": (r"has a column 'a\\x1b'", lambda: columns_of(**{"a\x1b": pa.array([1])})),
    "a newer version": (
        "has schema version 7; upgrade",
        lambda: pa.Table.from_pylist([row(9, 50.0)]).replace_schema_metadata({"schema_version": "7"})),
    "a version in words": (
        "has schema version b'new'",
        lambda: pa.Table.from_pylist([row(9, 50.0)]).replace_schema_metadata({"schema_version": "new"})),
}  # fmt: skip
OUT_OF_RANGE = {
    "val_top1": [100.5, -1.0, 8.9e20, math.nan, math.inf],
    "test_top5": [124.25, -0.5, math.nan],
    "val_ece": [1.5, -0.1, math.nan],
    "val_loss": [-1.0, math.inf, math.nan],
    "train_loss": [math.nan, -math.inf],
    "wall_s": [-1.0, math.inf],
    "val_images": [-1],
    "attempts": [-3],
    "epochs_run": [-1, 10**6],
    "number": [-1, 2**62],
    "schema_version": [0, SCHEMA_VERSION + 1],
    "purpose": ["", "Search", "\xe9tude"],
    "state": ["done", "running", "", "COMPLETE", "complete\n"],
    "trial_id": ["../x", "a/b", "", ".x", "x" * 101, "t1\x1b[2J"],
    "study": [None],
    "ended_at": [datetime(1969, 1, 1, tzinfo=UTC)],
}


def check_handled(study: Study, reason: str) -> None:
    """Every answer is that of the four sound trials, within a second for each, and the reason stands beside it."""
    opened = again(study)
    began = time.process_time()
    assert [one["number"] for one in opened.top_rows(9)] == [1, 2, 0, 3]
    assert opened.query("SELECT count(*) AS n FROM trials")["n"].tolist() == [4]
    assert time.process_time() - began < 5
    (line,) = opened.corrupt
    assert line.startswith("s/trials/foreign.parquet: ")
    assert pd.Series([line]).str.contains(reason).all(), line
    (listed,) = list_studies(study.store.results)
    assert (listed["ended"], listed["left_out"]) == (4, [line])


@pytest.mark.parametrize("kind", READ)
def test_what_loses_nothing_by_it_is_read(study: Study, kind: str) -> None:
    foreign(study, table=READ[kind]())
    expected = dict(enumerate(SCORES)) | ({} if kind == "no rows" else {9: 50.0})
    assert scores(study) == expected
    assert again(study).store.read("trials").schema.field("val_top1").type == pa.float64()
    study.store.compact()
    assert scores(study) == expected


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_ledger_is_named_with_the_reason(study: Study, kind: str) -> None:
    reason, make = REFUSED[kind]
    foreign(study, table=make())
    check_handled(study, reason)


@pytest.mark.parametrize("kind", ["pipe", "loop", "device", "link to nothing", "folder", "link to a folder"])
def test_what_is_no_file_among_the_rows_is_named_and_the_others_are_read(study: Study, kind: str) -> None:
    place = folder(study) / "t00009.parquet"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        there = {"loop": place, "device": "/dev/zero", "link to nothing": "/nowhere/at/all", "link to a folder": "."}
        place.symlink_to(there[kind])
    found = again(study)
    assert found.top(1)["trial_id"].tolist() == ["t00001"]
    assert [text for text in found.corrupt if "t00009.parquet: cannot be read: " in text]


@pytest.mark.parametrize("kind", ["file", "pipe", "link to nothing"])
def test_what_stands_for_the_folder_of_rows_is_named(study: Study, kind: str) -> None:
    place = folder(study)
    shutil.rmtree(place)
    {"file": place.touch, "pipe": lambda: os.mkfifo(place), "link to nothing": lambda: place.symlink_to("/no")}[kind]()
    with pytest.raises(StudyError, match="s/trials: cannot be listed: it is no folder; remove it, or put the folder"):
        again(study).top(1)
    (listed,) = list_studies(study.store.results)
    assert "s/trials: cannot be listed" in listed["error"]


@pytest.mark.parametrize("merged", [False, True])
def test_rows_that_another_study_has_written_are_named_and_count_in_no_answer(study: Study, merged: bool) -> None:
    about = {"schema_version": 1, "name": "s", "objective": ["val_top1"], "total_trials": 4}
    study.store.put("study.json", json.dumps(about).encode())
    other = Store(study.store.results, "other")
    for number in (9, 10):
        other.write_trial(row(number, 99.0) | {"study": "other"})
        other.write_epoch({"trial_id": f"t{number:05d}", "epoch": 1, "val_top1": 99.0})
    if merged:
        other.compact()
    for table in ("trials", "epochs"):
        shutil.copytree(Path(study.store.results, "other", table), folder(study, table), dirs_exist_ok=True)
    found = again(study)
    assert found.store.intact("trials"), "their seals are whole"
    assert [one["number"] for one in found.top_rows(9)] == [1, 2, 0, 3]
    assert {*found.epochs()["study"]} == {"s"}
    assert "t00009: study = 'other' is another study; move it to a folder of that name" in " ".join(found.corrupt)
    found.store.compact()
    assert found.store.finished() == {f"t{number:05d}" for number in range(4)}
    assert found.store.write_trial(row(9, 61.0))
    assert again(study).top_rows(9)[2]["trial_id"] == "t00009"


def test_a_study_that_got_another_name_keeps_its_rows(study: Study) -> None:
    study.store.write_trial(row(7, 50.0))
    about = {"schema_version": 1, "name": "s", "objective": ["val_top1"], "total_trials": 9}
    study.store.put("study.json", json.dumps(about).encode())
    Path(study.store.results, "s").rename(Path(study.store.results, "r"))
    renamed = Store(study.store.results, "r")
    renamed.write_trial(row(8, 51.0) | {"study": "r"})
    assert len(renamed.finished()) == 6
    renamed.put("study.json", json.dumps(about | {"name": "r", "former_names": ["s"]}).encode())
    again_renamed = open_study(f"{study.store.results}/r")
    assert len(again_renamed.top_rows(9)) == 6
    assert again_renamed.corrupt == []


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_row_that_breaks_a_rule_is_named_and_never_sealed(study: Study, name: str) -> None:
    loose = pa.schema([field.with_nullable(True) for field in schema("trials")])
    for value in OUT_OF_RANGE[name]:
        table = pa.Table.from_pylist([row(8, 49.0), row(9, 50.0) | {name: value}], loose)
        with pytest.raises(ValueError, match=name):
            encode(table.replace_schema_metadata(schema("trials").metadata))
        found = RowFile("trials", encode(table, sealed=False))
        assert found.fault.startswith("1 row left out: ")
        assert f": {name} " in found.fault
        assert found.read(["number"]).to_pylist() == [{"number": 8}]
        foreign(study, table=table.slice(1))
    check_handled(study, f"1 row left out: .*{name} ")


def test_no_more_epochs_are_trained_than_a_schedule_has() -> None:
    made = {"trial_id": "t00001", "epoch": 4, "epochs_total": 3, "study": "s", "schema_version": 1}
    with pytest.raises(ValueError, match="t00001 epoch 4: epoch = 4 is above epochs_total"):
        encode(to_arrow("epochs", [made]))


def malformed() -> Iterator[bytes]:
    """Hundreds of files that no writer writes: cut, stretched, shuffled, zeroed, of other kinds."""
    draw = random.Random(1)
    sound = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row(9, 50.0)], schema("trials")), sound, write_page_checksum=True)
    data, ours = sound.getvalue().to_pybytes(), encode(to_arrow("trials", [row(9, 50.0)]))
    yield from (
        b"",
        b"PAR1",
        b"PAR1PAR1",
        b"\0" * 100,
        b"{}",
        b"PK\x03\x04",
        b"number,state\n1,complete\n",
        b"\xff" * 5000,
    )
    yield from (b"PAR1" + length.to_bytes(4, "little") + b"PAR1" for length in (0, 1, 12, 2**31, 2**32 - 1))
    for content in (data, ours):
        yield from (content[: draw.randrange(1, len(content))] for _ in range(40))
        yield from (content[draw.randrange(1, len(content)) :] for _ in range(20))
        yield content + content[:-1]
        for _ in range(40):
            start, size = draw.randrange(len(content)), draw.randrange(16, 4096)
            yield content[:start] + bytes(min(size, len(content) - start)) + content[start + size :]
        for _ in range(20):
            noise = bytearray(content)
            for _ in range(50):
                noise[draw.randrange(len(noise))] = draw.randrange(256)
            yield bytes(noise)


def test_hundreds_of_malformed_files_are_each_refused_within_a_second(study: Study) -> None:
    refused, reasons = list[bytes](), set[str]()
    for content in malformed():
        began = time.process_time()
        try:
            found = RowFile("trials", content).read(["number", "val_top1"])
        except Damaged as error:
            reasons.add(" ".join(str(error).split()[:2]))
            refused.append(content)
        else:
            assert found.to_pylist() in ([{"number": 9, "val_top1": 50.0}], [])
        assert time.process_time() - began < 1
    assert len(refused) > 200
    assert reasons == {"is damaged:", "is empty", "cannot be"}
    for content in refused[::40]:
        (folder(study) / "foreign.parquet").write_bytes(content)
        check_handled(study, "foreign")


def test_a_file_can_be_read_by_any_tool_and_one_that_another_tool_wrote_anew_has_no_seal(study: Study) -> None:
    study.store.compact()
    (path,) = folder(study).glob("*.parquet")
    frame = pd.read_parquet(folder(study))
    assert frame.sort_values("number")["val_top1"].tolist() == SCORES
    before = pq.read_table(path)
    path.unlink()
    pq.write_table(before.set_column(0, "schema_version", pa.array([1] * 4, pa.int32())), folder(study) / "a.parquet")
    assert scores(study) == dict(enumerate(SCORES))
