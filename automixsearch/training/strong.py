"""The strong view of semi-supervised learning: three random operations of 14, a gray box, and then the weak view.

All images of a batch are changed at once, on their device, and by the whole-number arithmetic of Pillow, so the result
is to the last bit that of the released code for the same draws.

Source: Sohn et al., arXiv 2001.07685; TorchSSL at f26e1d4, from which also the peculiarities of the box are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from automixsearch.mixers import image_ops
from automixsearch.mixers.image_ops import per_image

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 3
"""Operations for each image, drawn with replacement."""
BOX = 0.5
"""Largest side of the gray box, as a share of the width."""
FILL = (125, 123, 114)
"""Its colour; of gray images, the brightness of that."""
FIXED = 2**16
"""Pillow places pixels in whole numbers of this part of one."""


@dataclass(frozen=True)
class Draws:
    """What makes a strong view of B images.

    which: int64 [n, B], the operations by their place in `OPERATIONS`. value: float64 [n, B], the magnitude of each,
    in its range. side: float64 [B], of the box, as a share of the width. centre: float64 [B, 2], (x, y) of the box.
    """

    which: Tensor
    value: Tensor
    side: Tensor
    centre: Tensor


def draw(count: int, width: int, generator: Generator) -> Draws:
    """Operations and magnitudes uniform over what there is; the centre of the box over 1 to width, as released."""
    low, high = torch.tensor([ends for _, *ends in OPERATIONS.values()], dtype=torch.float64).T
    which = torch.randint(len(OPERATIONS), (COUNT, count), generator=generator)
    value = torch.rand(COUNT, count, generator=generator, dtype=torch.float64)
    side, *centre = torch.rand(3, count, generator=generator, dtype=torch.float64)
    spread = 1 + (width - 1) * torch.stack(centre, 1)
    return Draws(which, low[which] + (high - low)[which] * value, BOX * side, spread)


def draw_levels(count: int, height: int, width: int, generator: Generator) -> Draws:
    """Two operations, each done with probability 1/2 at one of nine levels, and a box of 16 pixels around any place.

    Source: Self-Tuning at 1010a19.
    """
    names = list(OPERATIONS)
    which = torch.randint(len(names), (2, count), generator=generator)
    done = torch.rand(2, count, generator=generator) < 0.5
    level = torch.randint(1, 10, (2, count), generator=generator)
    sign = 1.0 - 2 * torch.randint(2, (2, count), generator=generator).double()
    value = torch.zeros(2, count, dtype=torch.float64)
    for number, name in enumerate(names):
        value = torch.where(which == number, of_level(name, level, sign, height, width), value)
    centre = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([width, height])
    side = torch.full((count,), min(16 / width, 1), dtype=torch.float64)
    return Draws(torch.where(done, which, names.index("identity")), value, side, centre)


def of_level(name: str, level: Tensor, sign: Tensor, height: int, width: int) -> Tensor:
    """The magnitude of an operation at levels 1 to 9, float64; sign: 1 or -1, of what can go either way."""
    level = level.double()
    if name in ("brightness", "color", "contrast", "sharpness"):
        return 0.05 + 0.09 * level
    if name == "posterize":
        return 4 + (0.4 * level).trunc()
    if name == "solarize":
        return 256 - (25.6 * level).trunc()
    if name == "rotate":
        return sign * (3 * level).trunc()
    if name.startswith("translate"):
        side = width if name == "translate_x" else height
        return sign * (0.03 * level * side).trunc() / side
    return sign * 0.03 * level


def changed(images: Tensor, draws: Draws, fill: tuple[int, int, int] = FILL) -> Tensor:
    """Images uint8 [B, C, H, W] after the operations and with the box, of that colour."""
    images = images.clone()
    for which, value in zip(draws.which, draws.value, strict=True):
        for number, (operation, *_) in enumerate(OPERATIONS.values()):
            rows = (which == number).nonzero()[:, 0]  # on the host, where what is drawn lies
            if len(rows) and operation is not None:
                place = rows.to(images.device, non_blocking=True)
                images[place] = operation(images[place], value[rows])
    return boxed(images, draws.side, draws.centre, fill)


def boxed(images: Tensor, side: Tensor, centre: Tensor, colour: tuple[int, int, int] = FILL) -> Tensor:
    """Images uint8 [B, C, H, W] with a gray box in each.

    Left of the image and above it a box is moved inside, right of it and below cut off; both ends of it are painted,
    so that a box of s pixels covers s + 1.

    Args:
        side: float64 [B], as a share of the width; 0: no box. centre: float64 [B, 2], (x, y) in pixels.
    """
    height, width = images.shape[2:]
    extent = side * width
    inside = (side > 0)[:, None, None]
    for axis, length in ((0, width), (1, height)):
        start = (centre[:, axis] - extent / 2).clamp(min=0).floor()
        end = (start + extent).clamp(max=length).floor()
        place = torch.arange(length)
        within = (place >= start[:, None]) & (place <= end[:, None])
        inside = inside & (within[:, None, :] if axis == 0 else within[:, :, None])
    red, green, blue = colour
    fill = colour if images.shape[1] == 3 else (round(0.299 * red + 0.587 * green + 0.114 * blue),)
    painted = torch.tensor(fill, dtype=torch.uint8)[None, :, None, None].to(images.device, non_blocking=True)
    return torch.where(inside[:, None].to(images.device, non_blocking=True), painted, images)


# Operations: images uint8 [B, C, H, W] and a value float64 [B] for each -> the same ------------------------------


def _plain(operation: image_ops.Operation) -> Callable[[Tensor, Tensor], Tensor]:
    """One that has no magnitude."""
    return lambda images, value: operation(images, value, value)


def _enhanced(operation: image_ops.Operation) -> Callable[[Tensor, Tensor], Tensor]:
    """One that enhances by a factor, here below 1."""
    return lambda images, value: operation(images, (value - 0.1) / 0.18, value)


def posterize(images: Tensor, value: Tensor) -> Tensor:
    """Keep the `value` highest bits, 4 to 8."""
    return images & per_image((256 - 2 ** (8 - value.long())).to(torch.uint8), images)


def solarize(images: Tensor, value: Tensor) -> Tensor:
    """Invert the values from the threshold `value`, 0 to 256, on."""
    return torch.where(images.double() < per_image(value, images), images, 255 - images)


def rotate(images: Tensor, value: Tensor) -> Tensor:
    """Turn counter-clockwise by `value` degrees about the centre, black outside."""
    height, width = images.shape[2:]
    angle = -torch.deg2rad(value % 360)
    cosine, sine = (part.round(decimals=15) for part in (angle.cos(), angle.sin()))
    x, y = width / 2, height / 2
    across = (cosine, sine, cosine * -x + sine * -y + x)
    return nearest(images, across, (-sine, cosine, -sine * -x + cosine * -y + y))


def shear_x(images: Tensor, value: Tensor) -> Tensor:
    """Shift every row by `value` times its distance from the top."""
    one, none = torch.ones_like(value), torch.zeros_like(value)
    return nearest(images, (one, value, none), (none, one, none))


def shear_y(images: Tensor, value: Tensor) -> Tensor:
    """Shift every column by `value` times its distance from the left."""
    return shear_x(images.mT, value).mT


def translate_x(images: Tensor, value: Tensor) -> Tensor:
    """Shift by `value` times the width, black outside."""
    width = images.shape[3]
    place = (torch.arange(width) + (value * width + 0.5)[:, None]).floor().long()
    inside = ((place >= 0) & (place < width)).to(torch.uint8).to(images.device, non_blocking=True)[:, None, None]
    source = place.clamp(0, width - 1).to(images.device, non_blocking=True)[:, None, None].expand_as(images)
    return images.gather(3, source) * inside


def translate_y(images: Tensor, value: Tensor) -> Tensor:
    """Shift by `value` times the height, black outside."""
    return translate_x(images.mT, value).mT


def nearest(images: Tensor, across: tuple[Tensor, Tensor, Tensor], down: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The pixel of `images` that is nearest to (a x + b y + c, d x + e y + f) at every x, y; black outside.

    Args:
        across, down: (a, b, c) and (d, e, f), float64 [B] each, in pixels.
    """
    height, width = images.shape[2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)

    def place(along_x: Tensor, along_y: Tensor, start: Tensor) -> Tensor:
        first = _fixed(start + along_x * 0.5 + along_y * 0.5)
        steps = (part[:, None, None] for part in (_fixed(along_x), _fixed(along_y)))
        by_x, by_y = steps
        return (first[:, None, None] + by_x * columns + by_y * rows) >> 16

    x, y = place(*across), place(*down)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)
    flat = images.flatten(2)
    moved = flat.gather(2, source.to(images.device, non_blocking=True)[:, None].expand_as(flat)).view_as(images)
    return moved * inside.to(torch.uint8).to(images.device, non_blocking=True)[:, None]


def _fixed(values: Tensor) -> Tensor:
    """As whole numbers of `FIXED` parts."""
    return (values * FIXED + 0.5).floor().long()


OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor] | None, float, float]] = {
    "autocontrast": (_plain(image_ops.autocontrast), 0, 1),
    "brightness": (_enhanced(image_ops.brightness), 0.05, 0.95),
    "color": (_enhanced(image_ops.color), 0.05, 0.95),
    "contrast": (_enhanced(image_ops.contrast), 0.05, 0.95),
    "equalize": (_plain(image_ops.equalize), 0, 1),
    "identity": (None, 0, 1),
    "posterize": (posterize, 4, 8),
    "rotate": (rotate, -30, 30),
    "sharpness": (_enhanced(image_ops.sharpness), 0.05, 0.95),
    "shear_x": (shear_x, -0.3, 0.3),
    "shear_y": (shear_y, -0.3, 0.3),
    "solarize": (solarize, 0, 256),
    "translate_x": (translate_x, -0.3, 0.3),
    "translate_y": (translate_y, -0.3, 0.3),
}
"""Each with the range of its magnitude."""
