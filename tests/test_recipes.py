"""Recipes: what they say enters a space, what a space says itself wins, and every one of them trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from automixsearch.config.data import Data
from automixsearch.config.files import load_space
from automixsearch.config.shipped import shipped
from automixsearch.config.trial import TrialConfig
from automixsearch.data.base import ImageSet, Part
from automixsearch.errors import SpecError
from automixsearch.training.run import TrainingRun

RECIPES = sorted(shipped("recipe"))
SPACE = "data: {source: digits}\nknobs:\n  method: automix\n"


@pytest.fixture(scope="module")
def photos() -> ImageSet:
    """Coloured images of 36 x 36 pixels, each class with a colour of its own."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    pixels = rng.integers(0, 120, (60, 36, 36, 3)) + 120 * np.eye(3)[labels][:, None, None]
    part = Part(pixels.astype(np.uint8), labels.astype(np.int64))
    return ImageSet("photos", part, part, ("red", "green", "blue"))


def space(tmp_path, text, *overrides):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return load_space(file, overrides)


def fixed(found):
    return {d.name: d.choices[0] for d in found.dimensions if d.fixed and d.choices}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_automix_at_small_size(tmp_path, photos, name):
    big = load_space("quickstart", [f"recipe={name}", "method=automix"])
    assert big.family in ("cifar", "tiny", "imagenet", "fine_grained")
    side = 36 if name.startswith("cifar_wrn") or name in ("cifar", "digits", "tiny_imagenet") else 32
    small = [f"train_size={side}", f"test_size={side}", "batch_size=8", "width=4", "weights=''", "epochs=2",
             "warmup_epochs=0", "crop_pad=2", "automix.layer=l2"]  # fmt: skip
    found = space(tmp_path, f"recipe: {name}\n{SPACE}", *small)
    chosen = fixed(found)
    mentioned = {d.name for d in big.dimensions}
    assert {"optimizer", "lr", "weight_decay", "median_epochs"} <= mentioned
    knobs = {key: value for key, value in chosen.items() if not key.startswith("decoupled_bce.")}
    run = TrainingRun(TrialConfig(data=Data(val_fraction=0.2), knobs=knobs | {"epochs": 2}), photos, "cpu")
    before = {key: value.clone() for key, value in run.algorithm.state_dict().items()}
    history = list(run.epochs())
    assert all(np.isfinite(epoch.train_loss) for epoch in history)
    after = run.algorithm.state_dict()
    assert sum(not value.equal(after[key]) for key, value in before.items()) > 20
    assert run.optimizer.__class__.__name__.lower() == knobs["optimizer"]


def test_a_space_wins_over_its_recipe_and_a_recipe_on_the_command_line_over_the_space(tmp_path):
    text = f"recipe: deit\nbudget: {{trials: 3}}\n{SPACE}  lr: {{low: 0.001, high: 0.01}}\n  erasing: 0.0\n"
    included = space(tmp_path, text)
    assert (included.budget.trials, included.budget.epochs, included.family) == (3, 300, "imagenet")
    assert included.knobs["lr"] == {"low": 0.001, "high": 0.01}
    assert (included.knobs["erasing"], included.knobs["optimizer"]) == (0.0, "adamw")
    assert included.recipe == "deit"
    swapped = space(tmp_path, text, "recipe=cifar", "weight_decay=0.5")
    assert (swapped.budget.epochs, swapped.family) == (200, "cifar")
    assert (swapped.knobs["lr"], swapped.knobs["weight_decay"]) == (0.1, 0.5)


def test_a_recipes_knobs_of_methods_that_are_not_searched_stay_out(tmp_path):
    text = "recipe: tiny_imagenet\ndata: {source: digits}\nknobs:\n  method: cutmix\n"
    assert not any("mixblock" in key for key in space(tmp_path, text).knobs)
    assert "automix.mixblock_lr" in space(tmp_path, text.replace("cutmix", "automix")).knobs


def test_the_recipe_changes_no_identity_but_through_its_knobs(tmp_path):
    recipe = shipped("recipe")["cifar"].read_text()
    (tmp_path / "mine.yaml").write_text(recipe)
    named, own = (space(tmp_path, f"recipe: {name}\n{SPACE}") for name in ("cifar", "mine.yaml"))
    assert named.space_id == own.space_id
    assert named.space_id != space(tmp_path, f"recipe: cifar_wrn\n{SPACE}").space_id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: cifr\n" + SPACE, "cifr: no such file; unknown recipe 'cifr'; did you mean 'cifar'?"),
        ("recipe: [cifar]\n" + SPACE, "recipe = ['cifar'] must be a file"),
        ("recipe: bad.yaml\n" + SPACE, "bad.yaml: unknown key 'knob'; did you mean 'knobs'?"),
        ("recipe: list.yaml\n" + SPACE, "list.yaml: must be a mapping"),
        ("recipe: wrong.yaml\n" + SPACE, "optimiser"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text("knob: {lr: 1}\nknobs: {}\n")
    (tmp_path / "list.yaml").write_text("- lr\n")
    (tmp_path / "wrong.yaml").write_text("knobs: {optimiser: sgd}\n")
    with pytest.raises(SpecError) as error:
        space(tmp_path, text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"train_size": 64, "crop_pad": 4}, "train_size = 64 must fit into the stored images of 36 x 36 pixels"),
        ({"test_size": 40}, "test_size = 40 must fit into the stored images of 36 x 36"),
        ({"backbone": "deit_s", "train_size": 32, "test_size": 16}, "and test_size = 16 must be equal"),
        ({"backbone": "swin_t", "train_size": 30}, "backbone swin_t takes square images"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(photos, knobs, message):
    config = TrialConfig(data=Data(val_fraction=0.2), knobs={"method": "vanilla", "batch_size": 8, **knobs})
    with pytest.raises(SpecError) as error:
        TrainingRun(config, photos, "cpu")
    assert message in str(error.value)


def test_grey_images_have_no_statistics_of_coloured_ones():
    from automixsearch.data import load
    from automixsearch.errors import SpecError

    config = TrialConfig(data=Data(), knobs={"method": "vanilla", "normalisation": "imagenet", "width": 4})
    with pytest.raises(SpecError, match="has 3 channels and the images of digits have 1"):
        TrainingRun(config, load(Data()), "cpu")


@pytest.mark.parametrize("method", ["vanilla", "automix"])
def test_best_and_median_are_those_of_the_epochs_also_after_a_resume(photos, method):
    knobs = {"method": method, "width": 4, "batch_size": 8, "epochs": 5, "median_epochs": 3, "test_median": True}
    config = TrialConfig(data=Data(val_fraction=0.2), knobs=knobs)
    run = TrainingRun(config, photos, "cpu")
    scores, tested, state = [], [], b""
    for epoch in run.epochs():
        scores.append(epoch.val_top1)
        tested.append(run._tested().scores().top1)
        state = run.state() if epoch.epoch == 3 else state
    outcome = run.finish()
    assert outcome.val_top1_best == max(scores)
    assert outcome.val_top1_median == sorted(scores[-3:])[1]
    assert outcome.test_top1_median == sorted(tested[-3:])[1]
    assert outcome.test_top1_best == max(tested[-3:])
    resumed = TrainingRun(config, photos, "cpu")
    resumed.load(state)
    list(resumed.epochs())
    again = resumed.finish()
    assert (again.val_top1_best, again.test_top1_median) == (outcome.val_top1_best, outcome.test_top1_median)


def test_gradients_are_cut_to_the_norm_of_the_recipe(photos):
    def moved(clip):
        knobs = {"method": "vanilla", "width": 4, "batch_size": 8, "epochs": 1, "grad_clip": clip, "momentum": 0.0,
                 "weight_decay": 0.0, "lr": 1.0}  # fmt: skip
        run = TrainingRun(TrialConfig(data=Data(val_fraction=0.2), knobs=knobs), photos, "cpu")
        weights = list(run.algorithm.parameters())
        before = [weight.detach().clone() for weight in weights]
        run.algorithm.network.train()
        run.step(next(run.batches(0)), 0, torch.Generator())
        return sum((a - b).square().sum() for a, b in zip(before, weights, strict=True)).sqrt().item()

    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(0.0) > 0.1
