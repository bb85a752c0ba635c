"""FMix against its authors' numbers, and at the limits of its knobs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automixsearch.errors import SpecError
from automixsearch.mixers.fmix import FMix, FMixDraw, brightest, grey_images

CASES = [f"c{number}" for number in range(6)]
WHOLE_NOISE = ["c0", "c1", "c3", "c4", "c5"]
SHAPES = [(8, 3, 32, 32), (1, 3, 32, 32), (5, 3, 31, 35), (4, 3, 24, 40), (6, 1, 8, 8), (3, 3, 2, 7)]
EVERY = [FMix(masks=masks, variant=variant) for masks in ("batch", "sample") for variant in ("paper", "released")]


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(shape, seed=0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed)).to(dtype)


def shown(mixer: FMix, draw: FMixDraw, size: tuple[int, int]) -> torch.Tensor:
    """The mask as the pixels show it, float64 [B, H, W]: the own images are 1 and the partners 0."""
    samples = len(draw.partner)
    x = torch.ones(2 * samples, 1, *size, dtype=torch.float64)
    x[samples:] = 0
    halves = torch.arange(2 * samples).roll(samples)
    noise = draw.noise if len(draw.noise) == 1 else draw.noise.repeat(2, 1, 1, 1)
    return mixer.apply(x, dataclasses.replace(draw, partner=halves, noise=noise)).x[:samples, 0]


# --- the authors' numbers -------------------------------------------------------------------------------------------


def unit(grey: torch.Tensor) -> torch.Tensor:
    """Scale to 0 to 1, as the authors do before they rank the pixels."""
    return (grey - grey.amin()) / (grey.amax() - grey.amin())


def grey_of(file, case, noise, variant) -> torch.Tensor:
    height, width = file[f"{case}_shape"].tolist()
    return grey_images(tensor(file[f"{case}_{noise}"]), (height, width), float(file[f"{case}_decay_power"]), variant)


@pytest.mark.parametrize("case", CASES)
def test_released_grey_images_equal_the_authors(golden, case):
    file = golden("fmix")
    grey = unit(grey_of(file, case, "noise_rows01", "released"))
    np.testing.assert_allclose(grey, file[f"{case}_grey"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", WHOLE_NOISE)
def test_released_grey_images_need_the_first_two_rows_of_the_noise_only(golden, case):
    file = golden("fmix")
    whole, two = (grey_of(file, case, noise, "released") for noise in ("noise", "noise_rows01"))
    assert torch.equal(whole, two)


@pytest.mark.parametrize("case", WHOLE_NOISE)
def test_grey_images_of_the_paper_are_those_of_the_whole_spectrum(golden, case):
    file = golden("fmix")
    grey = unit(grey_of(file, case, "noise", "paper"))
    np.testing.assert_allclose(grey[0], file[f"{case}_grey_intended"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_masks_equal_the_authors(golden, case):
    file = golden("fmix")
    soft = float(file[f"{case}_max_soft"])
    lam, ceil = float(file[f"{case}_lam"]), bool(file[f"{case}_use_ceil"])
    expected = file[f"{case}_mask"]
    for grey in (tensor(file[f"{case}_grey"]), grey_of(file, case, "noise_rows01", "released")):
        mask = brightest(grey, lam, ceil, soft)
        np.testing.assert_allclose(mask, expected, rtol=0, atol=1e-9 if soft else 0)
    assert soft or mask.sum() == file[f"{case}_num_ones"]


def test_mixed_images_equal_the_authors_given_their_mask(golden, monkeypatch):
    file = golden("fmix")
    mask = tensor(file["batch_mask"]).double()
    monkeypatch.setattr("automixsearch.mixers.fmix.brightest", lambda *_: mask)
    lam = float(file["batch_lam"])
    draw = FMixDraw(tensor(file["batch_index"]), lam, torch.zeros(1, 32, 17, 2, dtype=torch.float64), False)
    mixed = FMix().apply(tensor(file["batch_x"]), draw)
    np.testing.assert_allclose(mixed.x, file["batch_mixed"], atol=1e-6)
    assert mixed.lam.tolist() == [lam] * 6
    logs = tensor(file["batch_logits"]).double().log_softmax(1)
    y = tensor(file["batch_y_mod100"])
    own, other = (-logs.gather(1, label[:, None])[:, 0] for label in (y, y[mixed.partner]))
    loss = (mixed.lam * own + (1 - mixed.lam) * other).mean()
    assert loss.item() == pytest.approx(float(file["batch_loss"]), rel=1e-5)


@pytest.mark.parametrize("case", WHOLE_NOISE)
def test_the_whole_mixing_equals_the_authors(golden, case):
    file = golden("fmix")
    height, width = file[f"{case}_shape"].tolist()
    decay, soft = float(file[f"{case}_decay_power"]), float(file[f"{case}_max_soft"])
    mixer = FMix(decay=decay, max_soft=soft, variant="released")
    lam, ceil = float(file[f"{case}_lam"]), bool(file[f"{case}_use_ceil"])
    draw = FMixDraw(torch.arange(3), lam, tensor(file[f"{case}_noise"]), ceil)
    mask = shown(mixer, draw, (height, width))
    np.testing.assert_allclose(mask, np.broadcast_to(file[f"{case}_mask"], mask.shape), rtol=0, atol=1e-9)


# --- the mask -------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    lam=st.floats(0, 1),
    ceil=st.booleans(),
    max_soft=st.sampled_from([0.0, 0.01, 0.3, 0.5]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_have_the_drawn_share_to_less_than_a_pixel_and_follow_the_brightness(
    lam, ceil, max_soft, height, width, seed
):
    grey = batch((3, height, width), seed, torch.float64)
    before = grey.clone()
    mask = brightest(grey, lam, ceil, max_soft)
    ones = (math.ceil if ceil else math.floor)(lam * height * width)
    assert mask.sum((1, 2)).tolist() == pytest.approx([ones] * 3, abs=1e-9)
    assert mask.min() >= 0
    assert mask.max() <= 1
    in_order = mask.flatten(1).gather(1, grey.flatten(1).argsort(1, descending=True))
    assert bool((in_order.diff(dim=1) <= 0).all())
    if not max_soft:
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(grey, before)


def test_a_grey_image_without_any_contrast_still_gives_the_drawn_share():
    assert brightest(torch.zeros(2, 8, 8), 0.25, True, 0.0).sum((1, 2)).tolist() == [16.0, 16.0]


@pytest.mark.parametrize("masks", ["batch", "sample"])
def test_each_mask_is_made_as_if_it_were_alone(masks):
    mixer = FMix(masks=masks)
    draw = mixer.draw((4, 3, 24, 40), generator(2)).with_lam(0.4)
    together = shown(mixer, draw, (24, 40))
    for sample in range(4):
        noise = draw.noise[sample : sample + 1] if masks == "sample" else draw.noise
        alone = dataclasses.replace(draw, partner=torch.arange(1), noise=noise)
        assert torch.equal(shown(mixer, alone, (24, 40))[0], together[sample])
    assert torch.equal(together[0], together[1]) == (masks == "batch")


def test_a_larger_decay_gives_smoother_masks():
    def borders(decay):
        mixer = FMix(decay=decay, masks="sample")
        mask = shown(mixer, mixer.draw((16, 3, 32, 32), generator()).with_lam(0.5), (32, 32))
        return mask.diff(dim=1).abs().sum() + mask.diff(dim=2).abs().sum()

    assert borders(0.0) > 3 * borders(1.5) > 3 * borders(3.0)


def test_released_grey_images_are_one_cosine_along_every_row():
    noise = FMix().draw((1, 3, 24, 40), generator()).noise
    released, paper = (torch.fft.rfft(grey_images(noise, (24, 40), 3.0, v), dim=2) for v in ("released", "paper"))
    assert released[..., 2:].abs().max() < 1e-9
    assert paper[..., 2:].abs().max() > 1


def test_the_coin_and_the_noise_are_fair():
    draws = [FMix(masks="sample").draw((4, 3, 16, 16), generator(seed)) for seed in range(300)]
    assert 110 < sum(draw.ceil for draw in draws) < 190
    noise = torch.stack([draw.noise for draw in draws])
    assert noise.mean().abs() < 0.01
    assert (noise.std() - 1).abs() < 0.01


# --- the mixer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", EVERY, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_input_is_not_touched_and_form_layout_and_seed_are_kept(mixer, shape, layout, check_form):
    x = batch(shape).contiguous(memory_format=layout)
    check_form(lambda: mixer(x, generator(1)), [x], layout)


@pytest.mark.parametrize("mixer", EVERY, ids=str)
def test_every_pixel_is_the_own_or_the_partners_where_edges_are_hard(mixer):
    x = batch((6, 3, 31, 35))
    mixed = mixer(x, generator(3))
    assert bool(((mixed.x == x) | (mixed.x == x[mixed.partner])).all())
    assert not torch.equal(mixed.x, x)


@settings(max_examples=60, deadline=None)
@given(
    mixer=st.sampled_from(EVERY),
    max_soft=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
)
def test_labels_follow_the_pixels_to_less_than_one_pixel(mixer, max_soft, seed, height, width):
    mixer = dataclasses.replace(mixer, max_soft=max_soft)
    draw = mixer.draw((2, 1, height, width), generator(seed))
    share = shown(mixer, draw, (height, width)).mean((1, 2))
    assert bool(((share - draw.lam).abs() < 1 / (height * width) + 1e-9).all())


@pytest.mark.parametrize("mixer", [*EVERY, FMix(max_soft=0.5), FMix(decay=0.0), FMix(decay=10.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_own_share_of_one_gives_the_batch_back_and_of_zero_the_partners(mixer, dtype):
    x = batch((5, 3, 20, 13), dtype=dtype)
    draw = mixer.draw(tuple(x.shape), generator())
    own, other = mixer.apply(x, draw.with_lam(1.0)), mixer.apply(x, draw.with_lam(0.0))
    assert torch.equal(own.x, x)
    assert torch.equal(own.lam, torch.ones(5, dtype=torch.float64))
    assert torch.equal(other.x, x[draw.partner])
    assert not other.lam.any()


@pytest.mark.parametrize("max_soft", [0.0, 0.3])
def test_half_precision_is_kept_and_has_the_masks_of_full_precision(max_soft):
    mixer, x = FMix(max_soft=max_soft), batch((4, 3, 16, 16))
    draw = mixer.draw(tuple(x.shape), generator()).with_lam(0.5)
    full, half = mixer.apply(x, draw), mixer.apply(x.bfloat16(), draw)
    assert half.x.dtype == torch.bfloat16
    torch.testing.assert_close(half.x.float(), full.x, atol=0.04, rtol=0.02)


def test_mistakes_are_refused_by_name():
    with pytest.raises(SpecError, match="variant"):
        FMix(variant="official")
    with pytest.raises(SpecError, match="masks"):
        FMix(masks="pixel")
    with pytest.raises(SpecError, match=r"max_soft = 0\.6 must be 0 to 0\.5"):
        FMix(max_soft=0.6)
    for values in FMix.published.values():
        FMix(**values)
