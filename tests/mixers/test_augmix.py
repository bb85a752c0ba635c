"""AugMix against its authors' numbers, and at the limits of its knobs."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from automixsearch.errors import SpecError
from automixsearch.mixers import augmix
from automixsearch.mixers.augmix import AugMix, AugMixDraw, augmented, chained, dirichlet
from automixsearch.mixers.image_ops import OPERATIONS, STANDARD

MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
SHAPES = [(8, 3, 32, 32), (1, 3, 32, 32), (5, 3, 31, 35), (4, 3, 24, 40), (6, 1, 8, 8), (3, 3, 2, 7)]
EVERY = [AugMix(), AugMix(consistency=0.0), AugMix(ops="all", chains=1, depth=4, severity=10, alpha=0.01)]


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(shape, seed=0) -> dict[str, torch.Tensor]:
    """Random pixels with their mean and std."""
    samples, channels, height, width = shape
    pixels = torch.randint(256, (samples, height, width, channels), generator=generator(seed), dtype=torch.uint8)
    return {"pixels": pixels, "mean": MEAN[:channels], "std": STD[:channels]}


def normalised(pixels, mean, std) -> torch.Tensor:
    return ((pixels.permute(0, 3, 1, 2) / 255 - mean[:, None, None]) / std[:, None, None]).contiguous()


def mix(mixer, supply, seed=0):
    x = normalised(**supply)
    return mixer.apply(x, mixer.draw(tuple(x.shape), generator(seed)), **supply)


def draw_of(file, case) -> AugMixDraw:
    """The draw of a stored case, as one view of one image."""
    names = ("chain_weights", "m", "op_ids", "op_level", "op_sign_draw")
    shares, strength, operations, level, sign = (tensor(file[f"{case}_{name}"])[None, None] for name in names)
    sign = torch.where(sign > 0.5, -1.0, 1.0).double()
    return AugMixDraw(shares.double(), strength.double().view(1, 1), operations, level, sign)


# --- the authors' numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [f"mix{number}" for number in range(4)])
def test_views_equal_the_authors(golden, case):
    file = golden("augmix")
    pixels = tensor(file["images_u8"][file[f"{case}_image"]])[None]
    view = augmented(normalised(pixels, MEAN, STD), draw_of(file, case), pixels, MEAN, STD)
    np.testing.assert_allclose(view[0, 0].permute(1, 2, 0), file[f"{case}_mixed"], rtol=0, atol=1e-5)


def test_stored_draws_are_drawn_as_the_mixer_draws(golden):
    """Levels lie between 0.1 and the severity, and a chain of random depth has 1 to 3 operations of the nine."""
    file = golden("augmix")
    for number in range(4):
        draw, severity = draw_of(file, f"mix{number}"), int(file[f"mix{number}_severity"])
        used = draw.level[~draw.level.isnan()]
        assert bool(((used >= 0.1) & (used <= severity)).all())
        assert (draw.operations >= 0).sum(3).tolist() == [[file[f"mix{number}_depth"].tolist()]]
        assert draw.operations.max() < STANDARD


# --- what is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [-1, 1, 2, 3, 4])
def test_draws_have_their_ranges(depth):
    mixer = AugMix(depth=depth, chains=4, severity=5, ops="all")
    draw = mixer.draw((300, 3, 32, 32), generator())
    longest = 3 if depth == -1 else depth
    assert draw.operations.shape == draw.level.shape == draw.sign.shape == (2, 300, 4, longest)
    assert draw.shares.shape == (2, 300, 4)
    assert draw.strength.shape == (2, 300)
    assert draw.level.min() >= 0.1
    assert draw.level.max() <= 5
    assert draw.level.max() > 4.9
    assert draw.sign.unique().tolist() == [-1, 1]
    assert abs(draw.sign.mean().item()) < 0.1
    used = draw.operations >= 0
    assert draw.operations[used].unique().tolist() == list(range(len(OPERATIONS)))
    assert used.sum(3).unique().tolist() == ([1, 2, 3] if depth == -1 else [depth])
    assert bool((used.int().diff(dim=3) <= 0).all())  # a chain that has ended does not go on
    lengths = torch.bincount(used.sum(3).flatten(), minlength=4)[1:] / used.sum(3).numel()
    if depth == -1:
        assert (lengths - 1 / 3).abs().max() < 0.05


def test_the_standard_operations_are_the_nine():
    drawn = AugMix().draw((200, 3, 32, 32), generator()).operations
    assert drawn.unique().tolist() == [-1, *range(9)]
    counts = torch.bincount(drawn[drawn >= 0])
    assert (counts / counts.sum() - 1 / 9).abs().max() < 0.03


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_shares_and_strength_follow_their_distributions(alpha):
    mixer = AugMix(alpha=alpha, chains=3)
    draw = mixer.draw((4000, 3, 8, 8), generator(1))
    assert stats.kstest(draw.strength.flatten().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    for chain in range(3):
        shares = draw.shares[..., chain].flatten().numpy()
        assert stats.kstest(shares, stats.beta(alpha, 2 * alpha).cdf).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(alpha=st.floats(0.01, 100), width=st.integers(1, 10), seed=st.integers(0, 2**32 - 1))
def test_shares_sum_to_one_whatever_alpha_is(alpha, width, seed):
    uniform = torch.rand(5, width - 1, generator=generator(seed), dtype=torch.float64)
    if width > 1:
        uniform[0], uniform[1] = 0, 1 - 2**-53
    shares = dirichlet(alpha, uniform)
    assert shares.shape == (5, width)
    assert shares.min() >= 0
    torch.testing.assert_close(shares.sum(1), torch.ones(5, dtype=torch.float64))


def test_another_alpha_or_severity_keeps_the_operations():
    first = AugMix().draw((6, 3, 32, 32), generator(3))
    second = AugMix(alpha=0.2, severity=9).draw((6, 3, 32, 32), generator(3))
    assert torch.equal(first.operations, second.operations)
    assert torch.equal(first.sign, second.sign)
    torch.testing.assert_close((first.level - 0.1) / 2.9, (second.level - 0.1) / 8.9)
    assert torch.equal(first.strength.flatten().argsort(), second.strength.flatten().argsort())


# --- the views ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mixer", EVERY, ids=str)
def test_views_are_those_of_one_image_after_the_other(mixer, shape):
    supply = batch(shape)
    x = normalised(**supply)
    draw = mixer.draw(shape, generator())
    views = augmented(x, draw, **supply)
    assert views.shape == (2 if mixer.consistency else 1, *shape)
    for view in range(len(views)):
        for sample in range(shape[0]):
            drawn = {f.name: getattr(draw, f.name)[view, sample] for f in dataclasses.fields(draw)}
            mixture = torch.zeros_like(x[0], dtype=torch.float64)
            for chain in range(mixer.chains):
                image = supply["pixels"][sample].permute(2, 0, 1)[None]
                for place in range(drawn["operations"].shape[1]):
                    number = int(drawn["operations"][chain, place])
                    if number >= 0:
                        operation = list(OPERATIONS.values())[number]
                        level, sign = (drawn[name][chain, place].view(1) for name in ("level", "sign"))
                        image = operation(image, level, sign)
                single = normalised(image.permute(0, 2, 3, 1), supply["mean"], supply["std"])[0]
                mixture += drawn["shares"][chain] * single
            expected = (1 - drawn["strength"]) * x[sample] + drawn["strength"] * mixture
            torch.testing.assert_close(views[view, sample].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_strength_of_zero_gives_the_image_and_of_one_the_chains():
    supply = batch((4, 3, 16, 16))
    x = normalised(**supply)
    mixer = AugMix(chains=1)
    draw = mixer.draw((4, 3, 16, 16), generator())
    none = dataclasses.replace(draw, strength=torch.zeros_like(draw.strength))
    assert torch.equal(augmented(x, none, **supply), x.expand(2, -1, -1, -1, -1))
    full = dataclasses.replace(draw, strength=torch.ones_like(draw.strength))
    chains = chained(supply["pixels"].permute(0, 3, 1, 2), draw).permute(0, 2, 3, 1)
    expected = normalised(chains, MEAN, STD).view(2, 4, 3, 16, 16)
    torch.testing.assert_close(augmented(x, full, **supply), expected, atol=1e-5, rtol=1e-5)


def test_the_two_views_of_an_image_differ_and_so_do_those_of_equal_images():
    supply = batch((1, 3, 32, 32))
    supply["pixels"] = supply["pixels"].expand(5, -1, -1, -1)
    views = mix(AugMix(), supply).views
    assert views is not None
    flat = views.flatten(0, 1).flatten(1)
    assert torch.cdist(flat, flat).fill_diagonal_(1).min() > 0.1


def test_each_operation_is_called_once_at_most_for_each_place_in_the_chains(monkeypatch):
    calls = []

    def counted(name, operation):
        return lambda images, *drawn: calls.append(name) or operation(images, *drawn)

    monkeypatch.setattr(augmix, "OPERATIONS", {n: counted(n, o) for n, o in OPERATIONS.items()})
    mix(AugMix(), batch((32, 3, 16, 16)))
    assert sorted(calls) == sorted(3 * list(OPERATIONS)[:STANDARD])


# --- the mixer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", EVERY, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nothing_supplied_is_touched_and_form_layout_and_seed_are_kept(mixer, shape, layout):
    supply = batch(shape)
    x = normalised(**supply).contiguous(memory_format=layout)
    before = {name: value.clone() for name, value in supply.items()}
    state = torch.random.get_rng_state()
    clean = x.clone()
    first, again = (mixer(x, generator(1), **supply) for _ in range(2))
    assert torch.equal(x, clean)
    assert all(torch.equal(supply[name], value) for name, value in before.items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.x.shape == x.shape
    assert first.x.is_contiguous(memory_format=layout)
    assert first.sources.tolist() == [[sample] for sample in range(shape[0])]
    assert first.shares.tolist() == [[1.0]] * shape[0]
    assert torch.equal(first.x, again.x)
    if mixer.consistency:
        assert torch.equal(first.x, x)
        assert first.views.shape == (2, *shape)
        assert first.views[0].is_contiguous(memory_format=layout)
        assert torch.equal(first.views, again.views)
        assert first.consistency == 12
    else:
        assert first.views is None
        assert first.consistency == 0
        assert not torch.equal(first.x, x)


def test_half_precision_is_kept_and_views_do_not_change_under_mixed_precision():
    supply = batch((4, 3, 16, 16))
    x, mixer = normalised(**supply), AugMix()
    draw = mixer.draw((4, 3, 16, 16), generator())
    full = augmented(x, draw, **supply)
    half = augmented(x.bfloat16(), draw, **supply)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.04, rtol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmented(x, draw, **supply), full)
    assert augmented(x.double(), draw, **supply).dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
@pytest.mark.parametrize("ops", ["standard", "all"])
def test_chains_on_a_gpu_are_bitwise_those_of_the_cpu(ops):
    images = batch((64, 3, 40, 32))["pixels"].permute(0, 3, 1, 2)
    draw = AugMix(ops=ops, severity=10).draw((64, 3, 40, 32), generator())
    assert torch.equal(chained(images.cuda(), draw).cpu(), chained(images, draw))


def test_mistakes_are_refused_by_name():
    supply = batch((2, 3, 8, 8))
    x = normalised(**supply)
    draw = AugMix().draw((2, 3, 8, 8), generator())
    with pytest.raises(ValueError, match=r"torch\.float32 .* must be torch\.uint8 \(2, 8, 8, 3\)"):
        AugMix().apply(x, draw, **{**supply, "pixels": supply["pixels"].float()})
    with pytest.raises(SpecError, match=r"severity = 11 must be 1 to 10"):
        AugMix(severity=11)
    with pytest.raises(SpecError, match="depth"):
        AugMix(depth=0)
    with pytest.raises(SpecError, match="ops"):
        AugMix(ops="nine")
    for values in AugMix.published.values():
        assert AugMix(**values) == AugMix()
    assert AugMix.needs == {"pixels", "mean", "std"}
    assert set(inspect.signature(AugMix.apply).parameters) == {"self", "x", "draw", *AugMix.needs}
