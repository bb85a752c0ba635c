"""What holds for every mixing method: a new one is tested by being in MIXERS."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from fake_device import RoundTrip, fake_device
from hypothesis import given, settings
from hypothesis import strategies as st

from automixsearch.config.knobs import knobs_of
from automixsearch.errors import SpecError
from automixsearch.mixers import MIXERS, PairDraw
from automixsearch.mixers.automix import AutoMix
from automixsearch.mixers.cutmix import CutMix
from automixsearch.mixers.mixup import MixUp
from automixsearch.models.registry import BACKBONES

SHAPES = [(8, 3, 32, 32), (1, 3, 32, 32), (5, 3, 32, 32), (6, 1, 8, 8), (4, 3, 24, 40), (3, 3, 31, 35)]


KINDS = {
    **{name: kind() for name, kind in MIXERS.items()},
    **{f"automix of {source}": AutoMix(mask_source=source) for source in ("random_grid", "mixup", "cutmix")},
    "automix, adjusted": AutoMix(mask_adjust=1.0),
    "mixup per sample": MixUp(lams="sample"),
    "cutmix per sample": CutMix(boxes="sample"),
}
ON_HOST = {
    "puzzlemix": "minimum cuts and transport plans are found by programs of the host",
    "comixup": "its submodular functions are minimised by a program of the host",
}
"""Methods that make a GPU wait, and why."""
PAIRED = [
    name
    for name, mixer in KINDS.items()
    if isinstance(mixer.draw((2, 1, 8, 8), torch.Generator().manual_seed(0)), PairDraw)
]


@pytest.fixture(params=list(KINDS))
def mixer(request):
    return KINDS[request.param]


def batch(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


SUPPLY = {
    "pixels": lambda x: (x.float().permute(0, 2, 3, 1) * 40 + 128).clamp(0, 255).to(torch.uint8),
    "saliency": lambda x: x.float().square().mean(1).sqrt(),
    "gradient": lambda x: x.float(),
    "mask": lambda x: torch.full((len(x), 1, *x.shape[2:]), 0.25, device=x.device),
    "mean": lambda x: torch.full((x.shape[1],), 0.5, device=x.device),
    "std": lambda x: torch.full((x.shape[1],), 0.25, device=x.device),
}


def mix(mixer, x, seed=0):
    return apply(mixer, x, mixer.draw(tuple(x.shape), generator(seed)))


def apply(mixer, x, draw):
    needs = mixer.needs_of(draw)
    assert needs <= mixer.needs
    return mixer.apply(x, draw, **{need: SUPPLY[need](x) for need in needs})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_has_the_form_that_losses_understand(mixer, shape):
    x = batch(shape)
    mixed = mix(mixer, x)
    assert mixed.x.shape == x.shape
    assert mixed.x.dtype == x.dtype
    assert mixed.sources.shape == mixed.shares.shape
    assert mixed.sources.dtype == torch.int64
    assert mixed.shares.dtype == torch.float64
    assert bool(((mixed.sources >= 0) & (mixed.sources < shape[0])).all())
    assert bool(((mixed.shares >= 0) & (mixed.shares <= 1)).all())
    torch.testing.assert_close(mixed.shares.sum(1), torch.ones(shape[0], dtype=torch.float64))
    if isinstance(mixer.draw(shape, generator()), PairDraw):
        assert mixed.sources[:, 0].tolist() == list(range(shape[0]))
        assert sorted(mixed.partner.tolist()) == list(range(shape[0]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_input_is_not_touched_and_its_layout_kept(mixer, layout):
    x = batch((6, 3, 16, 16)).contiguous(memory_format=layout)
    before = x.clone()
    mixed = mix(mixer, x)
    assert torch.equal(x, before)
    assert mixed.x.is_contiguous(memory_format=layout)


def test_the_same_seed_gives_bitwise_the_same_batch_and_another_seed_another(mixer):
    x = batch((16, 3, 16, 16))
    first, again, other = mix(mixer, x, 3), mix(mixer, x, 3), mix(mixer, x, 4)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.sources, again.sources)
    assert torch.equal(first.shares, again.shares)
    assert not mixer.mixes or not (torch.equal(first.shares, other.shares) and torch.equal(first.x, other.x))


def test_global_random_state_is_neither_read_nor_changed(mixer):
    x = batch((8, 3, 16, 16))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = mix(mixer, x, 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(mix(mixer, x, 5).x, first.x)


@pytest.mark.parametrize("name", PAIRED)
def test_an_own_share_of_one_gives_the_batch_back(name):
    mixer, x = KINDS[name], batch((7, 3, 20, 12))
    draw = mixer.draw(tuple(x.shape), generator())
    mixed = apply(mixer, x, draw.with_lam(1.0))
    assert torch.equal(mixed.x, x)
    assert torch.equal(mixed.lam, torch.ones(7, dtype=torch.float64))


def test_drawing_and_applying_are_apart(mixer):
    x = batch((8, 3, 16, 16))
    draw = mixer.draw(tuple(x.shape), generator(9))
    once, twice = apply(mixer, x, draw), apply(mixer, x, draw)
    assert torch.equal(once.x, twice.x)
    assert torch.equal(mix(mixer, x, 9).x, once.x)


def test_half_precision_is_kept(mixer):
    mixed = mix(mixer, batch((4, 3, 16, 16), dtype=torch.bfloat16))
    assert mixed.x.dtype == torch.bfloat16
    assert bool(mixed.x.isfinite().all())


def test_every_knob_is_checked_and_misspelt_ones_refused(mixer):
    kind = type(mixer)
    with pytest.raises(TypeError, match="alhpa"):
        kind(alhpa=3)
    for name, knob in knobs_of(kind).items():
        wrong = object() if knob.choices else math.nan
        with pytest.raises(SpecError, match=name):
            kind(**{name: wrong})
    with pytest.raises(dataclasses.FrozenInstanceError):
        mixer.name = "other"


def test_published_settings_are_legal_and_name_their_family(mixer):
    for key, values in mixer.published.items():
        family, _, backbone = key.partition("/")
        assert family in ("cifar", "tiny", "imagenet", "fine_grained")
        assert backbone in ("", *BACKBONES)
        type(mixer)(**values)
    assert mixer.source
    assert not mixer.mixes or mixer.published


def test_every_searched_range_is_legal(mixer):
    for name, knob in knobs_of(type(mixer)).items():
        for value in knob.search or ():
            type(mixer)(**{name: value})


@pytest.mark.parametrize("name", list(KINDS))
def test_the_host_never_waits_for_a_gpu(name):
    """Every draw is made on the host, where values are known; on the device there are none."""
    mixer, shape = KINDS[name], (8, 3, 32, 32)
    for seed in range(3):
        draw = mixer.draw(shape, generator(seed))
        with fake_device() as device, pytest.raises(RoundTrip) if name in ON_HOST else nullcontext():
            mixed = apply(mixer, torch.zeros(shape, device=device), draw)
            assert {part.device.type for part in (mixed.x, mixed.sources, mixed.shares)} == {"cuda"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
def test_a_gpu_gives_what_the_cpu_gives(mixer):
    x = batch((8, 3, 32, 32))
    draw = mixer.draw(tuple(x.shape), generator())
    here, there = apply(mixer, x, draw), apply(mixer, x.cuda(), draw)
    torch.testing.assert_close(there.x.cpu(), here.x)
    assert torch.equal(there.shares.cpu(), here.shares)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(
        [n for n, m in MIXERS.items() if "alpha" in knobs_of(m) and m.mixes and n not in ("comixup", "automix")]
    ),
    alpha=st.floats(0.01, 50),
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
)
def test_labels_follow_the_pixels_whatever_is_drawn(name, alpha, seed, height, width):
    """Own images are 1 and the partner's 0, so the mean of a mixed image is the own share of its pixels."""
    mixer: Any = MIXERS[name](alpha=alpha)
    draw = mixer.draw((2, 1, height, width), generator(seed))
    draw = dataclasses.replace(draw, partner=torch.tensor([1, 0]))
    x = torch.stack([torch.ones(1, height, width), torch.zeros(1, height, width)]).double()
    mixed = apply(mixer, x, draw)
    if mixed.stage != "input":
        return
    error = 1e-9 + mixer.label_slack / (height * width)
    assert mixed.x[0].mean().item() == pytest.approx(mixed.lam[0].item(), abs=error)
    assert 1 - mixed.x[1].mean().item() == pytest.approx(mixed.lam[1].item(), abs=error)
