"""AdAutoMix: masks of several images by a Mix Block that every other step makes mixing harder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob, redeclared
from automixsearch.lazy import torch
from automixsearch.mixers.automix import SMALL, AutoMix
from automixsearch.mixers.base import Draw, Mixed, Mixer, Shape, alpha_knob, draw_beta, draw_betas

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class AdAutoMixDraw(Draw):
    """partners: int64 [B, n] on the CPU, the images of each mix, itself the first. shares: float64 [n], of sum 1."""

    partners: Tensor
    shares: Tensor


@dataclass(frozen=True)
class AdAutoMix(Mixer):
    """Mix n images by masks that a Mix Block makes of all of them: x <- sum over k of s_k x[partner k], sum s_k = 1.

    The shares are n draws of Beta(alpha, alpha) divided by their sum; of two images lam and 1 - lam. The Mix Block
    learns as that of AutoMix does, but every `adv_every`-th step it learns the reverse: its loss is then
    -beta (mixup cross-entropy of the teacher) + (1 - beta) (how alike the teacher's predictions of the mix and of its
    images are, the cosine weighted by shares). Of more than two images the network also sees the plain linear mix with
    the same shares: its loss takes the part `linear_share` of that of the clean images, and costs a pass of its own.

    See `algorithms/adautomix.py` for the step and `models/mixblock.py` for the block; `apply` takes its masks.
    `variant = released` replaces masks by the shares as the release does: of three images nearly always.

    Source: Qin et al., arXiv 2312.11954; settings and numbers from OpenMixup at dd292a2.
    Differs: as AutoMix does. The network's mixes have shares of their own (released: of three images those of the Mix
    Block's). The teacher's predictions of the clean images are made once for all partners.

    Examples:
        >>> mixer, x = AdAutoMix(samples=2, lam_margin=0.0), torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)])
        >>> draw = mixer.draw((2, 1, 8, 8), torch.Generator().manual_seed(0))
        >>> masks = torch.zeros(2, 2, 8, 8)  # in a run, what the Mix Block makes of the features
        >>> masks[:, 0] = 1  # all of the image itself, nothing of its partner
        >>> mixer.apply(x, draw, masks=masks).x[:, 0, 0, 0].tolist()
        [1.0, 0.0]
    """

    name: ClassVar[str] = "adautomix"
    crosses: ClassVar[bool] = False
    algorithm: ClassVar[str] = "adautomix"
    whole: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv 2312.11954"
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})
    published: ClassVar = {
        "cifar": {"alpha": 1.0, "samples": 3, "beta": 0.3, "layer": "l3", "ema_end": 0.999999},
        "tiny": {"alpha": 1.0, "samples": 3, "beta": 0.4, "layer": "l3", "ema_end": 0.999999},
        "imagenet": {"alpha": 1.0, "samples": 2, "beta": 0.1, "layer": "l3", "ema_end": 0.99999},
        "fine_grained": {"alpha": 1.0, "beta": 0.1, "layer": "l3", "ema_end": 0.99999},
    }

    alpha: float = alpha_knob(1.0)
    samples: int = knob(3, "images of a mix", low=2, high=8, search=(2, 4))
    beta: float = knob(
        0.3, "weight of the reversed loss of the Mix Block; the rest is likeness", low=0, high=1, search=(0.1, 0.5)
    )
    adv_every: int = knob(2, "every so many steps that loss is reversed; 0: never", low=0, high=1000)
    linear_share: float = knob(
        0.5, "part of the linear mix in the loss of clean images; 0: none, nor its pass", low=0, high=1,
        search=(0.0, 0.5),
    )  # fmt: skip
    layer: str = redeclared(AutoMix, "layer", "l3")
    embedding: str = knob(
        "auto", "whether the share enters the Mix Block; auto: from 65 pixels on", choices=("auto", "none", "concat")
    )
    upsampling: str = redeclared(AutoMix, "upsampling", "bilinear")
    lam_margin: float = redeclared(AutoMix, "lam_margin", 0.03)
    ema: bool = redeclared(AutoMix, "ema", True)
    ema_start: float = redeclared(AutoMix, "ema_start", 0.999)
    ema_end: float = redeclared(AutoMix, "ema_end", 0.99999)
    ema_hold: float = redeclared(AutoMix, "ema_hold", 0.1)
    clean_lam: float = redeclared(AutoMix, "clean_lam", 1.0)
    gen_lam: float = redeclared(AutoMix, "gen_lam", 1.0)
    mixblock_init: float = redeclared(AutoMix, "mixblock_init", 0.01)
    mixblock_lr: float = redeclared(AutoMix, "mixblock_lr", 1.0)
    mixblock_min_lr: float = redeclared(AutoMix, "mixblock_min_lr", -1.0)
    mixblock_momentum: float = redeclared(AutoMix, "mixblock_momentum", -1.0)
    report: str = redeclared(AutoMix, "report", "teacher_clean")
    variant: str = knob("paper", "when shares stand for masks", choices=("paper", "released"))

    def draw(self, shape: Shape, generator: Generator) -> AdAutoMixDraw:
        """Draw the permutations, then the shares."""
        others = [torch.randperm(shape[0], generator=generator) for _ in range(self.samples - 1)]
        partners = torch.stack([torch.arange(shape[0]), *others], 1)
        if self.samples == 2:
            lam = draw_beta(self.alpha, generator)
            return AdAutoMixDraw(partners, torch.tensor([lam, 1 - lam], dtype=torch.float64))
        drawn = draw_betas(self.alpha, self.samples, generator).clamp(min=torch.finfo(torch.float64).tiny)
        return AdAutoMixDraw(partners, drawn / drawn.sum())

    def linear(self, shares: Tensor) -> bool:
        """Whether images of these shares are blended linearly, whatever the masks."""
        first, margin = float(shares[0]), self.lam_margin
        if self.variant == "released" and self.samples > 2:
            return margin >= first or margin < 1 - first
        return float(shares.min()) <= margin

    def needs_of(self, draw: AdAutoMixDraw) -> frozenset[str]:
        return frozenset() if self.linear(draw.shares) else self.needs

    def apply(self, x: Tensor, draw: AdAutoMixDraw, *, masks: Tensor | None = None) -> Mixed:
        """Return the sum of each image's partners by their masks; the mixing of what the network learns from.

        Where a share is within `lam_margin` of 0, the shares stand for the masks.

        Args:
            masks: s, float [B, n, H, W] in [0, 1], of sum 1 over the images, as the Mix Block made them.
        """
        shares = draw.shares.to(x.device, non_blocking=True)
        if masks is None or self.linear(draw.shares):
            masks = shares.to(x.dtype)[None, :, None, None]
        partners = draw.partners.to(x.device, non_blocking=True)
        return Mixed(composed(x, partners, masks), partners, shares.expand(len(x), self.samples))

    def resolved(self, side: int) -> AdAutoMix:
        """The same with every `auto` written out, for images of `side` pixels."""
        chosen = ("none" if side <= SMALL else "concat") if self.embedding == "auto" else self.embedding
        return dataclasses.replace(self, embedding=chosen)


def composed(x: Tensor, partners: Tensor, masks: Tensor) -> Tensor:
    """The sum over k of masks[:, k] x[partners[:, k]]: [b, C, H, W].

    Args:
        x: [B, C, H, W]. partners: int64 [b, n]. masks: [b, n, H, W], or of size 1 where all are alike.
    """
    masks = masks.to(x.dtype)
    out = x[partners[:, 0]] * masks[:, 0, None]
    for place in range(1, partners.shape[1]):
        out = out + x[partners[:, place]] * masks[:, place, None]
    return out
