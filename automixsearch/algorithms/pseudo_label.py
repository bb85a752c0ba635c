"""Pseudo-Labeling: confident guesses are learned on the very view on which they were made."""

from __future__ import annotations

from collections.abc import Generator as Steps
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.across import Guess
from automixsearch.algorithms.base import Batch, Clock, Needs, Term
from automixsearch.algorithms.semi import SemiKnobs, SemiSupervised, ramp
from automixsearch.config.knobs import Knobbed, knob, redeclared
from automixsearch.lazy import functional

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class PseudoLabelKnobs(SemiKnobs):
    """The settings of Pseudo-Labeling."""

    ratio: int = redeclared(SemiKnobs, "ratio", 1)
    ramp_up: float = knob(0.4, "share of the run over which unlabelled_weight rises", low=0, open_low=True, high=1)


class PseudoLabel(SemiSupervised):
    """L = CE(labelled) + unlabelled_weight r(t) mean of [guess counts] CE(weak view, its likeliest class).

    Source: Lee, Pseudo-Label, ICML workshop 2013; TorchSSL at f26e1d4.
    """

    name: ClassVar[str] = "pseudo_label"
    knobs: ClassVar[type[Knobbed]] = PseudoLabelKnobs

    @property
    def needs(self) -> Needs:
        return Needs(unlabelled=("cropped",), ratio=self.settings.ratio)

    def own_terms(
        self, batch: Batch, x: Tensor, views: Sequence[Tensor], clock: Clock, generator: Generator
    ) -> Steps[Term, None, Guess]:
        share, settings = self.world.share, self.settings
        with self.autocast():
            seen = self.logits(share(x)).float()
        labelled = functional.cross_entropy(seen, share(batch.y), label_smoothing=self.recipe.label_smoothing)
        yield Term(labelled, {"labelled_loss": labelled.detach()})
        with self.apart(self.network), self.autocast():
            logits = self.logits(share(views[0])).float()
        confidence, label = logits.detach().softmax(dim=1).max(dim=1)
        counts = (confidence >= settings.threshold).float()
        unlabelled = (counts * functional.cross_entropy(logits, label, reduction="none")).mean()
        guess = Guess(self.world.gather(label), self.world.gather(counts))
        weight = settings.unlabelled_weight * ramp(clock.progress, settings.ramp_up)
        yield Term(weight * unlabelled, {"unlabelled_loss": unlabelled.detach(), **guess.told(batch.truth)})
        return guess
