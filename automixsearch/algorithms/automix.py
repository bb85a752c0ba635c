"""The momentum pipeline of AutoMix: a student, a teacher that follows it, and a Mix Block that the teacher trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.base import Algorithm, Batch, Clock, Part, Setup, Term
from automixsearch.lazy import functional, torch
from automixsearch.losses import mce
from automixsearch.mixers.automix import STAGE, AutoMix, AutoMixDraw, gamma_at, mask_loss, teacher_momentum
from automixsearch.mixers.base import Mixed, pairs
from automixsearch.results.columns import Column, percent

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module

    from automixsearch.models.base import Backbone
    from automixsearch.models.mixblock import MixBlock

NETWORKS, HEADS = ("teacher", "student"), ("clean", "mix")


def mix_block(mixer: AutoMix, channels: int) -> MixBlock:
    """The Mix Block of a method whose `auto` is written out, for features of so many channels."""
    from automixsearch.models.mixblock import MixBlock

    return MixBlock(
        channels,
        embedding=mixer.embedding,
        rescale=mixer.rescale,
        lam_mul=mixer.lam_mul,
        shared=mixer.query_key == "shared",
        attend=mixer.attend,
        attention=mixer.attention,
        neck=mixer.neck,
        dropout=mixer.neck_dropout,
        bilinear=mixer.upsampling == "bilinear",
        spread=mixer.mixblock_init,
    )


class AutoMixTraining(Algorithm):
    """Student, teacher and Mix Block; what is trained are the student and the Mix Block.

    L = clean_lam CE(student, clean head; x) + loss(student, mix head; mixed) + gen_lam MCE(teacher, mix head; mixed by
    the Mix Block) + gamma mask loss. The images that the student sees are mixed by detached masks, with a share and
    partners of their own, so the first two terms reach the student only; the teacher has no gradient, so the third
    reaches the Mix Block only. The terms have no activations in common, unless `shared_forward` joins the first two.

    Source: Liu et al., arXiv 2103.13027, section 3.3 and algorithm 1; OpenMixup at 37e1372.
    """

    name: ClassVar[str] = "automix"
    columns: ClassVar[tuple[Column, ...]] = (
        *(
            percent(f"val_top1.{who}_{head}", f"top-1 accuracy of the {who} with its head for {head} images")
            for who in NETWORKS
            for head in HEADS
        ),
        Column("clean_loss", float, "loss of the clean images, where it is a term of its own"),
        Column("mix_loss", float, "loss of the mixed images, likewise"),
        Column("gen_loss", float, "loss that trains what makes the masks"),
        Column("mask_loss", float, "distance of the masks from their shares, as it is trained"),
        Column("mask_error", float, "mean distance of a mask's mean from its share"),
        Column("mask_variance", float, "variance of a mask over its pixels, the mean"),
    )
    mixer: AutoMix

    def __init__(self, setup: Setup) -> None:
        from automixsearch.models.two_heads import TwoHeads

        super().__init__(setup)
        self.mixer = mixer = self.mixer.resolved(setup.side)
        self.stage = STAGE[mixer.layer]
        setup.network.check_stage(self.stage)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed("mixblock"))
            self.student = TwoHeads(setup.network)
            self.block = self.block_for(setup.network.widths[self.stage])
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.block.requires_grad_(self.learns)
        names = [f"{who}_{head}" for who in NETWORKS for head in HEADS]
        self.heads = tuple(sorted(names, key=lambda name: name != mixer.report))
        self.student_embedded = self.compiled(self.student.backbone.embedded)
        self.student_clean, self.student_mix = self.compiled(self.student.clean), self.compiled(self.student.mix)
        self.teacher_features = self.compiled(self.teacher.backbone.features)
        self.teacher_mix, self.block_mask = self.compiled(self.teacher.mix), self.compiled(self.block.forward)

    @property
    def learns(self) -> bool:
        """Whether there are masks to be learned."""
        return self.mixer.mask_source == "mixblock"

    def block_for(self, channels: int) -> Module:
        """The Mix Block for features of so many channels."""
        return mix_block(self.mixer, channels)

    def parts(self) -> list[Part]:
        """The student and, unless it is an ablation without one, the Mix Block."""
        mixer = self.mixer
        floor, momentum = (None if value < 0 else value for value in (mixer.mixblock_min_lr, mixer.mixblock_momentum))
        block = Part(self.block, mixer.mixblock_lr, floor, momentum)
        return [Part(self.student), *([block] if self.learns else [])]

    def terms(self, batch: Batch, clock: Clock, generator: Generator) -> Iterator[Term]:
        (pixels,), y = batch.views, batch.y
        x = self.normalise(pixels)
        size, channels, height, width = x.shape
        for_block, for_student = (self.mixer.draw((size, channels, height, width), generator) for _ in range(2))
        features = self.features(x) if self.learns else None
        yield from self.student_terms(x, y, self.mixed(x, features, for_student))
        if features is not None and clock.step % self.mixer.mixblock_every == 0:
            yield self.block_term(x, y, features, for_block, gamma_at(self.mixer, clock.progress))

    def features(self, x: Tensor) -> Tensor:
        """The teacher's features of the global batch `x`, [B, C, h, w]; each worker computes its share."""
        with torch.no_grad(), self.autocast():
            return self.world.gather(self.teacher_features(self.world.share(x), self.stage))

    def mask(self, features: Tensor, draw: AutoMixDraw, size: tuple[int, int]) -> Tensor:
        """The Mix Block's masks of the partners for this worker's share, [b, 1, H, W], from features of the batch."""
        partner = draw.partner.to(features.device, non_blocking=True)
        own, theirs = self.world.share(features), self.world.share(features[partner])
        with self.autocast():
            return self.block_mask(own, theirs, features.new_full((len(own),), draw.lam), size)

    def mixed(self, x: Tensor, features: Tensor | None, draw: AutoMixDraw) -> Mixed:
        """The global batch as the student sees it."""
        with torch.no_grad():
            supply = {}
            if self.mixer.needs_of(draw):
                assert features is not None
                supply["mask"] = self.world.gather(self.mask(features, draw, (x.shape[2], x.shape[3])))
            return self.mixer.apply(x, draw, **supply)

    def student_terms(self, x: Tensor, y: Tensor, mixed: Mixed) -> Iterator[Term]:
        """The loss of the clean images, and that of the mixed ones."""
        share, smoothing, clean_lam = self.world.share, self.recipe.label_smoothing, self.mixer.clean_lam
        own, own_y, pictures = share(x), share(y), share(mixed.x)
        labels, shares = share(y[mixed.sources]), share(mixed.shares)
        if self.mixer.shared_forward:
            with self.autocast():
                clean_seen, mix_seen = self.student_embedded(torch.cat([own, pictures])).split(len(own))
                logits = self.student.backbone.head(clean_seen), self.student.mix_head(mix_seen)
            clean = functional.cross_entropy(logits[0].float(), own_y, label_smoothing=smoothing)
            mix = self.loss(logits[1], labels, shares, smoothing)
            yield Term(mix + clean_lam * clean, {"clean_loss": clean.detach(), "mix_loss": mix.detach()})
            return
        if clean_lam:
            with self.autocast():
                clean_logits = self.student_clean(own)
            clean = functional.cross_entropy(clean_logits.float(), own_y, label_smoothing=smoothing)
            yield Term(clean_lam * clean, {"clean_loss": clean.detach()})
        with self.autocast():
            mix_logits = self.student_mix(pictures)
        mix = self.loss(mix_logits, labels, shares, smoothing)
        yield Term(mix, {"mix_loss": mix.detach()})

    def block_term(self, x: Tensor, y: Tensor, features: Tensor, draw: AutoMixDraw, gamma: float) -> Term:
        """What trains the Mix Block; a batch that is switched off has the mask loss alone."""
        mixer, share = self.mixer, self.world.share
        mask = self.mask(features, draw, (x.shape[2], x.shape[3]))
        lam = mask.new_full((len(mask),), draw.lam)
        mean = self.world.mean_with_gradient(mask.mean()) if mixer.mask_mean == "batch" else None
        penalty = mask_loss(mask, lam, mixer.mask_loss, mixer.epsilon, mixer.mask_mean, mean)
        with torch.no_grad():
            error = (1 - mask.mean((1, 2, 3)) - lam).abs().mean()
            variance = mask.var((1, 2, 3)).mean()
        told = {"mask_loss": penalty.detach(), "mask_error": error, "mask_variance": variance}
        if draw.chance < mixer.switch_off:
            return Term(gamma * penalty, told)
        mixed = pairs(x, draw.partner, draw.lam)
        pictures = torch.lerp(share(x), share(x[mixed.partner]), mask.to(x.dtype))
        with self.autocast():
            logits = self.teacher_mix(pictures)
        gen = mce(logits, share(y[mixed.sources]), share(mixed.shares), self.recipe.label_smoothing).mean()
        return Term(gamma * penalty + mixer.gen_lam * gen, {"gen_loss": gen.detach(), **told})

    def after_step(self, clock: Clock) -> None:
        """Move the teacher towards the student.

        BatchNorm statistics are its own, unless it sees no images (ablations without a Mix Block): then they follow.
        """
        momentum = teacher_momentum(self.mixer, clock.progress) if self.mixer.ema else 0.0
        followed: list[tuple[Tensor, Tensor]] = [
            *zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        ]
        if not self.learns:
            followed += zip(self.teacher.buffers(), self.student.buffers(), strict=True)
        with torch.no_grad():
            for follower, leader in followed:
                if follower.is_floating_point():
                    follower.lerp_(leader, 1 - momentum)
                else:  # a count of batches
                    follower.copy_(leader)

    def predict(self, x: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
        """One pass of each network that is asked for."""
        logits = {}
        for who, network in (("teacher", self.teacher), ("student", self.student)):
            wanted = [head for head in HEADS if f"{who}_{head}" in heads]
            embedded = network.backbone.embedded(x) if wanted else x
            logits |= {f"{who}_{head}": network.heads()[head](embedded) for head in wanted}
        return logits

    def reported(self) -> Backbone:
        """A copy of the reported backbone with the reported head as its head."""
        who, _, head = self.heads[0].partition("_")
        network = self.teacher if who == "teacher" else self.student
        backbone = copy.deepcopy(network.backbone)
        backbone.head.load_state_dict(network.heads()[head].state_dict())
        return backbone

    def masks(self, pixels: Tensor, draw: AutoMixDraw) -> Tensor:
        """The Mix Block's masks of the partners as they are now, in eval mode: float32 [B, 1, H, W] on the CPU.

        Looking changes nothing: the rest of the run is bitwise what it would have been.

        Args:
            pixels: uint8 [B, H, W, C]. draw: partners and own share.
        """
        self.eval()
        x = self.normalise(pixels.to(self.device))
        with torch.no_grad():
            return self.mask(self.features(x), draw, (x.shape[2], x.shape[3])).cpu()
