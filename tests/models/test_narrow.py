"""The 1x1 convolutions of shortcuts, and networks so narrow that strided ones broke the heap."""

from __future__ import annotations

import pytest
import torch
from narrow import INSTRUCTIONS, Case, endings, grid
from torch import nn
from torch.nn.functional import conv2d

from automixsearch.config.recipe import Recipe
from automixsearch.models import build_model
from automixsearch.models.conv1x1 import Conv1x1
from automixsearch.models.registry import BACKBONES


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(12, 10), (11, 9), (1, 1)], ids=["even", "odd", "one pixel"])
@pytest.mark.parametrize(("step", "bias"), [(1, True), (2, False), (2, True), (3, False)])
def test_a_convolution_of_every_second_pixel_is_the_strided_one(size, layout, step, bias):
    ours = Conv1x1(3, 5, step, bias).double()
    plain = nn.Conv2d(3, 5, 1, step, bias=bias).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    # torch's own kernels, of which the strided one is safe: oneDNN takes no float64.
    out, expected = ours(x), conv2d(x, plain.weight, plain.bias, step)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)
    pairs = [(out, (x, *ours.parameters())), (expected, (x, *plain.parameters()))]
    gradients, wanted = (torch.autograd.grad(one, of, direction) for one, of in pairs)
    torch.testing.assert_close(gradients, wanted, rtol=0, atol=1e-13)


def test_both_ways_through_a_shortcut_keep_the_memory_format():
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = Conv1x1(4, 8, 2, bias=False)(x)
    out.sum().backward()
    assert x.grad is not None
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_no_network_has_a_strided_1x1_convolution(backbone, stem):
    if stem == "imagenet" and not BACKBONES[backbone].stem:
        return
    with torch.device("meta"):
        model = build_model(Recipe(backbone=backbone, stem=stem), 3, 10, 0, 32)
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    assert convolutions
    assert not [one for one in convolutions if one.kernel_size == (1, 1) and one.stride != (1, 1)]


TELLING = [
    Case(width=4, side=12),
    Case(width=6, side=8),
    Case(width=8, side=64, batch=8),
    Case("resnet34", width=2, side=12, method="puzzlemix"),
    Case("resnet50", width=1, side=12, batch=7),
    Case("wrn28_2", width=4, side=16),
    Case(width=2, side=32, channels=1, channels_last=False, method="automix", threads=2),
]
"""All but the last ended by a signal when the shortcuts were strided: the third with AVX-512, the others with AVX2."""


@pytest.mark.parametrize("instructions", INSTRUCTIONS, ids=["all instructions", "AVX2"])
def test_narrow_networks_train_without_a_broken_heap(instructions):
    assert [(case, ending) for case, ending in endings(TELLING, instructions) if ending] == []


@pytest.mark.slow
@pytest.mark.parametrize("instructions", INSTRUCTIONS, ids=["all instructions", "AVX2"])
def test_every_narrow_network_trains_without_a_broken_heap(instructions):
    assert [(case, ending) for case, ending in endings(grid(), instructions) if ending] == []
