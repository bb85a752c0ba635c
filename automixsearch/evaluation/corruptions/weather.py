"""Weather: snow, frost, fog, light, and what splashes on a lens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState

from automixsearch.errors import SpecError
from automixsearch.evaluation.corruptions.digital import from_hsv, to_hsv
from automixsearch.evaluation.corruptions.filters import blurred, correlated, separable, streaked, zoomed
from automixsearch.evaluation.corruptions.loops import distance, edges

GREY = np.array([0.299, 0.587, 0.114], np.float32)
WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255


def snow(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: mean, deviation and zoom of the flakes, below what they are none, radius and deviation of their fall, share
    of the image that keeps its colour."""
    height, width = images.shape[1:3]
    layer = np.stack([g.normal(size=(height, width), loc=c[0], scale=c[1]) for g in draws])[..., None]
    layer = separable(layer, zoomed(height, c[2]), zoomed(width, c[2]))
    layer[layer < c[3]] = 0
    layer = (255 * layer.clip(0, 1)).astype(np.uint8)
    layer = streaked(layer, c[4], c[5], np.array([g.uniform(-135, -45) for g in draws])) / 255
    x = (images / 255).astype(np.float32)
    x = c[6] * x + (1 - c[6]) * np.maximum(x, 1.5 * (x @ GREY)[..., None] + 0.5)
    return 255 * (x + layer + layer[:, ::-1, ::-1])


def frost(
    images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState], textures: Sequence[np.ndarray]
) -> np.ndarray:
    """c: share of the image and of the texture, by how much the texture is shrunk. textures: uint8 [h, w, 3], five."""
    stride, crops = int(c[2]), []
    for g in draws:
        texture = textures[g.randint(5)][stride // 2 :: stride, stride // 2 :: stride]
        room = [have - need for have, need in zip(texture.shape, images.shape[1:3], strict=False)]
        if min(room) <= 0:
            height, width = images.shape[1:3]
            raise SpecError(
                f"a texture of frost has {texture.shape[0]} x {texture.shape[1]} pixels (shrunk by {stride}); images "
                f"of {height} x {width} need larger ones"
            )
        top, left = (g.randint(0, most) for most in room)
        crops.append(texture[top : top + images.shape[1], left : left + images.shape[2]])
    return c[0] * images + c[1] * np.stack(crops)


def fog(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: of the fog, by what its roughness falls from size to size."""
    height, width = images.shape[1:3]
    x, brightest = images / 255, images.max((1, 2, 3), keepdims=True) / 255
    size = max(32, 1 << (max(height, width) - 1).bit_length())
    x = x + c[0] * plasma(size, c[1], draws)[:, :height, :width, None]
    return 255 * (x * brightest / (brightest + c[0]))


def plasma(size: int, decay: float, draws: Sequence[RandomState]) -> np.ndarray:
    """Clouds [N, size, size] from 0 to 1 by midpoint displacement (diamond-square) on a torus; size: a power of 2."""
    clouds = np.zeros((len(draws), size, size))
    step, rough = size, 100.0

    def shaken(total: np.ndarray) -> np.ndarray:
        drawn = np.stack([g.uniform(-rough, rough, total.shape[1:]) for g in draws])
        return total / 4 + rough * drawn

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        clouds[:, half::step, half::step] = shaken(pairs + np.roll(pairs, -1, 2))
        middles = clouds[:, half::step, half::step]
        beside = (middles + np.roll(middles, 1, 1)) + (corners + np.roll(corners, -1, 2))
        clouds[:, ::step, half::step] = shaken(beside)
        beside = (middles + np.roll(middles, 1, 2)) + (corners + np.roll(corners, -1, 1))
        clouds[:, half::step, ::step] = shaken(beside)
        step, rough = half, rough / decay
    clouds -= clouds.min((1, 2), keepdims=True)
    return clouds / clouds.max((1, 2), keepdims=True)


def brightness(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: what is added to the value of HSV."""
    hue, saturation, value = to_hsv(images / 255)
    return 255 * from_hsv(hue, saturation, (value + c[0]).clip(0, 1))


def spatter(images: np.ndarray, c: Sequence[float], draws: Sequence[RandomState]) -> np.ndarray:
    """c: mean, deviation and blur of the liquid, below what there is none, strength of water or blur of mud, 1: mud."""
    layer = np.stack([g.normal(size=images.shape[1:3], loc=c[0], scale=c[1]) for g in draws])
    layer = blurred(layer[..., None], c[2])[..., 0]
    layer[layer < c[3]] = 0
    x = images / 255
    if c[5]:
        mud = blurred((layer > c[3]).astype(float)[..., None], c[4])
        mud[mud < 0.8] = 0
        return 255 * (x * (1 - mud) + MUD * mud)
    drops = np.stack([_drops(one) for one in (255 * layer).astype(np.uint8)])[..., None]
    return 255 * (x + c[4] * drops * WATER)


def _drops(layer: np.ndarray) -> np.ndarray:
    """How strongly a layer of liquid uint8 [H, W] shows, 0 to 1, with light on the edges of its drops."""

    def correlate(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return correlated(values[None, ..., None].astype(float), kernel)[0, ..., 0]

    box = np.ones((3, 3))
    far = (correlate(np.minimum(distance(edges(layer, 50, 150)), 20), box) / 9).astype(np.float32).astype(np.uint8)
    counts = np.bincount(far.ravel(), minlength=256)
    least = int(np.argmax(counts > 0))
    if counts[least] < far.size:  # the levels are spread over all there are
        counts[least] = 0
        far = np.rint(counts.cumsum() * (255 / counts.sum())).astype(np.uint8)[far]
    light = correlate(far, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])).clip(0, 255)
    drops = layer * np.rint(correlate(light, box) / 9)
    return drops / (drops.max() or 1)
