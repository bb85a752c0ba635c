"""MixUp: a convex combination of two images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import Mixed, Mixer, PairDraw, Shape, alpha_knob, draw_beta, draw_betas, pairs

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class MixUpDraw(PairDraw):
    """lam: the own share, in [0, 1]; float64 [B] where every sample has its own."""

    lam: float | Tensor


@dataclass(frozen=True)
class MixUp(Mixer):
    """Blend every image with its partner: x <- lam x + (1 - lam) x[partner], lam ~ Beta(alpha, alpha).

    One permutation and one lam per batch, or one lam per sample; lam is not folded to max(lam, 1 - lam).

    Source: Zhang et al., arXiv 1710.09412, eq. 1; authors' code mixup-cifar10 at eaff31a.
    Differs: nothing.

    Examples:
        >>> mixer, x = MixUp(alpha=0.2), torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)])
        >>> draw = mixer.draw((2, 1, 8, 8), torch.Generator().manual_seed(1))
        >>> mixed = mixer.apply(x, draw.with_lam(0.75))
        >>> mixed.x[0, 0, 0, 0].item(), mixed.shares[0].tolist()
        (0.75, [0.75, 0.25])
    """

    name: ClassVar[str] = "mixup"
    source: ClassVar[str] = "arXiv 1710.09412"
    published: ClassVar = {
        "cifar": {"alpha": 1.0},
        "tiny": {"alpha": 1.0},
        "imagenet": {"alpha": 0.2},
        "fine_grained": {"alpha": 0.2},
    }

    alpha: float = alpha_knob(1.0)

    lams: str = knob("batch", "one lam per batch or per sample", choices=("batch", "sample"))

    def draw(self, shape: Shape, generator: Generator) -> MixUpDraw:
        """Draw the permutation, then lam."""
        partner = torch.randperm(shape[0], generator=generator)
        one = self.lams == "batch"
        return MixUpDraw(
            partner, draw_beta(self.alpha, generator) if one else draw_betas(self.alpha, shape[0], generator)
        )

    def apply(self, x: Tensor, draw: MixUpDraw) -> Mixed:
        """Return lam x + (1 - lam) x[partner]."""
        partner = draw.partner.to(x.device, non_blocking=True)
        return pairs(blended(x, partner, draw.lam), partner, draw.lam)


def blended(x: Tensor, partner: Tensor, lam: Tensor | float) -> Tensor:
    """lam x + (1 - lam) x[partner] for `x` [B, C, H, W] and `lam`, [B] or one number."""
    if isinstance(lam, float | int):
        return x * lam + x[partner] * (1.0 - lam)
    own = lam.to(x, non_blocking=True)[:, None, None, None]
    return x * own + x[partner] * (1.0 - own)
