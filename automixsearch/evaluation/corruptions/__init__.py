"""The corruptions of CIFAR-C and ImageNet-C: 15, and 4 that were held out, each in five severities.

Source: Hendrycks and Dietterich, arXiv 1903.12261; authors' code robustness at 8190fe3, whose figures are met to a
level of 255 (JPEG: with the same libjpeg), given NumPy's `RandomState` with the same seed.
Differs: the textures of frost are ours where none are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import RandomState

from automixsearch.errors import SpecError
from automixsearch.evaluation.corruptions import blur, digital, noise, weather

Constants = tuple[Sequence[float], ...]


@dataclass(frozen=True)
class Corruption:
    """How images are corrupted.

    make: images uint8 [N, H, W, 3], constants of a severity, a `RandomState` for each image -> values in 0..255.
    small, large: the constants of the five severities, of CIFAR-C and of ImageNet-C. extra: one of those held out.
    """

    make: Callable[..., np.ndarray]
    small: Constants
    large: Constants
    extra: bool = False


def _each(*values: float) -> Constants:
    return tuple((value,) for value in values)


def _factors(*ends: tuple[float, float]) -> Constants:
    return tuple(tuple(np.arange(1, end, step)) for end, step in ends)  # rounding decides about the last one


def _elastic(scale: float, *values: tuple[float, float, float]) -> Constants:
    return tuple(tuple(scale * value for value in each) for each in values)


CORRUPTIONS = {
    "gaussian_noise": Corruption(
        noise.gaussian_noise, _each(0.04, 0.06, 0.08, 0.09, 0.1), _each(0.08, 0.12, 0.18, 0.26, 0.38)
    ),
    "shot_noise": Corruption(noise.shot_noise, _each(500, 250, 100, 75, 50), _each(60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(
        noise.impulse_noise, _each(0.01, 0.02, 0.03, 0.05, 0.07), _each(0.03, 0.06, 0.09, 0.17, 0.27)
    ),
    "defocus_blur": Corruption(
        blur.defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Corruption(
        blur.glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Corruption(
        blur.motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Corruption(
        blur.zoom_blur,
        _factors((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        _factors((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption(
        weather.frost,
        ((1, 0.2, 5), (1, 0.3, 5), (0.9, 0.4, 5), (0.85, 0.4, 5), (0.75, 0.45, 5)),
        ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    ),
    "fog": Corruption(
        weather.fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Corruption(weather.brightness, _each(0.05, 0.1, 0.15, 0.2, 0.3), _each(0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(digital.contrast, _each(0.75, 0.5, 0.4, 0.3, 0.15), _each(0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(
        digital.elastic_transform,
        _elastic(32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        _elastic(244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": Corruption(digital.pixelate, _each(0.95, 0.9, 0.85, 0.75, 0.65), _each(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(digital.jpeg_compression, _each(80, 65, 58, 50, 40), _each(25, 18, 15, 10, 7)),
    "speckle_noise": Corruption(
        noise.speckle_noise, _each(0.06, 0.1, 0.12, 0.16, 0.2), _each(0.15, 0.2, 0.35, 0.45, 0.6), extra=True
    ),
    "gaussian_blur": Corruption(blur.gaussian_blur, _each(0.4, 0.6, 0.7, 0.8, 1), _each(1, 2, 3, 4, 6), extra=True),
    "spatter": Corruption(
        weather.spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        extra=True,
    ),
    "saturate": Corruption(
        digital.saturate,
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        extra=True,
    ),
}
"""In the order of the publication."""


def corrupted(
    images: np.ndarray,
    name: str,
    severity: int,
    draws: Sequence[RandomState],
    large: bool = False,
    textures: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Corrupt images uint8 [N, H, W, 3] -> the same.

    Args:
        name: of `CORRUPTIONS`. severity: 1 to 5. draws: of each image. large: with the constants of ImageNet-C.
        textures: of frost, uint8 [h, w, 3], five; None: ours.
    """
    corruption = CORRUPTIONS[name]
    constants = (corruption.large if large else corruption.small)[severity - 1]
    more = {"textures": own_textures() if textures is None else textures} if name == "frost" else {}
    return np.clip(corruption.make(images, constants, draws, **more), 0, 255).astype(np.uint8)


@lru_cache(1)
def own_textures() -> tuple[np.ndarray, ...]:
    """Five textures of frost, uint8 [1024, 1024, 3]: pale crystals along the ridges of clouds."""
    made = []
    for number in range(5):
        cloud, veil = weather.plasma(1024, 1.8, [RandomState(number), RandomState(number + 5)])
        ridges = (1 - 2 * np.abs(cloud - np.median(cloud))).clip(0, 1) ** 6
        made.append((255 * (0.25 + 0.75 * ridges * veil)[..., None] * np.array([0.85, 0.93, 1])).astype(np.uint8))
    return tuple(made)


def textures_of(folder: str) -> list[np.ndarray]:
    """The published textures frost1.png, frost2.png, frost3.png, frost4.jpg and frost5.jpg of a folder.

    Raises:
        SpecError: one is missing.
    """
    from PIL import Image

    made = []
    for number in range(1, 6):
        found = [place for end in ("png", "jpg") if (place := Path(folder, f"frost{number}.{end}")).is_file()]
        if not found:
            raise SpecError(f"corruption.frost: {folder} has no frost{number}.png or .jpg; leave it out to take ours")
        made.append(np.asarray(Image.open(found[0]).convert("RGB")))
    return made
