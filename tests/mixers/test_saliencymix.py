"""SaliencyMix and its saliency map against the authors' numbers, and at the limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automixsearch.errors import SpecError
from automixsearch.mixers.base import box_masks, clipped_box, own_share, paste
from automixsearch.mixers.saliencymix import SaliencyMix, SaliencyMixDraw
from automixsearch.mixers.static_saliency import first_peak, released_saliency, static_saliency

SHAPES = [(8, 3, 32, 32), (1, 3, 32, 32), (5, 3, 31, 35), (4, 3, 24, 40), (6, 1, 8, 8), (2, 3, 2, 150)]
EVERY = [SaliencyMix(boxes="batch"), SaliencyMix(boxes="sample")]


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(shape, seed=0, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and their pixels."""
    samples, channels, height, width = shape
    pixels = torch.randint(256, (samples, height, width, channels), generator=generator(seed), dtype=torch.uint8)
    return (pixels.permute(0, 3, 1, 2).float().contiguous() / 255).to(dtype), pixels


def box_of(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is true."""
    rows, columns = mask.nonzero(as_tuple=True)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


# --- the authors' numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["a", "b"])
def test_saliency_maps_equal_those_of_opencv_on_every_pixel(golden, group):
    file = golden("saliencymix")
    saliency = static_saliency(tensor(file[f"{group}_image_u8"]))
    np.testing.assert_array_equal(saliency, file[f"{group}_map_from_u8_quantised"])
    np.testing.assert_allclose(saliency / 255, file[f"{group}_map_from_u8"], atol=1e-6)


@pytest.mark.parametrize("group", ["a", "b"])
def test_peaks_equal_the_authors_given_pixels(golden, group):
    file = golden("saliencymix")
    for source in ("u8", "float"):
        peaks = first_peak(tensor(file[f"{group}_map_from_{source}_quantised"]))
        np.testing.assert_array_equal(peaks, file[f"{group}_peak_from_{source}"])


@pytest.mark.parametrize("source", ["u8", "float"])
def test_boxes_equal_the_authors_given_their_peak(golden, source):
    file = golden("saliencymix")
    for image, lam, box in zip(file["box_image_of_b"], file["box_lam"], file[f"box_from_{source}"], strict=True):
        top, bottom, left, right = box
        expected = np.zeros((64, 96), bool)
        expected[top:bottom, left:right] = True
        peak = tensor(file[f"b_peak_from_{source}"][image : image + 1])
        np.testing.assert_array_equal(box_masks(peak, math.sqrt(1 - lam), (64, 96))[0], expected)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_mixed_images_equal_the_authors_given_their_peak(golden, case):
    file = golden("saliencymix")
    partner, lam = tensor(file[f"{case}_index"]), float(file[f"{case}_lam"])
    source = int(file[f"{case}_source_image"])
    assert source == partner[0]
    inside = box_masks(tensor(file["a_peak_from_float"][source : source + 1]), math.sqrt(1 - lam), (32, 32))
    assert box_of(inside[0]) == tuple(file[f"{case}_box"])
    mixed = paste(tensor(file["a_x"]), partner, inside)
    np.testing.assert_array_equal(mixed.x, file[f"{case}_mixed"])
    assert mixed.lam.tolist() == pytest.approx([float(file[f"{case}_lam_adjusted"])] * 6, abs=1e-12)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_the_whole_mixing_pastes_around_the_peak_of_the_partner_of_the_first_sample(golden, case):
    file = golden("saliencymix")
    partner, lam = tensor(file[f"{case}_index"]), float(file[f"{case}_lam"])
    x, pixels = tensor(file["a_x"]), tensor(file["a_image_u8"])
    row, column = file["a_peak_from_u8"][int(partner[0])].tolist()
    box = clipped_box((32, 32), math.sqrt(1 - lam), (row, column))
    region = (..., slice(box.top, box.bottom), slice(box.left, box.right))
    expected = x.clone()
    expected[region] = x[partner][region]
    mixed = SaliencyMix().apply(x, SaliencyMixDraw(partner, lam), pixels=pixels)
    assert torch.equal(mixed.x, expected)
    assert mixed.lam.tolist() == [own_share(box, (32, 32))] * 6


# --- the saliency map -----------------------------------------------------------------------------------------------


def plain_map(pixels: np.ndarray) -> np.ndarray:
    """The map of one image, [H, W, C], from its definition, pixel by pixel."""
    grey = pixels[..., 0].astype(int)
    if pixels.shape[2] == 3:
        grey = (pixels.astype(int) @ np.array([3735, 19235, 9798]) + 2**14) >> 15
    for _ in range(2):
        wide = np.pad(grey, 1, mode="reflect")
        wide = wide[:-2] + 2 * wide[1:-1] + wide[2:]
        grey = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:] + 8) >> 4
    on, off = np.zeros_like(grey), np.zeros_like(grey)
    for n in (12, 24, 28, 48, 56, 112):
        for y, x in np.ndindex(*grey.shape):
            around = grey[max(y - n + 1, 0) : y + n + 1, max(x - n + 1, 0) : x + n + 1]
            contrast = int(grey[y, x] - (around.sum() - grey[y, x]) / (around.size - 1))
            on[y, x] += max(contrast, 0)
            off[y, x] += max(-contrast, 0)
    return (255 * on // max(on.max(), 1) + 255 * off // max(off.max(), 1)) % 256


@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (2, 1, 16, 8), (1, 3, 2, 60), (1, 1, 31, 7)], ids=str)
def test_maps_of_any_size_equal_the_definition(shape):
    _, pixels = batch(shape)
    pixels = (pixels.float() ** 2 / 255).byte()
    expected = np.stack([plain_map(image) for image in pixels.numpy()])
    np.testing.assert_array_equal(static_saliency(pixels), expected)


def test_each_map_is_computed_as_if_its_image_were_alone():
    _, pixels = batch((4, 3, 20, 28))
    pixels[1] //= 16
    together = static_saliency(pixels)
    for sample in range(4):
        assert torch.equal(together[sample], static_saliency(pixels[sample : sample + 1])[0])


def test_an_image_of_one_colour_has_no_saliency_and_its_peak_is_the_first_pixel():
    saliency = static_saliency(torch.full((2, 16, 16, 3), 200, dtype=torch.uint8))
    assert not saliency.any()
    assert first_peak(saliency).tolist() == [[0, 0], [0, 0]]


def test_the_first_of_several_peaks_in_reading_order_counts():
    saliency = torch.zeros(2, 3, 5, dtype=torch.uint8)
    saliency[0, 1, 4] = saliency[0, 2, 0] = 255
    saliency[1, 2, 3] = 1
    assert first_peak(saliency).tolist() == [[1, 4], [2, 3]]


def test_the_map_does_not_change_under_mixed_precision():
    _, pixels = batch((2, 3, 32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = static_saliency(pixels)
    assert torch.equal(cast, static_saliency(pixels))


# --- the box --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    lam=st.floats(0, 1),
    place=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
)
def test_boxes_are_those_of_cutmix_around_the_peak(height, width, lam, place):
    centre = int(place[0] * height), int(place[1] * width)
    box = clipped_box((height, width), math.sqrt(1 - lam), centre)
    expected = torch.zeros(height, width, dtype=torch.bool)
    expected[box.top : box.bottom, box.left : box.right] = True
    mask = box_masks(torch.tensor([centre]), math.sqrt(1 - lam), (height, width))
    assert torch.equal(mask[0], expected)
    mixed = paste(torch.zeros(3, 1, height, width), torch.arange(3), mask)
    assert mixed.lam.tolist() == [own_share(box, (height, width))] * 3


def test_a_box_per_sample_lies_around_the_peak_of_its_own_partner_and_has_its_own_label_weight():
    x, pixels = batch((6, 3, 32, 48))
    draw = SaliencyMixDraw(torch.tensor([1, 2, 0, 4, 3, 5]), 0.6)
    mixed = SaliencyMix(boxes="sample").apply(x, draw, pixels=pixels)
    peaks = first_peak(static_saliency(pixels)).tolist()
    for sample, image in enumerate(draw.partner.tolist()):
        box = clipped_box((32, 48), math.sqrt(0.4), tuple(peaks[image]))
        region = (..., slice(box.top, box.bottom), slice(box.left, box.right))
        expected = x[sample].clone()
        expected[region] = x[image][region]
        assert torch.equal(mixed.x[sample], expected)
        assert mixed.lam[sample] == own_share(box, (32, 48))
    assert mixed.lam.unique().numel() > 3


# --- the mixer ------------------------------------------------------------------------------------------------------


def mix(mixer, x, pixels, seed=0):
    return mixer.apply(x, mixer.draw(tuple(x.shape), generator(seed)), pixels=pixels)


@pytest.mark.parametrize("mixer", EVERY, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_input_is_not_touched_and_form_layout_and_seed_are_kept(mixer, shape, layout, check_form):
    x, pixels = batch(shape)
    x = x.contiguous(memory_format=layout)
    check_form(lambda: mix(mixer, x, pixels, seed=1), [x, pixels], layout)


@settings(max_examples=40, deadline=None)
@given(
    mixer=st.sampled_from(EVERY),
    lam=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
)
def test_labels_follow_the_pixels_whatever_is_drawn(mixer, lam, seed, height, width):
    """Own images are 1 and the partner's 0, so the mean of a mixed image is the own share of its pixels."""
    _, pixels = batch((2, 1, height, width), seed)
    x = torch.stack([torch.ones(1, height, width), torch.zeros(1, height, width)]).double()
    mixed = mixer.apply(x, SaliencyMixDraw(torch.tensor([1, 0]), lam), pixels=pixels)
    assert mixed.x[0].mean().item() == pytest.approx(mixed.lam[0].item(), abs=1e-9)
    assert 1 - mixed.x[1].mean().item() == pytest.approx(mixed.lam[1].item(), abs=1e-9)


@pytest.mark.parametrize("mixer", EVERY, ids=str)
def test_an_own_share_of_one_gives_the_batch_back(mixer):
    x, pixels = batch((5, 3, 20, 13))
    mixed = mixer.apply(x, mixer.draw(tuple(x.shape), generator()).with_lam(1.0), pixels=pixels)
    assert torch.equal(mixed.x, x)
    assert torch.equal(mixed.lam, torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("mixer", EVERY, ids=str)
def test_half_precision_is_kept_and_has_the_boxes_of_full_precision(mixer):
    x, pixels = batch((4, 3, 16, 16))
    full, half = mix(mixer, x, pixels), mix(mixer, x.bfloat16(), pixels)
    assert half.x.dtype == torch.bfloat16
    assert torch.equal(half.x, full.x.bfloat16())
    assert torch.equal(half.lam, full.lam)


def test_mistakes_are_refused_by_name():
    x, pixels = batch((2, 3, 8, 8))
    draw = SaliencyMixDraw(torch.tensor([1, 0]), 0.5)
    with pytest.raises(TypeError, match="pixels"):
        SaliencyMix().apply(x, draw)
    with pytest.raises(ValueError, match=r"torch\.float32 \(2, 8, 8, 3\) and must be torch\.uint8 \(2, 8, 8, 3\)"):
        SaliencyMix().apply(x, draw, pixels=pixels.float())
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\) and must be torch\.uint8 \(2, 8, 8, 3\)"):
        SaliencyMix().apply(x, draw, pixels=pixels.permute(0, 3, 1, 2))
    with pytest.raises(SpecError, match="boxes"):
        SaliencyMix(boxes="pixel")
    for values in SaliencyMix.published.values():
        SaliencyMix(**values)


@pytest.mark.parametrize(("group", "close"), [("a", 0.99), ("b", 0.98)])
def test_the_released_variant_reads_floats_as_bytes_like_the_authors(golden, group, close):
    """The last bits of floats, which decide a few values, depend on the order of sums; so not all are equal."""
    file = golden("saliencymix")
    found = released_saliency(torch.from_numpy(file[f"{group}_x"]))
    expected = torch.from_numpy(np.rint(file[f"{group}_map_from_float"] * 255).astype(np.uint8))
    off_by_one = (found.int() - expected.int()).abs() <= 1
    assert off_by_one.float().mean() > close
    paper = static_saliency(torch.from_numpy(file[f"{group}_image_u8"]))
    assert ((paper.int() - expected.int()).abs() <= 1).float().mean() < 0.1


def test_the_released_variant_finds_most_peaks_of_the_authors(golden):
    file = golden("saliencymix")
    found = first_peak(released_saliency(torch.from_numpy(file["a_x"])))
    assert (found.numpy() == file["a_peak_from_float"]).all(1).sum() >= 5


def test_the_variants_choose_different_boxes():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 16, 16, 3), generator=generator, dtype=torch.uint8)
    x = pixels.permute(0, 3, 1, 2).float() / 64 - 2
    draw = SaliencyMix().draw((8, 3, 16, 16), generator)
    paper, released = (
        SaliencyMix(variant=v, boxes="sample").apply(x, draw, pixels=pixels) for v in ("paper", "released")
    )
    assert not torch.equal(paper.x, released.x)
