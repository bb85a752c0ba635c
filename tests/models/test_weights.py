"""Pretrained weights: torchvision's files give torchvision's outputs, ours give ours, others are refused."""

from __future__ import annotations

import io
import os
import random
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision.models as theirs

from automixsearch.config.data import Data
from automixsearch.config.recipe import Recipe
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import DataError, SpecError
from automixsearch.models import Backbone, build_model
from automixsearch.models.weights import _read


def vit(num_classes: int) -> theirs.VisionTransformer:
    return theirs.VisionTransformer(32, 16, 12, 6, 384, 1536, num_classes=num_classes)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """In eval mode, with weights and statistics that all matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value *= 1 + 0.2 * torch.rand(value.shape, generator=generator)
                value += 0.02 * torch.randn(value.shape, generator=generator)
    return model.eval()


def started(backbone: str, weights: Path | str, classes: int = 7, side: int = 64, **knobs) -> Backbone:
    return build_model(Recipe(backbone=backbone, weights=str(weights), **knobs), 3, classes, 0, side).eval()


@pytest.mark.parametrize(
    ("backbone", "make", "side", "knobs"),
    [
        ("resnet18", theirs.resnet18, 64, {"stem": "imagenet"}),
        ("resnet50", theirs.resnet50, 64, {"stem": "imagenet"}),
        ("resnext50", theirs.resnext50_32x4d, 64, {"stem": "imagenet"}),
        ("swin_t", theirs.swin_t, 64, {}),
        ("deit_s", vit, 32, {}),
    ],
)
def test_weights_of_torchvision_give_its_outputs(tmp_path, caplog, backbone, make, side, knobs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shaken(make(num_classes=7))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x)
        found = started(backbone, tmp_path / "w.pth", side=side, **knobs)(x)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert (expected[0] - expected[1]).norm() > 1e-3 * expected.norm()
    assert caplog.text == ""


@pytest.mark.parametrize("backbone", ["resnet18", "wrn28_2", "deit_s", "swin_t"])
def test_our_own_weights_come_back(tmp_path, backbone):
    model = build_model(Recipe(backbone=backbone, width=8), 3, 7, 3, 64)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    again = started(backbone, tmp_path / "w.pt", width=8).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_head_starts_anew_where_the_classes_are_others_and_says_so(tmp_path, caplog):
    model = build_model(Recipe(width=8), 3, 7, 3, 32)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    fresh, found = build_model(Recipe(width=8), 3, 9, 0, 32), started("resnet18", tmp_path / "w.pt", 9, width=8)
    assert "a head of 7 classes there, of 9 here: the head starts anew" in caplog.text
    assert torch.equal(found.head.weight, fresh.head.weight)
    assert torch.equal(found.stem[0].weight, model.stem[0].weight)


def test_what_is_no_file_of_weights_of_this_network_is_refused(tmp_path):
    file = tmp_path / "w.pt"
    with pytest.raises(DataError, match=r"w.pt: no such file; check the path"):
        started("resnet18", file)
    file.write_text("not a network")
    with pytest.raises(SpecError, match=r"w.pt: cannot be read: .+; give what train --out"):
        started("resnet18", file)
    torch.save({"epoch": 3}, file)
    with pytest.raises(SpecError, match=r"w.pt: holds no state_dict"):
        started("resnet18", file)
    torch.save(build_model(Recipe(width=8), 3, 7, 0, 32).state_dict(), file)
    with pytest.raises(
        SpecError, match=r"another network than backbone resnet34 .*stage1.2.bn1.bias: missing there, 8 here"
    ):
        started("resnet34", file, width=8)
    with pytest.raises(SpecError, match=r"stem.0.weight: 8 x 3 x 3 x 3 there, 8 x 3 x 7 x 7 here"):
        started("resnet18", file, width=8, stem="imagenet")


def test_the_library_is_read_from_its_cache(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / os.path.basename(theirs.ResNet18_Weights.IMAGENET1K_V1.url)
    file.parent.mkdir(parents=True)
    model = theirs.resnet18()
    torch.save(model.state_dict(), file)
    found = started("resnet18", "library", stem="imagenet")
    assert torch.equal(found.stage4[1].conv2.weight, model.layer4[1].conv2.weight)
    assert "a head of 1000 classes there, of 7 here" in caplog.text


def test_a_library_that_cannot_be_had_names_the_file_to_fetch(tmp_path, monkeypatch):
    def offline(*_args, **_kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(DataError, match=r"no network.*fetch https://\S+/resnet18-\w+.pth and put it at .*checkpoints"):
        started("resnet18", "library", stem="imagenet")
    with pytest.raises(SpecError, match="torchvision has none for backbone wrn28_2, only for resnet18, "):
        started("wrn28_2", "library")


def test_configs_hold_the_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = TrialConfig(data=Data(), knobs={"weights": "runs/w.pt"})
    assert made.recipe.weights == str(tmp_path / "runs" / "w.pt")
    assert TrialConfig(data=Data(), knobs={"weights": "library"}).recipe.weights == "library"
    assert TrialConfig(data=Data(), knobs={}).recipe.weights == ""


def test_no_flipped_bit_of_a_file_is_read_as_other_weights(tmp_path):
    state, file, chance = {"a": torch.randn(40), "b": torch.arange(9)}, io.BytesIO(), random.Random(0)
    torch.save(state, file)
    data, path, noticed = file.getvalue(), tmp_path / "weights.pt", 0
    for _ in range(500):
        flipped, bit = bytearray(data), chance.randrange(8 * len(data))
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            read = _read(str(path))
        except SpecError:
            noticed += 1
        else:  # a blank between two records
            assert read.keys() == state.keys()
            assert all(torch.equal(read[name], value) for name, value in state.items())
    assert noticed > 200


def test_weights_of_old_versions_of_pytorch_have_no_checksums_and_are_read(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert _read(str(tmp_path / "old.pt"))["a"].tolist() == [1, 1, 1]
