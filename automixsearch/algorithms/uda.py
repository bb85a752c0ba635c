"""UDA: a strong view is to be what the sharpened prediction of the weak view says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.across import Guess
from automixsearch.algorithms.base import Clock
from automixsearch.algorithms.consistency import Consistency
from automixsearch.algorithms.semi import SemiKnobs
from automixsearch.config.knobs import Knobbed, knob, redeclared
from automixsearch.lazy import functional

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class UDAKnobs(SemiKnobs):
    """The settings of UDA."""

    threshold: float = redeclared(SemiKnobs, "threshold", 0.8)
    temperature: float = knob(0.4, "of the targets", low=0, open_low=True, high=10, search=(0.2, 1.0))
    annealing: str = knob(
        "none",
        "confidence up to which labelled images are trained on, from 1 / K to 1: none, or how it rises over the run",
        choices=("none", "linear", "exp", "log"),
    )


class UDA(Consistency):
    """Targets are soft; a guess counts by its confidence before it is sharpened.

    Source: Xie et al., arXiv 1904.12848; TorchSSL at f26e1d4.
    """

    name: ClassVar[str] = "uda"
    knobs: ClassVar[type[Knobbed]] = UDAKnobs

    def targets(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Guess]:
        label, confidence = self.confident(logits.softmax(dim=1))
        guess = Guess(label, (confidence >= self.settings.threshold).float())
        return (logits / self.settings.temperature).softmax(dim=1), guess

    def labelled_loss(self, logits: Tensor, y: Tensor, clock: Clock) -> Tensor:
        """Of labelled images that are not yet known so well; the mean is over all of them."""
        each = functional.cross_entropy(logits, y, reduction="none", label_smoothing=self.recipe.label_smoothing)
        most = annealed(self.settings.annealing, clock.progress, logits.shape[1])
        confidence = logits.detach().softmax(dim=1).max(dim=1).values
        return (each * (confidence <= most)).mean()


def annealed(schedule: str, progress: float, classes: int) -> float:
    """The confidence up to which labelled images are trained on, after a share of the run.

    Examples:
        >>> [round(annealed("linear", progress, 10), 2) for progress in (0, 0.5, 1)]
        [0.1, 0.55, 1.0]
    """
    if schedule == "none":
        return 1.0
    rises = {
        "linear": progress,
        "exp": math.exp(5 * (progress - 1)),
        "log": 1 - math.exp(-5 * progress),
    }
    return rises[schedule] * (1 - 1 / classes) + 1 / classes
