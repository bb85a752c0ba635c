"""What is asked of a trained network beside its accuracy: a question is a file, a frozen dataclass and named scores."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from automixsearch.config.knobs import Knobbed
from automixsearch.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module

    from automixsearch.training.batches import Batches


@dataclass(frozen=True)
class Score:
    """A figure of a network.

    name: of the figure. value: finite, or NaN where it has none. images: how many it comes from. setting: what it
    depends on within one evaluation, e.g. `ratio=0.3`; "" where nothing.

    Examples:
        >>> Score("top1", 81.25, images=64).setting
        ''
    """

    name: str
    value: float
    images: int
    setting: str = ""


@dataclass(frozen=True)
class Pictures:
    """Labelled images of one part of a data set, as the network is tested on them.

    part: `Batches` of them. side: of the square in the middle that is kept, 0: all. batch: images at a time.
    """

    part: Batches
    side: int = 0
    batch: int = 256

    def __len__(self) -> int:
        return len(self.part)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images in 0..1 units, float [B, C, H, W], and their classes, int64 [B], in order."""
        mean, std = self.part.mean[:, None, None], self.part.std[:, None, None]
        for x, y in self.part.in_order(self.batch, side=self.side):
            yield x * std + mean, y

    def shuffled(self, generator: Generator, count: int = 0) -> Pictures:
        """The same images in random order; the first `count` of that, 0: all."""
        part = copy.copy(self.part)
        order = torch.randperm(len(part), generator=generator)[: count or None]
        part.indices = part.indices[order.to(part.indices.device)]
        part.labels = part.labels[order.to(part.labels.device)]
        return dataclasses.replace(self, part=part)


@dataclass(frozen=True)
class Subject:
    """A trained network, in eval mode, and the images that it is looked at with.

    network: float [B, C, H, W], normalised -> logits [B, K]. validation: the split that selected; test: the test set.
    normalise: images in 0..1 units -> as the network takes them; gradients go through it.
    """

    network: Module
    validation: Pictures
    test: Pictures
    classes: tuple[str, ...]
    normalise: Callable[[Tensor], Tensor]

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images in 0..1 units, float [B, C, H, W]."""
        return self.network(self.normalise(images))


@dataclass(frozen=True)
class Evaluation(Knobbed, ABC):
    """A question about a trained network: its fields are settings, each declared with `knob`.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Darkness(Evaluation):
        ...     name = "darkness"
        ...     def scores(self, subject, generator):
        ...         hits = sum((subject.logits(x / 2).argmax(1) == y).sum().item() for x, y in subject.test.batches())
        ...         yield Score("top1", 100 * hits / len(subject.test), len(subject.test))
        >>> Darkness().name
        'darkness'
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    """Paper, arXiv id."""

    @abstractmethod
    def scores(self, subject: Subject, generator: Generator) -> Iterator[Score]:
        """The figures, each as soon as it is known.

        Args:
            generator: on the CPU; nothing else may be drawn from.
        """

    def passes(self, images: int) -> float:
        """About how many passes over a test set of so many images it takes, a gradient counted as three; for plans."""
        return 1.0

    def settings(self) -> dict[str, Any]:
        """The values of its fields."""
        return dict(vars(self))
