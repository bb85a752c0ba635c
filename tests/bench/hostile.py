"""Give every command malformed files of every kind, and look how each ends.

    python tests/bench/hostile.py             # all of them, two minutes on two cores; ends with 1 where one went badly
    python tests/bench/hostile.py rows data   # some kinds

Each must end in a message that names what is wrong, or leave it out by name and answer rightly from the rest, within a
second of CPU time beyond imports, without a traceback. The answer is compared with the right one: the best of the sound
rows is 82, and no damage may make it another.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ledgers import write_study
from PIL import Image
from safetensors.torch import load_file, save_file

import automixsearch.analysis.best
import automixsearch.report.page  # noqa: F401
from automixsearch.cli import main as command
from automixsearch.results.documents import encode_document

LIMIT_S = 1.0
"""CPU time of a case."""
BEST = 82.0
METHODS = ("mixup", "cutmix", "vanilla")
RNG = random.Random(0)
Make = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """What is wrong, what is asked, and how it shall end.

    ends: refused (status 2 and a message); named (that, or left out by name); handled (whatever is said, no wrong
    answer); read (status 0: it is no damage).
    """

    name: str
    words: tuple[str, ...]
    ends: str = "refused"


# What lies in the place of files --------------------------------------------------------------------------------


def put(data: bytes | str) -> Make:
    return lambda path: path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def noise(size: int) -> bytes:
    return bytes(RNG.randrange(256) for _ in range(size))


NO_FILE: dict[str, Make] = {
    "pipe": os.mkfifo,
    "link to itself": loop,
    "folder": Path.mkdir,
    "link to nothing": lambda path: path.symlink_to("/nowhere/x"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to its folder": lambda path: path.symlink_to("."),
}
NO_JSON: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(50),
    "half a letter": b'{"name": "\xc3',
    "line break": b"\r",
    "comment": b"// x\n{}",
    "comma at the end": b'{"name": "s",}',
    "single quotes": b"{'name': 's'}",
    "list": b"[]",
    "string": b'"x"',
    "null": b"null",
    "nan": b'{"a": NaN}',
    "twice": b'{"name": "a", "name": "b"}',
    "deep": b"[" * 100_000,
    "digits": b'{"total_trials": ' + b"9" * 60_000 + b"}",
    "gzip": b"\x1f\x8b\x08\x00" + noise(60),
    "utf-16": "{}".encode("utf-16"),
    "pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
    "noise": noise(500),
    "too large": b'{"a": "' + b"x" * 33_000_000 + b'"}',
}


def replaced(path: Path, make: Make) -> None:
    """Let what `make` makes take the place of a file, or of nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)


# Ledgers --------------------------------------------------------------------------------------------------------


def fresh() -> Path:
    """A study of three complete trials with two epochs each, the best 82."""
    shutil.rmtree("results", ignore_errors=True)
    rows = [
        {"knobs": {"method": m} | ({"mixup.alpha": 0.5} if m == "mixup" else {}), "score": 80.0 + i}
        for i, m in enumerate(METHODS)
    ]
    epochs = [{"number": i, "epoch": e, "val_top1": 70.0 + i + e} for i in range(3) for e in (1, 2)]
    write_study("results", "s", rows, epochs=epochs)
    return Path("results/s").absolute()


def studies() -> Iterator[Case]:
    """`study.json`."""

    def case(name: str, change: Any, *words: str, ends: str = "refused") -> Case:
        path = fresh() / "study.json"
        old = json.loads(path.read_text())
        old.pop("sha256", None)
        data = change if isinstance(change, bytes) else json.dumps(old | change).encode("utf-8", "surrogatepass")
        replaced(path, put(data))
        return Case(name, words or ("best", "s", "--json"), ends)

    for name, data in NO_JSON.items():
        yield case(name, data)
    wrong: dict[str, list[Any]] = {
        "total_trials": [-1, 10**30, "3", True, 1.5, [], {}],
        "objective": ["val_top1", [], ["val_tip1"], ["val_top1"] * 2, [1], None, {}],
        "name": ["a/b", "..", "s\nx", "\u202es", "", 5],
        "former_names": ["s", ["../x"], [1]],
        "space": [[1, 2], {"sampler": 5}, {"knobs": []}, {"name": "../x"}],
        "design": ["curve", {"name": "curve", "runs": "x"}, {"name": "curve", "runs": [{}]}, {"runs": []}],
        "environments": [{"a": 1}, [1]],
        "data": [[1], {"fingerprint": 5}, {"fingerprint": "x", "train": -1}],
        "schema_version": [2.5, None, -1, "2", 0, 99, 10**20],
        "halving": [1, {"stopped": "yes"}],
        "\x1b[2J": [1],
    }
    for key, values in wrong.items():
        for value in values:
            yield case(f"{key!a} = {str(value)[:30]!a}", {key: value})
    yield case("digest", {"sha256": "0" * 64})
    yield case("another name", {"name": "other"}, ends="read")
    yield case("margin", {"design": {"name": "curve", "margin": -1}}, "compare", "s")
    yield case("delta", {"design": {"name": "curve", "delta": [1]}}, "robustness", "s")
    yield case("factors", {"design": {"name": "factorial", "factors": [1]}}, "ablate", "report", "s")
    yield case("vary", {"design": {"name": "curve", "vary": {"a": 1}}}, "sensitivity", "s", "--knob", "alpha")
    deep = {"knobs": {"a": [[[[[[[[1]]]]]]]]}}
    yield case("deep knobs", {"space": deep}, ends="handled")


def places() -> Iterator[Case]:
    """What is no file, where one is looked for."""
    for kind, make in NO_FILE.items():
        for place, words, ends in (
            ("study.json", ("best", "s", "--json"), "refused"),
            ("trials/t00009.parquet", ("best", "s", "--json"), "named"),
            ("epochs/t00009-e000001.parquet", ("show", "s", "0"), "named"),
            ("outcomes/t00009.parquet", ("query", "s", "SELECT count(*) FROM outcomes"), "handled"),
            ("evaluations/t00000.calibration.0123abcd.json", ("query", "s", "SELECT * FROM evaluations"), "handled"),
            ("pending/t00007.json", ("ls",), "handled"),
            ("trials", ("best", "s", "--json"), "handled" if "folder" in kind else "refused"),
        ):
            replaced(fresh() / place, make)
            yield Case(f"{kind} at {place}", words, ends)
    for kind in ("pipe", "link to itself"):
        replaced(fresh() / "study.json", NO_FILE[kind])
        yield Case(f"{kind} at study.json, listed", ("ls",), "named")


def rows() -> Iterator[Case]:
    """Files of rows, of other tools and damaged ones."""

    def case(name: str, change: Make, *words: str, table: str = "trials", ends: str = "named") -> Case:
        change(next((fresh() / table).glob("*.parquet")))
        return Case(name, words or ("best", "s", "--json"), ends)

    def foreign(**columns: Any) -> Make:
        def change(path: Path) -> None:
            table = pq.read_table(path)
            for name, value in columns.items():
                values = value if isinstance(value, pa.Array) else pa.array([value] * len(table))
                at = table.column_names.index(name) if name in table.column_names else None
                table = table.append_column(name, values) if at is None else table.set_column(at, name, values)
            pq.write_table(table.replace_schema_metadata(None), path)

        return change

    wrong: dict[str, list[Any]] = {
        "val_top1": [float("inf"), float("nan"), 100.001, -1.0, "99", True, b"99"],
        "val_loss": [-1.0, float("nan")],
        "number": [-5, 2**62, 0.5, "1"],
        "epochs_run": [10**6, -1],
        "state": ["complete\0", "COMPLETE", "running", "", 1],
        "trial_id": ["../../x", "t\x1b[2J1", pa.nulls(3, pa.string()), "", 7, "t1\n"],
        "study": ["other", "", 5],
        "purpose": ["\xe9tude", ""],
        "device_s": [-1.0],
        "schema_version": [0, 99, "1"],
        "config": [5],
        "started_at": ["yesterday", 5],
        "ended_at": ["yesterday"],
        "\x1b]0;x": [1],
        "VAL_TOP1": [99.0],
    }
    for name, values in wrong.items():
        for value in values:
            yield case(f"{name!a} = {str(value)[:20]!a}", foreign(**{name: value}))
    yield case("struct", foreign(val_top1=pa.array([{"a": 1}] * 3)))
    yield case("list", foreign(method=pa.array([["mixup"]] * 3)))
    yield case("dictionary", foreign(method=pa.array(["mixup"] * 3).dictionary_encode()), ends="read")
    for text in (
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"knobs": [1]}',
        '{"data": {}, "knobs": {"lr": NaN}}',
        "\0",
        '{"data": {"source": "digits"}, "knobs": {"epochs": ' + "9" * 5000 + "}}",
    ):
        yield case(f"config {text[:20]!a}", foreign(config=text), "show", "s", "0", ends="handled")
        yield case(
            f"config {text[:20]!a}, exported", foreign(config=text), "best", "s", "--export", "x", ends="handled"
        )
    cut: dict[str, Make] = {
        "one column twice": lambda p: pq.write_table(pa.table([pa.array([1])] * 2, names=["a", "a"]), p),
        "no column": lambda p: pq.write_table(pa.table({}), p),
        "words": lambda p: p.write_text("a,b\n1,2\n"),
        "zip": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(100)),
        "footer too long": lambda p: p.write_bytes(b"PAR1" + bytes(20) + struct.pack("<I", 2**31 - 1) + b"PAR1"),
        "magic alone": lambda p: p.write_bytes(b"PAR1"),
        "encrypted": lambda p: p.write_bytes(b"PARE" + bytes(9) + b"PARE"),
        "a byte more": lambda p: p.write_bytes(p.read_bytes() + b"x"),
        "doubled": lambda p: p.write_bytes(p.read_bytes() * 2),
        "zeros inside": lambda p: p.write_bytes(p.read_bytes()[:200] + bytes(64) + p.read_bytes()[264:]),
        "half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        "empty": lambda p: p.write_bytes(b""),
    }
    for name, change in cut.items():
        yield case(name, change)
        yield case(f"{name}, epochs", change, "show", "s", "0", table="epochs", ends="named")
    for position in range(12):

        def flip(path: Path, position: int = position) -> None:
            data = bytearray(path.read_bytes())
            data[len(data) * position // 12 + 3] ^= 1 << position % 8
            path.write_bytes(bytes(data))

        yield case(f"bit {position}", flip)
    yield case("no row", lambda p: pq.write_table(pq.read_table(p).slice(0, 0), p), ends="handled")
    yield case("copied", lambda p: shutil.copy(p, p.with_name("copy.parquet")), ends="read")
    yield case("epochs of another", foreign(study="other"), "show", "s", "0", table="epochs")
    yield case("epoch 0", foreign(epoch=0), "show", "s", "0", table="epochs")
    yield case("epoch accuracy", foreign(val_top1=124.25), "show", "s", "0", table="epochs")


def others() -> Iterator[Case]:
    """Evaluations, outcomes, splits, weights of a study."""
    score = {"name": "ece", "value": 0.1, "images": 5, "setting": ""}
    sound: dict[str, Any] = {
        "schema_version": 2,
        "trial_id": "t00000",
        "suite": "calibration",
        "settings": {},
        "seed": 0,
        "code": "1",
        "scores": [score],
    }
    wrong: dict[str, list[Any]] = {
        "trial_id": ["../x", 5],
        "seed": [-1, "0"],
        "scores": [{}, [{}], [score | {"images": -1}], [score | {"value": "x"}]],
        "settings": [[]],
        "suite": ["a/b"],
        "schema_version": [99, "x"],
    }
    ask = ("query", "s", "SELECT * FROM evaluations")
    damaged = [(name, data) for name, data in NO_JSON.items()]
    damaged += [
        (f"{key} = {str(value)[:20]!a}", json.dumps(sound | {key: value}).encode())
        for key, values in wrong.items()
        for value in values
    ]
    for name, data in damaged:
        replaced(fresh() / "evaluations" / "t00000.calibration.0123abcd.json", put(data))
        yield Case(f"evaluation: {name}", ask, "named")
    study = fresh()
    for name, bits, images, right in (
        ("few bits", b"\x80", 50, 1),
        ("many right", b"\xff", 8, 9),
        ("no bits", b"", 8, 1),
        ("negative", b"\xff", -8, 8),
        ("huge", b"\xff", 2**60, 8),
    ):
        study = fresh()
        (study / "outcomes").mkdir(exist_ok=True)
        made = {"schema_version": 1, "study": "s", "trial_id": "t00000", "split_id": "x", "images": images}
        pq.write_table(
            pa.Table.from_pylist([made | {"right": right, "bits": bits}]), study / "outcomes" / "t00000.parquet"
        )
        yield Case(f"outcomes: {name}", ("compare", "s"), "handled")
    for name, data in (
        ("empty", b""),
        ("text", b"x"),
        ("pickle", NO_JSON["pickle"]),
        ("zip", b"PK\x05\x06" + bytes(18)),
        ("noise", noise(500)),
    ):
        replaced(fresh() / "weights" / "t00002.pt", put(data))
        yield Case(f"weights of a trial: {name}", ("evaluate", "s:2"))
    for name, data in list(NO_JSON.items())[:8]:
        replaced(fresh() / "splits" / "x.json", put(data))
        yield Case(f"split: {name}", ("compare", "s", "--images"), "handled")


# Searches that go on --------------------------------------------------------------------------------------------

SPACE = """name: s
data: {source: digits, val_fraction: 0.2}
budget: {trials: 3, epochs: 1}
sampler: random
knobs: {method: vanilla, width: 2, batch_size: 256}
"""
SEARCH = ("search", "sp.yaml", "--debug")


def searches() -> Iterator[Case]:
    """Leases, trials in flight, journals, notes: of a search that goes on, and that changes nothing outside."""
    Path("sp.yaml").write_text(SPACE)
    if not Path("done").exists():
        shutil.rmtree("results", ignore_errors=True)
        ask(SEARCH)
        shutil.copytree("results", "done")
    Path("victim.txt").write_text("precious")

    def case(name: str, place: str, make: Make, words: tuple[str, ...] = SEARCH, ends: str = "handled") -> Case:
        shutil.rmtree("results", ignore_errors=True)
        shutil.copytree("done", "results")
        replaced(Path("results/s") / place, make)
        return Case(name, words, ends)

    for name, data in NO_JSON.items():
        yield case(f"lease: {name}", ".lock.json", put(data))
        yield case(f"in flight: {name}", "pending/t00009.json", put(data), ends="refused")
    for name, data in list(NO_JSON.items())[:8]:
        yield case(f"attempt: {name}", "attempts/t00001.json", put(data))
        yield case(f"journal of a merge: {name}", "trials/.journal-0123456789abcdef.json", put(data))
    for number, lease in enumerate(
        ({"token": 5}, {"token": "x", "process": {"pid": "x"}}, {"process": 7}, {"token": "../x"})
    ):
        yield case(f"lease {number}", ".lock.json", put(json.dumps(lease)))
    plans: list[dict[str, Any]] = [
        {"parts": ["../../../victim.txt"]},
        {"merged": "/etc/passwd", "parts": ["../../victim.txt"]},
        {"merged": "merged-x.parquet", "parts": "victim"},
        {"merged": ["a"], "parts": [["t"]]},
        {"merged": "merged-x.parquet", "parts": ["merged-x.parquet"]},
    ]
    for number, plan in enumerate(plans):
        for words in (SEARCH, ("compact", "s")):
            data = encode_document(plan)
            yield case(f"merge {number}, {words[0]}", "trials/.journal-0123456789abcdef.json", put(data), words)
    for kind in ("pipe", "folder", "link to itself"):
        for place in (".lock.json", ".lock", "pending/t00010.json", "notes/t00001.txt", "driver.log", "optuna.journal"):
            yield case(f"{kind} at {place}", place, NO_FILE[kind])
    for number, data in enumerate((b"x\n", noise(500), b"[]\n[]\n", b'{"op_code": 99, "worker_id": "x"}\n')):
        yield case(f"optuna.journal {number}", "optuna.journal", put(data))
    yield case("split", "splits/x.json", put("{"))
    yield case("name in flight", "pending/..json", put("{}"))


# What people write ----------------------------------------------------------------------------------------------

KNOBS = "knobs: {method: vanilla, width: 2"


def spaces() -> Iterator[Case]:
    """Search spaces, numbers in two readings, overrides."""

    def case(name: str, text: bytes | str, ends: str = "refused") -> Case:
        put(text)(Path("x.yaml"))
        return Case(name, ("plan", "x.yaml"), ends)

    for value in (
        "010",
        "1:30",
        "0o17",
        "0b11",
        "1_0",
        "!!int '8'",
        "~",
        "2024-01-01",
        "yes",
        ".inf",
        "[3]",
        "-1",
        "0",
        "'8'",
        "\u0663",
        "8.5",
        "{a: 1}",
        "1e400",
        "9" * 200,
    ):
        yield case(f"trials: {value[:20]!a}", f"budget: {{trials: {value}, epochs: 1}}\n{KNOBS}}}\n")
    for entry in (
        "lr: 1e-1_0",
        "lr: 0.1.2",
        "lr: 1,5",
        "epochs: 08",
        "lr: '0.1'",
        "lr: 0x1p-3",
        "batch_size: 1_28",
        "lr: 1:5.0",
        "lr: .nan",
        "lr: .inf",
        "method: null",
        "lr: {low: 010, high: 20}",
        "mixup.alpha: [0o1]",
        "width: 2.5",
        "width: true",
        "width: -1",
        "method: mixop",
        "lr: {low: 2, high: 1}",
        "lr: {lo: 1}",
        "lr: []",
        "lr: [[1]]",
        "seed: x",
        "nonsense: 1",
        "method: [mixup, mixup]",
    ):
        yield case(entry, f"{KNOBS}, {entry}}}\n")
    texts: dict[str, bytes | str] = {
        "tab": "knobs:\n\tmethod: vanilla\n",
        "anchor in itself": "knobs: &a {method: *a}\n",
        "merge of itself": "knobs: &a\n  <<: *a\n",
        "key twice": "knobs: {width: 2, width: 3}\n",
        "utf-16": "knobs: {}".encode("utf-16"),
        "null byte": b"knobs\0: {}",
        "two documents": "knobs: {}\n---\nknobs: {}\n",
        "tag": "knobs: !!python/name:os.system {}\n",
        "long name": f"name: {'x' * 60_000}\n{KNOBS}}}\n",
        "name with /": f"name: a/b\n{KNOBS}}}\n",
        "name ..": f"name: ..\n{KNOBS}}}\n",
        "line in a name": f"name: 'a\u2028b'\n{KNOBS}}}\n",
        "empty": "",
        "list": "[1]\n",
        "number": "7\n",
        "noise": noise(400),
        "9000 knobs": "knobs:\n  method: vanilla\n" + "".join(f"  k{i}: {i}\n" for i in range(9000)),
        "80 levels": "knobs: {width: " + "[" * 80 + "]" * 80 + "}\n",
        "pickle": NO_JSON["pickle"],
        "billion laughs": "a: &a [x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)),
        "latin-1": "about: \xe9\nknobs: {}".encode("latin-1"),
        "colon": "knobs: method: vanilla\n",
        "too large": "#" * 300_000,
        "sampler": f"sampler: 5\n{KNOBS}}}\n",
        "data": f"data: {{source: nowhere}}\n{KNOBS}}}\n",
        "objective": f"objective: loss\n{KNOBS}}}\n",
        "direction": f"direction: max\n{KNOBS}}}\n",
    }
    for name, text in texts.items():
        yield case(name, text)
    Path("sp.yaml").write_text(SPACE)
    for word in (
        "trials=010",
        "epochs=1:30",
        "lr=1_0",
        "=",
        "a=b=c",
        "knobs.width",
        "--trials=010",
        "name=../x",
        "name=",
        "data.path=\0",
        "knobs={",
        "lr=[0.1",
        "\udcff=1",
        "method=vanilla,mixup",
        "--seed=1_0",
    ):
        yield Case(f"override {word!a}", (*SEARCH, word))


STUDY = {
    "question": "q?",
    "data": {"source": "digits"},
    "knobs": {"method": ["mixup", "cutmix"], "width": 2},
    "vary": {"alpha": [0.2, 1.0]},
    "design": "curve",
    "replicates": 2,
    "budget": {"epochs": 1},
}


def files() -> Iterator[Case]:
    """Studies, jobs and configs."""

    def case(name: str, content: Any, *words: str) -> Case:
        put(content if isinstance(content, str | bytes) else json.dumps(content))(Path("f.yaml"))
        return Case(name, (*words[:1], "f.yaml", *words[1:]))

    wrong: dict[str, list[Any]] = {
        "question": [5, None, {}],
        "vary": [[], {"alfa": [1]}, {"alpha": []}, {"alpha": [0.2, 0.2]}, {"alpha": "x"}],
        "design": ["curves", 5, {"name": "grid", "points": -1}, {"nom": 1}],
        "replicates": [0, -1, "2", 1.5, True],
        "budget": [{"epochs": 0}, {"epochs": "1"}, {"trials": -1}],
        "splits": [-1, "x"],
        "confirm": [{"top": -1}, 7],
        "factors": [{"a": {"on": 1}}, [1]],
        "nonsense": [1],
        "knobs": [[], {"method": "nothing"}],
    }
    for key, values in wrong.items():
        for value in values:
            yield case(f"study: {key} = {str(value)[:30]}", STUDY | {key: value}, "study", "--debug")
    Path("sp.yaml").write_text(SPACE)
    jobs: dict[str, Any] = {
        "empty": {},
        "both": {"search": "sp.yaml", "study": "x"},
        "neither": {"about": "x"},
        "search 5": {"search": 5},
        "no such": {"search": "nowhere.yaml"},
        "itself": {"search": "f.yaml"},
        "name": {"search": "sp.yaml", "name": "../x"},
        "overrides": {"search": "sp.yaml", "overrides": [1]},
        "knob": {"search": "sp.yaml", "overrides": {"nonsense": 1}},
        "trials": {"search": "sp.yaml", "overrides": {"trials": -1}},
        "environment": {"search": "sp.yaml", "environment": 5},
        "working_dir": {"search": "sp.yaml", "environment": {"working_dir": "/nowhere"}},
        "limit": {"search": "sp.yaml", "environment": {"limit_mb": -1}},
        "env_vars": {"search": "sp.yaml", "environment": {"env_vars": {"A": 5}}},
        "token": {"search": "sp.yaml", "environment": {"env_vars": {"API_TOKEN": "x"}}},
        "cpus": {"search": "sp.yaml", "driver_cpus": -1},
        "key": {"search": "sp.yaml", "sarch": 1},
        "results": {"search": "sp.yaml", "results": 5},
        "list": [1],
        "text": "x",
        "noise": noise(200),
    }
    for name, content in jobs.items():
        yield case(f"job: {name}", content, "submit", "--dry-run")
    base = "data: {source: digits, val_fraction: 0.2}\n"
    for text in (
        "knobs: [1]",
        "knobs: {method: {a: 1}}",
        "knob: {}",
        "seed: x\nknobs: {}",
        "seed: -1\nknobs: {}",
        f"seed: {'9' * 40}\nknobs: {{}}",
        "data_fingerprint: 5\nknobs: {}",
        "split_seed: 1.5\nknobs: {}",
        "schema_version: 99\nknobs: {}",
        "plugins: [1]\nknobs: {}",
        "knobs: {epochs: 1e9}",
        "knobs: {epochs: 0}",
    ):
        yield case(f"config: {text[:30]!r}", base + text, "train")
    for name in (
        "../s",
        "/etc/passwd",
        "s\0",
        "",
        ".",
        "..",
        "s/../s",
        "a" * 300,
        "\x1b[2J",
        "http://[",
        "s3://",
        "s3://a b/c",
        "file:///nowhere/x",
        "gs://" + "x:y" + "@z/w",  # in parts, so that it is not taken for a secret
    ):
        yield Case(f"study {name[:20]!a}", ("best", name))


# Images ---------------------------------------------------------------------------------------------------------


def image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 9, 9)).save(path)


def data() -> Iterator[Case]:
    """Folders, lists of labels, Parquet sets."""

    def case(name: str, harm: Make, *more: str, ends: str = "refused") -> Case:
        shutil.rmtree("img", ignore_errors=True)
        for part in ("train", "test"):
            for kind in "ab":
                for i in range(4):
                    image(Path(f"img/{part}/{kind}/{i}.png"), 40 * i + (kind == "b") * 7 + (part == "test"))
        harm(Path("img"))
        return Case(name, ("data", "folder", "data.path=img", *more), ends)

    def beside(name: str, make: Make) -> Make:
        return lambda root: make(root / "train/a" / name)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4)
    bad: dict[str, Make] = {
        "pipe": beside("9.png", os.mkfifo),
        "link to itself": beside("9.png", loop),
        "device": beside("z.png", lambda path: path.symlink_to("/dev/zero")),
        "link to nothing": beside("z.png", lambda path: path.symlink_to("/nowhere")),
        "bomb": beside("b.png", put(bomb)),
        "half a header": beside("g.gif", put(b"GIF89a")),
        "empty": beside("e.png", put(b"")),
        "noise": beside("n.jpg", put(noise(400))),
        "text": beside("t.png", put("x")),
        "pickle": beside("p.png", put(NO_JSON["pickle"])),
        "line break in a name": beside("x\ny.png", put(b"x")),
        "escape in a name": beside("x\x1b[31m.png", put(b"x")),
        "class of one part": lambda root: image(root / "test/c/1.png"),
        "part is a file": lambda root: (shutil.rmtree(root / "train"), (root / "train").write_text("x")),
        "no classes": lambda root: (shutil.rmtree(root / "train"), (root / "train").mkdir()),
        "no images": lambda root: [path.unlink() for path in root.rglob("*.png")],
        "socket": beside("s.png", lambda path: socket.socket(socket.AF_UNIX).bind(str(path))),
    }
    for name, harm in bad.items():
        yield case(name, harm)
    odd: dict[str, Make] = {
        "folder in itself": beside("up", lambda path: path.symlink_to("..")),
        "folders in a ring": beside("x", lambda path: (path.symlink_to("y"), path.with_name("y").symlink_to("x"))),
        "empty class": lambda root: (root / "train/c").mkdir(),
        "svg": beside("g.svg", put("<svg/>")),
        "eps": beside("g.eps", put("%!PS")),
        "Thumbs.db": beside("Thumbs.db", put("x")),
    }
    for name, harm in odd.items():
        yield case(name, harm, ends="handled")
    lists = (
        b"",
        b"-1\n",
        b"9" * 400,
        b"9" * 5000,
        b"0\n0\n",
        b"../../etc/passwd\n",
        noise(99),
        b"0.0\n",
        b"0\0\n",
        b"1e0\n",
        "\u0663\n".encode(),
        "\u00b2\n".encode(),
        b"007\n",
        b"1_0\n",
        b"\xff\xfe0\0",
    )
    for content in lists:
        Path("labels.txt").write_bytes(content)
        yield case(f"labels {content[:12]!r}", lambda root: None, "data.labels=labels.txt")
    for kind in ("pipe", "folder", "link to itself", "link to nothing", "device"):
        replaced(Path("labels.list"), NO_FILE[kind])
        yield case(f"labels: {kind}", lambda root: None, "data.labels=labels.list")
    for word in (
        "data.val_fraction=2",
        "data.labels=-1",
        "data.labels=99",
        "data.size=0",
        "data.size=x",
        "data.source=none",
        "data.path=",
        "data.resize=x",
        "data.labels=1e400",
        "data.channels=x",
    ):
        yield case(word, lambda root: None, word)

    def parquet(name: str, change: Callable[[pa.Table, Path], object], ends: str = "refused") -> Case:
        shutil.rmtree("pq", ignore_errors=True)
        Path("pq").mkdir()
        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, "png")
        good = pa.table({"image": [{"bytes": stream.getvalue(), "path": None}] * 4, "label": [0, 1, 0, 1]})
        for part in ("train", "test"):
            pq.write_table(good, f"pq/{part}-00000-of-00001.parquet")
        change(good, Path("pq/train-00000-of-00001.parquet"))
        return Case(f"parquet: {name}", ("data", "parquet", "data.path=pq"), ends)

    def column(name: str, values: list[Any]) -> Callable[[pa.Table, Path], object]:
        return lambda table, path: pq.write_table(
            table.set_column(table.column_names.index(name), name, pa.array(values)), path
        )

    columns: dict[str, tuple[str, list[Any]]] = {
        "negative label": ("label", [-1, 0, 1, 0]),
        "no label": ("label", [None, 0, 1, 0]),
        "huge label": ("label", [2**62, 0, 1, 0]),
        "half label": ("label", [0.5, 0, 1, 0]),
        "list label": ("label", [[0]] * 4),
        "path alone": ("image", [{"bytes": None, "path": "/etc/passwd"}] * 4),
        "path": ("image", ["/etc/passwd"] * 4),
        "number": ("image", [1, 2, 3, 4]),
        "nothing": ("image", [None] * 4),
        "noise": ("image", [{"bytes": noise(50)}] * 4),
        "bomb": ("image", [{"bytes": bomb}] * 4),
    }
    for name, (key, values) in columns.items():
        yield parquet(name, column(key, values))
    made: dict[str, Callable[[pa.Table, Path], object]] = {
        "no label column": lambda table, path: pq.write_table(table.drop(["label"]), path),
        "no row": lambda table, path: pq.write_table(table.slice(0, 0), path),
        "text": lambda table, path: path.write_text("x"),
        "empty": lambda table, path: path.write_bytes(b""),
        "half": lambda table, path: path.write_bytes(path.read_bytes()[:200]),
        "magic": lambda table, path: path.write_bytes(b"PAR1PAR1"),
        "pipe": lambda table, path: replaced(path, os.mkfifo),
        "link to itself": lambda table, path: replaced(path, loop),
        "no folder": lambda table, path: shutil.rmtree("pq"),
        "no shard": lambda table, path: path.unlink(),
    }
    for name, change in made.items():
        yield parquet(name, change)


# Trained networks -----------------------------------------------------------------------------------------------


CONFIG = "data: {source: digits, val_fraction: 0.2}\nknobs: {method: vanilla, width: 2, epochs: 1, batch_size: 256}\n"


def networks() -> Iterator[Case]:
    """Weights, and networks in one file."""
    image(Path("one.png"))
    path, model = Path("w.pt"), Path("m.safetensors")
    weights: dict[str, Make] = {
        **NO_FILE,
        "nothing there": lambda path: None,
        "empty": put(b""),
        "text": put("x"),
        "zip": put(b"PK\x05\x06" + bytes(18)),
        "list": lambda path: torch.save([1, 2], path),
        "tensor": lambda path: torch.save(torch.zeros(3), path),
        "words": lambda path: torch.save({"a": "b"}, path),
        "pickle": put(NO_JSON["pickle"]),
        "noise": put(noise(400)),
        "nan": lambda path: torch.save({"conv.weight": torch.full((2, 2), float("nan"))}, path),
    }
    for name, make in weights.items():
        replaced(path, make)
        yield Case(f"weights: {name}", ("train", "c.yaml", f"weights={path}"))
        yield Case(f"weights, evaluated: {name}", ("evaluate", "c.yaml", "--weights", str(path)))
    if not model.exists():
        ask(("train", "c.yaml", "--out", str(model), "--device", "cpu"))
    state, sound = load_file(model), model.read_bytes()
    size = int.from_bytes(sound[:8], "little")
    card = json.loads(json.loads(sound[8 : 8 + size])["__metadata__"]["automixsearch"])

    def changed(**more: Any) -> Make:
        return lambda path: save_file(state, path, {"automixsearch": json.dumps(card | more)})

    def flipped(position: float) -> bytes:
        data = bytearray(sound)
        data[int(position * (len(data) - 1))] ^= 4
        return bytes(data)

    first = next(name for name, tensor in state.items() if tensor.ndim == 4)
    broken: dict[str, Make] = {
        **NO_FILE,
        "nothing there": lambda path: None,
        "empty": put(b""),
        "text": put("not a model"),
        "half": put(sound[:-100]),
        "longer": put(sound + b"x"),
        "header too long": put(struct.pack("<Q", 2**60) + sound[8:]),
        "header of noise": put(struct.pack("<Q", 100) + noise(100)),
        "pickle": put(NO_JSON["pickle"]),
        "torch's": lambda path: torch.save(state, path),
        "bare": lambda path: save_file(state, path),
        "no JSON": lambda path: save_file(state, path, {"automixsearch": "{"}),
        "a list": lambda path: save_file(state, path, {"automixsearch": "[]"}),
        "deep": lambda path: save_file(state, path, {"automixsearch": "[" * 50_000}),
        "tensor missing": lambda path: save_file(
            {k: v for k, v in state.items() if k != first}, path, {"automixsearch": json.dumps(card)}
        ),
        "tensor of another form": lambda path: save_file(
            state | {first: torch.zeros(1)}, path, {"automixsearch": json.dumps(card)}
        ),
        "tensor of nan": lambda path: save_file(
            state | {first: torch.full_like(state[first], float("nan"))}, path, {"automixsearch": json.dumps(card)}
        ),
        "classes": changed(classes=[]),
        "fewer classes": changed(classes=["a"]),
        "channels": changed(channels=3),
        "channels 0": changed(channels=0),
        "std 0": changed(std=[0.0]),
        "mean of three": changed(mean=[0.1, 0.2, 0.3]),
        "stored 0": changed(stored=[0, 8]),
        "stored huge": changed(stored=[10**6, 10**6]),
        "side": changed(side=-1),
        "format": changed(format=9),
        "config": changed(config={"knobs": {}}),
        "code": changed(code=5),
        "key": changed(more=1),
        **{f"bit at {place}": put(flipped(place)) for place in (0.01, 0.3, 0.6, 0.8, 0.95, 1.0)},
    }
    for name, make in broken.items():
        replaced(Path("b.safetensors"), make)
        yield Case(f"network: {name}", ("predict", "b.safetensors", "one.png"))


# What comes of them ---------------------------------------------------------------------------------------------


class Hangs(BaseException):
    """It was waited for long enough."""


def ask(words: tuple[str, ...]) -> tuple[int | None, str, float, str, str]:
    """Run a command in this process: its status, what broke, CPU seconds, output and errors."""
    out, err, status, broke = io.StringIO(), io.StringIO(), None, ""
    began = time.process_time()
    signal.alarm(20)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = command(list(words))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except Hangs:
        broke = "hangs"
    except BaseException:
        broke = " ".join(traceback.format_exc().strip().splitlines()[-1:])[:200]
    finally:
        signal.alarm(0)
    return status, broke, time.process_time() - began, out.getvalue(), err.getvalue()


def judge(case: Case) -> tuple[str, str]:
    """What is bad about how a case ends, "" where nothing is; and what was said."""
    status, broke, cpu, out, err = ask(case.words)
    said = " | ".join((err.strip() or out.strip()).splitlines())
    if broke or "Traceback" in out + err:
        return broke or "traceback", said
    if cpu > LIMIT_S:
        return f"takes {cpu:.1f} s", said
    if status == 2 and len(err.strip()) < 20:
        return "says nothing", said
    if not err.replace("\n", "").isprintable():
        return "says what a terminal obeys", said
    if case.ends == "refused" and status != 2:
        return f"is taken (status {status})", said
    if case.ends == "named" and status != 2 and not ("left out" in out + err or "cannot be read" in out):
        return f"is not named (status {status})", said
    if case.ends == "read" and status != 0:
        return f"is refused (status {status})", said
    if case.words[0] == "best" and "--json" in case.words and status == 0:
        best = [row["val_top1"] for row in json.loads(out)["best"]]
        if best and best[0] != BEST:
            return f"is answered with {best[0]}", said
    return "", said


WARM = (
    ("best", "s", "--json"),
    ("ls",),
    ("show", "s", "0"),
    ("report", "s", "--out", "r"),
    ("compare", "s"),
    ("train", "c.yaml", "--out", "c.pt"),
    ("evaluate", "c.yaml", "--weights", "c.pt"),
    ("plan", "c.yaml"),
    ("predict", "c.pt", "c.png"),
    ("study", "c.yaml"),
    ("submit", "c.yaml", "--dry-run"),
    ("data", "digits"),
)
KINDS: dict[str, Callable[[], Iterator[Case]]] = {
    "studies": studies,
    "places": places,
    "rows": rows,
    "others": others,
    "searches": searches,
    "spaces": spaces,
    "files": files,
    "data": data,
    "networks": networks,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (all)")
    parser.add_argument("--all", action="store_true", help="print the cases that end well too")
    args = parser.parse_args()

    def hangs(*_: object) -> None:
        raise Hangs

    signal.signal(signal.SIGALRM, hangs)
    torch.set_num_threads(1)
    os.environ |= {"AUTOMIXSEARCH_CACHE": "off", "COLUMNS": "200"}
    counts, bad = Counter[str](), 0
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        fresh()
        Path("c.yaml").write_text(CONFIG)
        for words in WARM:  # imports
            ask(words)
        for kind in args.kinds or KINDS:
            for case in KINDS[kind]():
                wrong, said = judge(case)
                counts[kind] += 1
                bad += bool(wrong)
                if wrong or args.all:
                    print(f"{'BAD ' if wrong else 'ok  '}{kind}: {case.name!a} {wrong}: {said[-200:]!a}", flush=True)
        for name in ("pwned", "victim.txt"):
            if Path(name).exists() is not (name == "victim.txt" and "searches" in counts):
                bad += 1
                print(f"BAD {name}")
        os.chdir("/")
    print(
        f"{counts.total()} cases ({', '.join(f'{count} {kind}' for kind, count in counts.items())}), {bad} ended badly"
    )
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
