"""Stored JSON documents: whatever is wrong with one, it ends in one message."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.config.upgrade import SCHEMA_VERSION
from automixsearch.errors import DamagedError, SpecError, StudyError
from automixsearch.process import Process
from automixsearch.results.documents import (
    MergeDocument,
    StudyDocument,
    decode_document,
    encode_document,
    parse,
)
from automixsearch.results.lease import Holder
from automixsearch.results.store import Store
from automixsearch.results.study import list_studies, open_study
from automixsearch.search.failures import Attempt, Failure, Place
from automixsearch.search.proposers.sampling import Sampling
from automixsearch.search.task import Task

RUN = {"number": 0, "purpose": "study", "arm": "a", "replicate": 0, "seed": 1, "split_seed": 0, "stratum": "mixup"}
STUDY = StudyDocument.model_validate(
    {
        "schema_version": SCHEMA_VERSION,
        "name": "s",
        "space_id": "0123456789abcdef",
        "objective": ["val_top1"],
        "total_trials": 9,
        "space": {"name": "s", "knobs": {"method": "mixup", "lr": {"low": 0.1, "high": 0.3}}, "budget": {"trials": 9}},
        "data": {"fingerprint": "f", "path": None, "train": 9, "test": 3, "classes": 2, "val": 3, "splits": {"0": "x"}},
        "environments": [{"hash": "x", "automixsearch": "1", "python": "3.12", "packages": {"torch": "2"}}],
        "design": {"name": "grid", "question": "ü?", "runs": [{**RUN, "levels": {"alpha": 0.1}}]},
    }
)
PLACE = Place("n", "h", "0")
TASK = Task(
    trial_id="t00001",
    number=1,
    study="s",
    study_seed=2**62,
    space_id="x",
    purpose="search",
    workers=1,
    config=TrialConfig(data=Data(), knobs={"method": "mixup", "mixup.alpha": 0.30000000000000004}),
    branches=(3, 5),
    failures=(Failure("WorkerDied", "gone", 2, False, True, PLACE),),
)
DOCUMENTS = {
    "study": STUDY.content,
    "task": TASK,
    "attempt": Attempt(PLACE, "OSError", "no\nroom"),
    "merge": MergeDocument(merged="merged-0123456789abcdef.parquet", parts=["t00001.parquet", "t00002.parquet"]),
    "lease": Holder("x", Process(7, "h", "b", 4, 5), "now", 3),
}
KINDS = {"study": StudyDocument, "task": Task, "attempt": Attempt, "merge": MergeDocument, "lease": Holder}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_is_read_as_it_was_written(kind):
    data = encode_document(DOCUMENTS[kind])
    read = decode_document(data, "x.json", KINDS[kind])
    assert read == (STUDY if kind == "study" else DOCUMENTS[kind])
    assert encode_document(STUDY.content if kind == "study" else read) == data


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_no_flipped_bit_is_read_as_something_else(kind):
    data, chance = encode_document(DOCUMENTS[kind]), random.Random(0)
    written, noticed = decode_document(data, "x.json", KINDS[kind]), 0
    for _ in range(500):
        flipped, bit = bytearray(data), chance.randrange(8 * len(data))
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert decode_document(bytes(flipped), "x.json", KINDS[kind]) == written
        except DamagedError:
            noticed += 1
    assert noticed > 300  # the others are blanks, and letters of escapes


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents_of_earlier_versions_have_no_digest_and_are_read(kind):
    content = json.loads(encode_document(DOCUMENTS[kind]))
    del content["sha256"]
    read = decode_document(json.dumps(content).encode(), "x.json", KINDS[kind])
    assert read == (STUDY if kind == "study" else DOCUMENTS[kind])


def damaged() -> dict[str, bytes]:
    """Contents that no document can have, by what is wrong with them."""
    deep = "[" * 100_000
    return {
        "empty": b"",
        "zeros": bytes(4096),
        "blank": b" \n",
        "half": encode_document(STUDY.content)[:100],
        "two": b"{}{}",
        "list": b"[]",
        "string": b'"study"',
        "number": b"7",
        "null": b"null",
        "true": b"true",
        "nan": b'{"total_trials": NaN}',
        "infinity": b'{"total_trials": -Infinity}',
        "1e400": b'{"total_trials": 1e400}',
        "digits": b'{"total_trials": ' + b"9" * 60_000 + b"}",
        "twice": b'{"name": "a", "name": "b"}',
        "deep": deep.encode(),
        "deep mapping": b'{"space": {"knobs": ' + b'{"a":' * 5000 + b"1" + b"}" * 5002,
        "deep enough to parse": b'{"space": {"knobs": {"a": ' + b"[" * 400 + b"]" * 400 + b"}}}",
        "utf-16": "{}".encode("utf-16"),
        "latin-1": '{"name": "\xe9"}'.encode("latin-1"),
        "surrogate": b'{"space_id": "\\ud800"}',
        "pickle": b"\x80\x04\x95}\x94.",
        "yaml": b"name: s\n",
        "long key": b'{"' + b"x" * 10_000_000 + b'": 1}',
        "long name": b'{"name": "' + b"x" * 10_000_000 + b'"}',
        "too large": b'{"space_id": "' + b"x" * 32_000_000 + b'"}',
        "many runs": b'{"design": {"name": "x", "runs": [' + b"0," * 1_000_000 + b"0]}}",
        "digest": encode_document(STUDY.content).replace(b'"total_trials": 9', b'"total_trials": 8'),
        "digest of another kind": b'{"sha256": 7}',
        "later version": b'{"schema_version": 99}',
        "huge version": b'{"schema_version": 1' + b"0" * 20 + b"}",
        "no objective": b'{"objective": []}',
        "objective twice": b'{"objective": ["val_top1", "val_top1"]}',
        "margin below 0": b'{"design": {"name": "curve", "margin": -1.0}}',
        "no delta": b'{"design": {"name": "curve", "delta": 0}}',
        "parent as name": b'{"name": "../../x"}',
        "null byte": b'{"name": "a\\u0000b"}',
    }


def other_shapes() -> dict[str, bytes]:
    """The content of a study with each of its values in turn replaced by one of each other kind, or left out."""

    def places(value: object, path: tuple = ()) -> list[tuple]:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path, *(place for key, one in inner for place in places(one, (*path, key)))]

    found = {}
    for path in places(STUDY.content)[1:]:
        for other in (None, 1.5, "a\x1b[2Jb", [], {}, [{}], True, -1, {"a": [1]}):
            content = json.loads(json.dumps(STUDY.content))
            owner = content
            for key in path[:-1]:
                owner = owner[key]
            owner[path[-1]] = other
            found[f"{'.'.join(map(str, path))} = {other!r}"] = json.dumps(content).encode()
    return found


@pytest.mark.parametrize("what", damaged())
def test_a_damaged_study_is_refused_by_name_within_a_second_and_breaks_no_other(tmp_path, what):
    good, bad = Store(tmp_path, "good"), Store(tmp_path, "bad")
    for store in (good, bad):
        store.write_trial({"trial_id": "t00000", "number": 0, "state": "complete", "val_top1": 50.0})
    bad.put("study.json", damaged()[what])
    started = time.process_time()
    with pytest.raises(StudyError, match=r"bad/study\.json: .*; ") as caught:
        _ = open_study("bad", tmp_path).info
    assert time.process_time() - started < 1
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
    first, second = list_studies(tmp_path)
    assert first["study"] == "bad"
    assert "study.json" in first["error"]
    assert second["best"] == 50.0
    assert open_study("good", tmp_path).top_rows(1)[0]["val_top1"] == 50.0


def test_every_other_shape_of_a_study_is_refused_or_holds_what_analyses_read():
    shapes = other_shapes()
    assert len(shapes) > 300
    said = {}
    for what, data in shapes.items():
        try:
            decode_document(data, "study.json", StudyDocument)
        except DamagedError as error:
            said[what] = str(error)
    assert len(said) > 200
    assert [what for what, text in said.items() if not text.isprintable()] == []
    assert [what for what, text in said.items() if not text.startswith("study.json: ")] == []


@pytest.mark.parametrize("there", ["folder", "pipe", "loop", "device", "nothing"])
def test_what_is_no_file_is_no_document(tmp_path: Path, there):
    import os

    place = tmp_path / "s" / "study.json"
    place.parent.mkdir()
    {
        "folder": place.mkdir,
        "pipe": lambda: os.mkfifo(place),
        "loop": lambda: place.symlink_to(place),
        "device": lambda: place.symlink_to("/dev/zero"),
        "nothing": lambda: place.symlink_to("/nowhere/at/all"),
    }[there]()
    with pytest.raises(StudyError, match=r"study\.json: cannot be read"):
        Store(tmp_path, "s").info()


def test_what_arrived_is_named_with_its_key_and_what_to_do():
    for text, message in {
        '{"total_trials": "9"}': r"x: total_trials = '9' must be a valid integer; restore it from a copy",
        '{"objektive": []}': r"x: unknown key 'objektive'; did you mean 'objective'\?",
        '{"design": {"runs": []}}': r"x: design\.name is missing; ",
        '{"design": {"name": "a", "runs": [{}]}}': r"design\.runs\.0\.number is missing",
        '{"a": 1, "a": 2}': r"holds the key 'a' twice",
        '{"a": 1,': r"is no JSON: .* in line 1, column 9",
    }.items():
        with pytest.raises(DamagedError, match=message):
            decode_document(text.encode(), "x", StudyDocument)


def test_a_byte_order_mark_is_no_damage():
    assert parse(b'\xef\xbb\xbf{"a": 1}', "x") == {"a": 1}


# Names in documents -------------------------------------------------------------------------------------------------

OUTSIDE = (
    *("../../../victim.txt", "/{victim}", "../study.json", "a/../../victim", "x\0.parquet", "x\n.parquet", "..", ""),
    *("t00001.parquet/../../study.json", "y" * 5000 + ".parquet", "study.json", "\u202ex.parquet"),
)


def others(folder: Path) -> dict[Path, bytes]:
    """The files that hold no rows."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: path.read_bytes() for path in files if path.parent.name not in ("trials", ".merged-trials")}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("way", ["parts", "merged"])
def test_a_journal_names_files_of_rows_and_no_other_is_touched(tmp_path, name, way):
    store = Store(tmp_path / "results", "s")
    for number in range(3):
        store.write_trial({"trial_id": f"t0000{number}", "number": number, "state": "complete", "val_top1": 50.0})
    store.put("study.json", b"{}")
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / "results" / "s" / "trials" / "merged-0123456789abcdef.parquet").write_bytes(
        (tmp_path / "results" / "s" / "trials" / "t00001.parquet").read_bytes()
    )
    plan = {"merged": "merged-0123456789abcdef.parquet", "parts": ["t00001.parquet"]}
    plan[way] = name.format(victim=victim) if way == "merged" else [name.format(victim=victim)]
    journal = tmp_path / "results" / "s" / "trials" / ".journal-0123456789abcdef.json"
    for data in (json.dumps(plan).encode(), encode_document(plan)):
        journal.write_bytes(data)
        before = others(tmp_path)
        assert len(store.finished()) == 3
        assert "s/trials/.journal-0123456789abcdef.json" in store.corrupt
        store.compact()
        store.drop(["t00000"])
        store.write_trial({"trial_id": "t00000", "number": 0, "state": "complete", "val_top1": 50.0})
        assert len(store.finished()) == 3
        assert others(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../b", "x\0", "x\n", "", ".", "..", "a" * 300, ".hidden"]
)
def test_no_name_from_outside_becomes_a_path(tmp_path, name):
    store = Store(tmp_path, "s")
    for act in (
        lambda: Store(tmp_path, name),
        lambda: store.put(f"checkpoints/{name}", b"x"),
        lambda: store.get(f"weights/{name}"),
        lambda: store.delete(name),
        lambda: store.trial_row(name),
        lambda: store.write_trial({"trial_id": name, "number": 0, "state": "failed"}),
        lambda: Task.load(store, name),
        lambda: Attempt.load(store, name),
    ):
        with pytest.raises(StudyError, match="is no legal name; use 1 to 100 of"):
            act()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["trials", "checkpoints", "pending", "weights"])
def test_nothing_is_written_or_deleted_through_a_link_that_leads_out_of_the_study(tmp_path, folder):
    victims, store = tmp_path / "victims", Store(tmp_path / "results", "s")
    victims.mkdir()
    (victims / "t00001.json").write_text("precious")
    store.put("study.json", b"{}")
    (tmp_path / "results" / "s" / folder).symlink_to(victims)
    with pytest.raises(
        StudyError, match=r"lies outside of the study, in .*victims, and nothing is changed there; put a"
    ):
        store.files.delete(f"s/{folder}/t00001.json")
    with pytest.raises(StudyError, match="lies outside of the study"):
        store.files.replace(f"s/{folder}/t00001.json", b"x")
    with pytest.raises(StudyError, match="lies outside of the study"):
        store.files.create(f"s/{folder}/t00002.json", b"x")
    assert [path.read_text() for path in victims.iterdir()] == ["precious"]


def test_results_that_are_themselves_a_link_are_used(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "real").mkdir()
    (tmp_path / "disk" / "s").symlink_to("real")
    store = Store(tmp_path / "results", "s")
    store.put("pending/t00001.json", b"{}")
    store.delete("pending/t00001.json")
    assert store.names("pending") == []


def test_files_that_are_not_ours_lie_in_a_study_without_harm(tmp_path):
    from automixsearch.search.checkpoints import Retention, checkpoints

    store = Store(tmp_path, "s")
    store.write_trial({"trial_id": "t00000", "number": 0, "state": "complete", "val_top1": 50.0})
    for folder in ("pending", "weights", "checkpoints", "attempts"):
        (tmp_path / "s" / folder).mkdir()
        for name in ("a b.pt", "-x.json", "Thumbs.db", "t0\n.pt", "é.json"):
            (tmp_path / "s" / folder / name).write_bytes(b"x")
    assert Task.in_flight(store) == []
    assert checkpoints(store, "t00000") == []
    assert Retention().wants(store, {"val_top1": 50.0})
    Retention().prune(store)
    assert len(list((tmp_path / "s" / "weights").iterdir())) == 5


# Configs in rows ----------------------------------------------------------------------------------------------------

CONFIGS = ["", "{", "[]", "null", '{"knobs": {}}', '{"data": [], "knobs": {}}', '{"data": {}, "knobs": {"lr": NaN}}',
           "[" * 100_000, '{"data": {}, "knobs": {"nonsense": 1}}', "\x00"]  # fmt: skip


@pytest.mark.parametrize("text", CONFIGS)
def test_a_row_whose_config_is_damaged_is_named(tmp_path, text, capsys):
    from automixsearch.cli import main

    store = Store(tmp_path, "s")
    for number, config in enumerate([text, json.dumps(TASK.config.model_dump(mode="json"))]):
        row = {"trial_id": f"t0000{number}", "number": number, "state": "complete", "val_top1": 51.0 - number}
        store.write_trial({**row, "config": config, "method": "mixup", "epochs_total": 2, "seed": 0, "split_seed": 0})
    study = open_study("s", tmp_path)
    if text:
        with pytest.raises((StudyError, SpecError), match=r"trial t00000: (config|knobs: unknown)"):
            study.config("t00000")
        export = ["best", "s", "--results", str(tmp_path), "--export", str(tmp_path / "best.yaml")]
        assert main(export) == 2
    assert study.config("t00001") == TASK.config
    for words in (["best", "s"], ["ls"], ["show", "s", "t00000"], ["importance", "s"], ["compare", "s"],
                  ["sensitivity", "s", "--knob", "alpha"], ["robustness", "s"], ["report", "s"],
                  ["export", "s", "--optuna", str(tmp_path / "o.journal")]):  # fmt: skip
        out = ["--out", str(tmp_path / "r")] if words[0] == "report" else []
        assert main([*words, "--results", str(tmp_path), *out]) in (0, 2), words
    assert "Traceback" not in capsys.readouterr().err


def test_what_a_damaged_document_says_to_do_works(tmp_path):
    from automixsearch.config.files import parse_space

    store = Store(tmp_path, "s")
    space = parse_space({"name": "s", "knobs": {"method": ["mixup", "cutmix"]}, "budget": {"trials": 2}}, "test")
    task = Sampling(space, store, "f").next()
    assert task is not None
    store.put("pending/t00000.json", b"[]")
    with pytest.raises(DamagedError, match=r"pending/t00000\.json: must hold a mapping.*remove it: the trial is then"):
        Sampling(space, store, "f")
    store.delete("pending/t00000.json")
    again = Sampling(space, store, "f").next()
    assert again is not None
    assert (again.trial_id, again.config) == (task.trial_id, task.config)
    changed = json.loads(encode_document(STUDY.content)) | {"total_trials": 10}
    store.put("study.json", json.dumps(changed).encode())
    with pytest.raises(DamagedError, match=r"was changed since it was written: .*undo that or remove its sha256"):
        store.info()
    store.put("study.json", json.dumps({key: value for key, value in changed.items() if key != "sha256"}).encode())
    assert store.info()["total_trials"] == 10
