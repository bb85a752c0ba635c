"""The momentum pipeline of AutoMix: a student, a teacher that follows it, and a Mix Block that the teacher trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from automixsearch.losses import Loss, mce
from automixsearch.mixers.automix import STAGE, AutoMix, AutoMixDraw, teacher_momentum
from automixsearch.mixers.base import pairs
from automixsearch.mixers.cutmix import CutMix
from automixsearch.models.base import Backbone
from automixsearch.models.mixblock import MixBlock, adjusted_mask, mask_loss
from automixsearch.spec import derive_seed
from automixsearch.training.optimiser import Part
from automixsearch.training.world import World


class TwoHeads(nn.Module):
    """A backbone with a head for clean images, its own, and one for mixed images."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.mix_head = nn.Linear(backbone.head.in_features, backbone.head.out_features)
        nn.init.normal_(self.mix_head.weight, 0.0, 0.01)
        nn.init.zeros_(self.mix_head.bias)

    def clean(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def mix(self, x: Tensor) -> Tensor:
        return self.mix_head(self.backbone.embedded(x))

    def both(self, x: Tensor) -> dict[str, Tensor]:
        """The logits of both heads, by name, in one pass."""
        embedded = self.backbone.embedded(x)
        return {"clean": self.backbone.head(embedded), "mix": self.mix_head(embedded)}


class Momentum(nn.Module):
    """Student, teacher and Mix Block, and the loss of one step; what is trained are the student and the Mix Block.

    L = clean_lam CE(student, clean head; x) + loss(student, mix head; mixed) + gen_lam MCE(teacher, mix head; mixed by
    the Mix Block) + gamma mask loss. The images that the student sees are mixed by detached masks, with a share and
    partners of their own, so the first two terms reach the student only; the teacher has no gradient, so the third
    reaches the Mix Block only.

    Source: Liu et al., arXiv 2103.13027, section 3.3 and algorithm 1; OpenMixup at 37e1372.
    """

    TERMS = ("clean_loss", "mix_loss", "gen_loss", "mask_loss", "mask_error", "mask_variance")
    """The terms of the loss; the mean distance of a mask's mean from its share; the variance of a mask over pixels."""

    def __init__(self, backbone: Backbone, mixer: AutoMix, loss: Loss, side: int, seed: int, world: World) -> None:
        super().__init__()
        self.settings, self.loss, self.world = mixer.resolved(side), loss, world
        self.stage = STAGE[mixer.layer]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "mixblock"))
            self.student = TwoHeads(backbone)
            self.block = MixBlock(
                backbone.widths[self.stage],
                embedding=self.settings.embedding,
                rescale=mixer.rescale,
                shared=self.settings.query_key == "shared",
                attend=mixer.attend,
                attention=mixer.attention,
                neck=mixer.neck,
                bilinear=mixer.upsampling == "bilinear",
                spread=mixer.mixblock_init,
            )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.learns = mixer.mask_source == "mixblock"
        self.block.requires_grad_(self.learns)

    def parts(self) -> list[Part]:
        """What the optimiser moves: the student and, unless it is an ablation without one, the Mix Block."""
        settings = self.settings
        floor, momentum = (
            None if value < 0 else value for value in (settings.mixblock_min_lr, settings.mixblock_momentum)
        )
        block = Part(self.block, settings.mixblock_lr, floor, momentum)
        return [Part(self.student), *([block] if self.learns else [])]

    def plan(self, x: Tensor, mixing: Generator, step: int, progress: float) -> tuple[Any, ...]:
        """What `forward` takes for the global batch `x` at `step`: features, draws, gamma, whether to generate."""
        settings = self.settings
        batch, channels, height, width = x.shape
        draws = [settings.draw((batch, channels, height, width), mixing) for _ in range(2)]
        generate = self.learns and step % settings.mixblock_every == 0
        features = self.features(x) if self.learns else x.new_zeros(())
        return features, draws, gamma_at(settings, progress), generate

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The teacher's features of the global batch `x`, [B, C, h, w]; each worker computes its share."""
        return self.world.gather(self.teacher.backbone.features(self.world.share(x), self.stage))

    def forward(self, *given: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the `terms`, and all the values that they tell."""
        terms = list(self.terms(*given))
        told = {name: value for _, values in terms for name, value in values.items()}
        return torch.stack([term for term, _ in terms]).sum(), told

    def terms(
        self,
        x: Tensor,
        y: Tensor,
        features: Tensor,
        draws: Sequence[AutoMixDraw],
        gamma: float,
        generate: bool,
        label_smoothing: float,
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The terms of the loss of this worker's share of the global batch, one by one, weighted.

        They have no activations in common: a backward pass from each before the next needs half of the memory that
        one from their sum does.

        Args:
            x, y: the global batch. features: of the global batch, [B, C, h, w], without gradient.
            draws: for the Mix Block, and for the student.
            gamma: weight of the mask loss now. generate: whether the Mix Block is trained.

        Yields:
            A term, and some of the values that TERMS names, detached.
        """
        settings, share, student = self.settings, self.world.share, self.student
        for_block, for_student = draws
        with torch.no_grad():
            mixed, labels, shares = self.mixed(x, y, features, for_student)
        own, own_y = share(x), share(y)

        def clean_loss(logits: Tensor) -> Tensor:
            return functional.cross_entropy(logits.float(), own_y, label_smoothing=label_smoothing)

        if settings.shared_forward:
            pooled = student.backbone.embedded(torch.cat([own, mixed]))
            clean = clean_loss(student.backbone.head(pooled[: len(own)]))
            mix = self.loss(student.mix_head(pooled[len(own) :]), labels, shares, label_smoothing)
            yield mix + settings.clean_lam * clean, {"clean_loss": clean.detach(), "mix_loss": mix.detach()}
        else:
            if settings.clean_lam:
                clean = clean_loss(student.clean(own))
                yield settings.clean_lam * clean, {"clean_loss": clean.detach()}
            mix = self.loss(student.mix(mixed), labels, shares, label_smoothing)
            yield mix, {"mix_loss": mix.detach()}
        if generate:
            mask = self.mask(features, for_block, x.shape[2:])
            partner = for_block.partner.to(x.device)
            lam = mask.new_full((len(own),), for_block.lam)
            mean = self.world.mean_with_gradient(mask.mean()) if settings.mask_mean == "batch" else None
            penalty = mask_loss(mask, lam, settings.mask_loss, settings.epsilon, settings.mask_mean, mean)
            with torch.no_grad():
                error = (1 - mask.mean((1, 2, 3)) - lam).abs().mean()
                variance = mask.var((1, 2, 3)).mean()
            term = gamma * penalty
            told = {"mask_loss": penalty.detach(), "mask_error": error, "mask_variance": variance}
            if for_block.chance >= settings.switch_off:
                pictures = torch.lerp(own, share(x[partner]), mask.to(x.dtype))
                mixed = pairs(x, partner, for_block.lam)
                gen = mce(
                    self.teacher.mix(pictures), share(y[mixed.sources]), share(mixed.shares), label_smoothing
                ).mean()
                term, told = term + settings.gen_lam * gen, {"gen_loss": gen.detach(), **told}
            yield term, told
        elif self.learns and self.world.size > 1:  # the other workers expect a gradient of each parameter
            yield torch.stack([0 * parameter.sum() for parameter in self.block.parameters()]).sum(), {}

    def mask(self, features: Tensor, draw: AutoMixDraw, size: Any) -> Tensor:
        """The Mix Block's masks of the partners for this worker's share, [b, 1, H, W]."""
        own, partner = self.world.share(features), self.world.share(features[draw.partner.to(features.device)])
        lam = features.new_full((len(own),), draw.lam)
        return self.block(own, partner, lam, tuple(size))

    def mixed(self, x: Tensor, y: Tensor, features: Tensor, draw: AutoMixDraw) -> tuple[Tensor, ...]:
        """This worker's share of the mixed images for the student, their labels [b, 2] and shares [b, 2]."""
        settings, share = self.settings, self.world.share
        if draw.cut is not None:
            result = CutMix().apply(x, draw.cut)
            return share(result.x), share(y[result.sources]), share(result.shares)
        partner = draw.partner.to(x.device)
        plain = settings.mask_source == "mixup" or settings.linear(draw.lam)
        mask = x.new_full((1, 1, 1, 1), 1 - draw.lam)
        lam = x.new_full((len(share(y)),), draw.lam)
        if settings.mask_source == "random_grid" and not plain:
            mask = random_grid(share(draw.noise.to(x.device)), 1 - draw.lam, x.shape[2:])
        elif not plain:
            mask = self.mask(features, draw, x.shape[2:])
            if draw.chance < settings.mask_adjust:
                mask = adjusted_mask(mask, lam)
        pictures = torch.lerp(share(x), share(x[partner]), mask.to(x.dtype))
        result = pairs(x, partner, draw.lam)
        return pictures, share(y[result.sources]), share(result.shares)

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """Move the teacher towards the student, at `progress` in [0, 1].

        BatchNorm statistics are its own, unless it sees no images (ablations without a Mix Block): then they follow.
        """
        momentum = teacher_momentum(self.settings, progress) if self.settings.ema else 0.0
        pairs: list[tuple[Tensor, Tensor]] = [*zip(self.teacher.parameters(), self.student.parameters(), strict=True)]
        if not self.learns:
            pairs += zip(self.teacher.buffers(), self.student.buffers(), strict=True)
        for follower, leader in pairs:
            if follower.is_floating_point():
                follower.lerp_(leader, 1 - momentum)
            else:  # a count of batches
                follower.copy_(leader)

    def reported(self) -> Backbone:
        """A copy of the reported backbone with the reported head as its head."""
        who, _, head = self.settings.report.partition("_")
        network = self.teacher if who == "teacher" else self.student
        backbone = copy.deepcopy(network.backbone)
        if head == "mix":
            backbone.head.load_state_dict(network.mix_head.state_dict())
        return backbone

    @property
    def heads(self) -> tuple[str, ...]:
        """The four heads, the one that selects first."""
        names = [f"{who}_{head}" for who in ("teacher", "student") for head in ("clean", "mix")]
        return tuple(sorted(names, key=lambda name: name != self.settings.report))

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        """The logits of all four heads, in one pass of each network."""
        networks = (("teacher", self.teacher), ("student", self.student))
        return {f"{who}_{head}": logits for who, net in networks for head, logits in net.both(x).items()}

    def predict_reported(self, x: Tensor) -> dict[str, Tensor]:
        """The logits of the head that selects."""
        who, _, head = self.settings.report.partition("_")
        return {self.settings.report: getattr(getattr(self, who), head)(x)}


def random_grid(noise: Tensor, part: float, size: Any) -> Tensor:
    """Masks that show the partner in a random `part` of the cells of a grid: [b, 1, H, W], from noise [b, h, w]."""
    cells = noise[0].numel()
    rank = noise.flatten(1).argsort(1).argsort(1)
    chosen = (rank < round(part * cells)).view_as(noise).to(noise.dtype)
    return functional.interpolate(chosen[:, None], tuple(size), mode="nearest")


def gamma_at(settings: AutoMix, progress: float) -> float:
    """The weight of the mask loss at `progress` in [0, 1] of the run."""
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return settings.gamma * fall[settings.gamma_decay]
