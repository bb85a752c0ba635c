"""FixMatch: a strong view is to be what a confident guess on the weak view says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from automixsearch.algorithms.across import Guess, half_cosine
from automixsearch.algorithms.base import Batch, Clock, Part, Setup, Term
from automixsearch.algorithms.consistency import Consistency
from automixsearch.algorithms.semi import SemiKnobs
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.lazy import functional, torch
from automixsearch.mixers.vanilla import Vanilla

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from automixsearch.mixers import Mixer
    from automixsearch.mixers.base import Shape

LAST_DECAY = 0.99999
"""What `decay` rises to in the released variant, along half a cosine."""


@dataclass(frozen=True)
class FixMatchKnobs(SemiKnobs):
    """The settings of FixMatch."""

    hard: bool = knob(True, "whether the target is the likeliest class, or the softmax at `temperature`")
    temperature: float = knob(0.5, "of soft targets", low=0, open_low=True, high=10)
    variant: str = knob(
        "paper",
        "of the terms of mixed images: as in the paper of decoupled mixup, or as its authors' code has them",
        choices=("paper", "released"),
    )


class FixMatch(Consistency):
    """A guess counts from a fixed confidence on.

    `variant: released` is FixMatch with mixed images as in the authors' code: every group of images has a pass of its
    own, which moves the running statistics; guesses come from the averaged network, in training mode and with
    statistics of its own; mixed images have a head of their own; `side` holds for labelled pairs too (auto: max), and
    the weight of the decoupled term goes by class number (see `across.released_loss`).

    Source: Sohn et al., arXiv 2001.07685; TorchSSL at f26e1d4. Mixed images: Liu et al., arXiv 2203.10761; released:
    OpenMixup at 37e1372, semisup/dmixmatch.py.
    Differs (released): weights below 0.001 stop no gradient.
    """

    name: ClassVar[str] = "fixmatch"
    knobs: ClassVar[type[Knobbed]] = FixMatchKnobs

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.released = self.settings.variant == "released" and not isinstance(self.mixer, Vanilla)
        if self.released:
            features = setup.network.head.in_features
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(setup.seed("mix head"))
                self.mix_head = torch.nn.Linear(features, setup.classes)
            self.through_mix_head = self.compiled(lambda x: self.mix_head(self.network.embedded(x)))

    def parts(self) -> list[Part]:
        return [*super().parts(), *([Part(self.mix_head)] if self.released else [])]

    def mixed_logits(self, x: Tensor, *hidden: Any) -> Tensor:
        return self.through_mix_head(x) if self.released else super().mixed_logits(x, *hidden)

    def targets(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Guess]:
        p = logits.softmax(dim=1)
        label, confidence = self.confident(p)
        guess = Guess(label, (confidence >= self.settings.threshold).float())
        if self.settings.hard:
            return self.world.share(label), guess
        return (logits / self.settings.temperature).softmax(dim=1), guess

    # The released variant ---------------------------------------------------------------------------------------

    def terms(self, batch: Batch, clock: Clock, generator: Generator) -> Iterator[Term]:
        if not self.released:
            yield from super().terms(batch, clock, generator)
            return
        assert batch.unlabelled is not None
        share, mixer = self.world.share, self.mixer_at(clock)
        x = self.normalise(batch.views[0])
        weak, strong = map(self.normalise, batch.unlabelled.views)
        with self.autocast():
            seen = self.logits(share(x)).float()
        labelled = self.labelled_loss(seen, share(batch.y), clock)
        yield Term(labelled, {"labelled_loss": labelled.detach()})
        yield from self.mixed_terms(x, batch.y, mixer, generator, {"pixels": batch.views[0], **self.known})
        with self.autocast():
            asked = self.logits(share(strong)).float()
            with torch.no_grad():
                guessed = self.average_logits(share(weak)).float()
        target, guess = self.targets(guessed, batch.unlabelled.index)
        unlabelled = (share(guess.counts) * functional.cross_entropy(asked, target, reduction="none")).mean()
        told = {"unlabelled_loss": unlabelled.detach(), **guess.told(batch.truth)}
        yield Term(self.settings.unlabelled_weight * unlabelled, told)
        pixels = torch.cat([batch.views[0], batch.unlabelled.views[0][: len(x)]])
        across = self.across_loss(x, batch.y, weak, guess, mixer, generator, pixels)
        weight = self.settings.across_weight * half_cosine(clock.progress)
        yield Term(weight * across, {"across_loss": across.detach()})

    def draw(self, mixer: Mixer, shape: Shape, generator: Generator) -> Any:
        """Where it is released, `side` holds for labelled pairs too."""
        draw = super().draw(mixer, shape, generator)
        return self.sided(draw) if self.released else draw

    def after_step(self, clock: Clock) -> None:
        if not self.released:
            super().after_step(clock)
            return
        decay = self.settings.decay + (LAST_DECAY - self.settings.decay) * half_cosine(clock.progress)
        with torch.no_grad():
            for follower, leader in zip(self.average.parameters(), self.network.parameters(), strict=True):
                follower.lerp_(leader, 1 - decay)
