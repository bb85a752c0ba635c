"""Linear filters of batches of images, as matrices of the rows and of the columns where they can be taken apart."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


def separable(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] with `rows` [H', H] applied down and `columns` [W', W] across -> [N, H', W', C]."""
    n, height, width, channels = x.shape
    down = (rows @ x.reshape(n, height, width * channels)).reshape(-1, width, channels)
    return (columns @ down).reshape(n, len(rows), len(columns), channels)


@lru_cache(64)
def gaussian(size: int, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> np.ndarray:
    """The matrix [size, size] of a Gaussian blur."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(np.eye(size), sigma, axis=0, mode=mode, truncate=truncate) if sigma else np.eye(size)


def blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """Images [N, H, W, C] after a Gaussian blur whose border repeats the edge."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest")


@lru_cache(256)
def zoomed(size: int, factor: float) -> np.ndarray:
    """The matrix [size, size] of a linear zoom into the middle."""
    seen = math.ceil(size / factor)
    top, made = (size - seen) // 2, round(seen * factor)
    trim = (made - size) // 2
    place = (np.arange(size) + trim) * ((seen - 1) / (made - 1) if made > 1 else 0.0)
    below = np.minimum(np.floor(place).astype(int), seen - 1)
    matrix = np.zeros((size, size))
    matrix[np.arange(size), top + below] = 1 - (place - below)
    matrix[np.arange(size), top + np.minimum(below + 1, seen - 1)] += place - below
    return matrix


def correlated(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] correlated with a square kernel of odd side; the border mirrors, without the edge itself."""
    used = np.argwhere(kernel)
    reach = int(np.abs(used - len(kernel) // 2).max())
    # By hand, as NumPy's padding refuses nothing either but is slow for many small images.
    rows, columns = (mirrored(np.arange(-reach, size + reach), size) for size in x.shape[1:3])
    padded, out = x[:, rows[:, None], columns], np.zeros(x.shape)
    for row, column in used:
        top, left = row - len(kernel) // 2 + reach, column - len(kernel) // 2 + reach
        out += kernel[row, column] * padded[:, top : top + x.shape[1], left : left + x.shape[2]]
    return out


def mirrored(places: np.ndarray, size: int) -> np.ndarray:
    """Places of a line of `size` pixels that goes on as its mirror image, without the edge itself."""
    period = max(2 * (size - 1), 1)
    places = np.abs(places) % period
    return np.minimum(places, period - places)


def streaked(images: np.ndarray, radius: float, sigma: float, angles: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, C] smeared to one side along a line, as ImageMagick does with 16 bits -> uint8.

    Args:
        radius: half of the taps. sigma: of their weights, in pixels. angles: of each image's line, in degrees.
    """
    taps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    height, width = images.shape[1:3]
    reach = len(taps)
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "edge")
    out = np.zeros(images.shape)
    for place, angle in enumerate(np.deg2rad(angles)):
        down = np.ceil(taps * np.sin(angle) - 0.5).astype(int) + reach
        right = np.ceil(taps * np.cos(angle) - 0.5).astype(int) + reach
        for weight, top, left in zip(weights, down, right, strict=True):
            out[place] += weight * padded[place, top : top + height, left : left + width]
    return (np.round(257 * out) / 257).astype(np.uint8)
