"""Augmentation: boxes, crops and image operations against Pillow and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageEnhance, ImageOps
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from automixsearch.config.recipe import Recipe
from automixsearch.training import augment

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 12, 16, 3), dtype=np.uint8))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def test_random_boxes_have_the_asked_areas_and_ratios_and_lie_inside():
    boxes, fits = augment.random_boxes(20_000, 60, 80, (0.2, 0.5), (3 / 4, 4 / 3), generator())
    assert fits.all()
    top, left, tall, wide = boxes.unbind(1)
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + tall).max(), (left + wide).max()) == (60, 80)
    area, ratio = (tall * wide).double() / 4800, wide.double() / tall
    assert 0.19 < area.min() < 0.21
    assert 0.49 < area.max() < 0.51
    assert area.mean().item() == pytest.approx(0.35, abs=0.005)
    assert ratio.log().mean().item() == pytest.approx(0, abs=0.01)
    assert 0.7 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.4


def test_a_box_that_cannot_fit_says_so():
    _, fits = augment.random_boxes(50, 4, 400, (0.9, 1.0), (3 / 4, 4 / 3), generator())
    assert not fits.any()
    out = augment.resized_crops(torch.zeros(2, 4, 400, 1, dtype=torch.uint8), 0.9, (5, 5), generator())
    assert out.shape == (2, 5, 5, 1)


def test_resized_crops_are_those_of_torchvision():
    out = augment.resized_crops(IMAGES, 0.3, (8, 10), generator(3))
    boxes, fits = augment.random_boxes(30, 12, 16, (0.3, 1.0), (3 / 4, 4 / 3), generator(3))
    assert fits.sum() > 25
    for image, box, got, fit in zip(IMAGES, boxes.tolist(), out, fits, strict=True):
        if fit:
            expected = resized_crop(image.permute(2, 0, 1), *box, [8, 10], InterpolationMode.BICUBIC)
            torch.testing.assert_close(got, expected.permute(1, 2, 0))


@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_crops_have_the_size_of_the_recipe_and_follow_the_generator(crop):
    recipe = Recipe(crop=crop, train_size=8, rand_augment=9, color_jitter=0.4, erasing=0.5)
    chosen = torch.arange(30)
    first, again, other = (augment.augmented(IMAGES, chosen, recipe, generator(seed)) for seed in (0, 0, 1))
    assert first.shape == (30, 8, 8, 3)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_padded_crop_smaller_than_the_image_is_a_part_of_it():
    recipe = Recipe(train_size=8, crop_pad=0, flip=False)
    out = augment.augmented(IMAGES, torch.arange(30), recipe, generator())
    for image, got in zip(IMAGES, out, strict=True):
        assert any(torch.equal(image[y : y + 8, x : x + 8], got) for y in range(5) for x in range(9))


def test_erasing_fills_one_box_in_about_the_asked_share_of_the_images():
    images = torch.full((400, 20, 20, 1), 7, dtype=torch.uint8)
    out = augment.erased(images, 0.25, generator())
    changed = (out != images).flatten(1).double().mean(1)
    assert 0.18 < (changed > 0).double().mean() < 0.32
    assert changed.max() < 0.36
    assert torch.equal(images, torch.full_like(images, 7))


@pytest.mark.parametrize("level", [0.0, 3.7, 9.0, 10.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_operations_of_rand_augment_equal_pillows(level, sign):
    images = IMAGES.permute(0, 3, 1, 2)[:6].contiguous()
    factor = max(0.1, 1 + sign * 0.09 * level)
    kept, added = 4 - int(level * 4 / 10), int(level * 110 / 10)
    expected = {
        "invert": ImageOps.invert,
        "posterize": lambda image: ImageOps.posterize(image, kept) if kept else Image.new("RGB", image.size),
        "solarize": lambda image: ImageOps.solarize(image, 256 - int(level * 25.6)),
        "solarize_add": lambda image: image.point([v + added if v < 128 else v for v in range(256)] * 3),
        "color": lambda image: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda image: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda image: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(factor),
        "translate_x": lambda image: shifted(image, -int(level * 0.045 * image.width) * sign, 0),
        "translate_y": lambda image: shifted(image, 0, -int(level * 0.045 * image.height) * sign),
    }
    for name, operation in expected.items():
        strengths = (torch.full((6,), value, dtype=torch.float64) for value in (level, sign))
        for image, got in zip(images, augment.RAND_AUGMENT[name](images, *strengths), strict=True):
            wanted = np.asarray(operation(pillow(image))).astype(int)
            np.testing.assert_allclose(got.permute(1, 2, 0).int(), wanted, atol=1, err_msg=name)


def shifted(image, right, down):
    moved = ImageChops.offset(image, int(right), int(down))
    blank = Image.new("RGB", image.size)
    mask = ImageChops.offset(Image.new("L", image.size, 255), 0, 0)
    width, height = image.size
    mask = np.zeros((height, width), np.uint8)
    rows = slice(max(int(down), 0), height + min(int(down), 0))
    columns = slice(max(int(right), 0), width + min(int(right), 0))
    mask[rows, columns] = 255
    blank.paste(moved, mask=Image.fromarray(mask))
    return blank


def test_rand_augment_uses_every_operation_and_leaves_some_images():
    images = IMAGES.permute(0, 3, 1, 2)[:1].expand(600, -1, -1, -1).contiguous()
    out = augment.rand_augment(images, 9, 0.5, 1, generator())
    same = (out == images).flatten(1).all(1).double().mean()
    assert 0.45 < same < 0.6  # half by chance, some as the image has nothing to change
    once = {name: False for name in augment.RAND_AUGMENT}
    assert len(torch.unique(out.flatten(1), dim=0)) > len(once)


def test_colour_jitter_keeps_shape_and_type_and_stays_near():
    images = IMAGES.permute(0, 3, 1, 2).contiguous()
    out = augment.color_jitter(images, 0.4, generator())
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    assert not torch.equal(out, images)
    flat = torch.full((5, 3, 4, 4), 100, dtype=torch.uint8)  # nothing but the brightness changes
    values = augment.color_jitter(flat, 0.4, generator()).flatten(1).double()
    assert values.std(1).max() == 0
    assert 59 <= values.min() <= values.max() <= 140
