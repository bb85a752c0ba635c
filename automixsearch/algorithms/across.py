"""Labelled images mixed with unlabelled ones of which the classes are guessed: what all ways of doing so share."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Generator as Steps
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from automixsearch.algorithms.base import Batch, Clock, Setup, Term
from automixsearch.algorithms.supervised import Supervised
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.errors import SpecError
from automixsearch.lazy import torch
from automixsearch.losses import Decoupled, decoupled, mce, weighted_mean
from automixsearch.mixers.vanilla import Vanilla
from automixsearch.results.columns import Column, amount, percent, share

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module

    from automixsearch.mixers import Mixer


@dataclass(frozen=True)
class AcrossKnobs(Knobbed):
    """The settings of how labelled images are mixed with unlabelled ones."""

    ratio: int = knob(7, "unlabelled images for each labelled one", low=1, high=64, search=(1, 7))
    side: str = knob(
        "auto",
        "share of the labelled image where it is mixed with an unlabelled one: as drawn (free), the smaller (min) or "
        "larger part (max); auto: min with a decoupled loss, else free",
        choices=("auto", "min", "max", "free"),
        search=("min", "max", "free"),
    )
    gate: str = knob(
        "labelled",
        "labels that the decoupled term works on where one of two is guessed",
        choices=("labelled", "both"),
        search=("labelled", "both"),
    )
    across_weight: float = knob(
        1.0, "weight that the loss of such mixtures rises to, along half a cosine", low=0, high=100, search=(0.1, 2.0)
    )


@dataclass(frozen=True)
class Guess:
    """What is guessed of the unlabelled images of a global batch.

    label: int64 [M]. counts: float [M], 1 where it is trained on, else 0.
    """

    label: Tensor
    counts: Tensor

    def told(self, truth: Tensor | None) -> dict[str, Tensor]:
        """How many of them count, and how good they are; nan where a class is unknown, truth -1."""
        told = {"used": self.counts.mean()}
        if truth is not None:
            wrong, known = (self.label != truth).float(), (truth >= 0).all()
            nan = torch.full_like(told["used"], math.nan)
            told["misled"] = torch.where(known, (self.counts * wrong).mean(), nan)
            told["guess_top1"] = torch.where(known, 100 * (1 - wrong.mean()), nan)
        return told


class Across(Supervised):
    """Labelled images, and unlabelled ones of which the classes are guessed.

    L = L of the algorithm + M(labelled, labelled) + w(t) mean of [guess counts] M(labelled, unlabelled), M the loss of
    mixed images and w(t) = across_weight (1 - cos(pi t)) / 2 over the run; the last two only where a method mixes.

    Image i of the labelled batch is mixed with the weak view of the unlabelled image i. With `gate: labelled` the
    decoupled term works on its own label alone: the guess is a competitor and never a target of it.

    Source: Liu et al., arXiv 2203.10761, asymmetric strategy; OpenMixup at 37e1372.
    Differs: the mixed images leave the running statistics of BatchNorm alone, which so remain those of clean images.
    """

    knobs: ClassVar[type[Knobbed]] = AcrossKnobs
    crosses: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        amount("labelled_loss", "loss of the labelled images"),
        amount("unlabelled_loss", "loss of the unlabelled images, before its weight"),
        amount("across_loss", "loss of labelled images mixed with unlabelled ones, before its weight"),
        share("used", "share of the unlabelled images whose guess counts"),
        share("misled", "share of the unlabelled images that are trained on with a wrong guess, if the truth is known"),
        percent("guess_top1", "accuracy of all guesses, likewise"),
    )
    released: bool = False
    """Whether mixed images are as in the authors' code, of algorithms that have it so."""
    weak: ClassVar[int] = 0
    """Which of the unlabelled views is the one that is mixed."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        taken = inspect.signature(type(self.loss).__call__).parameters
        for name in ("labelled", "weights"):
            if name not in taken:
                raise SpecError(
                    f"loss {self.loss.name} does not take {name}, which algorithm {self.name} needs; see "
                    "automixsearch.losses.Loss"
                )

    @property
    def side(self) -> str:
        """How shares of labelled images are chosen, `auto` resolved."""
        auto = "max" if self.released else "min" if self.loss.name.startswith("decoupled") else "free"
        return auto if self.settings.side == "auto" else self.settings.side

    def terms(self, batch: Batch, clock: Clock, generator: Generator) -> Iterator[Term]:
        assert batch.unlabelled is not None
        views = [self.normalise(view) for view in batch.unlabelled.views]
        x = self.normalise(batch.views[0])
        guess = yield from self.own_terms(batch, x, views, clock, generator)
        mixer = self.mixer_at(clock)
        if isinstance(mixer, Vanilla):
            return
        supply = {"pixels": batch.views[0], **self.known}
        with self.apart(self.network):
            yield from self.mixed_terms(x, batch.y, mixer, generator, supply)
            pixels = torch.cat([batch.views[0], batch.unlabelled.views[self.weak][: len(x)]])
            weight = self.settings.across_weight * half_cosine(clock.progress)
            loss = self.across_loss(x, batch.y, views[self.weak], guess, mixer, generator, pixels)
            yield Term(weight * loss, {"across_loss": loss.detach()})

    @abstractmethod
    def own_terms(
        self, batch: Batch, x: Tensor, views: Sequence[Tensor], clock: Clock, generator: Generator
    ) -> Steps[Term, None, Guess]:
        """The terms of the algorithm itself, which tell the two losses and what `Guess.told` says, and its guesses.

        Args:
            x: [B, C, H, W], views: each [M, C, H, W], the labelled images of the batch and the views of the unlabelled
                ones, normalised.
        """

    def across_loss(
        self, x: Tensor, y: Tensor, weak: Tensor, guess: Guess, mixer: Mixer, generator: Generator, pixels: Tensor
    ) -> Tensor:
        """The loss of this worker's share of labelled images, each mixed with the unlabelled image of its rank."""
        count, world = len(x), self.world
        both, label = torch.cat([x, weak[:count]]), guess.label[:count]
        size, channels, height, width = both.shape
        draw: Any = mixer.draw((size, channels, height, width), generator).between(count)
        needs = mixer.needs_of(draw)
        supply = {"pixels": pixels, **self.known}
        if needs & {"saliency", "gradient"}:
            gradient = self.gradient(both, torch.cat([y, label]))
            supply |= {"gradient": gradient, "saliency": gradient.square().mean(1).sqrt()}
        mixed = mixer.apply(both, draw, **{need: supply[need] for need in needs})
        first, second = mixed.shares[:count, 0], mixed.shares[count:, 1]  # of the labelled image, in either half
        other = torch.zeros_like(first, dtype=torch.bool)
        if self.side == "min":
            other = (second < first) & (second > 0)
        elif self.side == "max":
            other = second > first
        lam = torch.where(other, second, first)
        pictures = torch.where(other[:, None, None, None], mixed.x[count:], mixed.x[:count])
        labels, shares = torch.stack([y, label], 1), torch.stack([lam, 1 - lam], 1)
        known = torch.tensor([True, self.settings.gate == "both"]).to(x.device, non_blocking=True)
        with self.autocast():
            logits = self.mixed_logits(world.share(pictures))
        known = known.expand(len(logits), 2)
        counts = world.share(guess.counts[:count])
        return self.across_mean(logits, world.share(labels), world.share(shares), known, counts)

    def across_mean(self, logits: Tensor, labels: Tensor, shares: Tensor, known: Tensor, counts: Tensor) -> Tensor:
        """The mean over this worker's mixtures of labelled with unlabelled images, of which `counts` [b] are 1 or 0.

        Args:
            logits: [b, K]. labels: int64 [b, 2], shares: [b, 2], the labelled image first. known: bool [b, 2], which
                labels the decoupled term works on.
        """
        if self.released and isinstance(self.loss, Decoupled):
            return released_loss(self.loss, logits, labels, shares, counts)
        return self.loss(logits, labels, shares, self.recipe.label_smoothing, labelled=known, weights=counts)

    def sided(self, draw: Any) -> Any:
        """A draw of labelled pairs with the share that `side` says, where it has one share for all."""
        lam = getattr(draw, "lam", None)
        if self.side == "free" or not isinstance(lam, float):
            return draw
        return draw.with_lam(max(lam, 1 - lam) if self.side == "max" else min(lam, 1 - lam))

    def apart(self, network: Module) -> Any:
        """Where passes of mixed images leave running statistics alone."""
        from automixsearch.models.batch_norm import frozen_statistics

        return frozen_statistics(network)

    @classmethod
    def upgraded(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state


def half_cosine(progress: float) -> float:
    """From 0 to 1 over a run.

    Examples:
        >>> [round(half_cosine(progress), 2) for progress in (0, 0.5, 1)]
        [0.0, 0.5, 1.0]
    """
    return (1 - math.cos(math.pi * progress)) / 2


def released_loss(loss: Decoupled, logits: Tensor, labels: Tensor, shares: Tensor, counts: Tensor) -> Tensor:
    """DM(CE) of pairs as the authors' code has it: the two weights go to the smaller and the larger class of the
    batch's first pair instead of the labels that they are for, and there is no decoupled term at equal shares.

    Args:
        logits: [B, K]. labels: int64 [B, 2]. shares: [B, 2]. counts: [B], the weight of each image.

    Source: OpenMixup at 37e1372, losses/soft_mix_cross_entropy.
    """
    less = shares < 0.5
    sides = {"both": torch.ones_like(shares), "less": less.to(shares), "more": (~less).to(shares)}[loss.weighting]
    weights = loss.eta * sides * shares**loss.xi
    turned = labels[0, 0] > labels[0, 1]
    weights = torch.where(turned, weights.flip(1), weights)
    weights = torch.where(shares == 0.5, torch.zeros_like(weights), weights)
    return weighted_mean(mce(logits, labels, shares) + decoupled(logits, labels, shares, weights), counts)
