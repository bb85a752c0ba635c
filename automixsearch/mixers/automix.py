"""AutoMix: masks that a Mix Block learns while the network trains, from features of a momentum teacher."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from automixsearch.config.knobs import knob
from automixsearch.lazy import functional, torch
from automixsearch.mixers.base import Mixed, Mixer, PairDraw, Shape, alpha_knob, draw_beta, pairs
from automixsearch.mixers.cutmix import CutMix, CutMixDraw

if TYPE_CHECKING:
    from torch import Generator, Tensor

SMALL = 64
"""Images up to this side get the settings that the released code has for CIFAR and Tiny-ImageNet."""
STAGE = {"l1": "stage1", "l2": "stage2", "l3": "stage3", "l4": "stage4"}


@dataclass(frozen=True)
class AutoMixDraw(PairDraw):
    """lam: the own share, in [0, 1]. chance: in [0, 1), decides what happens in a share of the batches only.
    noise: float32 [B, h, w] in [0, 1), one value for every cell of a random grid. cut: what CutMix drew, where its
    boxes are the masks."""

    lam: float
    chance: float
    noise: Tensor
    cut: CutMixDraw | None = None

    def with_lam(self, lam: float) -> AutoMixDraw:
        return dataclasses.replace(self, lam=lam, cut=None if self.cut is None else self.cut.with_lam(lam))


@dataclass(frozen=True)
class AutoMix(Mixer):
    """Mix pairs by a mask that the Mix Block makes of both images: x <- (1 - s) x + s x[partner].

    A teacher, the moving average of the network, gives the features of stage `layer` from which the Mix Block predicts
    masks s of mean 1 - lam, lam ~ Beta(alpha, alpha). The Mix Block learns by the teacher's loss on the images that it
    mixes, plus gamma times the distance of the masks from their share; the network learns from other mixes of the same
    batch and from the clean images. Every network has a head for clean and a head for mixed images. See
    `algorithms/automix.py` for the step and `models/mixblock.py` for the block; `apply` takes the mask that it made.

    `variant = released` sets what `auto` stands for to what OpenMixup has: one convolution for query and key, the mean
    over all masks of a batch in the mask loss, and for images up to 64 pixels no share in the features and a constant
    gamma. `auto` in paper mode: two convolutions, the mean of each mask, shares concatenated, gamma falling to 0.

    Source: Liu et al., arXiv 2103.13027; settings and numbers from OpenMixup at 37e1372.
    Differs from the released code: mask_adjust uses the share of the masks that it adjusts (released: of the others);
    the teacher's clean pass stops at the stage it needs, so that later BatchNorms of the teacher see mixed images only.
    One head, named beforehand (`report`), selects (released: the best of four on the test set).

    Examples:
        >>> mixer, x = AutoMix(), torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)])
        >>> draw = mixer.draw((2, 1, 8, 8), torch.Generator().manual_seed(1))
        >>> mask = torch.full((2, 1, 8, 8), 0.25)  # in a run, what the Mix Block makes of the features
        >>> mixer.apply(x, draw, mask=mask).x[:, 0, 0, 0].tolist()
        [0.75, 0.25]
    """

    name: ClassVar[str] = "automix"
    crosses: ClassVar[bool] = False
    algorithm: ClassVar[str] = "automix"
    whole: ClassVar[bool] = True
    source: ClassVar[str] = "arXiv 2103.13027"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    published: ClassVar = {
        "cifar": {"alpha": 2.0, "layer": "l3", "gamma": 0.1, "ema_end": 0.999999},
        "tiny": {"alpha": 2.0, "layer": "l3", "gamma": 0.1, "ema_end": 0.999999},
        "imagenet": {"alpha": 2.0, "layer": "l3", "gamma": 0.1, "ema_end": 0.99999},
        "fine_grained": {"alpha": 2.0, "layer": "l3", "gamma": 0.1, "ema_end": 0.99999},
        "cifar/wrn28_8": {"layer": "l2", "mixblock_momentum": 0.0},
        "cifar/deit_s": {"ema_end": 0.99996, "ema_hold": 0.25},
        "cifar/swin_t": {"ema_end": 0.99996, "ema_hold": 0.25},
        "imagenet/deit_s": {"ema_hold": 0.25, "switch_off": 0.2},
        "imagenet/swin_t": {"ema_hold": 0.25, "switch_off": 0.2},
        "fine_grained/resnext50": {"mask_loss": "l1_variance"},
    }

    alpha: float = alpha_knob(2.0, search=(0.2, 4.0))
    layer: str = knob(
        "l3", "stage whose features make the mask", choices=("l1", "l2", "l3", "l4"), search=("l1", "l2", "l3", "l4")
    )
    gamma: float = knob(0.1, "weight of the mask loss", low=0, high=100, search=(0.01, 1.0), log=True)
    gamma_decay: str = knob("auto", "how it changes over the run", choices=("auto", "constant", "linear", "cosine"))
    epsilon: float = knob(
        0.1, "distance from its share that a mask may have for nothing", low=0, high=1, search=(0.0, 0.3)
    )
    mask_loss: str = knob(
        "l1",
        "form of the mask loss",
        choices=("l1", "l1_variance", "l2_variance", "sparsity"),
        search=("l1", "l1_variance"),
    )
    mask_mean: str = knob("auto", "its mean, over each mask or all of a batch", choices=("auto", "sample", "batch"))
    mask_source: str = knob(
        "mixblock",
        "what makes the masks; all but mixblock are ablations",
        choices=("mixblock", "random_grid", "mixup", "cutmix"),
    )
    attention: bool = knob(True, "cross attention; without it a mask depends on the partner's features alone")
    embedding: str = knob(
        "auto", "how the share enters the Mix Block", choices=("auto", "none", "concat", "concat_v", "multiply")
    )
    rescale: float = knob(-1.0, "contrast k of the share in embedding multiply; < 0: none", low=-1, high=10)
    lam_mul: float = knob(1.0, "how much the share changes the features in embedding multiply", low=0, high=100)
    query_key: str = knob("auto", "one convolution for both, or two", choices=("auto", "shared", "separate"))
    attend: str = knob(
        "partner", "features of q and k: own and partner's, or both in each", choices=("partner", "both")
    )
    neck: bool = knob(False, "two layers make the value instead of one")
    neck_dropout: float = knob(0.0, "share of it that neck drops", low=0, high=0.9)
    upsampling: str = knob(
        "nearest", "how the mask grows to the image", choices=("nearest", "bilinear"), search=("nearest", "bilinear")
    )
    lam_margin: float = knob(0.08, "shares closer to 0 or 1 blend linearly", low=0, high=0.5, search=(0.0, 0.15))
    mask_adjust: float = knob(0.0, "probability that masks are scaled to their share", low=0, high=1)
    ema: bool = knob(True, "the teacher is a moving average; without: a copy of the network")
    ema_start: float = knob(0.999, "momentum of the teacher at first", low=0, high=1)
    ema_end: float = knob(0.99999, "and at the end, reached on a cosine", low=0, high=1)
    ema_hold: float = knob(0.1, "share of the run with the first momentum", low=0, high=1)
    clean_lam: float = knob(1.0, "weight of the loss of the clean images", low=0, high=100)
    gen_lam: float = knob(1.0, "weight of the loss that trains the Mix Block", low=0, high=100)
    switch_off: float = knob(0.0, "probability of a batch whose mask loss alone trains the Mix Block", low=0, high=1)
    mixblock_every: int = knob(1, "train the Mix Block every n-th step", low=1, high=100)
    mixblock_init: float = knob(
        0.01, "spread of its first weights; larger ones leave the uniform mask sooner", low=0, high=10, open_low=True
    )
    mixblock_lr: float = knob(1.0, "learning rate of the Mix Block, as a multiple", low=0, high=1000)
    mixblock_min_lr: float = knob(-1.0, "floor of that, as a share; < 0: as the network's", low=-1, high=1)
    mixblock_momentum: float = knob(-1.0, "its momentum; < 0: as the network's", low=-1, high=0.9999)
    shared_forward: bool = knob(False, "clean and mixed images in one batch: BatchNorm sees both at once")
    report: str = knob(
        "teacher_clean",
        "which network and head selects and is tested",
        choices=("teacher_clean", "student_clean", "teacher_mix", "student_mix"),
    )
    variant: str = knob("paper", "what auto stands for", choices=("paper", "released"))

    def draw(self, shape: Shape, generator: Generator) -> AutoMixDraw:
        """Draw the permutation, lam, the chance, then the noise of random grids or the boxes of CutMix."""
        partner = torch.randperm(shape[0], generator=generator)
        lam = draw_beta(self.alpha, generator)
        chance = torch.rand((), generator=generator, dtype=torch.float64).item()
        cells = (shape[0], 8, 8) if self.mask_source == "random_grid" else (shape[0], 0, 0)
        noise = torch.rand(cells, generator=generator)
        cut = CutMix(alpha=self.alpha).draw(shape, generator) if self.mask_source == "cutmix" else None
        return AutoMixDraw(partner, lam, chance, noise, cut)

    def linear(self, lam: float) -> bool:
        """Whether images of own share `lam` are blended linearly, whatever the mask."""
        return min(lam, 1 - lam) <= self.lam_margin

    def needs_of(self, draw: AutoMixDraw) -> frozenset[str]:
        made = self.mask_source == "mixblock" and not self.linear(draw.lam)
        return self.needs if made else frozenset()

    def apply(self, x: Tensor, draw: AutoMixDraw, *, mask: Tensor | None = None) -> Mixed:
        """Return (1 - s) x + s x[partner]; the mixing of the images that the network learns from.

        Within `lam_margin` of lam = 0 or 1, s is 1 - lam everywhere.

        Args:
            mask: s, float [B, 1, H, W] in [0, 1], as the Mix Block made it: where the partner is shown.
        """
        if draw.cut is not None:
            return CutMix(alpha=self.alpha).apply(x, draw.cut)
        partner = draw.partner.to(x.device, non_blocking=True)
        if self.mask_source == "mixup" or self.linear(draw.lam):
            mask = x.new_full((1, 1, 1, 1), 1 - draw.lam)
        elif self.mask_source == "random_grid":
            noise = draw.noise.to(x.device, non_blocking=True)
            mask = random_grid(noise, 1 - draw.lam, (x.shape[2], x.shape[3]))
        assert mask is not None
        if draw.chance < self.mask_adjust and self.needs_of(draw):
            mask = adjusted_mask(mask, mask.new_full((len(mask),), draw.lam))
        return pairs(torch.lerp(x, x[partner], mask.to(x.dtype)), partner, draw.lam)

    def resolved(self, side: int) -> AutoMix:
        """The same with every `auto` written out, for images of `side` pixels."""
        released, small = self.variant == "released", side <= SMALL
        auto = {
            "gamma_decay": "constant" if released and small else "cosine",
            "mask_mean": "batch" if released else "sample",
            "embedding": "none" if released and small else "concat",
            "query_key": "shared" if released else "separate",
        }
        chosen = {name: value for name, value in auto.items() if getattr(self, name) == "auto"}
        return dataclasses.replace(self, **chosen)  # pyright: ignore[reportArgumentType]


class Teacher(Protocol):
    """The settings of a teacher that follows the network."""

    @property
    def ema(self) -> bool: ...
    @property
    def ema_start(self) -> float: ...
    @property
    def ema_end(self) -> float: ...
    @property
    def ema_hold(self) -> float: ...


def teacher_momentum(settings: Teacher, progress: float) -> float:
    """The share of the teacher that stays at each step: constant at first, then on a cosine over the whole run."""
    if progress < settings.ema_hold:
        return settings.ema_start
    fall = (1 + math.cos(math.pi * progress)) / 2
    return settings.ema_end - (settings.ema_end - settings.ema_start) * fall


def never_learned(settings: Teacher, steps: int) -> float:
    """The share of the teacher that after so many steps still is what it began as: the product of its momenta, by up to
    a thousand of them."""
    if not settings.ema or not steps:
        return float(settings.ema)
    sampled = min(steps, 1000)
    product = math.prod(teacher_momentum(settings, place / sampled) for place in range(sampled))
    return product ** (steps / sampled)


def gamma_at(settings: AutoMix, progress: float) -> float:
    """The weight of the mask loss at `progress` in [0, 1] of the run."""
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return settings.gamma * fall[settings.gamma_decay]


def random_grid(noise: Tensor, part: float, size: tuple[int, int]) -> Tensor:
    """Masks that show the partner in a random `part` of the cells of a grid: [b, 1, H, W], from noise [b, h, w]."""
    cells = noise[0].numel()
    rank = noise.flatten(1).argsort(1).argsort(1)
    chosen = (rank < round(part * cells)).view_as(noise).to(noise.dtype)
    return functional.interpolate(chosen[:, None], size, mode="nearest")


def mask_loss(mask: Tensor, lam: Tensor, mode: str, margin: float, per: str, mean: Tensor | None = None) -> Tensor:
    """How far partner masks [B, 1, H, W] are from their share 1 - lam, beyond `margin`: a scalar.

    mode: l1: max(|1 - m - lam| - margin, 0), m the mean of a mask; l1_variance: that minus twice the variance;
    l2_variance: max((1 - m - lam)^2 - margin^2, 0) minus twice the variance;
    sparsity: max(mean(s (1 - s)) - margin, 0).

    Args:
        lam: [B]. per: `sample`: m, and the loss, of each mask, then their mean; `batch`: m over all masks.
        mean: m of the global batch, where `mask` is a worker's share of it; for `batch` only.

    Source: arXiv 2103.13027, eq. 8 (l1); OpenMixup at 37e1372.
    """
    dims = (1, 2, 3) if per == "sample" else (0, 1, 2, 3)
    if mode == "sparsity":
        return ((mask * (1 - mask)).mean(dims) - margin).clamp(min=0).mean()
    centre = mask.mean(dims, keepdim=True) if mean is None else mean.view(1, 1, 1, 1)
    share = lam.to(mask) if per == "sample" else lam.to(mask).mean()
    gap = 1 - centre.flatten() - share
    if mode == "l2_variance":
        off = (gap.square() - margin**2).clamp(min=0)
    else:
        off = (gap.abs() - margin).clamp(min=0)
    spread = 2 * (mask - centre).square().mean(dims) if mode.endswith("variance") else 0.0
    return (off - spread).mean()


def adjusted_mask(mask: Tensor, lam: Tensor) -> Tensor:
    """Partner masks [B, 1, H, W] scaled so that the mean of each is 1 - lam, lam [B]."""
    keep = (1 - mask).clamp(1e-8, 1 - 1e-8)
    mean = keep.mean((1, 2, 3), keepdim=True)
    lam = lam.to(mask)[:, None, None, None]
    lower, higher = keep * lam / mean, 1 - (1 - keep) * (1 - lam) / (1 - mean)
    return 1 - torch.where(mean > lam, lower, higher)
