"""`ablate report`: from the rows of a study to its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from automixsearch.cli import main
from automixsearch.config.files import read_yaml
from automixsearch.studies.design import enumerate_runs
from automixsearch.studies.file import parse_study_file

sys.path.insert(0, str(Path(__file__).parent))
from ledgers import write_study

TEXT = """
question: What is each part worth?
name: parts
knobs: {method: automix, width: 4}
factors:
  attention: {off: {attention: false}, on: {attention: true}}
  embedding: {off: {embedding: none}, on: {embedding: concat}, needs: [attention]}
  teacher: {off: {ema: false}, on: {ema: true}}
design: factorial
replicates: 6
"""
WORTH = {"attention": 3.0, "embedding": 1.5, "teacher": 0.0}


def ledger(folder: Path, upto: int | None = None, **more) -> str:
    """A study whose parts are worth what WORTH says, with a noise of 0.3 points."""
    study = parse_study_file(read_yaml(TEXT, "test") | more, "parts.yaml")
    design, rng = enumerate_runs(study), np.random.default_rng(1)
    rows = [
        {"knobs": dict(run.values), "seed": run.seed, "split_seed": run.split_seed,
         "score": 70 + sum(WORTH[name] for name, on in run.levels.items() if on) + rng.normal(0, 0.3)}
        for run in design.runs[:upto]
    ]  # fmt: skip
    write_study(folder, "parts", rows, design.content)
    file = folder / "parts.yaml"
    file.write_text(TEXT)
    return str(file)


def test_planted_effects_are_found_and_none_is_unresolved_or_equivalent(tmp_path, capsys):
    file = ledger(tmp_path)
    assert main(["ablate", "report", file, "--results", str(tmp_path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    main_effects = {row["factor"]: row for row in made["effects"] if row["kind"] == "main"}
    for name, worth in WORTH.items():
        assert main_effects[name]["effect"] == pytest.approx(worth, abs=0.4)
        assert main_effects[name]["effect_low"] < main_effects[name]["effect"] < main_effects[name]["effect_high"]
    assert main_effects["attention"]["verdict"] == main_effects["embedding"]["verdict"] == "helps"
    assert main_effects["teacher"]["verdict"] in ("unresolved", "equivalent")
    credit = sum(row["effect"] for row in made["effects"] if row["kind"] == "shapley")
    assert credit == pytest.approx(4.5, abs=0.5)
    assert main(["ablate", "report", "parts", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for word in ("attention:teacher", "Shapley", "The path", "helps", "What is each part worth?", "all off"):
        assert word in out


def test_a_study_under_way_says_what_is_missing(tmp_path, capsys):
    ledger(tmp_path, upto=4)
    info = json.loads((tmp_path / "parts" / "study.json").read_text())
    (tmp_path / "parts" / "study.json").write_text(json.dumps(info | {"total_trials": 36}))
    assert main(["ablate", "report", str(tmp_path / "parts")]) == 0
    out = capsys.readouterr().out
    assert "4 of 36 runs have ended" in out
    assert "nan" not in out
    assert "Shapley" not in out


def test_a_grid_is_no_ablation(tmp_path, capsys):
    design = {"name": "grid", "vary": ["mixup.alpha"], "factors": {}, "runs": []}
    write_study(tmp_path, "alpha", [{"knobs": {"method": "mixup"}, "score": 70.0}], design)
    assert main(["ablate", "report", "alpha", "--results", str(tmp_path)]) == 2
    assert f"use automixsearch sensitivity {tmp_path / 'alpha'} --knob alpha" in capsys.readouterr().err


LAYERS = """
question: From which stage?
name: layers
knobs: {method: [mixup, automix], width: 4}
vary: {layer: [l1, l2, l3]}
design: curve
replicates: REPLICATES
splits: 2
"""


def layers(folder: Path, replicates: int) -> None:
    """Stage l1 costs two points; splits differ by five, seeds by 0.2."""
    text = LAYERS.replace("REPLICATES", str(replicates))
    design, rng = enumerate_runs(parse_study_file(read_yaml(text, "test"), "layers.yaml")), np.random.default_rng(1)
    rows = [
        {"knobs": dict(run.values), "seed": run.seed, "split_seed": run.split_seed,
         "score": 70 - 2 * (run.values.get("automix.layer") == "l1") + 5 * run.split_seed + rng.normal(0, 0.2)}
        for run in design.runs
    ]  # fmt: skip
    write_study(folder, "layers", rows, design.content)


def test_the_values_of_a_curve_are_set_against_its_centre_within_seeds_and_splits(tmp_path, capsys):
    layers(tmp_path, 4)
    assert main(["ablate", "report", "layers", "--results", str(tmp_path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    found = {row["factor"]: row for row in made["effects"]}
    assert found.keys() == {"layer=l1", "layer=l2"}
    assert found["layer=l1"]["effect"] == pytest.approx(-2, abs=0.4)
    assert (found["layer=l1"]["verdict"], found["layer=l1"]["against"]) == ("hurts", "layer=l1 - incumbent")
    assert found["layer=l2"]["verdict"] in ("unresolved", "equivalent")
    arms = [(row["stratum"], row["arm"]) for row in made["path"]]
    assert arms == [
        ("mixup", "(centre)"), ("automix", "layer=l3 (centre)"), ("automix", "layer=l1"), ("automix", "layer=l2")
    ]  # fmt: skip
    assert main(["ablate", "report", "layers", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "against the centre" in said
    assert "no run was repeated" not in said  # mixup has nothing to vary


def test_a_curve_whose_values_ran_once_has_no_error(tmp_path, capsys):
    layers(tmp_path, 1)
    assert main(["ablate", "report", "layers", "--results", str(tmp_path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert {row["verdict"] for row in made["effects"]} == {"unresolved"}
    assert {row["effect_low"] for row in made["effects"]} == {None}
    assert "no run was repeated, so nothing can be told from noise" in made["notes"][-1]


METHODS = """
question: What do images without labels add, and mixing?
name: beside
data: {source: digits, labels: 4, unlabelled: all}
knobs: {method: vanilla, width: 4}
factors:
  fixmatch: {off: {algorithm: supervised}, on: {algorithm: fixmatch}}
  mixing: {off: {}, on: {method: mixup, side: free}, needs: [fixmatch]}
  larger: {off: {}, on: {side: max}, needs: [mixing]}
design: one_in
replicates: 5
"""


def test_a_part_that_is_another_method_or_shares_a_knob_with_another_part_has_its_effect(tmp_path, capsys):
    worth = {"fixmatch": 8.0, "mixing": 2.0, "larger": -4.0}
    design = enumerate_runs(parse_study_file(read_yaml(METHODS, "test"), "beside.yaml"))
    assert [run.arm for run in design.runs[:4]] == ["base", "+fixmatch", "+mixing", "+larger"]
    sides = [run.values.get("fixmatch.side") for run in design.runs[:4]]
    assert sides == [None, "auto", "free", "max"]
    rng = np.random.default_rng(1)
    rows = [
        {"knobs": dict(run.values), "seed": run.seed, "split_seed": run.split_seed,
         "score": 80 + sum(worth[name] for name, on in run.levels.items() if on) + rng.normal(0, 0.3)}
        for run in design.runs
    ]  # fmt: skip
    write_study(tmp_path, "beside", rows, design.content)
    assert main(["ablate", "report", "beside", "--results", str(tmp_path), "--json"]) == 0
    found = {row["factor"]: row["effect"] for row in json.loads(capsys.readouterr().out)["effects"]}
    assert found == {name: pytest.approx(effect, abs=0.5) for name, effect in worth.items()}
