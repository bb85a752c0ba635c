"""The picture of what mixing methods do: right masks, right shares, clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from automixsearch.cli import main
from automixsearch.data import load
from automixsearch.errors import SpecError
from automixsearch.gallery import Crowd, data_at, gallery_row, load_network, make_gallery, picture_file
from automixsearch.mixers import MIXERS
from automixsearch.models import build_model
from automixsearch.spec import Data, TrialConfig

DRAWN = [name for name in MIXERS if name not in ("vanilla", "trivialmix", "automix")]


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
