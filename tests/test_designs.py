"""Study files and the runs that follow from them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from automixsearch.config.files import load_space, read_yaml
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.studies.design import enumerate_runs, space_of, winners
from automixsearch.studies.factorial import defining_relation, find_generators
from automixsearch.studies.file import StudyFile, load_study_file, parse_study_file

BASE = """
question: How much does alpha matter?
data: {source: digits, val_fraction: 0.2}
budget: {epochs: 2}
knobs: {method: [vanilla, mixup, cutmix, automix], lr: 0.05, width: 4}
"""
SOBOL = """
vary: {alpha: {low: 0.1, high: 4, log: true}, lr: {low: 0.01, high: 0.3, log: true}}
design: {name: sobol, points: 32}
splits: 4
"""
FACTORS = """
knobs: {method: automix, width: 4}
factors:
  attention: {off: {mask_source: random_grid}, on: {mask_source: mixblock}}
  embedding: {off: {embedding: none}, on: {embedding: concat}, needs: [attention]}
  mask_loss: {off: {gamma: 0.0}, on: {gamma: 0.1}, needs: [attention]}
  teacher: {off: {ema: false}, on: {ema: true}}
"""
EIGHT = {"ema": (False, True), "shared_forward": (False, True), "neck": (False, True), "attention": (False, True),
         "clean_lam": (0.0, 1.0), "gamma": (0.0, 0.1), "lam_margin": (0.0, 0.08), "switch_off": (0.0, 0.5)}  # fmt: skip


def made(*texts: str, **more) -> StudyFile:
    content: dict = {}
    for text in texts:
        content |= read_yaml(text, "test")
    return parse_study_file(content | more, "a.yaml")


def eight(count: int, resolution: int | str) -> StudyFile:
    factors = {name: {"off": {name: off}, "on": {name: on}} for name, (off, on) in list(EIGHT.items())[:count]}
    design = {"name": "factorial", "resolution": resolution}
    return made(BASE, knobs={"method": "automix"}, factors=factors, design=design)


def signs(study: StudyFile) -> np.ndarray:
    """-1 and 1, a row for each arm and a column for each factor."""
    runs = enumerate_runs(study).runs
    return np.array([[1 if run.levels[name] else -1 for name in study.factors] for run in runs])


# What every design has -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "study",
    [
        made(BASE, SOBOL, replicate_block={"configs": 6, "seeds": 2}, confirm={"top": 2, "seeds": 3}),
        made(BASE, vary={"alpha": [0.2, 1.0, 4.0]}, design="curve", replicates=3, splits=2),
        made(BASE, FACTORS, design="factorial", replicates=2, confirm={"top": 1, "per": "study"}),
    ],
    ids=lambda study: study.design.name,
)
def test_runs_are_numbered_from_zero_and_are_the_same_every_time(study):
    design = enumerate_runs(study)
    assert [run.number for run in design.runs] == list(range(len(design.runs)))
    assert design == enumerate_runs(study)
    assert space_of(study, design).budget.trials == len(design.runs)
    for run in design.runs:
        if not run.waits:
            config = TrialConfig(data=study.data, knobs=dict(run.values), seed=run.seed, split_seed=run.split_seed)
            assert config.knobs["epochs"] == 2
            assert config.knobs["width"] == 4


def test_arms_and_methods_share_seeds_and_splits_within_a_replicate():
    runs = enumerate_runs(made(BASE, vary={"alpha": [0.2, 1.0, 4.0]}, design="curve", replicates=4, splits=2)).runs
    by_replicate = {run.replicate: (run.seed, run.split_seed) for run in runs}
    assert all((run.seed, run.split_seed) == by_replicate[run.replicate] for run in runs)
    assert len({seed for seed, _ in by_replicate.values()}) == 4
    assert [split for _, split in by_replicate.values()] == [0, 1, 0, 1]


def test_more_replicates_come_after_the_runs_that_there_were():
    few, many = (
        enumerate_runs(made(BASE, vary={"alpha": [0.2, 4.0]}, design="curve", replicates=n)).runs for n in (2, 5)
    )
    assert many[: len(few)] == few


# Curves, grids, Sobol points -----------------------------------------------------------------------------------


def test_a_curve_goes_through_the_published_setting_and_each_value_once():
    design = enumerate_runs(made(BASE, vary={"alpha": [0.2, 1.0, 2.0]}, design="curve"))
    alphas = {
        method: sorted(run.values[f"{method}.alpha"] for run in design.runs if run.stratum == method)
        for method in ("mixup", "cutmix", "automix")
    }
    assert alphas == {"mixup": [0.2, 1.0, 2.0], "cutmix": [0.2, 1.0, 2.0], "automix": [0.2, 1.0, 2.0]}
    centre = {run.stratum: run.values.get(f"{run.stratum}.alpha") for run in design.runs if run.arm == "incumbent"}
    assert centre == {"vanilla": None, "mixup": 1.0, "cutmix": 0.2, "automix": 2.0}
    assert design.vary == ("mixup.alpha", "cutmix.alpha", "automix.alpha")


def test_knobs_say_where_the_centre_of_a_curve_is():
    knobs = {"method": "automix", "alpha": 1.0, "gamma": 0.5}
    vary = {"gamma": [0.01, 0.1], "layer": "auto", "alpha": {"low": 0.5, "high": 4, "log": True}}
    arms = {run.arm: run for run in enumerate_runs(made(BASE, knobs=knobs, vary=vary, design="curve")).runs}
    assert list(arms) == ["incumbent", "gamma=0.01", "gamma=0.1", "layer=l1", "layer=l2", "layer=l4",
                          "alpha=0.5", "alpha=0.841", "alpha=1.41", "alpha=2.38", "alpha=4"]  # fmt: skip
    assert arms["incumbent"].values["automix.gamma"] == 0.5
    assert arms["layer=l4"].values["automix.gamma"] == 0.5
    assert arms["layer=l4"].levels == {"automix.layer": "l4"}


def test_sobol_columns_are_shared_by_methods_and_balanced():
    design = enumerate_runs(made(BASE, SOBOL))
    by = {(run.stratum, run.arm): run for run in design.runs}
    for point in range(32):
        runs = [by[stratum, f"point {point}"] for stratum in design.strata]
        assert len({(run.seed, run.split_seed, run.values["lr"]) for run in runs}) == 1
        assert len({run.values[f"{run.stratum}.alpha"] for run in runs[1:]}) == 1
    own = [by["mixup", f"point {point}"] for point in range(32)]
    assert Counter(run.split_seed for run in own) == dict.fromkeys(range(4), 8)
    unit = np.log([run.values["mixup.alpha"] / 0.1 for run in own]) / np.log(40)
    assert sorted((unit * 32).astype(int)) == list(range(32)), "each of 32 equal parts is met once"
    # The split must not follow the halves of a knob, as the number of a point does.
    low = Counter(run.split_seed for run, where in zip(own, unit, strict=True) if where < 0.5)
    assert max(low.values()) - min(low.values()) <= 2


def test_sobol_points_follow_from_the_seed_and_more_of_them_keep_the_first():
    few, many = (enumerate_runs(made(BASE, SOBOL, design={"name": "sobol", "points": n})).runs for n in (16, 32))
    assert many[: len(few)] == few
    other = enumerate_runs(made(BASE, SOBOL, seeds={"study": 1})).runs
    assert other[1].values["mixup.alpha"] != many[1].values["mixup.alpha"]


def test_a_grid_has_every_pair_once_per_method():
    vary = {"gamma": [0.01, 0.1, 1.0], "layer": ["l1", "l3"]}
    design = enumerate_runs(made(BASE, knobs={"method": "automix"}, vary=vary, design="grid", replicates=2))
    pairs = Counter((run.values["automix.gamma"], run.values["automix.layer"]) for run in design.runs)
    assert len(pairs) == 6
    assert set(pairs.values()) == {2}


def test_the_replicate_block_is_spread_over_methods_and_goes_round_the_splits():
    design = enumerate_runs(made(BASE, SOBOL, replicate_block={"configs": 10, "seeds": 2}))
    block = [run for run in design.runs if run.purpose == "replicate"]
    assert Counter(run.stratum for run in block) == {"vanilla": 6, "mixup": 6, "cutmix": 4, "automix": 4}
    for run in block:
        first = design.runs[run.of]
        assert (first.stratum, first.values) == (run.stratum, run.values)
        assert first.seed != run.seed
        assert first.split_seed != run.split_seed


# Ablations -----------------------------------------------------------------------------------------------------


def test_what_needs_a_part_is_never_on_without_it():
    for name in ("factorial", "one_out", "one_in", "path"):
        for run in enumerate_runs(made(BASE, FACTORS, design=name)).runs:
            assert run.levels["attention"] or not (run.levels["embedding"] or run.levels["mask_loss"])


def test_a_full_factorial_has_all_combinations_that_exist():
    study = made(BASE, FACTORS, design="factorial", replicates=3)
    arms = Counter(run.arm for run in enumerate_runs(study).runs)
    assert len(arms) == (4 + 1) * 2
    assert set(arms.values()) == {3}
    assert "attention=on embedding=off mask_loss=on teacher=off" in arms


def test_leaving_out_a_part_leaves_out_what_needs_it():
    design = enumerate_runs(made(BASE, FACTORS, design="one_out"))
    on = {run.arm: [name for name, level in run.levels.items() if level] for run in design.runs}
    assert on == {
        "full": ["attention", "embedding", "mask_loss", "teacher"],
        "-attention": ["teacher"],
        "-embedding": ["attention", "mask_loss", "teacher"],
        "-mask_loss": ["attention", "embedding", "teacher"],
        "-teacher": ["attention", "embedding", "mask_loss"],
    }
    assert set(design.against.values()) == {"full"}


def test_adding_a_part_adds_what_it_needs_and_is_compared_with_that():
    design = enumerate_runs(made(BASE, FACTORS, design="one_in"))
    assert [run.arm for run in design.runs] == ["base", "+attention", "+embedding", "+mask_loss", "+teacher"]
    assert design.against == {
        "+attention": "base",
        "+embedding": "+attention",
        "+mask_loss": "+attention",
        "+teacher": "base",
    }


def test_a_path_switches_on_one_part_after_the_other():
    order = ["teacher", "attention", "mask_loss", "embedding"]
    design = enumerate_runs(made(BASE, FACTORS, design={"name": "path", "order": order}))
    assert [sum(run.levels.values()) for run in design.runs] == [0, 1, 2, 3, 4]
    assert design.against["+mask_loss"] == "+attention"
    with pytest.raises(SpecError, match=r"design.order: embedding needs attention, which comes later; put it first"):
        made(BASE, FACTORS, design={"name": "path", "order": ["embedding", "attention", "mask_loss", "teacher"]})


@pytest.mark.parametrize(
    ("count", "resolution", "arms"),
    [
        (4, 4, 8),
        (5, 4, 16),
        (6, 4, 16),
        (7, 4, 16),
        (8, 4, 16),
        (5, 5, 16),
        (6, 5, 32),
        (7, 5, 64),
        (8, 5, 64),
        (3, 5, 8),
    ],
)
def test_fractions_have_the_resolution_that_is_asked_for(count, resolution, arms):
    levels = signs(eight(count, resolution))
    assert levels.shape == (arms, count)
    assert len(np.unique(levels, axis=0)) == arms
    assert not levels.sum(axis=0).any(), "each factor is on in half of the runs"
    for size in range(2, resolution):
        for columns in combinations(range(count), size):
            assert not levels[:, columns].prod(axis=1).sum(), f"{columns} are aliased"


def test_the_alias_table_names_what_cannot_be_told_apart():
    study = eight(6, 4)
    levels, names = signs(study), list(study.factors)
    aliases = enumerate_runs(study).aliases
    columns = {name: levels[:, place] for place, name in enumerate(names)}
    columns |= {f"{a}:{b}": columns[a] * columns[b] for a, b in combinations(names, 2)}
    assert aliases.keys() == columns.keys()
    for effect, same in aliases.items():
        measured = [n for n, c in columns.items() if n != effect and abs(columns[effect] @ c) == len(levels)]
        assert sorted(measured) == same
        assert ":" in effect or not same, "no main effect is aliased"
    assert not any(enumerate_runs(eight(5, 5)).aliases.values())


def test_generators_are_the_least_aliased_of_all():
    # Box, Hunter & Hunter, table 6.22: 2^(7-2) of resolution IV has one word of length 4, not more.
    lengths = sorted(word.bit_count() for word in defining_relation(find_generators(8, 4), 4))
    assert lengths.count(4) == 14
    assert len(lengths) == 15
    assert sorted(word.bit_count() for word in defining_relation(find_generators(8, 5), 6)) == [5, 5, 6]


# Winners -------------------------------------------------------------------------------------------------------


def test_winners_are_the_best_configs_by_mean_with_splits_made_even():
    study = made(BASE, knobs={"method": ["mixup", "cutmix"]}, vary={"alpha": [0.2, 0.5, 1.0]}, design="curve",
                 replicates=2, splits=2, confirm={"top": 2, "seeds": 2})  # fmt: skip
    design = enumerate_runs(study)
    score = {"incumbent": 90.0, "alpha=0.2": 91.0, "alpha=0.5": 92.0, "alpha=1": 93.0}
    rows = [
        {"number": run.number, "state": "complete", "val_top1": score[run.arm] - 20 * run.split_seed}
        for run in design.runs
        if run.rank is None and (run.arm, run.replicate) != ("alpha=0.5", 0)  # lost, on the easy split
    ]
    found = winners(design, rows, "val_top1", 1)
    assert {(pool, rank): run.arm for (pool, rank), run in found.items()} == {
        ("mixup", 0): "alpha=0.5", ("mixup", 1): "alpha=0.2", ("cutmix", 0): "alpha=1", ("cutmix", 1): "alpha=0.5",
    }  # fmt: skip
    worst = winners(design, rows, "val_top1", -1)
    assert worst["cutmix", 0].arm == "incumbent"
    with pytest.raises(SpecError, match="no run of mixup has ended with a val_top1"):
        winners(design, [row | {"state": "failed"} for row in rows], "val_top1", 1)


# Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"design": {"name": "sobol", "points": 48}}, r"points = 48 must be a power of two.*use 32 or 64"),
        ({"design": "grid", "vary": {"alpha": [1], "lr": [1], "gamma": [1]}}, "a grid takes 1 or 2 knobs, not 3"),
        ({"design": "path"}, "design path needs factors"),
        ({"design": "sobl"}, "design.name = 'sobl' must be"),
        ({"design": {"name": "curve", "order": ["a"]}}, "order has no effect in design curve"),
        ({"metric": "test_top1"}, "unknown metric 'test_top1'.*test scores choose nothing"),
        ({"vary": {"method": ["mixup"]}}, "methods are no levels"),
        ({"vary": {"alhpa": [1.0]}}, "unknown knob 'alhpa'; did you mean 'alpha'"),
        (
            {"knobs": {"method": "mixup", "lr": {"low": 0.1, "high": 1}}, "vary": {"alpha": [1.0]}},
            "put a range into vary",
        ),
        ({"confirm": {"top": 33}}, r"confirm.top = 33 must be at most 32: vanilla has no more configs"),
        ({"replicate_block": {"configs": 129}}, r"replicate_block.configs = 129 must be at most 128"),
        ({"replicates": 0}, "replicates = 0"),
        ({"trails": 3}, "unknown key 'trails'"),
    ],
)
def test_what_cannot_be_a_study_is_refused(more, message):
    with pytest.raises(SpecError, match=message):
        made(BASE, SOBOL, **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"design": {"name": "factorial", "resolution": 4}}, "needs attention; use resolution: full, make one"),
        ({"factors": {"a": {"off": {}, "on": {"ema": True}, "needs": ["b"]}}}, "needs: unknown factor 'b'"),
        ({"factors": {"a": {"off": {"ema": True}, "on": {"ema": True}}}}, "must set at least one knob differently"),
        ({"factors": {"a": {"off": {"ema": "maybe"}, "on": {"ema": True}}}}, "unknown value"),
        ({"factors": {"a": {"off": {"stages": "input"}, "on": {"stages": "stem"}}}}, "stages belongs to method manif"),
        ({"knobs": {"method": ["automix", "mixup"]}}, "mixup: the arms .* are the same config"),
    ],
)  # fmt: skip
def test_factors_that_say_nothing_are_refused(more, message):
    with pytest.raises(SpecError, match=message):
        made(BASE, FACTORS, **{"design": "factorial", **more})


def test_files_are_read_with_recipes_and_overrides(tmp_path):
    file = tmp_path / "alpha.yaml"
    file.write_text(BASE + "vary: {alpha: [0.2, 1.0]}\ndesign: curve\n")
    words = ["recipe=digits", "method=[mixup, automix]", "vary.alpha=[0.5]", "replicates=3", "epochs=4", "lr=0.2"]
    study = load_study_file(file, words)
    assert (study.name, study.budget.epochs, study.replicates) == ("alpha", 4, 3)
    assert (study.knobs["lr"], study.knobs["width"], study.vary) == (0.2, 8, {"alpha": [0.5]})
    assert study.knobs["automix.ema_end"] == 0.99
    with pytest.raises(SpecError, match="has a design, so it is a study; use automixsearch study"):
        load_space(file)
    with pytest.raises(SpecError, match=r"no_such.yaml: no such file; unknown study file"):
        load_study_file(tmp_path / "no_such.yaml")
    file.write_text("knobs: {method: mixup}")
    with pytest.raises(SpecError, match="has no design, so it is no study; use automixsearch search"):
        load_study_file(file)
