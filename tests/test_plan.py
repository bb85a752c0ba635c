"""Plans: counts, costs, and what a study can find, before anything runs."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from automixsearch.analysis.contrasts import Arms
from automixsearch.cli import main
from automixsearch.config.data import Data
from automixsearch.config.files import parse_space, read_yaml
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.errors import SpecError
from automixsearch.results.files import open_files
from automixsearch.search.proposers.promotion import Promotion
from automixsearch.search.tune_scheduler import PerMethodASHA
from automixsearch.studies import plan
from automixsearch.studies.file import load_study_file, parse_study_file

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


def found_by_simulation(effect: float, runs: int, sd: float, level: float, arms: int = 6) -> float:
    """How often a value is told from the centre, of which each has an error of its own within seeds."""
    rng, found = np.random.default_rng(0), 0
    place, block = np.tile(np.arange(arms), runs), np.repeat(np.arange(runs), arms)
    for _ in range(400):
        y = rng.normal(0, sd, (runs, arms)) + rng.normal(0, 2, (runs, 1)) + effect * (np.arange(arms) == 0)
        value, error, freedom = Arms.of(place, block, y.ravel()).contrast(np.array([1.0, -1.0] + [0.0] * (arms - 2)))
        found += 2 * stats.t.sf(abs(value) / error, freedom) < level
    return found / 400


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
    assert 0.76 <= found_by_simulation(one.mde, 6, 0.3, 0.05) <= 0.88
    assert 0.76 <= found_by_simulation(one.mde_holm, 6, 0.3, 0.05 / 20) <= 0.91
    assert found_by_simulation(1.0, one.needed, 0.3, 0.05 / 20) >= 0.78


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
        ({"confirm": {"top": 1, "seeds": 2}}, "confirm.seeds = 2: what a winner is worth"),
        ({"splits": 6}, "splits = 6, and replicates = 4 take turns on them: 2 are never used"),
        ({"replicate_block": {"configs": 2, "seeds": 2}}, "replicate_block has 4 further runs"),
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


def test_a_curve_without_values_is_named():
    def said(*overrides) -> str:
        study = load_study_file(JOBS / "ablation/layer.yaml", ["data.path=.", *overrides])
        return " ".join(plan.plan_study(study, [], None, 100_000).warnings)

    assert "mixup: nothing varies there, so it is only something to compare with" in said()
    assert "nothing varies: a value of vary that is alone is fixed" in said("vary.layer=[l2]")
    with pytest.raises(SpecError, match="vary has no knob of the chosen methods; choose others"):
        said("method=mixup")


def test_a_search_gives_times_and_no_noise(tmp_path):
    rows = [{"knobs": {"method": "mixup", "epochs": 10}, "score": 70.0, "purpose": "search", "device_s": 20.0}]
    rows += [{**rows[0], "state": "pruned", "epochs_run": 5, "device_s": 15.0}]
    study = write_study(tmp_path, "searched", rows, space={"sampler": {"name": "tpe"}})
    assert plan.noise_of(study, "val_top1") is None
    (cost,), odd = plan.costs_of(study, {"mixup": {"method": "mixup"}}, 40)
    assert (cost.device_s, odd) == (pytest.approx(40 * 2.5), [])
    assert plan.images_of(study, Data()) == 50_000  # 5,000 are a tenth
    assert plan.images_of(study, Data(source="cifar10", path=".")) is None


def test_a_teacher_that_is_too_slow_for_the_run_is_named(capsys):
    words = ["plan", str(JOBS / "ablation/masks.yaml"), "recipe=digits", "data={source: digits, val_fraction: 0.4}"]
    slow = ["automix.ema_start=0.999", "automix.ema_end=0.99999", "epochs=1", "width=4", "--json"]
    assert main([*words, *slow]) == 0
    (said,) = [text for text in json.loads(capsys.readouterr().out)["warnings"] if text.startswith("automix reports")]
    assert re.search(r"which after 13 steps still is 99% what it began as: .*lower automix.ema_start", said)
    assert main([*words, "epochs=40", "width=4", "--json"]) == 0
    assert "what it began as" not in capsys.readouterr().out


def test_a_ledger_of_other_data_is_named(tmp_path):
    study = write_study(tmp_path, "known", [{"knobs": {"method": "mixup"}, "score": 70.0}])
    _, odd = plan.costs_of(study, {"mixup": {"method": "mixup"}}, 10, Data(source="cifar10", path="."))
    assert odd[0].startswith("times and noise of study known are of data with source digits, not source cifar10, path ")
    assert plan.costs_of(study, {"mixup": {"method": "mixup"}}, 10, Data())[1] == []


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
    assert plan.probe("mixup", config, digits, 1, passes=1000).device_s > 10 * once.device_s


def test_a_plan_counts_what_networks_are_asked(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        plan, "probe", lambda name, *given: asked.append(given[-1]) or plan.Cost(name, 36.0, 30.0, 48.0, 1.0, "given")
    )
    space = ["plan", "quickstart", "trials=60", "knobs.method=[vanilla]"]
    assert main(space) == main([*space, "evaluate=[calibration, {corruption: {severity: 3}}]"]) == 0
    assert asked == [0, 2 + 16]
    capsys.readouterr()


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
    assert odd == ["study known has no run of mixup: its time is left out"]


def test_the_command_says_all_of_it(tmp_path, s3, capsys):
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
    for path in filter(Path.is_file, (tmp_path / "known").rglob("*")):
        open_files(s3).replace(str(path.relative_to(tmp_path)), path.read_bytes())
    assert main([*words[:4], "--results", s3, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["noise"] == made["noise"]
    assert main(["plan", "cifar100_resnet18", "data.path=/nowhere", "data.download=false", "--sd", "0.3"]) == 0
    out = capsys.readouterr().out
    assert "no times: " in out
    assert "the best trial against another" in out


def searched(**more) -> tuple[plan.Plan, SearchSpace]:
    """The plan of a search in which a run in full takes 36 s, and its space."""
    content = {
        "knobs": {"method": ["vanilla", "mixup", "cutmix"], "alpha": "auto"},
        "budget": {"trials": 60, "epochs": 40},
    }
    more = {key: {**content.get(key, {}), **value} if isinstance(value, dict) else value for key, value in more.items()}
    space = parse_space(content | more, "a.yaml")
    costs = [plan.Cost(method, 36.0, 30.0, 42.0, 1.0, "given") for method in plan.method_settings(space)]
    return plan.plan_search(space, costs, plan.Noise(0.3, "given"), 1438), space


def test_a_search_without_rungs_trains_everything_in_full():
    made, _ = searched()
    assert made.epochs == made.most_epochs == 2400
    assert made.device_h == made.most_device_h
    assert made.device_h[0] == pytest.approx(0.6)
    assert made.device_h[1] < 0.6 < made.device_h[2]


@pytest.mark.parametrize("concurrent", [1, 4])
@pytest.mark.parametrize("scheduler", [{"name": "asha"}, {"name": "asha", "first": 0.1, "protect": 0.2}])
def test_a_search_with_rungs_is_planned_as_long_as_its_trials_turn_out(scheduler, concurrent):
    made, space = searched(scheduler=scheduler, budget={"trials": 120, "epochs": 40})
    halving = Promotion(space.methods, len(space.rungs), space.scheduler.reduction, 120, space.scheduler.protect)
    chance, going, epochs = random.Random(5), [], 0
    for spent in range(120):
        while len(going) == concurrent or (move := halving.next(spent)) is None:
            halving.end(*going.pop(chance.randrange(len(going))), chance.random())
        name = move.candidate or f"c{spent}"
        halving.begin(name, spent, move.method or chance.choice(space.methods), move.rung)
        going.append((name, move.rung))
        epochs += space.rungs[move.rung]
    assert made.epochs == pytest.approx(epochs, rel=0.1)
    assert made.most_epochs == 120 * 40
    assert sum(made.by_length().values()) == pytest.approx(120)
    assert made.device_h[0] == pytest.approx(made.epochs / 40 * 36 / 3600, rel=0.01)
    assert made.most_device_h[0] == pytest.approx(1.2)


def test_a_search_with_cool_downs_is_planned_as_long_as_its_trials_turn_out():
    scheduler = {"name": "asha", "rungs": "cooldown", "first": 0.1}
    knobs = {"method": ["vanilla", "mixup"], "schedule": "trapezoid"}
    made, space = searched(scheduler=scheduler, knobs=knobs, budget={"trials": 200, "epochs": 40})
    assert space.branches == (4, 13)
    chance, stopping, epochs = random.Random(7), PerMethodASHA(space), 0
    for number in range(200):
        row = {"trial_id": str(number), "method": space.methods[number % 2]}
        epochs += 4 + 1
        for rung, length in enumerate((13 - 4 + 3, 40 - 13)):  # a cool-down takes 0.2 of the epochs before it
            if not stopping._goes_on(
                row["trial_id"], row["method"], row | {"rung": rung, stopping.column: chance.random()}
            ):
                break
            epochs += length
    assert made.epochs == pytest.approx(epochs, rel=0.1)
    assert list(made.by_length()) == [5, 17, 44]
    assert made.most_epochs == 200 * 44


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ({"budget": {"trials": 8}}, "the first 10 trials are random, and there are 8: tpe never learns"),
        ({"budget": {"trials": 4}}, "about 4 trials in full for 3 methods"),
        ({"scheduler": "asha", "budget": {"trials": 8}}, "3 methods at 2 rungs take 6 trials, more than the 4"),
        ({"scheduler": "asha", "budget": {"epochs": 1}}, "has no rung below 1 epochs"),
        ({"scheduler": "asha"}, "that schedules of 10 epochs rank configs as 40 do is taken on trust"),
        ({"knobs": {"lr": {"low": 0.1, "high": 0.11}}}, "lr goes from 0.1 to 0.11 only"),
        ({"knobs": {"lr": {"low": 0.001, "high": 0.5}}}, "without log: nine in ten draws lie above 0.05"),
        (
            {"knobs": {"method": ["cutmix"], "alpha": {"low": 0.5, "high": 4.0}}},
            "cutmix.alpha goes from 0.5 to 4, and 0.2 is published",
        ),
    ],
)
def test_what_makes_a_search_worthless_is_said(more, warning):
    said = searched(**more)[0].warnings
    assert any(warning in text for text in said), said


def test_a_plan_says_what_short_schedules_save(monkeypatch, capsys):
    monkeypatch.setattr(plan, "probe", lambda name, *_: plan.Cost(name, 36.0 + len(name), 30.0, 48.0, 1.0, "given"))
    assert main(["plan", "quickstart", "trials=60", "knobs.method=[vanilla, mixup]"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"60 runs \(60 search\), about 3\d\d epochs", out)
    assert re.search(r"expected: 4\d of 3 epochs, 1\d of 12 epochs; 720 epochs if none were short or stopped", out)
    assert re.search(r"device-hours: 0.3\d* \(.*\), 19:\d\d min; 0.7\d* if none were short or stopped", out)
    assert re.search(r"if all were mixup, 0.3\d* if all were vanilla", out)


def test_methods_that_react_unlike_to_the_knobs_make_a_study_find_less(tmp_path: Path):
    vary = {"alpha": {"low": 0.1, "high": 4.0, "log": True}}
    content = {"question": "q", "data": {"source": "digits"}, "recipe": "digits", "vary": vary,
               "knobs": {"method": ["mixup", "cutmix"]}, "design": {"name": "sobol", "points": 16}}  # fmt: skip
    study = parse_study_file({**content, "replicates": 3}, "a.yaml")
    rng, rows = np.random.default_rng(0), []
    for point in range(200):
        apart = 0.8 * rng.normal()
        for replicate in range(2):
            for method, sign in (("mixup", 1), ("cutmix", -1)):
                score = 80 + sign * apart / 2 + 0.3 * rng.normal()
                knobs = {"method": method, f"{method}.alpha": 0.1 + point / 100}
                rows.append({"knobs": knobs, "score": score, "seed": 10 * point + replicate})
    ledger = write_study(tmp_path, "a", rows)
    known = plan.noise_of(ledger, "val_top1")
    assert known is not None
    assert known.sd == pytest.approx(0.3, rel=0.1)
    unlike = plan.unlike_methods(ledger, "val_top1", known.sd)
    assert unlike == pytest.approx(0.8, rel=0.15)
    alike, aware = (plan.plan_study(study, [], plan.Noise(0.3, "given", how), 1437).resolved[0] for how in (None, 0.8))
    # Of 16 pairs: Student's test of 15 degrees of freedom finds 2.98 standard errors.
    assert aware.mde == pytest.approx(3.0 * np.sqrt((0.8**2 + 2 * 0.3**2 / 3) / 16), rel=0.02)
    assert "at least" in alike.comparison
    assert alike.mde < aware.mde / 3


def test_one_run_tells_no_band_of_times(tmp_path: Path):
    rows = [{"knobs": {"method": "mixup"}, "score": 1.0, "device_s": 60.0}]
    costs, _ = plan.costs_of(write_study(tmp_path, "a", rows), {"mixup": {"method": "mixup"}}, 10)
    assert np.isnan(costs[0].low)
    assert np.isnan(costs[0].high)
    more = [{"knobs": {"method": "cutmix"}, "score": 1.0, "device_s": seconds} for seconds in (50.0, 70.0)]
    costs, _ = plan.costs_of(write_study(tmp_path, "b", rows + more), {"mixup": {"method": "mixup"}}, 10)
    assert costs[0].low < costs[0].device_s < costs[0].high
