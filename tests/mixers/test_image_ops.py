"""The image operations of AugMix against the authors' numbers and against Pillow, on every pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from automixsearch.mixers.image_ops import OPERATIONS, STANDARD

SIZES = [(8, 8), (24, 40), (31, 35), (64, 64), (1, 1), (2, 3), (33, 2)]
NAMES = list(OPERATIONS)
PLAIN = ["autocontrast", "equalize"]
SIGNED = ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"]


def pillow(name: str, image: Image.Image, level: float, sign: float) -> Image.Image:
    """The operation as Pillow does it."""

    def whole(most: float) -> int:
        return int(level * most / 10)

    def affine(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    factor, slope, direction = level * 1.8 / 10 + 0.1, sign * (level * 0.3 / 10), int(sign)
    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - whole(4)),
        "rotate": lambda: image.rotate(direction * whole(30), Image.Resampling.BILINEAR),
        "solarize": lambda: ImageOps.solarize(image, 256 - whole(256)),
        "shear_x": lambda: affine(1, slope, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, slope, 1, 0),
        "translate_x": lambda: affine(1, 0, direction * whole(image.width / 3), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, direction * whole(image.height / 3)),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
    }[name]()


def pictures(number: int, channels: int, height: int, width: int, seed: int) -> np.ndarray:
    """Noise of full, low and uneven contrast, smooth images, and images of one value: uint8 [M, H, W, C]."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (number, height, width, channels))
    images[1::5] = images[1::5] // 3 + 40
    images[2::5] = images[2::5] ** 2 // 255
    smooth = np.add.outer(np.arange(height) * 2, np.arange(width) * 3)[..., None] + random.integers(0, 60, channels)
    images[3::5] = smooth % 256
    images[4::25] = random.integers(0, 256, channels)
    return images.astype(np.uint8)


def strengths(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels of 0 to 10, whole ones among them, and signs."""
    random = np.random.default_rng(seed)
    level = random.uniform(0, 10, number)
    level[: min(number, 10)] = np.arange(10)[:number]
    return level, random.choice([-1.0, 1.0], number)


def in_batch(name: str, images: np.ndarray, level, sign) -> np.ndarray:
    """The batched operation on [M, H, W, C]."""
    batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    before = batch.clone()
    changed = OPERATIONS[name](batch, torch.as_tensor(level).double(), torch.as_tensor(sign).double())
    assert torch.equal(batch, before)
    assert changed.dtype == torch.uint8
    return changed.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("case", range(39))
def test_operations_equal_the_authors(golden, case):
    file = golden("augmix")
    name = str(file["op_names"][file["ops_id"][case]])
    image = file["images_u8"][file["ops_image"][case]]
    sign = -1.0 if file["ops_sign_draw"][case] > 0.5 else 1.0
    changed = in_batch(name, image[None], file["ops_level"][case : case + 1], [sign])
    np.testing.assert_array_equal(changed[0], file["ops_output"][case])


def test_operations_are_numbered_as_in_the_authors_lists(golden):
    assert golden("augmix")["op_names"].tolist() == NAMES
    assert NAMES[STANDARD:] == ["color", "contrast", "brightness", "sharpness"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_batches_equal_pillow_image_by_image(name, channels, size):
    images = pictures(60, channels, *size, seed=1)
    level, sign = strengths(60, seed=2)
    changed = in_batch(name, images, level, sign)
    for before, after, one_level, one_sign in zip(images, changed, level, sign, strict=True):
        expected = pillow(name, Image.fromarray(before[..., 0] if channels == 1 else before), one_level, one_sign)
        np.testing.assert_array_equal(after, np.asarray(expected).reshape(before.shape))


def test_every_whole_angle_equals_pillow():
    angles = np.arange(-29, 30)
    images = pictures(len(angles), 3, 21, 32, seed=3)
    changed = in_batch("rotate", images, (np.abs(angles) + 0.5) / 3, np.where(angles < 0, -1.0, 1.0))
    for image, after, angle in zip(images, changed, angles, strict=True):
        expected = Image.fromarray(image).rotate(int(angle), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(after, np.asarray(expected))


@pytest.mark.parametrize("name", NAMES)
def test_large_batches_and_images_are_worked_on_in_blocks_without_a_trace(name):
    for shape in ((130, 3, 32, 32), (3, 3, 224, 224)):
        images = pictures(shape[0], 3, *shape[2:], seed=4)
        level, sign = strengths(shape[0], seed=5)
        together = in_batch(name, images, level, sign)
        for sample in (0, 1, shape[0] // 2, shape[0] - 1):
            one = slice(sample, sample + 1)
            np.testing.assert_array_equal(in_batch(name, images[one], level[one], sign[one]), together[one])


@pytest.mark.parametrize("name", NAMES)
def test_levels_matter_where_there_are_any_and_signs_where_there_is_a_direction(name):
    images = pictures(1, 3, 24, 24, seed=6)
    weak, strong = (in_batch(name, images, [level], [1.0]) for level in (2.0, 8.0))
    assert np.array_equal(weak, strong) == (name in PLAIN)
    other = in_batch(name, images, [8.0], [-1.0])
    assert np.array_equal(strong, other) == (name not in SIGNED)


def test_what_moves_in_from_outside_is_black():
    images = np.full((2, 30, 30, 3), 200, np.uint8)
    moved = in_batch("translate_x", images, [3.0, 3.0], [1.0, -1.0])
    assert not moved[0, :, 27:].any()
    assert (moved[0, :, :27] == 200).all()
    assert not moved[1, :, :3].any()
    assert (moved[1, :, 3:] == 200).all()
    turned = in_batch("rotate", images, [9.0, 9.0], [1.0, -1.0])
    assert not turned[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert set(np.unique(turned)) == {0, 200}
