"""Image operations in Pillow's arithmetic, on batches: one call, and every image has its own strength.

Each operation takes images, uint8 [M, C, H, W], C = 1 or 3 (RGB), and `level` and `sign`, float64 [M] on the CPU, and
returns new images. `level` is in [0, 10), tenths of the greatest strength; `sign` is 1 or -1, the direction of what has
one. Results equal Pillow's bit by bit: hence float64, the order of the sums, and no division by a constant on a GPU.

Source: Pillow 13.0.0, by experiment; what a level means: AugMix, arXiv 1912.02781, authors' code at 9b9824c.
Differs: translations are relative to the width or height of the images, where the authors' code has one constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from automixsearch.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


def in_blocks(operation: Operation) -> Operation:
    """Call `operation` on a few images at a time: its float64 values stay in the cache of a CPU (about twice as fast
    on large images), and a GPU is not filled with them."""

    @functools.wraps(operation)
    def blocked(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
        size = max(1, (2**26 if images.is_cuda else 2**17) // images.shape[1:].numel())
        blocks = zip(images.split(size), level.split(size), sign.split(size), strict=True)
        return torch.cat([operation(*block) for block in blocks])

    return blocked


def autocontrast(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Stretch every channel to 0..255; a channel of one value stays."""
    low, high = (limit.double()[..., None] for limit in images.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255) / (high - low)  # 255 / x would multiply by a rounded reciprocal
    values = torch.arange(256, dtype=torch.float64, device=images.device)
    stretched = (values * scale + -low * scale).clamp_(0, 255)
    table = torch.where(high > low, stretched, values).to(torch.uint8)
    return table.gather(2, images.flatten(2).long()).view_as(images)


def equalize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Flatten the histogram of every channel."""
    from torchvision.transforms.v2 import functional as vision

    return vision.equalize(images)


def posterize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Keep the 4 to 1 highest bits."""
    dropped = 4 + whole(level, 4)
    return images & per_image((256 - 2**dropped).to(torch.uint8), images)


def solarize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Invert the values from the threshold 256 - 25.6 level on."""
    kept = per_image((255 - whole(level, 256)).to(torch.int16), images)  # -1 at level 10
    return images ^ (images > kept).to(torch.uint8).mul_(255)


@in_blocks
def rotate(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Turn by 3 level degrees, in whole degrees, about the centre."""
    height, width = images.shape[2:]
    angle = torch.deg2rad(-sign * whole(level, 30))
    cosine, sine = (part.round(decimals=15) for part in (angle.cos(), angle.sin()))
    middle, centre = height / 2, width / 2
    right = cosine * -centre + sine * -middle + centre
    down = -sine * -centre + cosine * -middle + middle
    cosine, sine, right, down = (per_image(value, images)[:, 0] for value in (cosine, sine, right, down))
    rows, columns = pixel_centres(height, images)[:, None], pixel_centres(width, images)
    return bilinear(images, sine.neg() * columns + cosine * rows + down, cosine * columns + sine * rows + right)


@in_blocks
def shear_x(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Shift every row by up to 0.3 times its distance from the top."""
    height, width = images.shape[2:]
    slope = per_image(sign * (level * 0.3 / 10), images)
    place = slope * pixel_centres(height, images)[:, None] + pixel_centres(width, images)
    inside, before, after, share = neighbours(place, width)
    first, second = (images.gather(3, pixel.expand_as(images)).double() for pixel in (before, after))
    return between(first, second, share).to(torch.uint8).mul_(inside)


def translate_x(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Shift by up to a third of the width, in whole pixels."""
    width = images.shape[3]
    place = torch.arange(width, device=images.device) + per_image(sign * whole(level, width / 3), images).long()
    inside = ((place >= 0) & (place < width)).to(torch.uint8)
    return images.gather(3, place.clamp_(0, width - 1).expand_as(images)).mul_(inside)


def shear_y(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Shift every column by up to 0.3 times its distance from the left."""
    return shear_x(images.mT, level, sign).mT


def translate_y(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Shift by up to a third of the height, in whole pixels."""
    return translate_x(images.mT, level, sign).mT


def color(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Weaken or strengthen the colours."""
    return blend(grey(images), images, level)


def contrast(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Draw every image towards its mean grey, or away from it."""
    mean = (grey(images).flatten(1).double().mean(1) + 0.5).floor_()
    return blend(mean[:, None, None, None], images, level)


def brightness(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Darken or brighten."""
    return blend(torch.zeros_like(images), images, level)


def sharpness(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Smooth or sharpen; the pixels at the border stay."""
    wide = images.int()
    sums = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = (2 * sums + 13).div_(26, rounding_mode="floor")
    return blend(smooth, images, level)


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        autocontrast,
        equalize,
        posterize,
        rotate,
        solarize,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
        color,
        contrast,
        brightness,
        sharpness,
    )
}
STANDARD = 9
"""The first so many are those of AugMix; the others also occur in the benchmarks of corrupted images."""


def whole(level: Tensor, most: float) -> Tensor:
    """`most` at level 10 and in proportion below, truncated."""
    return (level * most / 10).trunc()


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """One value for each image, on the device of the images, [M, 1, 1, 1]."""
    return values.to(images.device, non_blocking=True)[:, None, None, None]


def pixel_centres(length: int, images: Tensor) -> Tensor:
    return torch.arange(length, dtype=torch.float64, device=images.device) + 0.5


def neighbours(place: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For places along an axis: 1 inside and 0 outside, the pixels before and after, the share of the latter."""
    inside = ((place >= 0) & (place < length)).to(torch.uint8)
    place = place - 0.5
    before = place.floor()
    share = place.sub_(before)
    before = before.long()
    return inside, before.clamp(0, length - 1), (before + 1).clamp_(0, length - 1), share


def between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """first + share (second - first), in the memory of `second`; `lerp` has another formula for shares above 0.5."""
    return second.sub_(first).mul_(share).add_(first)


def bilinear(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """The images at the places `down` and `right`, float64 [M, H, W], black outside, truncated."""
    height, width = images.shape[2:]
    inside_down, above, below, share_down = neighbours(down, height)
    inside_right, before, after, share_right = neighbours(right, width)
    flat = images.flatten(2)

    def along(row: Tensor) -> Tensor:
        places = ((row * width + column).flatten(1)[:, None].expand_as(flat) for column in (before, after))
        first, second = (flat.gather(2, place).view_as(images).double() for place in places)
        return between(first, second, share_right[:, None])

    values = between(along(above), along(below), share_down[:, None]).to(torch.uint8)
    return values.mul_((inside_down * inside_right)[:, None])


def grey(images: Tensor) -> Tensor:
    """The brightness of every pixel, uint8 [M, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.int().split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).to(torch.uint8)


def blend(base: Tensor, images: Tensor, level: Tensor) -> Tensor:
    """base + factor (images - base) with the factor 0.1 + 0.18 level, clipped and truncated."""
    factor = per_image((level * 1.8 / 10 + 0.1).float(), images)
    base = base.float()
    return ((images.float() - base) * factor + base).clamp_(0, 255).to(torch.uint8)
