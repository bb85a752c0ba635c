"""FlexMatch: FixMatch with a threshold for each class, the lower the fewer images of it have been learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.across import Guess
from automixsearch.algorithms.base import Setup
from automixsearch.algorithms.fixmatch import FixMatch, FixMatchKnobs
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.lazy import torch
from automixsearch.results.columns import Column, share

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FlexMatchKnobs(FixMatchKnobs):
    """The settings of FlexMatch."""

    warm: bool = knob(True, "whether images that never had a confident guess lower the thresholds too")


class FlexMatch(FixMatch):
    """The threshold of class c is threshold beta_c / (2 - beta_c), beta_c how many images have c as the latest guess
    above the full threshold, relative to the largest such number (with `warm` also to that of images without any).

    The records of a step enter the thresholds of the next one. As released, all thresholds are 0 until the first image
    has a record, so at first everything counts.

    Source: Zhang et al., arXiv 2110.08263; TorchSSL at f26e1d4.
    Differs: the records are part of a checkpoint.
    """

    name: ClassVar[str] = "flexmatch"
    knobs: ClassVar[type[Knobbed]] = FlexMatchKnobs
    columns: ClassVar[tuple[Column, ...]] = (
        *FixMatch.columns,
        share("threshold_min", "lowest threshold of a class"),
        share("threshold_mean", "mean threshold of the classes"),
    )
    record: Tensor
    beta: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.register_buffer("record", torch.full((setup.unlabelled,), -1))
        self.register_buffer("beta", torch.zeros(setup.classes))

    def thresholds(self) -> Tensor:
        """Of each class, [K]."""
        return self.settings.threshold * self.beta / (2 - self.beta)

    def targets(self, logits: Tensor, index: Tensor) -> tuple[Tensor, Guess]:
        self.refresh()
        label, confidence = self.confident(logits.softmax(dim=1))
        guess = FlexGuess(label, (confidence >= self.thresholds()[label]).float(), self.thresholds())
        self.remember(label, confidence >= self.settings.threshold, index)
        if self.settings.hard:
            return self.world.share(label), guess
        return (logits / self.settings.temperature).softmax(dim=1), guess

    def refresh(self) -> None:
        """Take beta from the records, unless all of them are alike."""
        counts = self.beta.new_zeros(len(self.beta) + 1)
        counts.scatter_add_(0, self.record + 1, torch.ones_like(self.record, dtype=counts.dtype))
        most = counts.max() if self.settings.warm else counts[1:].max()
        alike = counts.max() == len(self.record)
        self.beta.copy_(torch.where(alike, self.beta, counts[1:] / most.clamp(min=1)))

    def remember(self, label: Tensor, selected: Tensor, index: Tensor) -> None:
        """Record the selected guesses; of an image that is there more than once, the last one."""
        order = torch.arange(len(index), device=index.device)
        latest = torch.full_like(self.record, -1)
        latest.scatter_reduce_(0, index, torch.where(selected, order, -torch.ones_like(order)), "amax")
        self.record.copy_(torch.where(latest >= 0, label[latest.clamp(min=0)], self.record))


@dataclass(frozen=True)
class FlexGuess(Guess):
    """Guesses, with the thresholds [K] by which they count."""

    thresholds: Tensor

    def told(self, truth: Tensor | None) -> dict[str, Tensor]:
        extremes = {"threshold_min": self.thresholds.min(), "threshold_mean": self.thresholds.mean()}
        return super().told(truth) | extremes
