"""Fine-grained static saliency: where an image is brighter or darker than its surroundings, without a network."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from automixsearch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Tensor

SURROUNDS = (12, 24, 28, 48, 56, 112)
"""The surround of row y is y - n + 1 to y + n for each of these n, clipped to the image; columns likewise."""


def static_saliency(pixels: Tensor) -> Tensor:
    """How much every pixel stands out, 0 to 255: uint8 [B, H, W].

    The contrast of a pixel with the mean of a surround, in whole grey levels, is summed over the surrounds, what is
    brighter (on) apart from what is darker (off). Each sum is scaled to 255 at its largest. The map is on + off
    modulo 256, as OpenCV has it: a pixel that is bright in one surround and dark in another may wrap around.

    Args:
        pixels: uint8 [B, H, W, C], C = 1 or 3 (RGB), H and W at least 2.

    Source: Montabone and Soto, "Human detection using a mobile platform and novel features derived from a visual
    saliency mechanism", 2010; StaticSaliencyFineGrained of OpenCV 5.0.0, as called by SaliencyMix.
    Differs: nothing; an image of one colour has a map of zeros.
    """
    grey = blurred(blurred(grey_levels(pixels)))
    return _contrasts(grey, grey)


def released_saliency(x: Tensor) -> Tensor:
    """What the detector makes of normalised floats, as the authors of SaliencyMix call it: uint8 [B, H, W].

    It takes the first W bytes of the 4 W bytes of each row for the pixels, and sums the floats rounded to whole
    numbers for the surrounds; the largest value lies at a random place. Equal to the authors' maps up to the last
    bits of floats, which differ between machines.

    Args:
        x: float [B, C, H, W], normalised, C = 1 or 3 (RGB), H and W at least 2.
    """
    channels = x.float().unbind(1)
    grey = 0.114 * channels[0] + 0.587 * channels[1] + 0.299 * channels[2] if len(channels) == 3 else channels[0]
    for _ in range(2):
        wide = functional.pad(grey, (1, 1, 1, 1), mode="reflect")
        wide = (wide[..., :-2] + wide[..., 2:]) * 0.25 + wide[..., 1:-1] * 0.5
        grey = (wide[:, :-2] + wide[:, 2:]) * 0.25 + wide[:, 1:-1] * 0.5
    seen = grey.contiguous().view(torch.uint8)[..., : grey.shape[2]]
    return _contrasts(seen.float(), grey.round())


def _contrasts(grey: Tensor, summed: Tensor) -> Tensor:
    """The map of `static_saliency` from the pixels [B, H, W] and what is averaged over their surrounds, likewise."""
    height, width = grey.shape[1:]
    integral = summed.int().cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    integral = functional.pad(integral, (1, 0, 1, 0))
    on, off = torch.zeros_like(grey), torch.zeros_like(grey)
    # every surround at least as large as the image is the whole image
    for surround, times in Counter(min(n, max(height, width)) for n in SURROUNDS).items():
        top, bottom = _window(height, surround, grey)
        left, right = _window(width, surround, grey)
        rows = integral.index_select(1, bottom) - integral.index_select(1, top)
        total = (rows.index_select(2, right) - rows.index_select(2, left)).float()
        others = torch.outer(bottom - top, right - left).float() - 1
        contrast = (grey - (total - grey) / others).trunc_().fmod_(256)  # a byte: more than 255 only as released
        on.add_(contrast.clamp(min=0), alpha=times)
        off.sub_(contrast.clamp_(max=0), alpha=times)
    return (_scaled(on) + _scaled(off)).remainder_(256).to(torch.uint8)


def first_peak(saliency: Tensor) -> Tensor:
    """The (row, column) of the largest value of each uint8 map, the first in reading order: int64 [B, 2]."""
    pixels, width = saliency[0].numel(), saliency.shape[2]
    rank = torch.arange(pixels, device=saliency.device)
    place = (saliency.flatten(1).long() * pixels - rank).argmax(1)  # no two are equal
    return torch.stack([place.div(width, rounding_mode="floor"), place % width], 1)


def grey_levels(pixels: Tensor) -> Tensor:
    """The brightness of uint8 [B, H, W, C] in whole levels: float32 [B, H, W].

    The weights of red and blue are exchanged (0.114 and 0.299), as in the authors' code, which hands RGB to OpenCV.
    """
    if pixels.shape[3] == 1:
        return pixels[..., 0].float()
    red, green, blue = pixels.float().unbind(3)
    return ((3735 * red + 19235 * green + 9798 * blue + 16384) / 2**15).floor_()


def blurred(grey: Tensor) -> Tensor:
    """Average [B, H, W] with the weights 1, 2, 1 along both axes, mirror the borders, round to whole levels."""
    height, width = grey.shape[1:]
    wide = functional.pad(grey, (1, 1, 1, 1), mode="reflect")
    wide = wide[:, :height] + 2 * wide[:, 1:-1] + wide[:, 2:]
    return ((wide[..., :width] + 2 * wide[..., 1:-1] + wide[..., 2:] + 8) / 16).floor_()


def _window(length: int, surround: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last row (excluded) of the surround of every row."""
    place = torch.arange(length, device=like.device)
    return (place - surround + 1).clamp_(min=0), (place + surround + 1).clamp_(max=length)


def _scaled(total: Tensor) -> Tensor:
    """Scale each map of whole numbers to 255 at its largest, truncated; a map of zeros stays."""
    return (total * 255 / total.amax((1, 2), keepdim=True).clamp_(min=1)).floor_()
