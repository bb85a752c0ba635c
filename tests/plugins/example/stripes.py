"""What somebody brings along, one of each kind, in one file that is also a package: see pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch

from automixsearch.algorithms.base import Term
from automixsearch.algorithms.supervised import Supervised
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.data import ImageSet, Part
from automixsearch.evaluation import Evaluation, Score, Subject
from automixsearch.evaluation.metric import Metric
from automixsearch.losses import Loss, mce, weighted_mean
from automixsearch.mixers import Mixed, Mixer, PairDraw
from automixsearch.mixers.base import alpha_knob, draw_beta, pairs
from automixsearch.results.columns import amount


@dataclass(frozen=True)
class StripeDraw(PairDraw):
    """share: of the rows that are the image's own."""

    share: float

    def with_lam(self, lam: float) -> Self:
        return replace(self, share=lam)


@dataclass(frozen=True)
class StripeMix(Mixer):
    """Every row of pixels is the image's own or its partner's."""

    name: ClassVar[str] = "stripemix"
    source: ClassVar[str] = "nobody's paper"

    alpha: float = alpha_knob(1.0)
    period: int = knob(4, "rows after which the pattern repeats", low=1, high=64, search=(2, 8))
    fade: bool = knob(False, "whether the stripes are blurred at their edges")

    def draw(self, shape: tuple[int, int, int, int], generator: torch.Generator) -> StripeDraw:
        share = draw_beta(self.alpha, generator)
        return StripeDraw(torch.randperm(shape[0], generator=generator), share)

    def apply(self, x: torch.Tensor, draw: StripeDraw) -> Mixed:
        own = torch.arange(x.shape[2]) % self.period < round(draw.share * self.period)
        lam = own.double().mean().item()  # on the host, which so does not wait for a GPU
        rows, partner = (part.to(x.device, non_blocking=True) for part in (own, draw.partner))
        return pairs(torch.where(rows[None, None, :, None], x, x[partner]), partner, lam)


@dataclass(frozen=True)
class Focal(Loss):
    """Mixup cross-entropy that looks at hard samples."""

    name: ClassVar[str] = "focal"

    power: float = knob(1.0, "power of 1 - p in the weight of a sample", low=0, high=5, search=(0.5, 2.0))

    def __call__(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        shares: torch.Tensor,
        label_smoothing: float = 0.0,
        labelled: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        each = mce(logits, labels, shares, label_smoothing)
        return weighted_mean((1 - (-each).exp()).clamp(min=0) ** self.power * each, weights)


@dataclass(frozen=True)
class Scale(Knobbed):
    """How much louder."""

    factor: float = knob(2.0, "of every term of the loss", low=0.1, high=10)


class Scaled(Supervised):
    """Supervised training with a louder loss."""

    name: ClassVar[str] = "scaled"
    knobs = Scale
    columns = (amount("loudness", "the mean of the scaled loss"),)

    def terms(self, batch, clock, generator):
        for term in super().terms(batch, clock, generator):
            loss = self.settings.factor * term.loss
            yield Term(loss, {"loudness": loss.detach()})


class Balanced(Metric):
    """The mean over the classes of the share of their images that is recognised."""

    name: ClassVar[str] = "balanced"
    goal = "max"

    def sums(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hits = torch.zeros(2, logits.shape[1], dtype=torch.float64, device=logits.device)
        right = (logits.argmax(1) == labels).double()
        return hits.index_add_(1, labels, torch.stack([right, torch.ones_like(right)]))

    def value(self, sums: torch.Tensor) -> float:
        return float((sums[0] / sums[1]).nanmean())


@dataclass(frozen=True)
class Dimmed(Evaluation):
    """Accuracy on images that are darker, in percent."""

    name: ClassVar[str] = "dimmed"

    factor: float = knob(0.5, "of the brightness", low=0, high=1)

    def scores(self, subject: Subject, generator: torch.Generator) -> Iterator[Score]:
        hits = 0
        for x, y in subject.test.batches():
            hits += int((subject.logits(self.factor * x).argmax(1) == y).sum())
        yield Score("top1", 100 * hits / len(subject.test), len(subject.test), f"factor={self.factor:g}")


def bars(data) -> ImageSet:
    """Gray images of horizontal or vertical bars."""
    pixels = np.random.default_rng(0).integers(0, 60, (240, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(240) % 2
    pixels[labels == 0, ::2] += 100
    pixels[labels == 1, :, ::2] += 100
    return ImageSet("bars", Part(pixels[:160], labels[:160]), Part(pixels[160:], labels[160:]), ("flat", "tall"))


class Net(torch.nn.Module):
    """Two convolutions, pooling, a linear layer."""

    def __init__(self, in_channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Conv2d(in_channels, width, 3, 2, 1), torch.nn.ReLU())
        self.second = torch.nn.Sequential(torch.nn.Conv2d(width, width, 3, 2, 1), torch.nn.ReLU())
        self.fc = torch.nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.first(x)).mean((2, 3)))
