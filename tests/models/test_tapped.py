"""Networks of timm and torchvision as backbones: stages, what can be done there, weights, what is refused."""

from __future__ import annotations

import io
import math
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision.models
from torch import nn

from automixsearch.config.data import Data
from automixsearch.config.recipe import Recipe
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.data.base import ImageSet, Part
from automixsearch.errors import DataError, SpecError
from automixsearch.models import build_model
from automixsearch.models.batch_norm import GlobalBatchNormAct2d, make_global
from automixsearch.models.conv1x1 import Conv1x1
from automixsearch.models.tapped import Tapped, stages_of
from automixsearch.results.store import Store
from automixsearch.search.prepare import prepare
from automixsearch.training.run import TrainingRun

KINDS = {
    "timm/test_resnet": (("act1", 32), ("layer1", 32), ("layer2", 48), ("layer3", 192), ("layer4", 96)),
    "timm/test_vit": (("blocks.0", 64), ("blocks.1", 64), ("blocks.2", 64), ("blocks.5", 64)),
    "timm/swin_tiny_patch4_window7_224": (("layers.0", 96), ("layers.1", 192), ("layers.2", 384), ("layers.3", 768)),
    "torchvision/resnet18": (("relu", 64), ("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)),
}
"""Maps, tokens, maps with channels last; children of the network."""


def made(backbone: str, side: int = 32, channels: int = 3, classes: int = 5, seed: int = 0, **knobs) -> Tapped:
    model = build_model(Recipe(backbone=backbone, **knobs), channels, classes, seed, side)
    assert isinstance(model, Tapped)
    return model


def noise(side: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(1))


def data(side: int = 32) -> ImageSet:
    rng = np.random.default_rng(0)
    parts = (Part(rng.integers(0, 256, (n, side, side, 3), np.uint8), np.arange(n) % 5) for n in (25, 10))
    return ImageSet("made_up", *parts, tuple("abcde"))


def config(backbone: str, **knobs) -> TrialConfig:
    base = {"epochs": 1, "batch_size": 4, "lr": 0.01, "backbone": backbone}
    return TrialConfig(data=Data(val_fraction=0.2), knobs={**base, **knobs})


@pytest.mark.parametrize("backbone", list(KINDS))
def test_stages_are_where_the_library_names_them_and_hold_what_its_modules_put_out(backbone):
    model, x = made(backbone).eval(), noise()
    stages = ("stem", "stage1", "stage2", "stage3", "stage4")[-len(KINDS[backbone]) :]
    assert {stage: (tap.module, tap.channels) for stage, tap in model.taps.items()} == dict(
        zip(stages, KINDS[backbone], strict=True)
    )
    ran: list[str] = []
    for stage, tap in model.taps.items():
        model.network.get_submodule(tap.module).register_forward_hook(lambda *_, stage=stage: ran.append(stage))
    with torch.no_grad():
        for number, (stage, tap) in enumerate(model.taps.items(), 1):
            ran.clear()
            assert model.features(x, stage).shape == (4, model.widths[stage], tap.side, tap.side)
            assert ran == list(stages[:number])  # nothing after it is computed
            seen: list[torch.Tensor] = []
            logits = model(x)
            if not tap.mixed:
                with pytest.raises(
                    SpecError, match=f"{backbone} cannot be mixed at {stage}, only mixed at input, stage1"
                ):
                    model(x, stage, lambda features: features)
                continue

            def look(features, seen=seen):
                seen.append(features.clone())
                return features

            assert torch.equal(model(x, stage, look), logits)
            assert torch.equal(seen.pop(), model.features(x, stage))
            # The rest reads the map alone: of other images it makes the logits of those, but for a class token.
            swapped = model(x, stage, lambda features: features.flip(0))
            assert torch.allclose(swapped, logits.flip(0), atol=1e-5) == (backbone != "timm/test_vit")
            assert not torch.allclose(swapped, logits, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("backbone", "theirs"),
    [
        ("timm/test_resnet", lambda: timm.create_model("test_resnet", num_classes=5)),
        ("timm/test_vit", lambda: timm.create_model("test_vit", num_classes=5, img_size=32)),
        ("torchvision/mobilenet_v3_small", lambda: torchvision.models.mobilenet_v3_small(num_classes=5)),
    ],
)
def test_a_file_of_the_library_gives_its_outputs_and_our_file_gives_ours(tmp_path, backbone, theirs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = theirs().eval()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.05)
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    model = made(backbone, weights=str(tmp_path / "theirs.pt")).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(noise()), network(noise()))
    torch.save(model.state_dict(), tmp_path / "ours.pt")
    again = made(backbone, weights=str(tmp_path / "ours.pt"), seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    with pytest.raises(SpecError, match=r"another network than backbone .* parameters differ"):
        made("timm/test_convnext", weights=str(tmp_path / "ours.pt"))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The cache of timm's hub, empty, on a machine without a network."""
    import huggingface_hub.file_download as download

    for module in (huggingface_hub.constants, download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_weights_of_the_library_come_from_its_cache_or_are_refused_and_never_random(hub, caplog):
    backbone = "timm/test_resnet"
    with pytest.raises(DataError, match=r"weights = library: cannot have timm's timm/test_resnet.r160_in1k") as refused:
        made(backbone, weights="library")
    assert f"the hub, here {hub}; copy it here, or give a file" in str(refused.value)
    known = timm.get_pretrained_cfg("test_resnet")
    folder = hub / f"models--{known.hf_hub_id.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    network = timm.create_model("test_resnet").eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    safetensors.torch.save_file(network.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    before = torch.random.get_rng_state()
    whole = made(backbone, classes=1000, weights="library").eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(noise()), network(noise()))
    few = made(backbone, weights="library", channels=1)
    assert "a head of 1000 classes there, of 5 here: the head starts anew" in caplog.text
    # One channel reads the sum of three.
    torch.testing.assert_close(few.network.conv1[0].weight, network.conv1[0].weight.sum(1, keepdim=True))
    assert torch.equal(few.head.weight, made(backbone, channels=1).head.weight)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(SpecError, match="weights = library: timm has none for darknet17"):
        made("timm/darknet17", weights="library")


@pytest.mark.parametrize("backbone", ["timm/test_convnext", "timm/test_vit"])
@pytest.mark.parametrize("method", ["automix", "manifoldmix"])
def test_methods_that_need_a_stage_train_on_it(backbone, method):
    layer = {"automix.layer": "l2"} if method == "automix" else {}
    run = TrainingRun(config(backbone, method=method, **layer), data(), "cpu")
    (metrics,) = run.epochs()
    assert all(math.isfinite(loss) for loss in metrics.losses)
    assert run.finish().parameters > 1000
    saved = torch.load(io.BytesIO(run.weights()), weights_only=True)
    assert saved.keys() == made(backbone).state_dict().keys()


def test_first_weights_and_skipped_paths_depend_on_the_seed_and_global_state_stays():
    before = torch.random.get_rng_state()
    first, again, other = (made("timm/test_vit", seed=seed, drop_path=0.5) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.network.blocks[0].attn.qkv.weight, other.network.blocks[0].attn.qkv.weight)
    assert [round(block.drop_path1.drop_prob, 1) for block in first.network.blocks[1:]] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_grey_images_of_other_sizes_and_numbers_of_classes_go_through():
    for backbone in ("timm/test_vit", "torchvision/mobilenet_v3_small", "torchvision/vit_b_16"):
        assert made(backbone, 48, 1, 7).eval()(noise(48, 1)).shape == (4, 7)


def test_the_end_of_a_stage_is_where_the_resolution_changes():
    assert stages_of([("a", 2), ("b", 2), ("c", 4), ("d", 8), ("e", 16), ("f", 32), ("g", 32)]) == {
        "stem": "b", "stage1": "c", "stage2": "d", "stage3": "e", "stage4": "g",
    }  # fmt: skip
    assert stages_of([("a", 4), ("b", 8)]) == {"stage1": "a", "stage2": "b"}
    assert list(stages_of([(str(i), 16) for i in range(1, 25)]).values()) == ["4", "8", "12", "24"]
    assert stages_of([]) == {}


def test_a_map_that_another_way_leads_around_cannot_be_mixed():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.head = nn.Linear(3, 5)

        def forward(self, x):
            x = self.one(x)
            return self.head(self.three(x + self.two(x)).mean((2, 3)))

    model = Tapped("around", Around(), [("one", 1), ("two", 2), ("three", 4)], 8, 3)
    assert {stage: tap.mixed for stage, tap in model.taps.items()} == {"stage1": True, "stage2": False, "stage3": True}


def test_no_strided_1x1_convolution_is_left_and_batch_norms_are_made_global():
    for backbone in ("timm/resnet50", "torchvision/resnet50"):
        parts = [part for part in made(backbone).modules() if isinstance(part, nn.Conv2d)]
        assert not [one for one in parts if one.kernel_size == (1, 1) and one.stride != (1, 1)]
        assert sum(isinstance(one, Conv1x1) for one in parts) == 3
    model, x = made("timm/test_efficientnet").eval(), noise()
    expected = model(x)
    norms = [part for part in make_global(model).modules() if isinstance(part, nn.BatchNorm2d)]
    assert {type(norm) for norm in norms} == {GlobalBatchNormAct2d}
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(
        SpecError, match="0 is a BatchNorm1d, whose statistics several workers cannot share; use batch_n"
    ):
        make_global(nn.Sequential(nn.BatchNorm1d(3)))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"backbone": "timm/"}, "unknown value 'timm/'"),
        ({"backbone": "tim/resnet18"}, "unknown value 'tim/resnet18'"),
        ({"backbone": "timm/hf-hub:someone/something"}, "unknown value 'timm/hf-hub:someone/something'"),
        ({"backbone": "timm/resnet18", "width": 8}, "width = 8 has no effect with backbone timm/resnet18; drop it"),
        ({"backbone": "timm/resnet18", "stem": "imagenet"}, "stem = imagenet has no effect with backbone timm"),
        ({"backbone": "torchvision/swin_t", "drop_path": 0.1}, "drop_path = 0.1 has no effect with backbone torch"),
    ],
    ids=str,
)  # fmt: skip
def test_configs_are_checked_without_the_library(knobs, message):
    with pytest.raises(ValueError, match=message):
        TrialConfig(data=Data(), knobs=knobs)


@pytest.mark.parametrize(
    ("backbone", "side", "message"),
    [
        ("timm/resnet19", 32, "timm has no network of that name; did you mean resnet18, "),
        ("torchvision/resnet19", 32, "torchvision has no network of that name; did you mean resnet18, "),
        ("timm/deit_tiny_distilled_patch16_224", 32, "does not end in one linear layer, with a bias"),
        ("torchvision/alexnet", 32, "does not take images of 32 x 32 pixels with 3 channels: Given input size"),
        ("torchvision/maxvit_t", 32, "cannot be built for images of 32 pixels: Input size"),
    ],
)
def test_networks_that_cannot_be_backbones_are_refused_with_the_reason(backbone, side, message):
    with pytest.raises(SpecError, match=message):
        made(backbone, side)
    with pytest.raises(SpecError, match="drop_path has no effect with backbone timm/vgg11; drop it"):
        made("timm/vgg11", drop_path=0.1)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"backbone": "timm/resnet19"}, "timm has no network of that name"),
        ({"method": "automix", "layer": ["l3", "l4"], "backbone": "timm/shvit_s1"},
         r"cannot be tapped at stage4, only tapped at stage1 \(stages.0, 128 channels\), stage2"),
        ({"method": "manifoldmix", "stages": ["input", "input+stage4"], "backbone": "timm/test_vit"},
         "backbone timm/test_vit cannot be mixed at stage4, only mixed at input, stage1"),
        ({"backbone": "timm/deit_tiny_patch16_224", "test_size": 32}, "for images of 64 x 64 .* use test_size=64"),
    ],
    ids=str,
)  # fmt: skip
def test_searches_with_what_cannot_be_are_refused_before_any_trial(tmp_path, knobs, message):
    space = SearchSpace(data={"source": "digits", "size": 64}, knobs=knobs)
    with pytest.raises(SpecError, match=message):
        prepare(space, Store(tmp_path, "s"), None)
    assert not any(tmp_path.iterdir())
