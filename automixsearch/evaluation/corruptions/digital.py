"""What cameras and files do to images: contrast, colour, shape, resolution, compression."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState

from automixsearch.evaluation.corruptions.filters import gaussian, mirrored


def contrast(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: of the distance to the mean of each channel."""
    x = images / 255
    means = x.mean((1, 2), keepdims=True)
    return 255 * ((x - means) * c[0] + means)


def saturate(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: by what the saturation of HSV is multiplied, and what is added then."""
    hue, saturation, value = to_hsv(images / 255)
    return 255 * from_hsv(hue, (saturation * c[0] + c[1]).clip(0, 1), value)


def elastic_transform(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: of the displacement, standard deviation of its blur, farthest that a corner moves, in pixels."""
    count, height, width = images.shape[:3]
    centre, reach = np.array([width, height]) // 2, min(height, width) // 3
    anchors = np.array([centre + reach, [centre[0] + reach, centre[1] - reach], centre - reach], float)
    moves = np.zeros((2, count, height, width))
    shears = []
    for place, g in enumerate(draws):
        moved = anchors + g.uniform(-c[2], c[2], size=(3, 2))
        # Where a pixel of the result comes from: the inverse of what takes the anchors to where they are moved.
        shears.append(np.linalg.solve(np.c_[moved, np.ones(3)], anchors).T)
        moves[0, place] = g.uniform(-1, 1, size=(height, width))
        moves[1, place] = g.uniform(-1, 1, size=(height, width))
    down, across = (gaussian(size, c[1], "reflect", 3.0) for size in (height, width))
    moves = c[0] * (down @ moves @ across.T) if c[0] else np.zeros_like(moves)
    y, x = np.mgrid[:height, :width]
    # The anchors are (x, y): the first of a pair lies across.
    places = np.einsum("nij,jhw->nihw", np.stack(shears), np.stack([x, y, np.ones_like(x)]))
    sheared = _sampled(images / 255, places[:, 1], places[:, 0], mirrored)
    return 255 * _sampled(sheared, y + moves[1], x + moves[0], _reflected)


def pixelate(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: of the side that is left between."""
    from PIL import Image

    height, width = images.shape[1:3]
    small = max(int(width * c[0]), 1), max(int(height * c[0]), 1)
    box = Image.Resampling.BOX
    return np.stack(
        [np.asarray(Image.fromarray(one).resize(small, box).resize((width, height), box)) for one in images]
    )


def jpeg_compression(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: the quality."""
    from PIL import Image

    made = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(c[0]))
        made.append(np.asarray(Image.open(file)))
    return np.stack(made)


def to_hsv(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue, saturation and value, each 0 to 1, of [..., 3] in 0 to 1."""
    value = x.max(-1)
    spread = value - x.min(-1)
    red, green, blue = np.moveaxis(x, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        saturation = np.where(spread == 0, 0, spread / value)
        hue = np.where(red == value, (green - blue) / spread, 0)
        hue = np.where(green == value, 2 + (blue - red) / spread, hue)
        hue = np.where(blue == value, 4 + (red - green) / spread, hue)
    return np.where(spread == 0, 0, hue / 6 % 1), saturation, value


def from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Red, green and blue [..., 3] again."""
    sector = np.floor(hue * 6)
    part = hue * 6 - sector
    low = value * (1 - saturation)
    falling, rising = value * (1 - part * saturation), value * (1 - (1 - part) * saturation)
    ways = ((value, rising, low), (falling, value, low), (low, value, rising),
            (low, falling, value), (rising, low, value), (value, low, falling))  # fmt: skip
    which = sector.astype(int) % 6
    return np.stack([np.choose(which, [way[channel] for way in ways]) for channel in range(3)], -1)


def _sampled(images: np.ndarray, y: np.ndarray, x: np.ndarray, border) -> np.ndarray:
    """Images [N, H, W, C] between their pixels, at rows y and columns x, [N, H, W]."""
    height, width = images.shape[1:3]
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = (y - top)[..., None], (x - left)[..., None]
    rows = [border(top, height), border(top + 1, height)]
    columns = [border(left, width), border(left + 1, width)]
    n = np.arange(len(images))[:, None, None]
    above = images[n, rows[0], columns[0]] * (1 - right) + images[n, rows[0], columns[1]] * right
    below = images[n, rows[1], columns[0]] * (1 - right) + images[n, rows[1], columns[1]] * right
    return above * (1 - down) + below * down


def _reflected(places: np.ndarray, size: int) -> np.ndarray:
    """As `mirrored`, with the edge twice."""
    places = places % (2 * size)
    return np.minimum(places, 2 * size - 1 - places)
