"""Consistency of two views: what is guessed on a weak view of an image is learned on a strong one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator as Steps
from collections.abc import Sequence
from typing import TYPE_CHECKING

from automixsearch.algorithms.across import Guess
from automixsearch.algorithms.base import Batch, Clock, Term
from automixsearch.algorithms.semi import SemiSupervised
from automixsearch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Consistency(SemiSupervised):
    """L = CE(labelled) + unlabelled_weight mean over all unlabelled images of [guess counts] CE(strong view, target).

    Labelled images and both views are seen in one pass; the weak view, which gives the target, gets no gradient.
    """

    def own_terms(
        self, batch: Batch, x: Tensor, views: Sequence[Tensor], clock: Clock, generator: Generator
    ) -> Steps[Term, None, Guess]:
        assert batch.unlabelled is not None
        weak, strong = (self.world.share(view) for view in views)
        own, y = self.world.share(x), self.world.share(batch.y)
        with self.autocast():
            logits = self.logits(torch.cat([own, weak, strong])).float()
        seen, guessed, asked = logits.split([len(own), len(weak), len(strong)])
        target, guess = self.targets(guessed.detach(), batch.unlabelled.index)
        labelled = self.labelled_loss(seen, y, clock)
        each = functional.cross_entropy(asked, target, reduction="none")
        unlabelled = (self.world.share(guess.counts) * each).mean()
        losses = {"labelled_loss": labelled.detach(), "unlabelled_loss": unlabelled.detach()}
        yield Term(labelled + self.settings.unlabelled_weight * unlabelled, losses | guess.told(batch.truth))
        return guess

    @abstractmethod
    def targets(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Guess]:
        """What the strong views of this worker's share are to be, int64 [m] or float [m, K], and the guesses of all.

        Args:
            logits: [m, K], of the weak views of this worker's share. index: int64 [M], the places of all images.
        """

    def labelled_loss(self, logits: Tensor, y: Tensor, clock: Clock) -> Tensor:
        """The loss of this worker's labelled images."""
        return functional.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)

    def confident(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest class of all images, int64 [M], and how likely it is, [M], from this worker's p [m, K]."""
        confidence, label = p.max(dim=1)
        return self.world.gather(label), self.world.gather(confidence)
