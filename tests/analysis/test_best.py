"""Configs rank by what they are worth, and those that cannot be told from the best are all named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ledgers import write_study
from scipy import stats

from automixsearch.analysis.baseline_gate import gate
from automixsearch.analysis.best import SEEDS, _alike, _noise, _shrunk, best, range_quantile
from automixsearch.cli import main
from automixsearch.errors import StudyError
from automixsearch.results.study import Study


def searched(folder: Path, worth: list[float], runs: int, sd: float, seed: int = 0, **more) -> Study:
    rng = np.random.default_rng(seed)
    rows = [
        {"knobs": {"method": "mixup" if i % 2 else "cutmix", "lr": 0.01 * (i + 1)}, "seed": s, "purpose": "search",
         "score": value + rng.normal(0, sd)} | more
        for i, value in enumerate(worth) for s in range(runs)
    ]  # fmt: skip
    return write_study(folder, "s", rows)


def test_the_quantile_of_the_range_is_scipys() -> None:
    for count, freedom in ((2, 5), (5, 10), (20, 40)):
        assert range_quantile(count, freedom) == pytest.approx(
            stats.studentized_range.ppf(0.95, count, freedom), rel=5e-3
        )


@pytest.mark.parametrize(("runs", "sd"), [(1, 0.45), (1, 3.2), (3, 0.45)])
def test_equal_configs_are_all_kept_in_19_of_20_studies(runs, sd) -> None:
    rng, kept, studies = np.random.default_rng(0), 0, 400
    for _ in range(studies):
        scores = 75 + sd * rng.standard_normal((20, runs))
        means, methods = scores.mean(1), np.arange(20) % 2
        squares = float(scores.var(1, ddof=1).sum() * (runs - 1)) if runs > 1 else 0.0
        within = sum(means[methods == m].var(ddof=1) * 9 for m in (0, 1))
        row = {"images": 5000, "freedom": 20 * (runs - 1), "freedom_better": 0, "squares_all": squares,
               "within": within, "within_freedom": 18, "spread_all": means.var(ddof=1), "configs": 20}  # fmt: skip
        kept += _alike(means, np.full(20, runs), _noise([row], "val_top1"), 20).all()
    assert kept / studies >= 0.93


def test_scores_that_had_configs_run_again_say_nothing_of_their_noise(tmp_path) -> None:
    rows = [
        {"knobs": {"method": "mixup", "lr": 0.01 * (i + 1)}, "purpose": "study", "score": 70.0 + i} for i in range(9)
    ]
    rows += [{"knobs": {"method": "mixup", "lr": 0.09}, "purpose": "confirm", "score": score} for score in (74.0, 75.0)]
    noise = best(write_study(tmp_path, "s", rows)).noise
    assert (noise.variance, noise.freedom, noise.known) == (pytest.approx(0.5), 1, True)  # 78 is an extreme of chance


def test_a_planted_best_config_is_told_from_the_others_and_ranks_first(tmp_path) -> None:
    answer = best(searched(tmp_path, [75.0] * 19 + [79.0], 3, 0.45))
    assert answer.winner.row["knob.lr"] == pytest.approx(0.2)
    assert (answer.configs, answer.alike, answer.winner.runs, answer.noise.freedom) == (20, 1, 3, 20)
    assert answer.winner.worth.low < 79 < answer.winner.worth.high
    assert answer.sentence.startswith(
        f"{answer.winner.trial_id} is told from all 19 other configs at 95 %; another seed"
    )
    assert [place.alike for place in answer.places] == [True, False, False, False, False]


def test_a_lucky_single_run_does_not_rank_before_a_config_that_was_run_often(tmp_path) -> None:
    rng = np.random.default_rng(3)
    rows = [{"knobs": {"method": "mixup", "lr": 0.01 * (i + 1)}, "seed": s, "score": 75 + rng.normal()}
            for i in range(12) for s in range(3)]  # fmt: skip
    rows += [{"knobs": {"method": "mixup", "lr": 0.5}, "seed": s, "score": 77.5 + 0.5 * rng.normal()} for s in range(8)]
    rows += [{"knobs": {"method": "mixup", "lr": 0.6}, "seed": 0, "score": 78.2}]
    study = write_study(tmp_path, "s", rows)
    answer = best(study, 14)
    by_lr = {place.row["knob.lr"]: place for place in answer.places}
    assert answer.winner is by_lr[0.5]
    assert (by_lr[0.5].runs, by_lr[0.6].runs) == (8, 1)
    assert by_lr[0.6].worth.value < by_lr[0.5].worth.value < by_lr[0.6].mean
    assert by_lr[0.6].mean > by_lr[0.5].mean


def test_table_gate_export_and_json_name_one_winner(tmp_path, capsys) -> None:
    rng = np.random.default_rng(1)
    rows = [{"knobs": {"method": method, "lr": 0.01 * (i + 1)}, "seed": s, "purpose": "search",
             "score": 75 + (method == "mixup") * (i == 3) * 3 + 0.4 * rng.normal()}
            for method in ("mixup", "cutmix", "trivialmix") for i in range(6) for s in range(2)]  # fmt: skip
    study = write_study(tmp_path, "s", rows)
    winner = best(study).winner.trial_id
    assert gate(study).winner == winner
    assert main(["best", "s", "--results", str(tmp_path), "--export", str(tmp_path / "best.yaml")]) == 0
    text = capsys.readouterr().out
    assert f"{winner} written to" in text
    assert winner == re.search(r"1 =? +(t\d+)", text)[1]
    assert (tmp_path / "best.yaml").read_text().startswith(f"# Trial {winner} of study s: val_top1")
    assert "mean of 2 runs" in (tmp_path / "best.yaml").read_text()


def test_single_runs_are_called_that_and_priced(tmp_path) -> None:
    answer = best(searched(tmp_path, [75.0] * 12, 1, 0.5))
    assert not answer.noise.known
    assert answer.alike == 12
    assert "each config was run once: what another seed does is unknown, but no more than" in answer.sentence
    assert answer.more_runs > 50
    assert answer.more_device_s == pytest.approx(60.0 * answer.more_runs)
    assert not answer.winner.worth.known
    alone = best(write_study(tmp_path / "one", "s", [{"knobs": {"method": "mixup"}, "score": 50.0}]))
    assert alone.sentence == "One config has ended: there is nothing to tell it from."
    assert best(write_study(tmp_path / "none", "s", [{"knobs": {"method": "mixup"}, "state": "failed"}])).places == ()


def test_a_loss_is_ranked_from_its_smallest_value_on(tmp_path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"knobs": {"method": "mixup", "lr": 0.01 * (i + 1)}, "seed": s, "score": 1 + 0.1 * i + 0.01 * rng.normal()}
            for i in range(8) for s in range(2)]  # fmt: skip
    answer = best(write_study(tmp_path, "s", rows, objective="val_loss"))
    assert [place.row["knob.lr"] for place in answer.places[:2]] == [0.01, 0.02]
    assert answer.winner.worth.low < 1.0 < answer.winner.worth.high
    assert "points" not in answer.sentence


def test_the_best_of_each_value_of_a_column(tmp_path) -> None:
    study = searched(tmp_path, list(np.linspace(70, 80, 20)), 2, 0.2)
    answer = best(study, 1, per="method")
    assert {place.row["method"] for place in answer.places} == {"mixup", "cutmix"}
    assert answer.configs == best(study).configs == 20
    assert answer.alike == best(study).alike
    with pytest.raises(StudyError, match="unknown column 'metod'"):
        best(study, per="metod")


def test_ledgers_without_keys_of_configs_group_their_runs_by_the_config_itself(tmp_path, monkeypatch) -> None:
    study = searched(tmp_path, [75.0, 76.0, 77.0], 4, 0.3)
    keyed = best(study)
    monkeypatch.setattr("automixsearch.analysis.best._key", lambda _: f"coalesce({SEEDS}, trial_id)")
    assert [place.runs for place in best(study).places] == [4, 4, 4]
    assert [place.trial_id for place in best(study).places] == [place.trial_id for place in keyed.places]


def test_worth_is_drawn_towards_the_mean_of_the_method_by_the_share_of_noise() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(75, 1.0, (500, 12))
    means = truth + rng.normal(0, 1.0, (500, 12))
    gain, covered = 0.0, 0
    for true, seen in zip(truth, means, strict=True):
        base = {"n_method": 12, "centre": seen.mean(), "spread": seen.var(ddof=1), "per_run": 1.0, "images": None,
                "freedom": 60, "squares_all": 60.0, "freedom_better": 0}  # fmt: skip
        noise = _noise([base], "val_loss")
        worth, error = _shrunk([base] * 12, seen, np.ones(12), noise)
        top = int(np.argmax(worth))
        gain += abs(worth[top] - true[top]) < abs(seen[top] - true[top])
        covered += abs(worth[top] - true[top]) <= stats.t.ppf(0.975, 60) * error[top]
    assert gain / 500 > 0.6
    assert covered / 500 == pytest.approx(0.95, abs=0.04)
