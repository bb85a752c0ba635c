"""The config is the unit; images bound the error; failures count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import write_study
from worlds import ablation_study

from automixsearch.analysis.ablation import ablation
from automixsearch.analysis.compare import compare, student
from automixsearch.analysis.robustness import scorecards
from automixsearch.analysis.sensitivity import curve, heat, isolation
from automixsearch.analysis.units import image_error, mean_of
from automixsearch.analysis.verdict import Verdict
from automixsearch.results.study import Study
from automixsearch.studies.design import enumerate_runs
from automixsearch.studies.file import parse_study_file


def drawn(folder: Path, world: int, replicates: int, noise: float = 0.2, **design: Any) -> Study:
    """Two equal methods on shared points; alpha does opposite things to them, and lr nothing."""
    content = {
        "question": "q",
        "knobs": {"method": ["mixup", "cutmix"], "width": 4},
        "vary": {name: {"low": 0.1, "high": 1.0, "log": True} for name in ("alpha", "lr")},
        "design": {"name": "sobol", "points": 8} | design,
        "replicates": replicates,
        "seeds": {"study": world, "split": 0},
    }
    runs, rng = enumerate_runs(parse_study_file(content, "a.yaml")), np.random.default_rng(world)
    rows = []
    for run in runs.runs:
        place = 1 + np.log10(run.values[f"{run.stratum}.alpha"])
        worth = 75 + (3 if run.stratum == "mixup" else -3) * (place - 0.5)
        rows.append({"knobs": dict(run.values), "seed": run.seed, "split_seed": run.split_seed,
                     "score": worth + rng.normal(0, noise)})  # fmt: skip
    return write_study(folder, f"drawn{world}", rows, runs.content)


def test_replicates_are_no_further_configs(tmp_path) -> None:
    for replicates in (1, 3):
        study = drawn(tmp_path / str(replicates), 0, replicates)
        (found,) = compare(study)
        assert (found.n, found.paired) == (8, True)
        assert [point.n for point in curve(study, "lr", "mixup").points] == [2] * 4 or sum(
            point.n for point in curve(study, "lr", "mixup").points
        ) == 8


def test_equal_methods_and_idle_knobs_stay_unresolved_however_often_each_config_is_run(tmp_path) -> None:
    false = {"compare": 0, "curve": 0, "heat": 0, "isolation": 0}
    for world in range(40):
        study = drawn(tmp_path, world, 3)
        false["compare"] += compare(study)[0].p < 0.05
        false["curve"] += curve(study, "lr", "mixup").p < 0.05
        false["heat"] += heat(study, "alpha", "lr", "mixup").p < 0.05
        false["isolation"] += isolation(study, "lr", "mixup").p < 0.05
    assert max(false.values()) <= 6, false


def test_configs_that_share_their_seeds_add_the_error_of_both() -> None:
    rng = np.random.default_rng(0)
    points, blocks = np.repeat(np.arange(12), 4), np.tile(np.arange(4), 12)
    held = 0
    for _ in range(300):
        values = rng.normal(0, 1, 12)[points] + rng.normal(0, 1, 4)[blocks] + rng.normal(0, 0.3, 48)
        mean = mean_of(values, points, blocks, drawn=True)
        interval, *_ = student(mean.value, mean.error, mean.freedom, 0.3)
        held += interval.low <= 0 <= interval.high
    assert held / 300 == pytest.approx(0.95, abs=0.04)


def test_an_ablation_in_which_all_runs_are_equal_has_no_verdict(tmp_path) -> None:
    arms = {name: frozenset(name.split("+")) - {"base"} for name in ("base", "ema", "attend", "ema+attend")}
    study = ablation_study(tmp_path, arms, {"ema": [], "attend": []}, lambda on: 8.89, sigma=0.0, seeds=3)
    with_noise_of_seeds = ablation(study)
    frame = study.trials()
    assert frame["val_top1"].nunique() == 3  # a seed moves all arms alike
    assert {effect.word for effect in with_noise_of_seeds.effects} <= {"equivalent", "unresolved"}
    rows = [{"knobs": {"method": "mixup", "mixup.alpha": 0.1 + i}, "score": 8.89, "seed": s}
            for s in range(3) for i in range(4)]  # fmt: skip
    runs = [{"number": n, "purpose": "study", "arm": list(arms)[n % 4], "stratum": "mixup", "replicate": n // 4,
             "levels": {"ema": n % 4 in (1, 3), "attend": n % 4 in (2, 3)}, "seed": n // 4, "split_seed": 0}
            for n in range(12)]  # fmt: skip
    factors = {name: {"off": {}, "on": {}, "needs": []} for name in ("ema", "attend")}
    found = ablation(write_study(tmp_path, "equal", rows, {"name": "factorial", "factors": factors, "runs": runs}))
    assert {effect.word for effect in found.effects} == {"unresolved"}
    assert "all scores are equal" in found.notes[0]


def test_equal_differences_of_an_image_are_no_proof(tmp_path) -> None:
    """Three pairs, of 300 images, that differ by one image each."""
    rows = [{"knobs": {"method": method}, "score": 60 + (method == "mixup") / 3, "seed": seed, "val_images": 300}
            for seed in range(3) for method in ("mixup", "cutmix")]  # fmt: skip
    (found,) = compare(write_study(tmp_path, "s", rows))
    assert found.verdict is Verdict.UNRESOLVED
    assert found.p > 0.1
    assert found.difference.low < 0 < found.difference.high


def test_few_pairs_of_few_images_are_not_called_better_too_often() -> None:
    rng = np.random.default_rng(0)
    for pairs, images in ((2, 25), (2, 300), (3, 100)):
        hard = rng.standard_normal(images)
        right = (hard + 0.4 * rng.standard_normal((2000, 2, pairs, images)) < 0.67).mean(-1) * 100
        false = 0
        for a, b in right:
            mean = mean_of(a - b, np.arange(pairs), np.arange(pairs), drawn=True)
            least = image_error(mean.value, 100 / images, 2 / pairs)
            false += student(mean.value, mean.error, mean.freedom, 0.3, least)[1] < 0.05
        assert false / 2000 <= 0.06


def failing(folder: Path, lost: int) -> Study:
    """CutMix is as good as MixUp, but fails at high learning rates, where both are bad."""
    rng, rows = np.random.default_rng(0), []
    for i in range(64):
        lr = float(0.02 * 15 ** (i / 63))
        for method in ("mixup", "cutmix"):
            fails = method == "cutmix" and i >= 64 - lost
            score = 80 - i / 20 + rng.normal(0, 0.2) - 0.3 * (method == "cutmix")
            ending = {"state": "failed", "error_class": "Diverged"} if fails else {"score": score}
            rows.append({"knobs": {"method": method, "lr": lr}, "seed": i, **ending})
    return write_study(folder, f"lost{lost}", rows)


def test_a_method_that_fails_more_often_gets_no_verdict(tmp_path) -> None:
    (found,) = compare(failing(tmp_path, 20))
    assert found.verdict is Verdict.UNRESOLVED
    assert "cutmix failed 20 of 64 (31 % [20, 44])".replace(" %", "%") in found.sentence
    assert "mixup failed 0 of 64" in found.sentence
    cards = {card.method: card for card in scorecards(failing(tmp_path, 20))}
    assert cards["cutmix"].failed.value == pytest.approx(20 / 64)
    assert cards["cutmix"].mean_counted.value < cards["mixup"].mean.value < cards["cutmix"].mean.value
    assert "20 of 64" in cards["cutmix"].notes[-1]
    row = found.rows()[0]
    assert (row["failed_a"], row["failed_b"], row["ended_b"]) == (0, 20, 64)
    assert row["difference_counted"] > row["difference"] > 0
    (few,) = compare(failing(tmp_path, 1))
    assert few.verdict is Verdict.BETTER


def test_a_knob_at_whose_end_runs_fail_gets_no_verdict_and_says_where(tmp_path) -> None:
    found = curve(failing(tmp_path, 20), "lr", "cutmix")
    assert found.sentence.startswith("Unresolved: whether lr of cutmix matters: at ")
    assert sum(point.failed.failed for point in (*found.points, *found.lost)) == 20
    assert [(point.failed.failed, point.failed.units) for point in found.lost] == [(13, 13)]
    assert curve(failing(tmp_path, 0), "lr", "cutmix").sentence.startswith("lr of cutmix matters")


def test_an_effect_that_turns_on_how_failures_count_is_unresolved(tmp_path) -> None:
    arms = {"base": frozenset(), "ema": frozenset({"ema"})}
    study = ablation_study(tmp_path, arms, {"ema": []}, lambda on: 90 + 1.0 * bool(on), seeds=5)
    assert [effect.word for effect in ablation(study).effects] == ["helps"]
    rows = []
    for row in study.trials().to_dict("records"):
        fails = row["number"] in (1, 3)  # two of the runs with the part
        rows.append({"knobs": {"method": "mixup", "mixup.alpha": row["alpha"]}, "seed": row["seed"],
                     **({"state": "failed"} if fails else {"score": row["val_top1"]})})  # fmt: skip
    failed = ablation(write_study(tmp_path, "failed", rows, study.info["design"]))
    assert [effect.word for effect in failed.effects] == ["unresolved"]
    assert "runs failed (2 of ema)" in failed.notes[-1]
