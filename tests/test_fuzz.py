"""Five hundred damaged space, study and job files: each is read, or refused by name."""

from __future__ import annotations

import copy
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from automixsearch.cluster.jobs import load_job
from automixsearch.config.files import load_config, load_space, read_text
from automixsearch.config.yaml import read_yaml
from automixsearch.errors import SpecError
from automixsearch.studies.file import load_study_file

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [*ROOT.glob("search_spaces/*.yaml"), *ROOT.glob("search_spaces/recipes/*.yaml"), *ROOT.glob("jobs/*/*.yaml")]
)
FILES = [file for file in FILES if file.parent.name != "cluster"]
SNIPPETS = (
    "{",
    "[",
    "]",
    ": ",
    "- ",
    "&a ",
    "*a",
    "!!python/object:os.system x",
    "? ",
    "<<: ",
    "%TAG",
    "\t",
    "\0",
    "'",
    '"',
    "\x85",
    "\ufeff",
    "2024-99-99",
    "1" * 5000,
    "0x",
    "1e999",
    ".nan",
    "!!binary x",
    "\udcff",
    "🙂",
    "|\n",
    "---\n",
    "${HOME}",
)
VALUES = (None, True, 0, -1, 10**400, 10**30, 2**63, 1.5, 1e308, -1e-320, float("nan"), float("inf"), "", "all",
          "auto", "../../etc/passwd", "a; rm -rf /", "$(id)", "\0", "é🙂" * 50, "x" * 5000, [], {}, [[[[[]]]]], [None],
          {"low": 1}, {"low": "a", "high": {}}, {"low": 1, "high": float("nan")}, {"low": 0, "high": 1, "log": True},
          {"choices": []}, [1, "a", None, {}], {"": 1}, {"when": {"x": 1}}, [{"a": {"b": [1, {"c": None}]}}],
          "2001-01-01", ["mixup", "mixup"], "mixup+cutmix", {"name": {}})  # fmt: skip
KEYS = (
    "",
    "knobs",
    "budget",
    "method",
    "alpha",
    "budget.trials",
    "trials",
    "epochs",
    "data.path",
    "data",
    "name",
    "sampler",
    "sampler.name",
    "seeds.study",
    "resources.gpus",
    "scheduler",
    "lr",
    "mixup.alpha",
    "..",
    "results",
    "environment",
    "environment.env",
    "priors",
    "recipe",
    "objective",
    "knobs.lr",
    "a.b.c",
    "é",
    "loss",
    "design",
    "space_id",
    "search",
    "family",
    "knobs.",
    ".",
)


def nodes(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values below the top."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found = []
    for key, value in items:
        found += [(*path, key), *nodes(value, (*path, key))]
    return found


def mutate(content: Any, rng: random.Random) -> Any:
    """Plain data with one value changed, or one key dropped, renamed or added."""
    paths = nodes(content)
    if not paths:
        return rng.choice(VALUES)
    *way, last = rng.choice(paths)
    place = content
    for key in way:
        place = place[key]
    deed = rng.randrange(4)
    if deed == 0:
        del place[last]
    elif deed == 1 and isinstance(place, dict):
        place[rng.choice(KEYS)] = place.pop(last)
    elif deed == 2 and isinstance(place, dict):
        place[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
    else:
        place[last] = copy.deepcopy(rng.choice(VALUES))
    return content


def damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes with something put in, taken out, overwritten or cut off."""
    at, length = rng.randrange(len(data)), rng.choice((1, 5, 60))
    put = rng.choice(
        (rng.randbytes(length), rng.choice(SNIPPETS).encode(errors="surrogatepass"), rng.randbytes(1) * 300)
    )
    return rng.choice(
        (data[:at] + put + data[at:], data[:at] + put + data[at + length :], data[:at] + data[at + length :], data[:at])
    )


def fuzzed(rng: random.Random) -> bytes:
    data = rng.choice(FILES).read_bytes()
    if rng.random() < 0.35:
        for _ in range(rng.choice((1, 1, 3))):
            data = damage(data, rng) or b"{"
        return data
    content = yaml.safe_load(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = mutate(content, rng)
    return yaml.safe_dump(content, allow_unicode=True).encode(errors="surrogatepass")


@pytest.mark.parametrize("seed", range(int(os.environ.get("FUZZ_FROM", "0")), int(os.environ.get("FUZZ_TO", "10"))))
def test_a_damaged_file_is_read_or_refused_by_name_and_at_once(tmp_path, seed):
    rng = random.Random(seed)
    refused = 0
    for number in range(50):
        file = tmp_path / f"file{number}.yaml"
        file.write_bytes(fuzzed(rng))
        given = [f"{rng.choice(KEYS)}={rng.choice((*map(str, VALUES), *SNIPPETS))}" for _ in range(rng.randrange(3))]
        load = rng.choice((load_space, load_space, load_job, load_job, load_study_file, load_config))
        began = time.process_time()
        refusal = ""
        try:
            load(file, given)
        except SpecError as error:
            refusal = str(error)
        except Exception as error:
            raise AssertionError((seed, number, load.__name__, file.read_bytes()[:3000], given)) from error
        refused += bool(refusal)
        assert not refusal or file.name in refusal or "override" in refusal, (load, file.read_bytes(), given, refusal)
        assert time.process_time() - began < 1, (load, file.read_bytes(), given)
    assert refused > 20


BOMBS = {
    "laughs": "a: &a [x, x]\n"
    + "\n".join(f"{n}: &{n} [*{p}, *{p}, *{p}, *{p}]" for p, n in zip("abcdefghi", "bcdefghij", strict=True)),
    "itself": "knobs: &k\n  lr: *k\n",
    "deep": "knobs: " + "[" * 50_000,
    "deep mappings": "\n".join(" " * n + "a:" for n in range(400)),
    "digits": "name: " + "1" * 5000,
    "object": "!!python/object/apply:os.system ['touch owned']",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_small_file_that_stands_for_much_is_refused_at_once(tmp_path, bomb, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.yaml").write_text(bomb)
    began = time.process_time()
    with pytest.raises(SpecError, match=r"bomb\.yaml.*(aliases|alias|nested more|not valid YAML|number|tag)"):
        load_space(tmp_path / "bomb.yaml")
    assert time.process_time() - began < 1
    assert not (tmp_path / "owned").exists()


def test_aliases_in_moderation_are_read():
    assert read_yaml("a: &x [1, 2]\nb: *x\n", "f") == {"a": [1, 2], "b": [1, 2]}


def test_a_file_larger_than_anybody_writes_is_refused(tmp_path):
    (tmp_path / "big.yaml").write_text("a" * 300_000)
    with pytest.raises(SpecError, match=r"big\.yaml: is larger than 200,000 bytes, which no search space needs"):
        read_text(tmp_path / "big.yaml", "search space")
