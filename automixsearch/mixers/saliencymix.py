"""SaliencyMix: a box of the partner image around its most salient pixel, pasted in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import Mixed, Mixer, PairDraw, Shape, alpha_knob, box_masks, draw_beta, paste
from automixsearch.mixers.static_saliency import first_peak, released_saliency, static_saliency

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class SaliencyMixDraw(PairDraw):
    """lam: the own share before clipping, in [0, 1]."""

    lam: float


@dataclass(frozen=True)
class SaliencyMix(Mixer):
    """Paste a box of the partner, as CutMix does, but centred on the most salient pixel of the partner.

    As released, one box serves the whole batch: the one around the peak of the partner of sample 0. `boxes = sample`
    is what the paper describes, a box around the peak of every partner. lam ~ Beta(alpha, alpha) gives the area of
    the box before clipping; the labels are weighted by the area that was really pasted.

    `variant = released` finds the peaks as the authors' code does, which hands normalised floats to a detector that
    reads them as bytes, so that they are random places; the published figures of SaliencyMix were measured with it.

    Source: Uddin et al., arXiv 2006.01791, section 3; authors' code SaliencyMix at 9ee02b8.
    Differs: saliency is computed from the pixels. Applied to every batch (the authors' CIFAR runs mix half of them:
    `mix_prob` 0.5).

    Examples:
        >>> pixels = torch.randint(256, (4, 32, 32, 3), dtype=torch.uint8)
        >>> x = pixels.permute(0, 3, 1, 2) / 255
        >>> SaliencyMix(boxes="sample")(x, torch.Generator().manual_seed(0), pixels=pixels).x.shape
        torch.Size([4, 3, 32, 32])
    """

    name: ClassVar[str] = "saliencymix"
    source: ClassVar[str] = "arXiv 2006.01791"
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    published: ClassVar = {
        "cifar": {"alpha": 0.2},
        "tiny": {"alpha": 1.0},
        "imagenet": {"alpha": 1.0},
        "fine_grained": {"alpha": 0.2},
    }

    alpha: float = alpha_knob(1.0)
    boxes: str = knob("batch", "one box per batch or per sample", choices=("batch", "sample"))
    variant: str = knob("paper", "saliency of the pixels, or of the released code", choices=("paper", "released"))

    def draw(self, shape: Shape, generator: Generator) -> SaliencyMixDraw:
        """Draw the permutation, then lam."""
        partner = torch.randperm(shape[0], generator=generator)
        return SaliencyMixDraw(partner, draw_beta(self.alpha, generator))

    def apply(self, x: Tensor, draw: SaliencyMixDraw, *, pixels: Tensor) -> Mixed:  # pyright: ignore[reportIncompatibleMethodOverride] - what `needs` names is handed in
        """Return a copy of `x` with the partner's box in it, and the share outside the box as lam.

        Args:
            pixels: uint8 [B, H, W, C], what `x` was before it was normalised; C = 1 or 3 (RGB).
        """
        expected = (x.shape[0], *x.shape[2:], x.shape[1])
        if pixels.dtype != torch.uint8 or pixels.shape != expected:
            raise ValueError(f"pixels are {pixels.dtype} {tuple(pixels.shape)} and must be torch.uint8 {expected}")
        partner = draw.partner.to(x.device, non_blocking=True)
        shown = partner if self.boxes == "sample" else partner[:1]
        salient = static_saliency(pixels[shown]) if self.variant == "paper" else released_saliency(x[shown])
        inside = box_masks(first_peak(salient), math.sqrt(1.0 - draw.lam), (x.shape[2], x.shape[3]))
        return paste(x, partner, inside)
