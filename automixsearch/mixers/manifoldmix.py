"""Manifold Mixup: MixUp of the hidden features of a random stage of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import Mixed, Mixer, PairDraw, Shape, alpha_knob, draw_beta, pairs
from automixsearch.mixers.mixup import blended

if TYPE_CHECKING:
    from torch import Generator, Tensor

STAGES = ("input", "stem", "stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class ManifoldMixDraw(PairDraw):
    """lam: the own share, in [0, 1]. stage: at whose output it is mixed, one of STAGES."""

    lam: float
    stage: str


@dataclass(frozen=True)
class ManifoldMix(Mixer):
    """Blend the features of pairs at a stage drawn per batch: h <- lam h + (1 - lam) h[partner].

    One lam ~ Beta(alpha, alpha) and one permutation per batch. At `input` it is MixUp and x comes back mixed. At a
    later stage x comes back as it is, and `Mixed.stage` asks the network to blend what that stage puts out (after its
    last activation).

    Source: Verma et al., arXiv 1806.05236, section 2; authors' code manifold_mixup at 870ef77.
    Differs: lam is not rounded to float32 before use. The loss is a choice of its own: `softmax_bce` is the authors'.

    Examples:
        >>> x = torch.randn(4, 3, 32, 32)
        >>> mixed = ManifoldMix(stages="stage2")(x, torch.Generator().manual_seed(0))
        >>> mixed.stage, torch.equal(mixed.x, x)  # the network mixes, after stage2
        ('stage2', True)
    """

    name: ClassVar[str] = "manifoldmix"
    crosses: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv 1806.05236"
    published: ClassVar = {
        "cifar": {"alpha": 2.0},
        "tiny": {"alpha": 0.2},
        "imagenet": {"alpha": 0.2},
        "fine_grained": {"alpha": 0.5},
    }

    alpha: float = alpha_knob(2.0)
    stages: str = knob(
        "input+stage1+stage2",
        "where it may mix, one drawn per batch",
        choices=STAGES,
        search=("input+stem", "input+stage1", "input+stage1+stage2", "stage1+stage2", "stage3", "stage4"),
        several=True,
    )

    def draw(self, shape: Shape, generator: Generator) -> ManifoldMixDraw:
        """Draw the permutation, lam, then the stage."""
        partner = torch.randperm(shape[0], generator=generator)
        lam = draw_beta(self.alpha, generator)
        stages = self.stages.split("+")
        return ManifoldMixDraw(partner, lam, stages[int(torch.randint(len(stages), (), generator=generator))])

    def apply(self, x: Tensor, draw: ManifoldMixDraw) -> Mixed:
        """Return lam x + (1 - lam) x[partner] for stage `input`, else `x` itself with the stage that has to mix."""
        if draw.stage != "input":
            return pairs(x, draw.partner, draw.lam, draw.stage)
        partner = draw.partner.to(x.device, non_blocking=True)
        return pairs(blended(x, partner, draw.lam), partner, draw.lam)
