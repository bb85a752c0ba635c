"""AdAutoMix: the momentum pipeline of AutoMix with mixes of several images and a Mix Block that is an adversary too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.automix import AutoMixTraining
from automixsearch.algorithms.base import Batch, Clock, Term
from automixsearch.lazy import functional, torch
from automixsearch.losses import mce
from automixsearch.mixers.adautomix import AdAutoMix, AdAutoMixDraw, composed
from automixsearch.results.columns import Column

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module


class AdAutoMixTraining(AutoMixTraining):
    """Student, teacher and Mix Block as in AutoMix; what is trained are the student and the Mix Block.

    L = clean_lam [(1 - r) CE(student, clean head; x) + r loss(student, mix head; linear mix)] + loss(student, mix head;
    mixed) + gen_lam G, r = linear_share where more than two images are mixed, else 0. G = MCE(teacher, mix head; mixed
    by the Mix Block). In every `adv_every`-th step, the first included, G = -beta MCE + (1 - beta) cosine instead, of
    the teacher's logits for a mix and for each of its images, weighted by their shares, the mean over the batch.

    Source: Qin et al., arXiv 2312.11954, section 3; OpenMixup at dd292a2.
    """

    name: ClassVar[str] = "adautomix"
    columns: ClassVar[tuple[Column, ...]] = (
        *(column for column in AutoMixTraining.columns if column.name != "mask_loss"),
        Column("linear_loss", float, "loss of the linear mixes"),
        Column("likeness", float, "cosine of the teacher's logits for a mix and for its images"),
    )
    mixer: AdAutoMix  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def learns(self) -> bool:
        return True

    def block_for(self, channels: int) -> Module:
        from automixsearch.models.mixblock import GroupMixBlock

        mixer = self.mixer
        return GroupMixBlock(
            channels,
            concat=mixer.embedding == "concat",
            bilinear=mixer.upsampling == "bilinear",
            spread=mixer.mixblock_init,
        )

    def terms(self, batch: Batch, clock: Clock, generator: Generator) -> Iterator[Term]:
        (pixels,), y = batch.views, batch.y
        x = self.normalise(pixels)
        size, channels, height, width = x.shape
        for_block, for_student = (self.mixer.draw((size, channels, height, width), generator) for _ in range(2))
        features = self.features(x)
        yield from self.network_terms(x, y, features, for_student)
        every = self.mixer.adv_every
        yield self.generator_term(x, y, features, for_block, bool(every) and clock.step % every == 0)

    def masks_of(self, features: Tensor, draw: AdAutoMixDraw, size: tuple[int, int]) -> Tensor:
        """The Mix Block's masks for this worker's share, [b, n, H, W], from features of the batch."""
        partners = self.world.share(draw.partners).to(features.device, non_blocking=True)
        with self.autocast():
            return self.block_mask([features[places] for places in partners.unbind(1)], draw.shares, size)

    def network_terms(self, x: Tensor, y: Tensor, features: Tensor, draw: AdAutoMixDraw) -> Iterator[Term]:
        """The losses of the clean images, of their linear mixes, and of what the masks mix."""
        share, smoothing, mixer = self.world.share, self.recipe.label_smoothing, self.mixer
        supply = {}
        with torch.no_grad():
            if mixer.needs_of(draw):
                supply["masks"] = self.world.gather(self.masks_of(features, draw, (x.shape[2], x.shape[3])))
            mixed = mixer.apply(x, draw, **supply)
        labels, shares = share(y[mixed.sources]), share(mixed.shares)
        linear = mixer.linear_share if mixer.samples > 2 else 0.0
        if mixer.clean_lam and linear < 1:
            with self.autocast():
                clean_logits = self.student_clean(share(x))
            clean = functional.cross_entropy(clean_logits.float(), share(y), label_smoothing=smoothing)
            yield Term(mixer.clean_lam * (1 - linear) * clean, {"clean_loss": clean.detach()})
        if mixer.clean_lam and linear:
            pictures = composed(x, share(mixed.sources), mixed.shares[:1, :, None, None])
            with self.autocast():
                linear_logits = self.student_mix(pictures)
            loss = self.loss(linear_logits, labels, shares, smoothing)
            yield Term(mixer.clean_lam * linear * loss, {"linear_loss": loss.detach()})
        with self.autocast():
            mix_logits = self.student_mix(share(mixed.x))
        mix = self.loss(mix_logits, labels, shares, smoothing)
        yield Term(mix, {"mix_loss": mix.detach()})

    def generator_term(self, x: Tensor, y: Tensor, features: Tensor, draw: AdAutoMixDraw, reversed_: bool) -> Term:
        """What trains the Mix Block."""
        share, mixer = self.world.share, self.mixer
        masks = self.masks_of(features, draw, (x.shape[2], x.shape[3]))
        sources = share(draw.partners).to(x.device, non_blocking=True)
        shares = draw.shares.to(x.device, non_blocking=True).expand(len(sources), mixer.samples)
        with self.autocast():
            logits = self.teacher_mix(composed(x, sources, masks))
        gen = mce(logits, y[sources], shares, self.recipe.label_smoothing).mean()
        with torch.no_grad():
            told = {
                "gen_loss": gen.detach(),
                "mask_error": (masks.mean((2, 3)) - shares).abs().mean().float(),
                "mask_variance": masks.var((2, 3)).mean().float(),
            }
        if not reversed_:
            return Term(mixer.gen_lam * gen, told)
        with torch.no_grad(), self.autocast():
            clean = self.world.gather(self.teacher_mix(share(x)))
        alike = functional.cosine_similarity(logits.float()[:, None], clean.float()[sources], dim=2)
        likeness = (alike * shares.to(alike.dtype)).sum(1).mean()
        loss = -mixer.beta * gen + (1 - mixer.beta) * likeness
        return Term(mixer.gen_lam * loss, {**told, "likeness": likeness.detach()})

    def masks(self, pixels: Tensor, draw: AdAutoMixDraw) -> Tensor:
        """The Mix Block's masks as they are now, in eval mode: float32 [B, n, H, W] on the CPU. Nothing changes by it.

        Args:
            pixels: uint8 [B, H, W, C]. draw: partners and shares.
        """
        self.eval()
        x = self.normalise(pixels.to(self.device))
        with torch.no_grad():
            return self.masks_of(self.features(x), draw, (x.shape[2], x.shape[3])).cpu()
