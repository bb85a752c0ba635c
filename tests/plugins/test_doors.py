"""What comes from outside is searched with, written down, taken along, and told when it changes or is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import automixsearch
from automixsearch import open_study, registry
from automixsearch.cli import main
from automixsearch.cluster import jobs
from automixsearch.config.files import load_space
from automixsearch.registry import load
from automixsearch.search.driver import Watcher, run_search

EXAMPLE = Path(__file__).parent / "example"
SPACE = """
data: {source: "stripes.py:bars", val_fraction: 0.2}
objective: stripes.py:Balanced
budget: {trials: 2, epochs: 2}
sampler: random
knobs:
  method: [stripes.py:StripeMix, mixup]
  loss: stripes.py:Focal
  algorithm: stripes.py:Scaled
  backbone: stripes.py:Net
  power: auto
  scaled.factor: [1, 3]
  width: 4
  batch_size: 32
  crop_pad: 1
"""
NAMES = ["scaled", "net", "bars", "focal", "balanced", "stripemix"]


class Notes(Watcher):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of everything from one file, and what was said; the file is gone when it has ended."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(EXAMPLE / "stripes.py", folder)
    (folder / "own.yaml").write_text(SPACE)
    run_search(load_space(folder / "own.yaml"), folder / "results", debug=True)
    (folder / "stripes.py").unlink()
    return folder


def test_one_of_each_kind_is_searched_and_written_down(made):
    study = open_study(made / "results" / "own")
    trials, epochs = study.trials(), study.epochs()
    digest = study.plugins[0].digest
    assert [plugin.name for plugin in study.plugins] == NAMES
    assert (trials.state == "complete").all(), trials.error_message.tolist()
    assert set(trials.method) <= {"stripemix", "mixup"}
    assert set(trials["knob.loss"]) == {"focal"}
    assert set(trials["knob.backbone"]) == {"own/net"}
    assert trials["knob.power"].between(0.5, 2).all()
    assert trials["knob.factor"].isin([1, 3]).all()
    assert trials[["val_balanced", "test_balanced"]].notna().all(axis=None)
    assert epochs[["val_balanced", "loudness"]].notna().all(axis=None)
    assert all(f"focal@file+{digest[:12]}" in text for text in trials.code_version)
    assert (made / "results" / "own" / "plugins" / f"{digest}.py").read_text() == (EXAMPLE / "stripes.py").read_text()


def test_a_study_is_read_and_reported_without_the_code_that_it_was_made_with(made, capsys, monkeypatch):
    monkeypatch.chdir(made)
    trials = open_study("own").trials().sort_values(["val_balanced", "number"], ascending=[False, True])
    assert main(["best", "own", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"][0]
    assert best["trial_id"] == trials.trial_id.iloc[0]
    assert main(["query", "own", "SELECT max(test_balanced) AS top FROM trials", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["top"] == trials.test_balanced.max()
    assert main(["report", "own", "--out", "report"]) == 0
    assert "# Which policy is best by val\\_balanced?" in (made / "report" / "report.md").read_text()


def test_an_exported_config_takes_the_file_along_and_trains_to_the_same_score(made, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    row = open_study(made / "results" / "own").top(1).iloc[0]
    assert main(["best", str(made / "results" / "own"), "--export", "best.yaml"]) == 0
    assert (tmp_path / "stripes.py").exists()
    capsys.readouterr()
    assert main(["train", "best.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["own"]["balanced"] == pytest.approx(row.test_balanced)


def test_a_changed_plug_in_is_told_and_a_missing_one_named(made, capsys, monkeypatch, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(made, folder)
    assert main(["search", str(folder / "own.yaml"), "--results", str(folder / "results"), "--debug"]) == 2
    assert "there is no file stripes.py in" in capsys.readouterr().err
    text = (EXAMPLE / "stripes.py").read_text()
    (folder / "stripes.py").write_text(text + "# another version\n")
    notes = Notes()
    run_search(load_space(folder / "own.yaml", ["trials=3"]), folder / "results", None, notes, debug=True)
    told = [note for note in notes.said if "has changed since the study was begun" in note]
    assert len(told) == 1
    assert told[0].startswith(f"{folder}/stripes.py has changed since the study was begun (source ")
    assert "another version of algorithm scaled, backbone net, data set bars" in told[0]
    study = open_study(folder / "results" / "own")
    assert study.trials().code_version.str.extract(r"focal@file\+(\w+)")[0].nunique() == 2
    assert len(list((folder / "results" / "own" / "plugins").iterdir())) == 2


def test_commands_know_what_comes_from_outside(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLE / "stripes.py", "stripes.py")
    (tmp_path / "own.yaml").write_text(SPACE)
    words = ["method=stripes.py:StripeMix", "loss=stripes.py:Focal", "algorithm=stripes.py:Scaled"]
    assert main(["mixers", *words, "--json"]) == 0
    knobs = {row["knob"] for row in json.loads(capsys.readouterr().out)}
    assert {"stripemix.alpha", "stripemix.period", "focal.power", "scaled.factor"} <= knobs
    assert (
        main(["gallery", "digits", "--methods", "cutmix,stripes.py:StripeMix", "--pairs", "1", "--out", "a.png"]) == 0
    )
    capsys.readouterr()
    assert main(["data", "stripes.py:bars", "data.size=16", "labels=0.5", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert [(part["images"], part["pixels"]) for part in parts] == [(80, "16x16x1"), (80, "16x16x1")]
    assert main(["plan", "own.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "val_balanced"
    assert main(["data", "stripes.py:Focal"]) == 2
    assert "Focal must be a class or function that is called as NAME(data=...)" in capsys.readouterr().err
    assert main(["search", "own.yaml", "backbone=own/nett"]) == 2
    assert "backbone: unknown value 'own/nett'" in capsys.readouterr().err
    assert main(["search", "own.yaml", "objective=balanced"]) == 2
    assert "unknown metric 'balanced'" in capsys.readouterr().err


def test_a_job_takes_the_file_along(tmp_path):
    shutil.copy(EXAMPLE / "stripes.py", tmp_path)
    (tmp_path / "own.yaml").write_text(SPACE)
    (tmp_path / "job.yaml").write_text("search: own.yaml\nresults: /r\n")
    job = jobs.prepare(tmp_path / "job.yaml", [], "http://head:8265")
    (tmp_path / "stripes.py").unlink()
    with jobs.packed(job) as place:
        sent = load_space(place / jobs.SENT / "search.yaml")
        assert sent.space_id == job.space.space_id
        files = {plugin.file for plugin in sent.plugins}
        assert [file.is_relative_to(place) for file in files if file] == [True]
        registry._texts.clear()  # as in a process of its own
        assert load(sent.plugins[0]).name == "scaled"


BOTH = """
import sys
from automixsearch.cli import main
status = main(["search", "own.yaml", "trials=1", "epochs=1", "--debug"])
sys.exit(status or main(["evaluate", "own", "--suite", "dimmed,attack", "dimmed.factor=1"]))
"""
"""Two commands in one process, which takes long to start."""


def test_an_installed_package_is_found_by_its_entry_points(tmp_path):
    """In an environment of its own, which sees the packages of this one, and outside of the checkout."""
    shutil.copytree(EXAMPLE, tmp_path / "example")
    venv.create(tmp_path / "fresh", with_pip=False)
    python = tmp_path / "fresh" / "bin" / "python"
    site = next((tmp_path / "fresh" / "lib").glob("python*/site-packages"))
    (site / "here.pth").write_text("\n".join([str(Path(automixsearch.__file__).parents[1]), *site_packages()]))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--disable-pip-version-check"]
    run([*pip, "--no-index", "--no-deps", "--no-build-isolation", str(tmp_path / "example")], tmp_path)
    (tmp_path / "own.yaml").write_text(re.sub(r"stripes\.py:(\w+)", lambda match: BY_NAME[match[1]], SPACE))
    run([str(python), "-c", BOTH], tmp_path)
    study = open_study(tmp_path / "results" / "own")
    assert {plugin.version for plugin in study.plugins} == {"stripes 1.2"}
    assert {plugin.ref.partition(":")[0] for plugin in study.plugins} == {"stripes"}
    assert "focal@stripes-1.2+" in study.trials().code_version[0]
    found = study.evaluations()
    assert found[found.suite == "dimmed"].value.tolist() == pytest.approx(study.trials().test_top1.tolist())
    assert "dimmed@stripes-1.2+" in found[found.suite == "dimmed"].code.iloc[0]


BY_NAME = {
    "StripeMix": "stripemix", "Focal": "focal", "Scaled": "scaled", "bars": "bars", "Balanced": "val_balanced",
    "Net": "own/net",
}  # fmt: skip


def site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
