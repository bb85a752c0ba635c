"""A mixing method of somebody else: stripes of the partner image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch

from automixsearch.config.knobs import knob
from automixsearch.mixers import Mixed, Mixer, PairDraw
from automixsearch.mixers.base import alpha_knob, draw_beta, pairs


@dataclass(frozen=True)
class StripeDraw(PairDraw):
    """share: of the rows that are the image's own."""

    share: float

    def with_lam(self, lam: float) -> Self:
        return replace(self, share=lam)


@dataclass(frozen=True)
class StripeMix(Mixer):
    """Every row of pixels is the image's own or its partner's."""

    name: ClassVar[str] = "stripemix"
    source: ClassVar[str] = "nobody's paper"

    alpha: float = alpha_knob(1.0)
    period: int = knob(4, "rows after which the pattern repeats", low=1, high=64, search=(2, 8))
    fade: bool = knob(False, "whether the stripes are blurred at their edges")

    def draw(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> StripeDraw:
        share = draw_beta(self.alpha, generator)
        return StripeDraw(torch.randperm(shape[0], generator=generator), share)

    def apply(self, x: torch.Tensor, draw: StripeDraw) -> Mixed:
        own = torch.arange(x.shape[2]) % self.period < round(draw.share * self.period)
        lam = own.double().mean().item()  # on the host, which so does not wait for a GPU
        rows, partner = (part.to(x.device, non_blocking=True) for part in (own, draw.partner))
        return pairs(torch.where(rows[None, None, :, None], x, x[partner]), partner, lam)
