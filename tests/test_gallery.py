"""The picture of what mixing methods do: right masks, right shares, clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from automixsearch.cli import main
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.data.base import ImageSet, Part
from automixsearch.errors import SpecError
from automixsearch.gallery import (
    Crowd,
    data_at,
    draw_masks,
    gallery_row,
    learned_row,
    load_network,
    make_gallery,
    masks_config,
    picture_file,
)
from automixsearch.mixers import MIXERS
from automixsearch.models import build_model
from automixsearch.training.run import TrainingRun

LEARNED = {name for name, mixer in MIXERS.items() if mixer.needs & {"mask", "masks"}}
DRAWN = [name for name in MIXERS if name not in {"vanilla", "trivialmix", *LEARNED}]


@pytest.fixture(scope="module")
def digits():
    return load(Data())


@pytest.mark.parametrize("name", DRAWN)
def test_masks_say_which_image_shows_where(digits, name):
    """Blended with the masks as weights, the images of the batch give the mixed image, where nothing was moved."""
    crowd = Crowd(digits, 3)
    mixer = MIXERS[name](**({"transport": False} if name == "puzzlemix" else {}))
    mixed, parts = crowd.mix(mixer, 0.5, torch.Generator().manual_seed(1))
    if parts is None:
        assert mixed.stage != "input" or mixed.views is not None
        return
    np.testing.assert_allclose(parts.sum(1), 1, atol=1e-6)
    shares = torch.zeros(8, 8, dtype=torch.float64).scatter_add_(1, mixed.sources, mixed.shares)
    slack = 1e-6 + mixer.label_slack / 64
    np.testing.assert_allclose(parts.mean((2, 3)), shares, atol=slack)
    if name != "resizemix":
        blend = np.einsum("bshw,schw->bchw", parts, crowd.x)
        np.testing.assert_allclose(blend, mixed.x, atol=1e-6)


def test_pairs_are_shown_at_the_shares_asked_for(digits):
    row = gallery_row(Crowd(digits, 0), MIXERS["mixup"](), [0.1, 0.9], 2, 0)
    assert [[round(picture.shares[2 * pair], 6) for picture in row.pictures[pair]] for pair in range(2)] == [
        [0.1, 0.9]
    ] * 2


def test_methods_without_a_share_to_ask_for_have_a_new_draw_in_every_column(digits):
    for name in set(DRAWN) & {"augmix", "comixup"}:
        row = gallery_row(Crowd(digits, 0), MIXERS[name](), [0.25, 0.5, 0.75], 1, 0)
        pixels = [picture.pixels.tobytes() for picture in row.pictures[0]]
        assert len(set(pixels)) > 1


def test_an_odd_number_of_classes_leaves_one_without_a_partner(digits):
    few = [Part(part.images[part.labels < 3], part.labels[part.labels < 3]) for part in (digits.train, digits.test)]
    crowd = Crowd(ImageSet("few", few[0], few[1], ("a", "b", "c")), 0)
    assert len(gallery_row(crowd, MIXERS["mixup"](), [0.5], len(crowd.y) // 2, 0).pictures) == 1


def test_the_command_writes_a_picture_with_a_row_for_each_method(tmp_path, capsys):
    few, more = tmp_path / "few.png", tmp_path / "more.png"
    assert main(["gallery", "digits", "--methods", "mixup,cutmix", "--pairs", "1", "--out", str(few)]) == 0
    assert main(["gallery", "digits", "fmix.decay=2", "--pairs", "1", "--out", str(more)]) == 0
    assert f"picture: {more}" in capsys.readouterr().out
    heights = []
    for file in (few, more):
        with Image.open(file) as picture:
            heights.append(picture.height)
    assert (heights[1] - heights[0]) % (len(DRAWN) - 2) == 0
    assert heights[1] > heights[0]


def test_a_trained_network_gives_the_saliency(digits, tmp_path):
    config = TrialConfig(data=Data(), knobs={"width": 4})
    network = build_model(config.recipe, 1, 10, 0, 8)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    loaded = load_network(config, str(tmp_path / "w.pt"), digits)
    with_network, without = Crowd(digits, 0, loaded), Crowd(digits, 0)
    assert not torch.equal(with_network.saliency, without.saliency)
    assert make_gallery(digits, {"puzzlemix": MIXERS["puzzlemix"]()}, pairs=1, network=loaded).size[0] > 300
    with pytest.raises(SpecError, match=r"w.pt: another network than backbone resnet18"):
        load_network(TrialConfig(data=Data(), knobs={"width": 5}), str(tmp_path / "w.pt"), digits)


def small_run(digits, shown, **knobs):
    knobs = {"width": 2, "batch_size": 256, **knobs}
    return TrainingRun(masks_config("automix", Data(), shown, knobs, 0), digits, "cpu")


def test_learned_masks_are_those_of_the_mix_block_in_the_order_of_epochs(digits):
    """Each column shows what block and teacher make of the training run's own images after that epoch."""
    crowd, run, own = Crowd(digits, 0), small_run(digits, [1, 3]), []

    def look():
        momentum = run.algorithm
        momentum.eval()
        with torch.no_grad():
            features = momentum.teacher.backbone.features(run.train.normalise(crowd.pixels), "stage2")
            partner, lam = torch.arange(len(features)) ^ 1, torch.full((len(features),), 0.3)
            own.append(momentum.block(features, features[partner], lam, (8, 8))[:, 0].double().numpy())

    look()
    row = learned_row(crowd, run, [1, 3], 0.3, 2, 0, lambda metrics: look())
    assert row.name == "automix"
    assert run.epoch == 3
    for pair, pictures in enumerate(row.pictures):
        assert len(pictures) == 3
        for picture, masks in zip(pictures, (own[0], own[1], own[3]), strict=True):
            assert picture.parts is not None
            np.testing.assert_allclose(picture.parts[2 * pair + 1], masks[2 * pair], atol=1e-6)
            np.testing.assert_allclose(picture.parts[2 * pair], 1 - masks[2 * pair], atol=1e-6)
            assert picture.shares[2 * pair] == picture.asked == 0.3
    assert abs(own[0] - own[1]).max() > 1e-3
    assert abs(own[1] - own[3]).max() > 1e-3


def test_looking_at_the_masks_does_not_change_the_training(digits):
    looked, alone = small_run(digits, [1, 2]), small_run(digits, [1, 2])
    learned_row(Crowd(digits, 0), looked, [1, 2], 0.5, 1, 0)
    for _ in alone.epochs():
        pass
    for mine, theirs in zip(looked.algorithm.state_dict().values(), alone.algorithm.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_training_stops_after_the_last_epoch_that_is_shown(digits):
    run = small_run(digits, [1], epochs=9)
    learned_row(Crowd(digits, 0), run, [1], 0.5, 1, 0)
    assert run.epoch == 1
    assert run.recipe.epochs == 9


def test_masks_stand_in_a_column_for_each_method_and_epoch(digits):
    crowd, run = Crowd(digits, 0), small_run(digits, [1])
    learned = learned_row(crowd, run, [1], 0.5, 2, 0)
    fixed = [gallery_row(crowd, MIXERS[name](), [0.5], 2, 0) for name in DRAWN]
    some, all_of_them = (draw_masks(crowd, rows, [learned], [1], "Masks") for rows in (fixed[:3], fixed))
    assert all_of_them.width - some.width == 100 * (len(fixed) - 3)
    assert all_of_them.height == some.height
    alone = np.asarray(draw_masks(crowd, [], [learned], [1], "Masks"))
    assert (alone[:, -1] == 255).all(), "nothing is cut off at the right"


def test_the_command_draws_masks_over_training(tmp_path, capsys):
    out = tmp_path / "masks.png"
    words = ["--methods", "cutmix,automix", "--epochs", "1,2", "--pairs", "1", "--lams", "0.4", "--out", str(out)]
    assert main(["gallery", "digits", *words, "width=2", "batch_size=256", "automix.layer=l1"]) == 0
    said = capsys.readouterr()
    assert said.out == f"picture: {out}\n"
    assert [line.split("  ")[0] for line in said.err.splitlines()] == ["epoch 1/2", "epoch 2/2"]
    with Image.open(out) as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "automix"], "automix learns its masks while a network trains; say after which epochs"),
        (["--methods", "cutmix", "--epochs", "1"], "cutmix learns none; add automix to --methods, or drop --epochs"),
        (["--epochs", "4,1"], "--epochs '4,1' must be whole numbers from 1 on, each above the one before, e.g. 1,4,12"),
        (["--epochs", "0,1"], "from 1 on, each above the one before, e.g. 1,4,12; the start is always drawn"),
        (["--epochs", "2,2"], "must be whole numbers from 1 on"),
        (["--epochs", "1,,2"], "must be whole numbers from 1 on"),
        (["--epochs", "1,2,3,4,5,6,7,8,9"], "--epochs names 9 epochs, and a picture has room for 8; name fewer"),
        (["--epochs", "1", "--lams", "0.2,0.5"], "--lams 0.2,0.5 names 2 own shares, and with --epochs the columns"),
        (["--epochs", "4", "epochs=3"], "--epochs names epoch 4, but the training ends after epochs = 3; raise epochs"),
        (["--epochs", "1", "automix.mask_source=random_grid"], "random_grid learns no masks to draw; use mixblock"),
        (["--epochs", "1", "--methods", "automix", "fmix.decay=2"], "fmix.decay belongs to none of the methods drawn"),
        (["--epochs", "1", "--methods", "automix", "method=cutmix"], "method belongs to none of the methods drawn"),
        (["--methods", "cutmix", "width=8"], "width belongs to none of the methods drawn: cutmix; drop it"),
        (["--epochs", "1", "widht=8"], "unknown key or knob 'widht'; did you mean 'width'"),
        (["--epochs", "1", "width=0"], "width = 0 must be 1 to 1024"),
        (["--epochs", "1", "--out", "a.txt"], "is no picture; use mixes.png"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in words else ["--out", "a.png"]
    assert main(["gallery", "digits", *words, *out]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--methods", "mixupp", "--out", "a.png"], "unknown method 'mixupp'; did you mean 'mixup'"),
        (["digits", "--methods", "mixup", "fmix.decay=2", "--out", "a.png"], "fmix.decay belongs to none"),
        (["digits", "--lams", "a,b", "--out", "a.png"], "must be shares from 0 to 1"),
        (["digits", "--lams", "0.5,1.5", "--out", "a.png"], "must be shares from 0 to 1"),
        (["digits", "--lams", "nan", "--out", "a.png"], "must be shares from 0 to 1"),
        (["digits", "--out", "a.txt"], "is no picture; use mixes.png"),
        (["digits", "--out", "/nowhere/at/all/a.png"], "there is no directory"),
        (["no_such_dir", "--out", "a.png"], "no_such_dir"),
        (["digits", "--config", "x.yaml", "--out", "a.png"], "go together"),
        (["digits", "mixup.alpha=-1", "--out", "a.png"], "mixup.alpha = -1 must be > 0"),
    ],
    ids=str,
)
def test_mistakes_are_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["gallery", *words]) == 2
    assert message in capsys.readouterr().err


def test_directories_are_told_apart_by_what_lies_in_them(tmp_path):
    assert data_at("digits").source == "digits"
    (tmp_path / "train" / "cat").mkdir(parents=True)
    assert data_at(str(tmp_path)).source == "folder"
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert data_at(str(tmp_path)).source == "cifar10"
    (tmp_path / "x.parquet").touch()
    assert data_at(str(tmp_path)).source == "parquet"


def test_a_picture_needs_an_ending():
    with pytest.raises(SpecError, match="without an ending"):
        picture_file("mixes")
