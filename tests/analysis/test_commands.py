"""The commands print a verdict, a table that fits, and the same as JSON."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pytest
from ledgers import write_study
from scipy import stats
from worlds import sobol_rows

from automixsearch.analysis.robustness import scorecards
from automixsearch.analysis.selection import blind
from automixsearch.cli import main
from automixsearch.config.files import load_space, parse_space
from automixsearch.errors import StudyError
from automixsearch.report.sections.fidelity import section
from automixsearch.results.study import open_study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_study(folder, "s", sobol_rows(lambda method, a, b: 90 + (method == "mixup") + a, configs=32))
    anchors = [
        {"knobs": {"method": "mixup", "mixup.alpha": 0.1 * (i + 1), "epochs": epochs, "warmup_epochs": 0}, "score": i}
        for i in range(8) for epochs in (2, 8)
    ]  # fmt: skip
    write_study(folder, "anchors", anchors)
    return folder


def run(capsys, results, *words: str) -> str:
    assert main([*words, "--results", str(results)]) == 0
    return capsys.readouterr().out


def test_the_scorecard_says_who_is_better_before_it_shows_figures(capsys, results) -> None:
    text = run(capsys, results, "robustness", "s")
    assert text.startswith("mixup is better than cutmix by")
    assert max(map(len, text.splitlines())) <= 140
    found = json.loads(run(capsys, results, "robustness", "s", "--json"))
    assert [row["method"] for row in found["scorecards"]] == ["mixup", "cutmix"]
    assert found["comparisons"][0]["verdict"] == "better"
    assert found["verdicts"][0] in text.replace("\n", " ")


def test_comparisons_can_be_with_one_method_only(capsys, results) -> None:
    found = json.loads(run(capsys, results, "compare", "s", "--against", "cutmix", "--json"))
    assert [(row["a"], row["b"]) for row in found["comparisons"]] == [("mixup", "cutmix")]
    assert main(["compare", "s", "--by", "metod", "--results", str(results)]) == 2
    assert "unknown column 'metod'; did you mean 'method'" in capsys.readouterr().err


def test_one_knob_gives_a_curve_and_two_a_heat_map(capsys, results) -> None:
    assert "alpha of mixup matters" in run(capsys, results, "sensitivity", "s", "--knob", "alpha")
    text = run(capsys, results, "sensitivity", "s", "--knob", "alpha", "--knob", "lr", "--method", "mixup")
    assert text.startswith("Unresolved: whether alpha and lr of mixup interact")
    assert main(["sensitivity", "s", "--knob", "alpah", "--results", str(results)]) == 2
    assert "unknown knob 'alpah'; did you mean 'alpha'" in capsys.readouterr().err


def test_importance_and_fidelity_say_what_they_rest_on(capsys, results) -> None:
    found = json.loads(run(capsys, results, "importance", "s", "--method", "mixup", "--permutations", "20", "--json"))
    assert {bar["knob"] for bar in found["importance"]} == {"alpha", "knob.lr", "(dummy)", "(seed)"}
    text = run(capsys, results, "fidelity", "anchors")
    assert text.startswith("2 of 8 epochs rank mixup with a correlation of 1.00")
    assert main(["fidelity", "s", "--results", str(results)]) == 2
    assert "all trials were trained for 200 epochs" in capsys.readouterr().err


def test_whether_halving_went_on_is_told_beside_what_it_rests_on(capsys, results, tmp_path) -> None:
    shutil.copytree(results / "anchors", tmp_path / "anchors")
    file, why = tmp_path / "anchors" / "study.json", "too few agree: halving stops"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"halving": {"stopped": True, "why": why}}))
    assert why in run(capsys, tmp_path, "fidelity", "anchors")
    assert why in section(open_study(tmp_path / "anchors")).verdicts[0].sentence


def test_pairs_of_one_split_are_compared_image_by_image(capsys, tmp_path) -> None:
    g, n = np.random.default_rng(0), 200
    hard = g.random(n)  # both methods fail on the same images
    labels = np.arange(n) % 4
    right = {
        (method, seed): hard + 0.05 * g.normal(size=n) < 0.8 + 0.3 * (method == "cutmix") * (labels == 2)
        for method in ("mixup", "cutmix") for seed in range(3)
    }  # fmt: skip
    rows = [{"knobs": {"method": method}, "score": 100 * found.mean(), "seed": seed, "val_images": n}
            for (method, seed), found in right.items()]  # fmt: skip
    study = write_study(tmp_path, "s", rows)
    plain = json.loads(run(capsys, tmp_path, "compare", "s", "--json"))["comparisons"][0]
    assert plain["image_error"] is None
    assert main(["compare", "s", "--images", "--results", str(tmp_path)]) == 2
    assert "no comparison has pairs whose outcomes are in the ledger; drop --images" in capsys.readouterr().err
    for number, found in enumerate(right.values()):
        known = {"split_id": "a", "images": n, "right": int(found.sum()), "bits": np.packbits(found).tobytes()}
        study.store.write_outcome({"trial_id": f"t{number:05d}"} | known)
    places = 7 * np.arange(n)
    document = {"val": places.tolist(), "labels": labels.tolist(), "classes": ["w", "x", "y", "z"]}
    study.store.put("splits/a.json", json.dumps(document).encode())
    found = json.loads(run(capsys, tmp_path, "compare", "s", "--images", "--json"))
    (row,) = found["comparisons"]
    mean = {method: np.mean([right[method, seed] for seed in range(3)], 0) for method in ("mixup", "cutmix")}
    gap = mean["mixup"] - mean["cutmix"]
    assert row["difference"] == pytest.approx(100 * gap.mean())
    assert row["image_error"] == pytest.approx(100 * gap.std() / n**0.5)
    shares = np.array([one.mean() for one in right.values()])
    assert row["image_error_unpaired"] == pytest.approx(100 * ((shares * (1 - shares)).sum() / n) ** 0.5 / 3)
    assert row["difference_high"] - row["difference"] >= stats.t.ppf(0.975, 2) * row["image_error"] - 1e-9
    first, *_, image = found["apart"]
    assert (first["class"], first["images"]) == ("y", 50)
    assert first["difference"] == pytest.approx(100 * gap[labels == 2].mean())
    assert abs(image["difference"]) == pytest.approx(100 * abs(gap[image["image"] // 7]))
    assert image["class"] == "y"
    said = " ".join(run(capsys, tmp_path, "compare", "s", "--images").split())
    assert "paired on images:" in said
    assert "mixup minus cutmix is largest on classes y (" in said


def test_what_a_search_cannot_answer_comes_with_the_command_that_samples_its_space(tmp_path):
    space = parse_space({"name": "found", "knobs": {"method": ["mixup", "cutmix"], "alpha": "auto"}}, "test")
    rows = [{"knobs": {"method": "mixup", "mixup.alpha": 0.5}, "score": 60.0, "purpose": "search"}]
    study = write_study(tmp_path, "found", rows, space=space.model_dump(mode="json"))
    with pytest.raises(StudyError, match="a sample of the same space") as refused:
        scorecards(study)
    _, _, command = str(refused.value).partition("\n  automixsearch search ")
    place, *words = shlex.split(command)
    sampled = load_space(place, [word for word in words if "=" in word])
    assert sampled.dimensions == space.dimensions
    assert not blind({"space": sampled.model_dump(mode="json")})
