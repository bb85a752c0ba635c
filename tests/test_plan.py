"""Plans: counts, costs, and what a study can find, before anything runs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from automixsearch import plan
from automixsearch.cli import main
from automixsearch.data import load
from automixsearch.reading import load_space, read_yaml
from automixsearch.spec import Data, TrialConfig
from automixsearch.studyfile import load_study_file, parse_study_file

sys.path.insert(0, str(Path(__file__).parent))
from ledgers import write_study

JOBS = Path(__file__).parents[1] / "jobs"
BASE = """
question: q
data: {source: cifar100, path: ., val_fraction: 0.1}
budget: {epochs: 10}
knobs: {method: automix}
factors:
  teacher: {off: {ema: false}, on: {ema: true}}
  clean: {off: {clean_lam: 0.0}, on: {clean_lam: 1.0}}
  mask_loss: {off: {gamma: 0.0}, on: {gamma: 0.1}}
design: factorial
replicates: 4
"""


def planned(**more) -> plan.Plan:
    study = parse_study_file(read_yaml(BASE, "test") | more, "a.yaml")
    return plan.plan_study(study, [], plan.Noise(0.3, "given"), 50_000)


def found_by_simulation(effect: float, runs: int, sd: float, level: float) -> float:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, sd, (4000, runs)), rng.normal(effect, sd, (4000, runs))
    return float((stats.ttest_ind(a, b, axis=1).pvalue < level).mean())


def test_a_factorial_finds_more_than_one_out_with_as_many_runs():
    # 2^3 combinations x 4 seeds against 4 arms x 8 seeds: 32 runs each.
    factorial, one_out = planned(), planned(design="one_out", replicates=8)
    assert sum(factorial.runs.values()) == sum(one_out.runs.values()) == 32
    assert factorial.epochs == 320
    (full,), (left,) = factorial.resolved, one_out.resolved
    assert (full.runs, left.runs) == (16, 8)
    assert full.mde < left.mde < left.mde_holm


def test_the_smallest_effect_of_a_curve_is_found_in_four_of_five_studies():
    study = load_study_file(JOBS / "sensitivity/alpha.yaml", ["replicates=6", "data.path=."])
    (one,) = plan.plan_study(study, [], plan.Noise(0.3, "given"), 50_000).resolved
    assert one.comparisons == 4 * 5
    assert found_by_simulation(one.mde, 6, 0.3, 0.05) == pytest.approx(0.8, abs=0.02)
    assert found_by_simulation(one.mde_holm, 6, 0.3, 0.05 / 20) == pytest.approx(0.8, abs=0.02)
    assert found_by_simulation(1.0, one.needed, 0.3, 0.05 / 20) >= 0.79


def test_the_last_step_of_the_published_path_cannot_be_resolved():
    study = load_study_file(JOBS / "ablation/modules.yaml", ["data.path=."])
    made = plan.plan_study(study, [], plan.least_noise(study.data, study.metric, 100_000), 100_000)
    assert made.noise.sd == pytest.approx(0.406, abs=0.001)
    (warning,) = [text for text in made.warnings if "0.18 points is asked about" in text]
    assert "3 runs on each side" in warning
    assert made.resolved[0].mde > 1 > 0.18
    assert made.resolved[0].needed > 60


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ({"replicates": 2}, "with fewer than 3 seeds an interval says next to nothing"),
        ({"replicates": 1, "design": "one_in"}, "nothing is repeated, so nothing can be told from noise"),
        (
            {"data": {"source": "digits", "val_fraction": 0.01}},
            "measured on 500 validation images: one of them is 0.20",
        ),
        (
            {"margin": 0.1},
            r"equivalence within margin = 0.1 points takes about 155 runs on each side, and there are 16",
        ),
    ],
)
def test_what_makes_the_answer_worthless_is_said(more, warning):
    said = planned(**more).warnings
    assert any(re.search(warning, text) for text in said), said


def test_ranges_that_differ_between_methods_are_named():
    vary = {"alpha": [0.5, 1.0], "cutmix.alpha": [0.1, 4.0]}
    made = planned(knobs={"method": ["mixup", "cutmix"]}, factors={}, vary=vary, design="curve", replicates=3)
    (text,) = [text for text in made.warnings if text.startswith("alpha has other values")]
    assert "mixup: 0.5, 1.0; cutmix: 0.1, 4.0" in text
    sobol = planned(knobs={"method": ["vanilla", "mixup"]}, factors={}, vary={"alpha": "auto"},
                    design={"name": "sobol", "points": 8}, replicates=1)  # fmt: skip
    said = " ".join(sobol.warnings)
    for words in ("vanilla has none of the varied knobs", "add replicate_block", "add confirm", "use points: 64"):
        assert words in said


def test_aliases_are_part_of_the_plan():
    factors = {
        name: {"off": {name: False}, "on": {name: True}} for name in ("ema", "neck", "shared_forward", "attention")
    }
    made = planned(factors=factors, design={"name": "factorial", "resolution": 4})
    assert made.aliases["ema:neck"] == ["shared_forward:attention"]
    assert sum(made.runs.values()) == 8 * 4


def test_a_probe_tells_what_training_takes():
    config = TrialConfig(
        data=Data(val_fraction=0.2), knobs={"method": "mixup", "width": 4, "batch_size": 64, "epochs": 3}
    )
    digits = load(Data())
    once = plan.probe("mixup", config, digits, 1)
    longer = plan.probe("mixup", TrialConfig(data=config.data, knobs={**config.knobs, "epochs": 30}), digits, 1)
    assert once.low <= once.device_s <= once.high
    assert longer.device_s > 3 * once.device_s
    assert 0.1 < once.checkpoint_mb < 5


def test_a_ledger_gives_times_and_the_noise_of_seeds(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"knobs": {"method": method, "epochs": 10}, "score": 70 + 5 * split + rng.normal(0, 0.5), "seed": seed,
         "split_seed": split, "device_s": seconds * rng.uniform(0.9, 1.1)}
        for method, seconds in (("vanilla", 10.0), ("automix", 30.0)) for split in (0, 1) for seed in range(60)
    ]  # fmt: skip
    study = write_study(tmp_path, "known", rows)
    noise = plan.noise_of(study, "val_top1")
    assert noise.sd == pytest.approx(0.5, rel=0.12)
    settings = {method: {"method": method} for method in ("vanilla", "automix", "mixup")}
    costs, odd = plan.costs_of(study, settings, epochs=20)
    by_name = {cost.stratum: cost for cost in costs}
    assert by_name["automix"].device_s == pytest.approx(60, rel=0.03)
    assert by_name["vanilla"].low == pytest.approx(18.1, abs=0.5)
    assert odd == ["study known has no complete run of mixup: its time is left out"]


def test_the_command_says_all_of_it(tmp_path, capsys):
    rows = [{"knobs": {"method": m}, "score": 70.0 + s, "seed": s} for m in ("vanilla", "mixup") for s in (0, 1)]
    write_study(tmp_path, "known", rows)
    file = tmp_path / "study.yaml"
    file.write_text(BASE.replace("automix}", "[vanilla, mixup]}").partition("factors:")[0]
                    + "vary: {lr: [0.01, 0.2]}\ndesign: curve\n")  # fmt: skip
    words = ["plan", str(file), "--from", "known", "--results", str(tmp_path)]
    assert main([*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["runs"], made["epochs"], made["val_images"]) == ({"study": 6}, 60, 5000)
    assert made["device_h_low"] <= made["device_h"] == pytest.approx(6 * 60 / 200 * 10 / 3600)
    assert made["noise"]["sd"] > 0
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "6 runs (6 study), 60 epochs" in out
    assert "device-hours" in out
    assert "warning: replicates = 1" in out
    assert main(["plan", "cifar100_resnet18", "data.path=/nowhere", "data.download=false", "--sd", "0.3"]) == 0
    out = capsys.readouterr().out
    assert "no times: " in out
    assert "the best trial against another" in out


def test_a_search_is_planned_too():
    space = load_space("quickstart", ["trials=10"])
    costs = [plan.Cost(method, 36.0, 30.0, 42.0, 1.0, "given") for method in plan.method_settings(space)]
    made = plan.plan_search(space, costs, None, 1438)
    assert made.epochs == 120
    assert made.device_h[0] == pytest.approx(0.1)
    assert made.device_h[1] < 0.1 < made.device_h[2]
    assert any("stops trials early" in text for text in made.warnings)
