"""TransMix is CutMix with labels by area and by attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from automixsearch.algorithms.base import Batch, Clock
from automixsearch.config.data import Data
from automixsearch.config.files import parse_space
from automixsearch.config.recipe import Recipe
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.errors import SpecError
from automixsearch.mixers.transmix import TransMix
from automixsearch.models.library import from_timm, from_torchvision
from automixsearch.training.checks import check_network
from automixsearch.training.run import TrainingRun


@pytest.mark.parametrize(("boxes", "weight", "side"), [("batch", 0.5, 48), ("sample", 0.3, 32), ("batch", 0.0, 32)])
def test_half_of_a_label_is_the_attention_on_its_image(boxes, weight, side):
    knobs = {"method": "transmix", "transmix.boxes": boxes, "transmix.attention_share": weight, "width": 4,
             "epochs": 1, "batch_size": 5, "backbone": "deit_s"}  # fmt: skip
    data = Data(val_fraction=0.2, size=side)
    run = TrainingRun(TrialConfig(data=data, knobs=knobs), load(data), "cpu")
    algorithm = run.algorithm.eval()
    batch: Batch = next(iter(run.batches(0)))
    (term,) = algorithm.terms(batch, Clock(0, 10, 0, 1), torch.Generator().manual_seed(3))
    x, y = algorithm.normalise(batch.views[0]), batch.y
    mixed = algorithm.mixer(x, torch.Generator().manual_seed(3))
    attention: nn.MultiheadAttention = algorithm.network.stage4[-1].self_attention
    weights: list[torch.Tensor] = []
    handle = attention.register_forward_pre_hook(
        lambda module, args: weights.append(
            nn.MultiheadAttention.forward(module, *args, need_weights=True, average_attn_weights=True)[1]
        )
    )
    logits = algorithm.network(mixed.x).detach().double()
    handle.remove()
    cells = functional.interpolate(mixed.pasted[:, None].float(), (side // 16, side // 16)).flatten(1).bool()
    looked = weights[0][:, 0, 1:].detach().double().numpy()
    own = np.array([row[~inside].sum() / row.sum() for row, inside in zip(looked, cells.numpy(), strict=True)])
    area = 1 - mixed.pasted.double().mean((1, 2)).numpy()
    lam = torch.from_numpy((1 - weight) * area + weight * own)
    log = logits.log_softmax(1)
    expected = -(lam * log[range(5), y] + (1 - lam) * log[range(5), y[mixed.partner]]).mean()
    assert term.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert weight == 0 or np.abs(area - own).max() > 0.01


@pytest.mark.parametrize("make", [from_timm, from_torchvision])
def test_attention_is_told_of_networks_of_other_packages(make):
    name, patch = {from_timm: ("vit_tiny_patch16_224", 16), from_torchvision: ("vit_b_32", 32)}[make]
    network, x = make(name, 3, 4, 2 * patch).eval(), torch.randn(2, 3, 2 * patch, 2 * patch)
    logits, attention = network.attended(x)
    assert torch.allclose(logits, network(x), atol=1e-5)
    assert attention.shape == (2, 2, 2)
    assert not attention.requires_grad
    assert ((attention > 0) & (attention < 1)).all()
    assert (attention.sum((1, 2)) < 1).all()  # the class token looks at itself too


def test_attention_is_what_timm_computes():
    network, x = from_timm("vit_tiny_patch16_224", 3, 4, 32).eval(), torch.randn(2, 3, 32, 32)
    block = network.network.blocks[-1].attn
    block.fused_attn, seen = False, []
    block.attn_drop.register_forward_hook(lambda _, args, output: seen.append(args[0]))
    _, attention = network.attended(x)
    assert torch.allclose(seen[0].mean(1)[:, 0, 1:].unflatten(1, (2, 2)), attention, atol=1e-6)


def test_a_network_without_a_class_token_is_refused_before_anything_runs():
    knobs = {"method": ["mixup", "transmix"], "backbone": "resnet18"}
    with pytest.raises(SpecError, match=r"transmix needs another backbone: resnet18 has no class token .* use deit_s"):
        parse_space({"knobs": knobs}, "test")
    parse_space({"data": {"size": 32}, "knobs": knobs | {"backbone": "deit_s"}}, "test")
    every = parse_space({"knobs": {"method": "all", "backbone": "resnet18"}}, "test").dimensions[0]
    assert every.choices is not None
    assert "automix" in every.choices
    assert "transmix" not in every.choices
    for name in ("resnet18", "beit_base_patch16_224"):  # of the latter, positions move the attention
        with pytest.raises(SpecError, match=f"timm/{name} has no class token"):
            from_timm(name, 3, 4, 32).check_attended()
    space = parse_space({"data": {"size": 32}, "knobs": knobs | {"backbone": "timm/resnet18"}}, "test")
    with pytest.raises(SpecError, match="timm/resnet18 has no class token"):
        check_network(Recipe(backbone="timm/resnet18"), space, load(Data(size=32)))


def test_a_box_is_cutmix_s():
    x, generator = torch.randn(4, 3, 31, 20), torch.Generator()
    for boxes in ("batch", "sample"):
        mixer = TransMix(boxes=boxes)
        mixed = mixer(x, generator.manual_seed(1))
        plain = super(TransMix, mixer).apply(x, mixer.draw((4, 3, 31, 20), generator.manual_seed(1)))
        assert torch.equal(mixed.x, plain.x)
        assert torch.equal(mixed.shares, plain.shares)
