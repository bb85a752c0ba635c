"""Noise: every value of an image is drawn anew around what it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState


def gaussian_noise(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: standard deviation, of 1."""
    return 255 * (images / 255 + _normal(images, c[0], draws))


def shot_noise(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: photons of a white value."""
    return 255 * (np.stack([g.poisson(image / 255 * c[0]) for image, g in zip(images, draws, strict=True)]) / c[0])


def impulse_noise(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: share of the values, not of the pixels, that become 0 or 255."""
    hit, white = np.empty((2, *images.shape), bool)
    for place, g in enumerate(draws):
        hit[place] = g.uniform(size=images.shape[1:]) <= c[0]
        white[place] = g.uniform(size=images.shape[1:]) <= 0.5
    return np.where(hit, 255 * white, images)


def speckle_noise(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: standard deviation, of the value."""
    x = images / 255
    return 255 * (x + x * _normal(images, c[0], draws))


def _normal(images: np.ndarray, scale: float, draws: Sequence[RandomState]) -> np.ndarray:
    return np.stack([g.normal(size=images.shape[1:], scale=scale) for g in draws])
