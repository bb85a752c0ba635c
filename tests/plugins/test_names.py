"""What is named by its place is found, checked and written down; every refusal says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from automixsearch.config.knobs import knobs_of
from automixsearch.errors import ResourceError, SpecError
from automixsearch.mixers.cutmix import CutMix
from automixsearch.registry import Plugin, load, look_up, resolve

MYMIX = Path(__file__).parent / "example" / "stripes.py"
HEAD = """
from dataclasses import dataclass
from typing import ClassVar
from automixsearch.config.knobs import knob
from automixsearch.mixers import Mixer
from automixsearch.mixers.vanilla import Vanilla
"""


@pytest.fixture(scope="module")
def stripes() -> Plugin:
    return resolve("mixers", f"{MYMIX}:StripeMix")


def test_what_is_written_down_gives_the_same_knobs_and_class(stripes: Plugin) -> None:
    again = Plugin.model_validate_json(stripes.model_dump_json())
    made = load(again)
    assert again == stripes
    assert again.declared == knobs_of(made)
    assert made(period=2).name == again.name == "stripemix"
    assert look_up("mixers", "stripemix", [again]) is made
    assert look_up("mixers", "cutmix", [again]) is CutMix


def test_a_file_is_found_beside_the_space_that_names_it(stripes: Plugin, tmp_path: Path) -> None:
    (tmp_path / "near.py").write_text(MYMIX.read_text())
    found = resolve("mixers", "near.py:StripeMix", tmp_path)
    assert found.ref == f"{tmp_path}/near.py:StripeMix"
    assert found.digest == stripes.digest


def test_a_class_is_found_by_its_module_or_by_its_file(stripes: Plugin) -> None:
    assert resolve("mixers", load(stripes)) == stripes


def test_a_changed_and_a_missing_file_are_told(stripes: Plugin, tmp_path: Path) -> None:
    other = stripes.model_copy(update={"ref": f"{tmp_path}/my.py:StripeMix", "digest": "0" * 64})
    with pytest.raises(ResourceError, match=r"mixing method stripemix: its file .*my\.py is not here; bring it back"):
        load(other)
    (tmp_path / "my.py").write_text(MYMIX.read_text())
    with pytest.raises(
        ResourceError, match=r"my\.py has changed since this was made \(source 000000000000 then, .*undo"
    ):
        load(other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import torchh\n", r"my\.py, line 1: import torchh: ModuleNotFoundError: .*; install torchh wherever"),
        ("import near\n", r"line 1: import near: .* a file goes to the workers alone, without near beside it"),
        ("x = 1\ny = x / 0\n", r"my\.py, line 2: y = x / 0: ZeroDivisionError: division by zero; mend the file"),
        ("def f(:\n", r"my\.py, line 1: def f\(:: SyntaxError: .*; mend the file"),
        ("raise SystemExit(3)\n", r"my\.py, line 1: raise SystemExit\(3\): SystemExit: 3; mend the file"),
        ("class Mix: ...\n", r"my\.py:My: unknown name 'My'.*choices: Mix"),
        ("My = 3\n", r"my\.py:My is of type int and must be a class derived from automixsearch\.mixers\.Mixer"),
        ("class My: ...\n", r"must be a class derived from automixsearch\.mixers\.Mixer; its bases are object"),
        (HEAD + "class My(Mixer): ...\n", r"My lacks apply, draw, which every mixing method has; define them"),
        (HEAD + "class My(Vanilla): ...\n", r"name = 'vanilla' is that of a mixing method of this package; choose"),
        (HEAD + "class My(Vanilla): name = 'decoupled'\n", r"'decoupled' is that of a loss of this package"),
        (HEAD + "class My(Vanilla): name = 'data'\n", r"'data' is that of a section of a search space"),
        (HEAD + "class My(Vanilla): name = 'My.Mix'\n", r"name = 'My\.Mix' must be 1 to 40 small letters"),
        (
            HEAD + "@dataclass(frozen=True)\nclass My(Vanilla):\n    name: ClassVar[str] = 'my'\n    k: int = 3\n",
            r"field k is no knob; declare it as k: \.\.\. = knob\(DEFAULT, NOTE\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line_and_a_remedy(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(text)
    (tmp_path / "near.py").write_text("")
    with pytest.raises(SpecError, match=message):
        resolve("mixers", f"{tmp_path}/my.py:My")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no\.py:My: there is no file no\.py in .*; check the path"):
        resolve("mixers", "no.py:My", tmp_path)
    with pytest.raises(SpecError, match=r"there is no module nowhere_at_all on .*; install the package of this mixing"):
        resolve("mixers", "nowhere_at_all:My")
    with pytest.raises(SpecError, match=r"unknown mixing method 'mixupp'; did you mean 'mixup'"):
        resolve("mixers", "mixupp")


def test_a_look_up_without_torch_loads_none() -> None:
    script = "import sys; from automixsearch.registry import listed; listed('losses'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
