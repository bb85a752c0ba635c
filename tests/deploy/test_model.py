"""A trained network in one file says of images what it said in its run."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import automixsearch
from automixsearch.cli import main
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.deploy.model import DIGEST, KEY, save_model
from automixsearch.errors import AutoMixError
from automixsearch.training.run import TrainingRun


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = TrialConfig(
        data=Data(val_fraction=0.2), knobs={"method": "mixup", "width": 4, "epochs": 2, "batch_size": 64, "lr": 0.05}
    )
    (folder / "c.yaml").write_text(config.to_yaml())
    assert main(["train", str(folder / "c.yaml"), "--out", str(folder / "m.safetensors"), "--device", "cpu"]) == 0
    images = load(config.data)
    for number in range(6):
        Image.fromarray(images.test.images[number, :, :, 0]).save(folder / f"{number}.png")
    return folder, images, config


def test_the_file_answers_as_the_run_did(trained):
    folder, images, config = trained
    run = TrainingRun(config, images, "cpu")
    for _ in run.epochs():
        pass
    model = automixsearch.load_model(folder / "m.safetensors")
    pixels = torch.from_numpy(images.test.images[:50]).permute(0, 3, 1, 2)
    x, _ = next(run.test.in_order(50))
    expected = run.network.eval()(x)
    assert torch.allclose(model(pixels), expected, atol=1e-5)
    assert torch.allclose(model(pixels.float() / 255), expected, atol=1e-5)
    assert torch.equal(model.read([folder / f"{number}.png" for number in range(6)]), pixels[:6])
    assert model.classes == tuple(images.classes)
    assert model.config == config
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_middle_is_cut_out_where_it_was_tested_so(tmp_path):
    data = Data(val_fraction=0.2, size=16)
    config = TrialConfig(data=data, knobs={"method": "vanilla", "width": 4, "epochs": 1, "batch_size": 64,
                                           "train_size": 12, "test_size": 12, "normalisation": "data"})  # fmt: skip
    images = load(data)
    run = TrainingRun(config, images, "cpu")
    save_model(tmp_path / "m.safetensors", run, images.classes)
    x, _ = next(run.test.in_order(5, side=12))
    pixels = torch.from_numpy(images.test.images[:5]).permute(0, 3, 1, 2)
    model = automixsearch.load_model(tmp_path / "m.safetensors")
    assert torch.allclose(model(pixels), run.network.eval()(x), atol=1e-5)


def test_the_command_names_the_class_of_each_image(trained, capsys, monkeypatch):
    folder, images, _ = trained
    monkeypatch.chdir(folder)
    assert main(["predict", "m.safetensors", ".", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert [row["image"] for row in rows] == [f"{number}.png" for number in range(6)]
    model = automixsearch.load_model("m.safetensors")
    expected = model(torch.from_numpy(images.test.images[:6]).permute(0, 3, 1, 2)).softmax(1)
    assert [row["class"] for row in rows] == [images.classes[int(label)] for label in expected.argmax(1)]
    np.testing.assert_allclose([row["confidence"] for row in rows], expected.amax(1).numpy(), rtol=1e-6)
    Image.fromarray(np.full((30, 20, 3), 200, np.uint8)).save("colour.jpg")  # of another size and form
    assert main(["predict", "m.safetensors", "colour.jpg"]) == 0
    assert "colour.jpg" in capsys.readouterr().out
    (folder / "colour.jpg").unlink()


def test_what_is_no_such_file_is_refused_by_name(trained, tmp_path, capsys):
    folder, _, _ = trained
    whole = (folder / "m.safetensors").read_bytes()
    state = load_file(folder / "m.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "word.safetensors").write_bytes(b"not a model")
    save_file(state, tmp_path / "bare.safetensors")
    changes = {
        "other": ('"classes":["', '"classes":["x","'),
        "form": ('"format":1', '"format":9'),
        "grey": ('"channels":1', '"channels":3'),
        "flat": ('"std":[', '"std":[0.0],"also":['),
        "vast": ('"stored":[8,8]', '"stored":[1000000,1000000]'),
    }
    for name, change in changes.items():
        card = json.dumps(json.loads(_metadata(whole)), separators=(",", ":"))
        assert change[0] in card
        save_file(state, tmp_path / f"{name}.safetensors", {KEY: card.replace(*change)})
    torch.save(state, tmp_path / "torch.safetensors")
    first = next(name for name, value in state.items() if value.ndim == 4)
    empty = state | {first: torch.full_like(state[first], float("nan"))}
    save_file(empty, tmp_path / "nan.safetensors", {KEY: _metadata(whole)})
    digest = hashlib.sha256(_metadata(whole).encode()).hexdigest()
    save_file(state, tmp_path / "changed.safetensors", {KEY: _metadata(whole), DIGEST: digest})
    for place in (0.3, 0.6, 0.9, 1.0):
        flipped = bytearray(whole)
        flipped[int(place * (len(whole) - 1))] ^= 1
        (tmp_path / f"bit{place}.safetensors").write_bytes(flipped)
    for name, rule in {
        "none": "no such file",
        "cut": "no whole safetensors file",
        "word": "no whole safetensors file",
        "torch": "no whole safetensors file",
        "bare": "does not say how its network is used",
        **dict.fromkeys(changes, "does not fit it"),
        "nan": rf"{first} holds values that are no numbers",
        "changed": "was changed since it was written",
        **{f"bit{place}": "(was changed since|no whole safetensors)" for place in (0.3, 0.6, 0.9, 1.0)},
    }.items():
        with pytest.raises(AutoMixError, match=rf"{name}\.safetensors: .*{rule}"):
            automixsearch.load_model(tmp_path / f"{name}.safetensors")
    model = automixsearch.load_model(folder / "m.safetensors")
    with pytest.raises(AutoMixError, match=r"must be \[B, 1, H, W\]"):
        model(torch.zeros(2, 8, 8, 1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for words, rule in (("empty", "holds no images"), ("bad.png", "cannot be decoded"), ("gone.png", "no such file")):
        assert main(["predict", str(folder / "m.safetensors"), str(tmp_path / words)]) == 2
        assert rule in capsys.readouterr().err


def _metadata(data: bytes) -> str:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size])["__metadata__"][KEY]
