"""Cells are run through the driver of every study, and stand beside what was published."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from automixsearch.cli import main
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.reproduce.outcome import columns, outcomes
from automixsearch.reproduce.registry import select
from automixsearch.reproduce.settings import Changes, read_changes
from automixsearch.reproduce.studies import reproduce, run, studies
from automixsearch.reproduce.verdict import Verdict
from automixsearch.results.store import Store
from automixsearch.results.study import open_study
from automixsearch.search.claim import claim
from automixsearch.search.task import Task, trial_id_of

TINY = ["width=4", "epochs=1"]
ANYWHERE = read_changes(["data.path=."])

COUNTS = {"train": 90, "test": 20, "classes": 10, "val": 10}
DATA = {"fingerprint": "0" * 16, "path": None, **COUNTS, "splits": {"0": "0" * 16}}
"""What study.json says of the data."""


def ended(store, column, done, state="complete", **values):
    """Write the row of a run as if it had been trained."""
    config = TrialConfig(
        data=column.space.data,
        knobs=dict(done.values),
        seed=done.seed,
        split_seed=done.split_seed,
        data_fingerprint="f",
    )
    task = Task(trial_id_of(done.number), done.number, column.name, 0, column.space.space_id, "study", 1, config)
    store.write_trial(task.row(state, **values))


def simulate(tmp_path, target, scores, seeds=5, scale="paper", changes=ANYWHERE):
    """Ledgers of a table's cells whose scores are known: scores(cell, replicate)."""
    for column in studies(select(target), scale, seeds, tmp_path, changes):
        store = Store(tmp_path, column.name)
        claim(store, column.space, column.design, DATA)
        by_row = {cell.row: cell for cell in column.cells}
        for done in column.design.runs:
            ended(store, column, done, **{column.design.about["measured"]: scores(by_row[done.arm], done.replicate)})


def test_two_cells_with_two_seeds_run_here_and_go_on(tmp_path):
    target = "automix_small_scale:CIFAR-100/ResNet-18/MixUp,CutMix"
    found = reproduce(target, "tiny", 2, tmp_path, overrides=TINY, debug=True)
    assert [len(each.scores) for each in found] == [2, 2]
    assert {each.verdict for each in found} == {Verdict.OTHER_SCALE}
    study = open_study(found[0].study, tmp_path)
    rows = study.store.trial_rows(["number", "method", "purpose", "seed", "split_seed", "config_id", "alpha"])
    assert {row["purpose"] for row in rows} == {"study"}
    assert [row["method"] for row in rows] == ["mixup", "cutmix"] * 2
    assert [row["alpha"] for row in rows] == [1.0, 0.2] * 2
    assert len({row["seed"] for row in rows}) == 2  # rows of a replicate share seed and split
    assert [row["split_seed"] for row in rows] == [0, 0, 1, 1]

    before = {row["number"]: row["config_id"] for row in rows}
    assert not list(run(select(target), "tiny", 2, tmp_path, None, read_changes(TINY), debug=True))  # nothing is left
    more = target.replace("MixUp,CutMix", "Vanilla,MixUp")
    again = reproduce(more, "tiny", 2, tmp_path, overrides=TINY, debug=True)
    assert [len(each.scores) for each in again] == [2, 2]
    rows = study.store.trial_rows(["number", "config_id", "method"])
    assert {row["number"]: row["config_id"] for row in rows if row["number"] < 4} == before
    assert [row["method"] for row in rows[4:]] == ["vanilla"] * 2


def test_verdicts_of_simulated_ledgers_are_the_true_ones(tmp_path):
    rng = np.random.default_rng(1)
    shift = {"MixUp": 0.0, "CutMix": -1.5, "Vanilla": 0.0}
    spread = {"MixUp": 0.05, "CutMix": 0.05, "Vanilla": 1.5}
    target = "automix_small_scale:CIFAR-100/ResNet-18/Vanilla,MixUp,CutMix"
    simulate(tmp_path, target, lambda cell, _: cell.value + shift[cell.method] + rng.normal(0, spread[cell.method]))
    by_method = {each.cell.method: each for each in outcomes(target, "paper", tmp_path, changes=ANYWHERE)}
    assert {name: each.verdict for name, each in by_method.items()} == {
        "MixUp": Verdict.REPRODUCED, "CutMix": Verdict.DIFFERS, "Vanilla": Verdict.UNRESOLVED,
    }  # fmt: skip
    assert by_method["CutMix"].judgement.difference.high < -1.2
    wide = outcomes(target, "paper", tmp_path, changes=ANYWHERE, margin=2.0)
    assert {each.cell.method: each.verdict for each in wide}["CutMix"] == Verdict.REPRODUCED
    assert [len(each.scores) for each in outcomes(target, "paper", tmp_path, changes=ANYWHERE, seeds=2)] == [2, 2, 2]


def test_a_gain_is_measured_within_replicates(tmp_path):
    level = {replicate: 10.0 * replicate for replicate in range(4)}  # splits of very different difficulty
    simulate(
        tmp_path, "dm_toy:CIFAR-100/R-18", lambda cell, n: level[n] + (0.78 if cell.loss == "DM(CE)" else 0.0), seeds=4
    )
    (gain,) = outcomes("dm_toy:CIFAR-100/R-18/avg_gain_top1", "paper", tmp_path, changes=ANYWHERE)
    assert gain.judgement.measured.value == pytest.approx(0.78)
    assert gain.verdict == Verdict.REPRODUCED


def test_the_order_of_a_column_is_compared_with_the_published_one(tmp_path):
    target = "automix_small_scale:CIFAR-100/R-18/top1"
    simulate(tmp_path, target, lambda cell, n: cell.value / 2 + n, seeds=2, scale="short")
    found = outcomes(target, "short", tmp_path, changes=ANYWHERE)
    assert {each.verdict for each in found} == {Verdict.OTHER_SCALE}
    (column,) = columns(found)
    assert (column.against.method, column.agreement.rows, column.agreement.tau) == ("Vanilla", 10, pytest.approx(1.0))
    assert column.agreement.resolved == column.agreement.as_published == column.agreement.pairs
    published = {cell.method: (gap, measured.value) for cell, gap, measured in column.gaps}
    assert published["AutoMix"] == pytest.approx((4.0, 2.0), abs=0.01)


def test_a_changed_schedule_is_another_experiment_and_another_study(tmp_path):
    changes = read_changes(["data.path=.", "epochs=100"])
    target = "automix_small_scale:CIFAR-100/R-18/MixUp"
    simulate(tmp_path, target, lambda cell, _: cell.value, changes=changes)
    (changed,) = outcomes(target, "paper", tmp_path, changes=changes)
    assert changed.verdict == Verdict.OTHER_SCALE
    (as_published,) = outcomes(target, "paper", tmp_path, changes=ANYWHERE)
    assert (as_published.verdict, as_published.study != changed.study) == (Verdict.NOT_RUN, True)


def test_cells_without_training_have_their_outcome_at_once(tmp_path):
    found = {each.cell.metric: each for each in outcomes("automix_ablation_layer:R-18/AutoMix(l3)", "tiny", tmp_path)}
    assert (found["params_M"].verdict, found["params_M"].parameters) == (Verdict.REPRODUCED, 11_440_081)
    assert found["time"].verdict == Verdict.OTHER_MACHINE
    assert found["top1"].verdict == Verdict.NOT_RUN
    (lacking,) = outcomes("automix_wsol:#1", "tiny", tmp_path)
    assert (lacking.verdict, lacking.lacking) == (Verdict.MISSING, "weakly supervised object localisation")


def test_failed_runs_are_counted_and_say_why(tmp_path, capsys):
    target = "dm_toy:CIFAR-100/R-18/CutMix MCE"
    (column,) = studies(select(target), "tiny", 2, tmp_path, Changes())
    store = Store(tmp_path, column.name)
    claim(store, column.space, column.design, DATA)
    first, second = column.design.runs
    ended(store, column, first, test_top1_median=50.0)
    ended(store, column, second, "failed", error_class="NonFiniteLoss", error_message="the loss was nan\nmore")
    (found,) = outcomes(target, "tiny", tmp_path)
    assert (len(found.scores), found.problems) == (1, ("NonFiniteLoss: the loss was nan",))
    assert main(["reproduce", target, "--show", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1 (1 failed)" in out
    assert "1 failed with NonFiniteLoss: the loss was nan" in out


def test_short_runs_on_the_published_data_set(tmp_path):
    made = tiny_imagenet(tmp_path / "data", images=12)
    # oneDNN 3.12 writes beyond its memory in strided 1x1 convolutions of up to 8 channels, channels last, at 64 pixels.
    overrides = [f"data.path={made}", "width=4", "batch_size=8", "channels_last=false"]
    target = "automix_ablation_layer:R-18/top1/MixUp,AutoMix(l4)"
    found = reproduce(target, "short", 1, tmp_path / "r", overrides=overrides, share=0.0025, debug=True)
    assert [(each.verdict, len(each.scores), each.problems) for each in found] == [(Verdict.OTHER_SCALE, 1, ())] * 2
    (row, _) = open_study(found[0].study, tmp_path / "r").store.trial_rows(
        ["epochs_total", "test_images", "val_images"]
    )
    assert row == {"epochs_total": 1, "test_images": 3, "val_images": 3}


def tiny_imagenet(root, images):
    """Three classes in the official layout, so many training images of each."""
    inside = root / "tiny-imagenet-200"
    wnids = ("n01", "n02", "n03")
    for wnid in wnids:
        (inside / f"train/{wnid}/images").mkdir(parents=True)
    (inside / "val/images").mkdir(parents=True)
    (inside / "wnids.txt").write_text("\n".join(wnids))
    rng = np.random.default_rng(0)

    def save(path):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)

    for wnid in wnids:
        for number in range(images):
            save(inside / f"train/{wnid}/images/{wnid}_{number}.JPEG")
    for number in range(3):
        save(inside / f"val/images/val_{number}.JPEG")
    rows = (f"val_{number}.JPEG\t{wnid}\t0\t0\t9\t9" for number, wnid in enumerate(wnids))
    (inside / "val/val_annotations.txt").write_text("\n".join(rows))
    return root


def test_every_column_of_every_table_is_a_valid_study_at_every_scale(tmp_path):
    from automixsearch.reproduce.registry import cells

    everything = studies(cells(), "tiny", 1, tmp_path, Changes())
    assert sum(column.wanted for column in everything) == 502
    assert len({column.name for column in everything}) == len(everything)
    some = [cell for cell in cells() if cell.method in ("AutoMix", "DeiT")]
    assert all(column.space.space_id for column in studies(some, "paper", 1, tmp_path, ANYWHERE))


def test_selecting_other_rows_of_a_column_is_the_same_study(tmp_path):
    one, two = (
        studies(select(f"automix_small_scale:CIFAR-100/R-18/{name}"), "tiny", seeds, tmp_path, Changes())[0]
        for name, seeds in (("MixUp", 1), ("AutoMix", 4))
    )
    assert (one.name, one.space.space_id) == (two.name, two.space.space_id)
    with pytest.raises(SpecError, match="seeds = 0 must be 1 or more"):
        studies(select("dm_toy"), "tiny", 0, tmp_path, Changes())
    with pytest.raises(SpecError, match=r"path is missing; source cifar100 reads a local directory, e\.g\. data\.path"):
        studies(select("dm_toy:CIFAR-100"), "paper", 1, tmp_path, Changes())


def test_the_command_shows_published_beside_measured(tmp_path, capsys):
    target = "automix_small_scale:CIFAR-100/RX-50/CutMix,FMix"
    simulate(tmp_path, target, lambda cell, n: cell.value - 3 + 0.01 * n, seeds=3)
    words = ["reproduce", target, "--show", "--scale", "paper", "--results", str(tmp_path), "data.path=."]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "differs" in out
    assert "OpenMixup has 78.32" in out
    assert "held out" in out
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in answer["cells"]] == ["differs", "differs"]
    assert answer["columns"][0]["rows"] == 2


def test_a_dry_run_prints_configs_and_writes_nothing(tmp_path, capsys):
    words = [
        "reproduce",
        "dm_fine_tuning:CUB-200/15% labels",
        "--dry-run",
        "--results",
        str(tmp_path / "r"),
        "--seeds",
        "2",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "14 runs, 168 epochs, in 1 studies" in out
    assert "labels: 0.15" in out
    assert "made by the first run" in out
    assert "left out: CUB-200/ResNet-50/15% labels/BSS (the figure is lost)" in out
    assert not (tmp_path / "r").exists()
    assert main([*words, "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    assert (study["runs"], study["done"], list(study["configs"])[:2]) == (14, 0, ["Fine-Tuning", "Fine-Tuning+DM"])


def test_the_command_needs_a_table_and_a_known_scale(tmp_path, capsys):
    assert main(["reproduce"]) == 2
    assert "which table?" in capsys.readouterr().err
    assert main(["reproduce", "dm_toy", "--scale", "smal", "--results", str(tmp_path)]) == 2
    assert "unknown scale 'smal'" in capsys.readouterr().err
    for words in (["--seeds", "0"], ["--margin", "-1"], ["--share", "2"]):
        with pytest.raises(SystemExit, match="2"):
            main(["reproduce", "dm_toy", *words])
        assert f"'{words[1]}' must be a" in capsys.readouterr().err
    assert main(["reproduce", "dm_toy", "widht=4", "--results", str(tmp_path)]) == 2
    assert "did you mean 'width'" in capsys.readouterr().err
