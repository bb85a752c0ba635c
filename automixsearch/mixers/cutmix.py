"""CutMix: a box of the partner image pasted in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import (
    Mixed,
    Mixer,
    PairDraw,
    Shape,
    alpha_knob,
    box_masks,
    clipped_box,
    draw_beta,
    draw_betas,
    draw_centre,
    own_share,
    pairs,
    paste,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class CutMixDraw(PairDraw):
    """lam: the own share before clipping, in [0, 1]. centre: (row, column) of the box.

    Where every sample has its own box: float64 [B], int64 [B, 2].
    """

    lam: float | Tensor
    centre: tuple[int, int] | Tensor


@dataclass(frozen=True)
class CutMix(Mixer):
    """Paste a box of the partner at the same place; its area is 1 - lam before clipping, lam ~ Beta(alpha, alpha).

    One box per batch (or one lam and one box per sample), centred uniformly over the pixels and clipped to the image;
    the labels are weighted by the area that was really pasted, so the realised own share is never below the drawn one.

    Source: Yun et al., arXiv 1905.04899, eq. 1-2; authors' code CutMix-PyTorch at 2d8eb68.
    Differs: applied to every batch (the authors' CIFAR runs mix half of them: `mix_prob` 0.5).

    Examples:
        >>> x = torch.stack([torch.ones(1, 32, 32), torch.zeros(1, 32, 32)])
        >>> mixed = CutMix()(x, torch.Generator().manual_seed(1))
        >>> mixed.sources[0].tolist()
        [0, 1]
        >>> mixed.x[0].mean().item() == mixed.lam[0].item()  # the share of the pixels that are its own
        True
    """

    name: ClassVar[str] = "cutmix"
    source: ClassVar[str] = "arXiv 1905.04899"
    published: ClassVar = {
        "cifar": {"alpha": 0.2},
        "tiny": {"alpha": 1.0},
        "imagenet": {"alpha": 1.0},
        "fine_grained": {"alpha": 1.0},
    }

    alpha: float = alpha_knob(1.0)

    boxes: str = knob("batch", "one box per batch or per sample", choices=("batch", "sample"))

    def draw(self, shape: Shape, generator: Generator) -> CutMixDraw:
        """Draw the permutation, lam, then the centre (row, column)."""
        partner = torch.randperm(shape[0], generator=generator)
        if self.boxes == "sample":
            lams = draw_betas(self.alpha, shape[0], generator)
            uniform = torch.rand(shape[0], 2, generator=generator, dtype=torch.float64)
            return CutMixDraw(partner, lams, (uniform * torch.tensor(shape[2:])).long())
        lam = draw_beta(self.alpha, generator)
        return CutMixDraw(partner, lam, draw_centre(shape[2:], generator))

    def apply(self, x: Tensor, draw: CutMixDraw) -> Mixed:
        """Return a copy of `x` with the partner's box in it, and the share outside the box as lam."""
        size, partner = (x.shape[2], x.shape[3]), draw.partner.to(x.device, non_blocking=True)
        if not isinstance(draw.centre, tuple):
            side = torch.as_tensor(1.0 - draw.lam, dtype=torch.float64).sqrt()
            return paste(x, partner, box_masks(draw.centre, side, size).to(x.device, non_blocking=True))
        box = clipped_box(size, math.sqrt(1.0 - float(draw.lam)), draw.centre)
        out = x.clone()
        region = (slice(None), slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
        out[region] = x[region][partner]
        return pairs(out, partner, own_share(box, size))
