"""Planted effects are found, absent ones are not, on ledgers whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from ledgers import write_study
from worlds import ablation_study, sobol_rows

from automixsearch.analysis.ablation import ablation
from automixsearch.analysis.baseline_gate import gate
from automixsearch.analysis.compare import compare, compare_sensitivity
from automixsearch.analysis.fidelity import fidelity
from automixsearch.analysis.importance import DUMMY, SEED, importance, importances
from automixsearch.analysis.robustness import cross_task, scorecards
from automixsearch.analysis.selection import take_sample
from automixsearch.analysis.sensitivity import curve, heat, isolation, together
from automixsearch.analysis.verdict import Verdict
from automixsearch.cli import main
from automixsearch.errors import StudyError
from automixsearch.results.study import Study


def truth(method: str, a: float, b: float) -> float:
    """mixup is 1 point better and twice as sensitive to alpha; lr does nothing."""
    return 90 + (method == "mixup") + (2 if method == "mixup" else 0.5) * (a - 0.5)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("results"), "s", sobol_rows(truth))


def test_the_scorecard_finds_what_was_planted(study) -> None:
    mixup, cutmix = scorecards(study)
    assert (mixup.method, mixup.configs, mixup.runs) == ("mixup", 64, 64 + 12 + 15)
    assert mixup.mean.low < 91 < mixup.mean.high
    assert cutmix.mean.low < 90 < cutmix.mean.high
    assert mixup.s_hp.low < 2 / math.sqrt(12) < mixup.s_hp.high
    assert mixup.noise.low < 0.3 < mixup.noise.high
    assert mixup.top.value == pytest.approx(92, abs=0.4)
    assert set(mixup.rows()[0]) >= {"mean_low", "share_high", "best_of_8", "notes"}


@pytest.mark.parametrize("configs", [1, 2, 3])
def test_a_few_configs_have_a_scorecard_without_intervals(tmp_path, configs) -> None:
    rows = [{"knobs": {"method": "mixup", "mixup.alpha": 1.0 + n}, "score": 50.0 + n + seed, "seed": seed,
             "purpose": "replicate" if seed else "study"} for n in range(configs) for seed in range(2)]  # fmt: skip
    (card,) = scorecards(write_study(tmp_path, "s", rows))
    assert card.mean.value == pytest.approx(50 + (configs - 1) / 2)
    assert not card.cvar.known
    assert "fewer than 10 configs" in card.cvar.note


def test_one_setting_for_all_tasks_costs_nothing_where_tasks_agree(tmp_path) -> None:
    def task(name: str, of: Callable[[float, float], float], seed: int) -> Study:
        rows = sobol_rows(lambda _, a, b: 90 + of(a, b), ("mixup",), top=0, seed=7)
        g = np.random.default_rng(seed)
        for row in rows:
            row["score"] += 0.3 * g.normal()
        return write_study(tmp_path, name, rows)

    alike = cross_task([task(f"alike{i}", lambda a, b: 3 * a, i) for i in range(3)])[0].phi
    apart = cross_task([task("up", lambda a, b: 3 * a, 0), task("down", lambda a, b: -3 * a, 1),
                        task("aside", lambda a, b: 3 * b, 2)])[0].phi  # fmt: skip
    assert alike.high < 0.15 < 0.2 < apart.low
    assert apart.value == pytest.approx(1 - 2 / 3, abs=0.15)  # one end is the best of two tasks at most
    with pytest.raises(StudyError, match="needs 3 tasks or more, not 2"):
        cross_task([task(f"two{i}", lambda a, b: a, i) for i in range(2)])


def test_unpaired_runs_win_as_often_as_in_all_pairs_of_runs(tmp_path) -> None:
    scores = {"mixup": [60.0, 61.0, 61.0, 63.0], "cutmix": [61.0, 59.0, 63.0]}
    rows = [{"knobs": {"method": method}, "score": score} for method, own in scores.items() for score in own]
    (found,) = compare(write_study(tmp_path, "s", rows))
    pairs = [(a > b) + (a == b) / 2 for a in scores["mixup"] for b in scores["cutmix"]]
    assert not found.paired
    assert found.wins == pytest.approx(sum(pairs) / len(pairs))


def test_the_better_method_is_better_and_the_flatter_one_less_sensitive(study) -> None:
    (found,) = compare(study)
    assert (found.a, found.b, found.verdict, found.n, found.paired) == ("mixup", "cutmix", Verdict.BETTER, 64, True)
    assert found.difference.low < 1 < found.difference.high
    (contrast,) = compare_sensitivity(study)
    assert contrast.verdict is Verdict.WORSE


def test_only_the_knob_that_matters_rises_above_the_floor(study) -> None:
    found = importance(study, "mixup", permutations=50)
    bars = {bar.knob: bar for bar in found.bars}
    assert {name for name, bar in bars.items() if bar.distinguishable} == {"alpha", SEED}
    assert bars[DUMMY].value < bars[DUMMY].floor
    assert 0.1 < bars[SEED].value < 0.45  # 0.09 of noise in 0.09 + 4 / 12
    assert bars[SEED].low < 0.21 < bars[SEED].high
    assert found.sentence == "Above what chance shows: alpha of mixup (64 configs)."


def test_importances_are_given_over_all_methods_and_within_each(study) -> None:
    found, refused = importances(study, permutations=30)
    assert [one.method for one in found] == [None, "mixup", "cutmix"]
    assert not refused
    assert {bar.knob for bar in found[0].bars} == {"method", "alpha", "knob.lr", DUMMY, SEED}
    with pytest.raises(StudyError, match="unknown method 'mixpu'"):
        importance(study, "mixpu")


def test_a_knob_that_has_one_value_for_each_method_is_no_bar(tmp_path) -> None:
    """It would take the credit of the method."""
    rows = sobol_rows(truth, configs=32)
    for row in rows:
        row["knobs"]["label_smoothing"] = 0.1 if row["knobs"]["method"] == "mixup" else 0.0
    found = importance(write_study(tmp_path, "s", rows), permutations=20)
    assert "knob.label_smoothing" not in {bar.knob for bar in found.bars}


def test_repeated_runs_of_a_config_are_one_observation(tmp_path) -> None:
    """Counted one by one, what two seeds of a config share would look like the work of its knobs."""
    rows = sobol_rows(truth, ("mixup",), configs=24, block=0, top=0)
    twice = [*rows, *({**row, "seed": row["seed"] + 100} for row in rows)]
    found = importance(write_study(tmp_path, "s", twice), permutations=20)
    assert found.configs == 24
    few = write_study(tmp_path, "few", [{**row, "seed": s} for row in rows[:12] for s in range(3)])
    with pytest.raises(StudyError, match="12 configs are too few"):
        importance(few)


def test_importance_where_a_search_went_must_be_asked_for(tmp_path) -> None:
    rows = [row | {"purpose": "search"} for row in sobol_rows(truth, ("mixup",), block=0, top=0)]
    study = write_study(tmp_path, "s", rows, space={"sampler": {"name": "tpe"}})
    with pytest.raises(StudyError, match="ask it with --during-optimisation"):
        importance(study)
    found = importance(study, during_optimisation=True, permutations=20)
    assert found.during_optimisation
    assert math.isnan(found.seed.value)
    assert "add replicates" in found.notes[-1]


def test_curves_rise_where_the_truth_does(study) -> None:
    means = [point.estimate.value for point in curve(study, "alpha", "mixup").points]
    assert means == sorted(means)
    bests = [point.estimate.value for point in isolation(study, "mixup.alpha", "mixup").points]
    assert bests == sorted(bests)
    assert [curve(study, knob, "mixup").p < 0.05 for knob in ("alpha", "lr")] == [True, False]
    assert [isolation(study, knob, "mixup").p < 0.05 for knob in ("alpha", "lr")] == [True, False]
    assert curve(study, "alpha", "mixup").effect.low < 1.6 < curve(study, "alpha", "mixup").effect.high
    both = together([curve(study, knob, "mixup") for knob in ("alpha", "lr")])
    assert [one.p_holm for one in both] == [2 * both[0].p, both[1].p]
    found = heat(study, "alpha", "lr", "mixup")
    assert found.interaction.low < 0 < found.interaction.high


def test_an_ablation_finds_its_effects(tmp_path) -> None:
    arms = {name: frozenset(name.split("+")) - {"base"} for name in ("base", "ema", "attend", "ema+attend")}
    study = ablation_study(tmp_path, arms, {"ema": [], "attend": []}, lambda on: 90 + 1.0 * ("ema" in on), seeds=5)
    found = ablation(study, margin=1.0)
    assert [(effect.name, effect.word) for effect in found.effects] == [("ema", "helps"), ("attend", "equivalent")]
    ema = found.effects[0]
    assert ema.effect.low < 1 < ema.effect.high
    assert [effect.name for effect in found.interactions] == ["ema:attend"]
    assert sum(effect.effect.value for effect in found.shapley) == pytest.approx(
        found.path[-1].score.value - found.path[0].score.value
    )
    assert len(found.rows()) == 5


def test_an_arm_that_scatters_more_than_the_others_is_pointed_out(tmp_path) -> None:
    arms = {f"arm{i}": frozenset(f"f{j}" for j in range(3) if i >> j & 1) for i in range(8)}
    factors = {f"f{j}": [] for j in range(3)}
    calm = ablation(ablation_study(tmp_path / "a", arms, factors, lambda on: 90, seeds=4))
    assert not calm.notes
    g = np.random.default_rng(1)
    wild = ablation(
        ablation_study(tmp_path / "b", arms, factors, lambda on: 90 + 4 * g.normal() * (len(on) == 3), seeds=4)
    )
    assert "runs of arm7 scatter" in wild.notes[0]
    assert (
        wild.shapley[0].effect.high - wild.shapley[0].effect.low
        > wild.effects[0].effect.high - wild.effects[0].effect.low
    )


def test_a_curve_on_shared_seeds_is_freed_of_them(tmp_path) -> None:
    g, rows, runs = np.random.default_rng(0), [], []
    for s, shared in enumerate(3 * g.normal(size=4)):
        for alpha in (0.2, 1.0, 2.0):
            runs.append({"number": len(rows), "purpose": "study", "arm": "a", "levels": {"mixup.alpha": alpha},
                         "stratum": "mixup", "replicate": s, "seed": s, "split_seed": 0})  # fmt: skip
            score = 90 + shared + (alpha == 1.0) + 0.1 * g.normal()
            rows.append({"knobs": {"method": "mixup", "mixup.alpha": alpha}, "score": score, "seed": s})
    found = curve(write_study(tmp_path, "c", rows, {"name": "curve", "runs": runs}), "alpha")
    assert found.kind == "curve"
    assert found.p < 0.001
    assert 0.5 < found.effect.low < 1 < found.effect.high < 1.5


def test_short_schedules_that_rank_alike_have_a_high_correlation(tmp_path) -> None:
    rows = [
        {"knobs": {"method": "mixup", "mixup.alpha": 0.1 * (i + 1), "epochs": epochs, "warmup_epochs": 0},
         "score": i + (epochs == 8)}
        for i in range(12) for epochs in (2, 8)
    ]  # fmt: skip
    (found,) = fidelity(write_study(tmp_path, "f", rows))
    assert (found.rung, found.full, found.n, found.flipped, found.regret) == (2, 8, 12, 0, 0)
    assert found.rho.value == pytest.approx(1)


def test_the_anchors_of_a_search_that_halves_are_its_first_candidates(tmp_path) -> None:
    rows = []
    for i in range(10):
        scores = (20 + i, 20 + i) if i < 6 else (30.0, 20 - i)  # those after the anchors were promoted, and disappoint
        for rung, (epochs, score) in enumerate(zip((2, 8), scores, strict=True)):
            knobs = {"method": "mixup", "epochs": epochs, "warmup_epochs": 0}
            place = {"rung": rung, "candidate": f"t{2 * i:05d}", "state": "complete" if rung else "pruned"}
            rows.append({"knobs": knobs, "score": score, "purpose": "search"} | place)
    study = write_study(tmp_path, "h", rows, space={"scheduler": {"rungs": "schedules"}, "fidelity": {"anchors": 6}})
    (found,) = fidelity(study)
    assert (found.n, found.rho.value) == (6, pytest.approx(1))


def test_the_gate_says_what_it_lacks_and_what_it_finds(tmp_path) -> None:
    rows = [{"knobs": {"method": "mixup"}, "score": 95.0, "seed": s} for s in range(3)]
    assert "trivialmix was not run" in gate(write_study(tmp_path, "alone", rows)).sentence
    both = [
        {"knobs": {"method": method}, "score": score + 0.1 * s, "seed": s, "purpose": "study"}
        for method, score in (("mixup", 95.0), ("trivialmix", 93.0)) for s in range(3)
    ]  # fmt: skip
    found = gate(write_study(tmp_path, "both", both))
    assert found.verdict is Verdict.BETTER
    assert "beats the search-free trivialmix by 2.00 points" in found.sentence


def test_a_winner_that_only_chance_made_is_no_winner(tmp_path, monkeypatch) -> None:
    """The best of many equal configs scores far above a baseline that is as good; of a large search, a part is read."""
    g = np.random.default_rng(0)
    rows = [
        {"knobs": {"method": "mixup", "mixup.alpha": 0.1 + 0.01 * i} if i < 60 else {"method": "trivialmix"},
         "score": 90 + 0.3 * g.normal(), "purpose": "search"}
        for i in range(68)
    ]  # fmt: skip
    study = write_study(tmp_path, "s", rows, space={})
    assert max(row["score"] for row in rows[:60]) > 90.5
    whole = gate(study)
    assert whole.verdict is Verdict.UNRESOLVED
    assert abs(whole.difference.value) < 0.35
    monkeypatch.setattr("automixsearch.analysis.baseline_gate.MOST_RIVALS", 20)
    part = gate(study)
    assert part.verdict is Verdict.UNRESOLVED
    assert part.difference.value == pytest.approx(whole.difference.value, abs=0.25)


def test_trials_that_a_sampler_chose_are_refused(tmp_path) -> None:
    rows = [{"knobs": {"method": "mixup"}, "score": 95.0, "purpose": "search"} for _ in range(3)]
    study = write_study(tmp_path, "s", rows, space={"sampler": {"name": "tpe"}})
    with pytest.raises(StudyError, match="sampler tpe chose them"):
        take_sample(study)
    with pytest.raises(StudyError, match="cannot stand beside"):
        take_sample(study, purposes=("search", "study"))
    assert len(take_sample(study, adaptive=True).frame) == 3
    drawn = write_study(tmp_path, "r", rows, space={"sampler": {"name": "random"}})
    assert len(take_sample(drawn).frame) == 3


def test_a_margin_in_points_is_none_of_a_loss(tmp_path, capsys):
    """0.3 points are no difference of interest; 0.3 of a loss is the whole gap between good and bad."""
    rows = [
        {"knobs": {"method": method}, "seed": seed, "score": 90 + seed / 10, "val_loss": 0.5 + loss * (1 + seed)}
        for method, loss in (("mixup", 0.01), ("cutmix", 0.03))
        for seed in range(5)
    ]
    study = write_study(tmp_path, "a", rows, design={"name": "curve", "margin": 0.4, "delta": 0.7, "vary": []})
    assert {one.margin for one in compare(study)} == {0.4}
    (loss,) = compare(study, "val_loss")
    assert (loss.margin, str(loss.verdict)) == (0.0, "better")
    (wide,) = compare(study, "val_loss", margin=0.2)
    assert (wide.margin, loss.p_equivalent > 0.5, wide.p_equivalent < 0.01) == (0.2, True, True)
    assert main(["compare", str(tmp_path / "a"), "--metric", "val_loss"]) == 0
    assert "equivalent: not tested, for the study has no margin in val_loss" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["compare", str(tmp_path / "a")]) == 0
    assert "equivalent: within 0.4 points" in " ".join(capsys.readouterr().out.split())
