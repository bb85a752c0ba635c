"""Blur: what a lens, a pane of glass or a moving camera does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState

from automixsearch.evaluation.corruptions.filters import blurred, correlated, separable, streaked, zoomed
from automixsearch.evaluation.corruptions.loops import moved


def defocus_blur(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: radius of the disk, standard deviation of the Gaussian that smooths it, in pixels."""
    radius, sigma = c
    reach = 8 if radius <= 8 else int(radius)
    place = np.arange(-reach, reach + 1)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(np.float32)
    tap = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    smooth = np.exp(-(tap**2) / (2 * sigma**2))
    smooth = (smooth / smooth.sum()).astype(np.float32)
    disk = correlated((disk / disk.sum())[None, ..., None], np.outer(smooth, smooth))[0, ..., 0].astype(np.float32)
    return 255 * correlated(images / 255, disk)


def glass_blur(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: standard deviation of the Gaussian before and after, farthest that a pixel comes from, passes."""
    sigma, far, passes = c[0], int(c[1]), int(c[2])
    shuffled = (255 * blurred(images / 255, sigma)).astype(np.uint8)
    steps = passes * max(images.shape[1] - 2 * far, 0) * max(images.shape[2] - 2 * far, 0)
    for image, g in zip(shuffled, draws, strict=True):
        moved(image, g.randint(-far, far, size=(steps, 2)), far)
    return 255 * blurred(shuffled / 255, sigma)


def motion_blur(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: radius, standard deviation of the weights, in pixels."""
    return streaked(images, c[0], c[1], np.array([g.uniform(-45, 45) for g in draws]))


def zoom_blur(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: factors, of which the zoomed images are averaged with the image itself."""
    x = (images / 255).astype(np.float32)
    total = np.zeros_like(x)
    for factor in c:
        total += separable(x, *(zoomed(size, factor) for size in images.shape[1:3])).astype(np.float32)
    return 255 * ((x + total) / (len(c) + 1))


def gaussian_blur(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: standard deviation, in pixels."""
    return 255 * blurred(images / 255, c[0])
