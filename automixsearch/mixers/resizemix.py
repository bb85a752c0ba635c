"""ResizeMix: the whole partner image, shrunk and pasted."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import functional, torch
from automixsearch.mixers.base import (
    Mixed,
    Mixer,
    PairDraw,
    Shape,
    alpha_knob,
    clipped_box,
    draw_beta,
    draw_centre,
    own_share,
    pairs,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

TAU_LOW, TAU_HIGH = 0.1, 0.8


@dataclass(frozen=True)
class ResizeMixDraw(PairDraw):
    """tau: relative side of the pasted image, in [0, 1]. centre: (row, column) of the box."""

    tau: float
    centre: tuple[int, int]

    def with_lam(self, lam: float) -> ResizeMixDraw:
        return dataclasses.replace(self, tau=math.sqrt(1.0 - lam))


@dataclass(frozen=True)
class ResizeMix(Mixer):
    """Shrink the whole partner by tau and paste it into a random box; the labels follow the pasted area.

    tau ~ Beta(alpha, alpha), redrawn from U(0.1, 0.8) where it falls outside that interval; alpha = 1 is exactly
    the paper's tau ~ U(0.1, 0.8). The box is clipped to the image and the partner resized to the clipped box.

    Source: Qin et al., arXiv 2012.11101, eq. 5-7; OpenMixup at 37e1372.
    Differs: non-square images work (the released code mixes up height and width).

    Examples:
        >>> x = torch.stack([torch.zeros(1, 32, 32), torch.ones(1, 32, 32)])
        >>> mixed = ResizeMix()(x, torch.Generator().manual_seed(1))
        >>> mixed.x[0].mean().item() == mixed.shares[0, 1].item()  # the share of the pasted partner
        True
    """

    name: ClassVar[str] = "resizemix"
    source: ClassVar[str] = "arXiv 2012.11101"
    published: ClassVar = {
        "cifar": {"alpha": 1.0},
        "tiny": {"alpha": 1.0},
        "imagenet": {"alpha": 1.0},
        "fine_grained": {"alpha": 1.0},
    }

    alpha: float = alpha_knob(1.0, "Beta(alpha, alpha) of the pasted side")
    interpolation: str = knob(
        "nearest",
        "how the partner is shrunk",
        choices=("nearest", "bilinear"),
        search=("nearest", "bilinear"),
    )

    def draw(self, shape: Shape, generator: Generator) -> ResizeMixDraw:
        """Draw the permutation, tau, then the centre (row, column)."""
        partner = torch.randperm(shape[0], generator=generator)
        tau = draw_beta(self.alpha, generator)
        uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
        if not TAU_LOW <= tau <= TAU_HIGH:
            tau = TAU_LOW + (TAU_HIGH - TAU_LOW) * uniform
        return ResizeMixDraw(partner, tau, draw_centre(shape[2:], generator))

    def apply(self, x: Tensor, draw: ResizeMixDraw) -> Mixed:
        """Return a copy of `x` with the shrunken partner in it, and the share outside the box as lam."""
        size = (x.shape[2], x.shape[3])
        box = clipped_box(size, draw.tau, draw.centre)
        partner = draw.partner.to(x.device, non_blocking=True)
        out = x.clone()
        if box.area:
            small = functional.interpolate(x, (box.height, box.width), mode=self.interpolation)
            out[:, :, box.top : box.bottom, box.left : box.right] = small[partner]
        return pairs(out, partner, own_share(box, size))
