"""Backbones: their size, their stages, what can be done at them, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision.models as theirs
from torch import nn
from torch.nn.functional import conv2d
from torchvision.ops import StochasticDepth

from automixsearch.config.data import Data
from automixsearch.config.recipe import Recipe
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.data.base import ImageSet, Part
from automixsearch.errors import SpecError, TrainingError
from automixsearch.models import Backbone, build_model, count_parameters
from automixsearch.models.batch_norm import GlobalBatchNorm2d, make_global
from automixsearch.models.registry import BACKBONES, check_sides, stage_names
from automixsearch.models.resnet import Conv7x7
from automixsearch.results.store import Store
from automixsearch.search.prepare import prepare
from automixsearch.training.run import TrainingRun

SIZES = {"deit_s": (2,) * 5, "swin_t": (16, 16, 8, 4, 2)} | {
    name: (32, 32, 16, 8) for name in BACKBONES if name.startswith("wrn28")
}
"""Of the maps; of ResNets with the CIFAR stem: 32, 32, 16, 8, 4."""


def side_of(backbone: str) -> int:
    return 64 if backbone == "swin_t" else 32


def small(backbone: str, seed: int = 0, **knobs) -> Backbone:
    return build_model(Recipe(backbone=backbone, width=8, **knobs), 3, 5, seed, side_of(backbone))


def stirred(backbone: str) -> Backbone:
    """A small network in eval mode, no weight of which is zero."""
    model = small(backbone).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def images(backbone: str) -> torch.Tensor:
    return torch.randn(2, 3, side_of(backbone), side_of(backbone), generator=torch.Generator().manual_seed(1))


def parameters(classes: int, side: int = 224, **knobs) -> int:
    return count_parameters(build_model(Recipe(**knobs), 3, classes, 0, side))


def test_networks_have_the_published_number_of_parameters():
    assert parameters(100) == 11_220_132
    assert parameters(200) == 11_271_432
    assert parameters(1000, stem="imagenet") == 11_689_512
    assert parameters(200, backbone="resnext50") == 23_382_024
    assert parameters(1000, backbone="deit_s") == 22_050_664


def resnext101(**knobs) -> theirs.ResNet:
    return theirs.ResNet(theirs.resnet.Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4, **knobs)


@pytest.mark.parametrize(
    ("backbone", "stem", "build"),
    [
        ("resnet34", "imagenet", theirs.resnet34),
        ("resnet50", "imagenet", theirs.resnet50),
        ("resnet101", "imagenet", theirs.resnet101),
        ("resnext50", "imagenet", theirs.resnext50_32x4d),
        ("resnext101", "imagenet", resnext101),
        ("swin_t", "cifar", theirs.swin_t),
    ],
)
def test_networks_have_as_many_parameters_as_torchvision_has(backbone, stem, build):
    with torch.device("meta"):
        expected = count_parameters(build())
    assert parameters(1000, backbone=backbone, stem=stem) == expected


@pytest.mark.parametrize(("factor", "classes", "published"), [(2, 10, 1.47e6), (8, 100, 23.4e6)])
def test_wide_resnets_have_the_parameters_of_their_layers(factor, classes, published):
    def conv(inner, outer, kernel=3):
        return (kernel**2 * inner + 1) * outer

    expected, inner = conv(3, 16), 16
    for outer in (16 * factor, 32 * factor, 64 * factor):
        expected += conv(inner, outer) + conv(outer, outer) + 2 * (inner + outer) + conv(inner, outer, 1)
        expected += 3 * (2 * conv(outer, outer) + 4 * outer)
        inner = outer
    expected += 2 * inner + (inner + 1) * classes
    assert parameters(classes, 32, backbone=f"wrn28_{factor}") == expected == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_stages_put_out_maps_of_the_widths_they_name_and_nothing_after_them_runs(backbone):
    model, x = small(backbone), images(backbone)
    assert tuple(model.widths) == stage_names(BACKBONES[backbone].stages)
    ran: list[str] = []
    for name, part in model.stages():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    sizes = SIZES.get(backbone, (32, 32, 16, 8, 4))
    for number, (name, side) in enumerate(zip(model.widths, sizes, strict=True), 1):
        ran.clear()
        assert model.features(x, name).shape == (2, model.widths[name], side, side)
        assert ran == list(model.widths)[:number]
    assert model(x).shape == (2, 5)
    with pytest.raises(TrainingError, match="unknown stage 'stage5'; did you mean 'stage"):
        model.features(x, "stage5")


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_a_change_of_a_map_reaches_the_logits_and_no_change_does_not(backbone):
    model, x, mixable = stirred(backbone), images(backbone), BACKBONES[backbone].mixable
    seen: list[torch.Tensor] = []

    def look(features):
        seen.append(features.clone())
        return features

    with torch.no_grad():
        logits = model(x)
        assert bool((logits[0] != logits[1]).all())
        for name in model.widths:
            assert torch.equal(model(x, name, look), logits)
            assert torch.equal(seen.pop(), model.features(x, name))
            changed = model(x, name, lambda features: features.flip(0))
            assert torch.allclose(changed, logits) == (name not in mixable), name


def test_the_class_token_stays_as_it_is():
    model, x = stirred("deit_s"), images("deit_s")
    tokens = model.stem(x)
    changed = model.with_map(tokens, 2 * model.as_map(tokens))
    assert torch.equal(changed[:, 0], tokens[:, 0])
    assert torch.equal(changed[:, 1:], 2 * tokens[:, 1:])
    # Patch 1 is the one to the right of patch 0.
    assert torch.equal(model.as_map(tokens)[0, :, 0, 1], tokens[0, 2])


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_logits_are_the_head_of_what_is_pooled_and_every_parameter_has_a_gradient(backbone):
    model, x = stirred(backbone), images(backbone)
    state = x
    for _, part in model.stages():
        state = part(state)
    pooled = model.pooled(state)
    assert pooled.shape == (2, list(model.widths.values())[-1])
    torch.testing.assert_close(model.head(pooled), model(x))
    nn.functional.cross_entropy(model(x), torch.tensor([0, 1])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def made_up(side: int) -> ImageSet:
    rng = np.random.default_rng(0)
    parts = (Part(rng.integers(0, 256, (n, side, side, 3), np.uint8), np.arange(n) % 5) for n in (25, 10))
    return ImageSet("made_up", *parts, tuple("abcde"))


def config(backbone: str, **knobs) -> TrialConfig:
    base = {"epochs": 1, "batch_size": 4, "width": 8, "lr": 0.01, "backbone": backbone}
    return TrialConfig(data=Data(val_fraction=0.2), knobs={**base, **knobs})


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_every_backbone_trains_with_features_mixed_at_all_its_stages(backbone):
    stages = "+".join(BACKBONES[backbone].mixable)
    run = TrainingRun(
        config(backbone, method="manifoldmix", **{"manifoldmix.stages": stages}), made_up(side_of(backbone)), "cpu"
    )
    before = {name: value.clone() for name, value in run.algorithm.network.state_dict().items()}
    (metrics,) = run.epochs()
    assert len(metrics.losses) == 5
    assert all(math.isfinite(loss) for loss in metrics.losses)
    changed = [name for name, value in run.algorithm.network.named_parameters() if not torch.equal(value, before[name])]
    assert changed == [name for name, _ in run.algorithm.network.named_parameters()]
    assert run.finish().parameters == count_parameters(run.algorithm.network)


@pytest.mark.parametrize("backbone", ["resnext50", "wrn28_2", "deit_s", "swin_t"])
def test_automix_taps_every_kind_of_backbone(backbone):
    run = TrainingRun(config(backbone, method="automix", **{"automix.layer": "l3"}), made_up(side_of(backbone)), "cpu")
    (metrics,) = run.epochs()
    assert all(math.isfinite(loss) for loss in metrics.losses)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_initialisation_depends_on_the_seed_and_leaves_global_state_alone(backbone):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (small(backbone, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("backbone", ["resnext50", "wrn28_2"])
def test_every_batch_norm_is_made_global(backbone):
    model = small(backbone)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    make_global(model)
    assert len(norms) > 20
    assert all(isinstance(module, GlobalBatchNorm2d) for module in norms)


def test_blocks_of_resnets_start_as_identities():
    for backbone in ("resnet34", "resnet50"):
        model = small(backbone).eval()
        x = model.features(images(backbone), "stage1")
        assert torch.equal(model.stage1[1](x), x)


def test_wide_resnets_are_tapped_before_any_norm_and_activated_after_their_last_stage():
    model, x = stirred("wrn28_2"), images("wrn28_2")
    assert model.features(x, "stage2").min() < -0.1
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.001, 0.001)}
    state = model.features(x, "stage3")
    torch.testing.assert_close(model.pooled(state), nn.functional.leaky_relu(model.norm[0](state), 0.1).mean((2, 3)))


def test_the_shortcut_of_the_first_wide_block_alone_starts_after_the_activation():
    model, x = stirred("wrn28_2"), images("wrn28_2")
    for stage, before in (("stage1", "stem"), ("stage2", "stage1")):
        block, state = model.get_submodule(stage)[0], model.features(x, before)
        active = block.norm1(state)
        branch = block.conv2(block.norm2(block.conv1(active)))
        kept = active if stage == "stage1" else state
        torch.testing.assert_close(block(state), branch + block.shortcut(kept))
        assert not torch.allclose(active, state)


@pytest.mark.parametrize("backbone", ["deit_s", "swin_t"])
def test_paths_are_dropped_more_often_towards_the_end_and_in_training_only(backbone):
    model, plain, x = small(backbone, drop_path=0.6), small(backbone), images(backbone)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    np.testing.assert_allclose(rates, np.linspace(0, 0.6, 12))
    torch.manual_seed(0)
    assert not torch.allclose(model(x), plain(x))
    assert torch.equal(model.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("backbone", ["deit_s", "swin_t"])
def test_runs_that_drop_paths_depend_on_their_seed_alone(backbone):
    data, found = made_up(side_of(backbone)), []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        run = TrainingRun(config(backbone, drop_path=0.5), data, "cpu")
        (metrics,) = run.epochs()
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(metrics.losses)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"backbone": "wrn28_2", "method": "manifoldmix", "manifoldmix.stages": "stage1+stage4"},
         "needs stage4, and backbone wrn28_2 can mix at input, stem, stage1, stage2, stage3 only; leave stage4 out"),
        ({"backbone": "deit_s", "method": "manifoldmix", "manifoldmix.stages": "stage4"}, "backbone deit_s can mix at"),
        ({"backbone": "wrn28_2", "method": "automix", "automix.layer": "l4"}, "automix.layer = l4 needs stage 4, and"),
        ({"backbone": "wrn28_8", "width": 6}, "width = 6 must be a multiple of 4 with backbone wrn28_8"),
        ({"backbone": "swin_t", "stem": "imagenet"}, "stem = imagenet has no effect with backbone swin_t; drop it"),
        ({"drop_path": 0.1}, "drop_path = 0.1 has no effect with backbone resnet18; drop it"),
        ({"backbone": "resnet19"}, "unknown value 'resnet19'; did you mean 'resnet1"),
        ({"weights": 3}, "weights = 3 must be a path, library or nothing; put it in quotes"),
        ({"weights": "libary"}, "for a file of this directory use ./libary"),
    ],
    ids=str,
)  # fmt: skip
def test_knobs_that_a_backbone_cannot_follow_are_refused_before_training(knobs, message):
    with pytest.raises(ValueError, match=message):
        TrialConfig(data=Data(), knobs=knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"method": "manifoldmix", "stages": "auto", "backbone": ["resnet18", "wrn28_2"]}, "needs stage4"),
        ({"method": "automix", "layer": "auto", "backbone": "wrn28_2"}, "needs stage 4, and backbone wrn28_2 has 3"),
        ({"backbone": "wrn28_2", "width": {"low": 16, "high": 64}}, "width = 17 must be a multiple of 4"),
        ({"drop_path": "auto"}, "drop_path = 0.3 has no effect with backbone resnet18"),
    ],
    ids=str,
)
def test_spaces_in_which_a_backbone_meets_such_a_knob_are_refused(knobs, message):
    with pytest.raises(SpecError, match=message):
        _ = SearchSpace(knobs=knobs).dimensions


def test_a_condition_keeps_such_a_knob_away_from_the_backbone():
    knobs = {"backbone": ["resnet18", "swin_t"], "drop_path": {"low": 0, "high": 0.3, "when": {"backbone": "swin_t"}}}
    assert {dimension.name for dimension in SearchSpace(knobs=knobs).dimensions} >= {"backbone", "drop_path"}


def test_images_that_do_not_fit_the_patches_are_refused(tmp_path):
    with pytest.raises(SpecError, match=r"multiples of 16 pixels, not 40; use data.size=32"):
        build_model(Recipe(backbone="deit_s"), 3, 10, 0, 40)
    with pytest.raises(
        SpecError, match=r"backbone swin_t takes .* multiples of 32 pixels, not 8 x 8; use data.size=32"
    ):
        TrainingRun(config("swin_t"), made_up(8), "cpu")
    with pytest.raises(SpecError, match=r"square images .* not 32 x 64; use data.size=64"):
        check_sides("deit_s", 32, 64)
    check_sides("resnet18", 31, 64)
    with pytest.raises(SpecError, match=r"backbone swin_t takes .* not 8 x 8"):  # before any trial starts
        prepare(SearchSpace(knobs={"backbone": ["resnet18", "swin_t"]}), Store(tmp_path, "s"), None)
    assert not any(tmp_path.iterdir())
    with pytest.raises(TrainingError, match="built for images of 32 x 32 pixels, not 32 x 48"):
        small("deit_s")(torch.zeros(1, 3, 32, 48))


def test_grey_images_take_the_same_networks():
    for backbone in ("resnet50", "wrn28_2", "deit_s", "swin_t"):
        side = side_of(backbone)
        model = build_model(Recipe(backbone=backbone, width=8), 1, 5, 0, side)
        assert model(torch.zeros(2, 1, side, side)).shape == (2, 5)


@pytest.mark.parametrize("size", [(12, 10), (11, 10)], ids=["even", "odd"])
def test_the_imagenet_stem_is_a_plain_convolution_whose_images_want_a_gradient(size):
    stem = Conv7x7(3, 8).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = conv2d(x.requires_grad_(), stem.weight, stride=2, padding=3)
    torch.testing.assert_close(stem(x.detach()), expected)
    found, direction = stem(x), torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    wanted = (x, stem.weight)
    ours, plain = (torch.autograd.grad(out, wanted, direction) for out in (found, expected))
    torch.testing.assert_close(ours, plain)
