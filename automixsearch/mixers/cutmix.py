"""CutMix: a box of the partner image pasted in place."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import (
    Mixed,
    Mixer,
    PairDraw,
    Shape,
    clipped_box,
    draw_beta,
    draw_centre,
    own_share,
    pairs,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class CutMixDraw(PairDraw):
    """lam: the own share before clipping, in [0, 1]. centre: (row, column) of the box."""

    lam: float
    centre: tuple[int, int]

    def with_lam(self, lam: float) -> CutMixDraw:
        return dataclasses.replace(self, lam=lam)


@dataclass(frozen=True)
class CutMix(Mixer):
    """Paste a box of the partner at the same place; its area is 1 - lam before clipping, lam ~ Beta(alpha, alpha).

    One box per batch, centred uniformly over the pixels and clipped to the image; the labels are weighted by the
    area that was really pasted, so the realised own share is never below the drawn one.

    Source: Yun et al., arXiv 1905.04899, eq. 1-2; authors' code CutMix-PyTorch at 2d8eb68.
    Differs: applied to every batch (the authors' CIFAR runs mix half of them).
    """

    name: ClassVar[str] = "cutmix"
    source: ClassVar[str] = "arXiv 1905.04899"
    published: ClassVar = {
        "cifar": {"alpha": 0.2},
        "tiny": {"alpha": 1.0},
        "imagenet": {"alpha": 1.0},
        "fine_grained": {"alpha": 1.0},
    }

    alpha: float = knob(
        1.0,
        "Beta(alpha, alpha) of the own share",
        low=0,
        high=100,
        open_low=True,
        search=(0.1, 4.0),
        log=True,
    )

    def draw(self, shape: Shape, generator: Generator) -> CutMixDraw:
        """Draw the permutation, lam, then the centre (row, column)."""
        partner = torch.randperm(shape[0], generator=generator)
        lam = draw_beta(self.alpha, generator)
        return CutMixDraw(partner, lam, draw_centre(shape[2:], generator))

    def apply(self, x: Tensor, draw: CutMixDraw) -> Mixed:
        """Return a copy of `x` with the partner's box in it, and the share outside the box as lam."""
        size = (x.shape[2], x.shape[3])
        box = clipped_box(size, math.sqrt(1.0 - draw.lam), draw.centre)
        partner = draw.partner.to(x.device)
        out = x.clone()
        region = (slice(None), slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
        out[region] = x[region][partner]
        return pairs(out, partner, own_share(box, size))
