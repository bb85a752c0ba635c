"""What every backbone offers: stages with names, at whose outputs features can be changed or taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn import functional

from automixsearch.errors import TrainingError, unknown
from automixsearch.models.registry import NO_CLASS_TOKEN

Change = Callable[[Tensor], Tensor]


class Backbone(nn.Module, ABC):
    """A network with named stages and a linear head: [B, C, H, W] -> logits [B, K]."""

    widths: dict[str, int]
    """The stages in order (stem, stage1, stage2, ...), each with the channels of its map."""
    head: nn.Linear
    theirs: tuple[tuple[str, str], ...] = ()
    """How the names of parameters in files of others become ours: regular expressions and what replaces them."""

    @abstractmethod
    def features(self, x: Tensor, stage: str) -> Tensor:
        """The map [B, C, h, w] of `stage`; nothing after it is computed.

        Raises:
            AutoMixError: this network has no such stage.
        """

    @abstractmethod
    def embedded(self, x: Tensor, stage: str = "input", change: Change | None = None) -> Tensor:
        """What the head sees, [B, D], as `forward` makes it."""

    def forward(self, x: Tensor, stage: str = "input", change: Change | None = None) -> Tensor:
        """Logits of `x`, with `change` applied to the map of `stage` on the way.

        Raises:
            AutoMixError: this network has no such stage.
        """
        return self.head(self.embedded(x, stage, change))

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] of `x`, and what the class token looked at in the last block: its attention [B, h, w] on the
        patches, the mean over heads, without gradient.

        Raises:
            AutoMixError: this network has no class token whose attention can be told.
        """
        self.check_attended()
        raise NotImplementedError

    def check_attended(self) -> None:
        """Refuse a network without a class token whose attention can be told.

        Raises:
            AutoMixError: with those that have one.
        """
        raise TrainingError(f"{type(self).__name__} {NO_CLASS_TOKEN}")

    def check_stage(self, stage: str, mixed: bool = False) -> None:
        """Refuse a stage that this network does not have or, with `mixed`, not mix at.

        Raises:
            AutoMixError: with those that it has.
        """
        if stage not in self.widths:
            raise TrainingError(f"{type(self).__name__}: {unknown('stage', stage, self.widths)}")


class Chain(Backbone):
    """A backbone that is a chain of its stages.

    What a stage hands on is a map [B, C, h, w], or holds one: then `as_map` and `with_map` lead there and back.
    """

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """The stages in order, by name."""
        for name in self.widths:
            yield name, self.get_submodule(name)

    def as_map(self, state: Tensor) -> Tensor:
        """The map [B, C, h, w] in what a stage hands on."""
        return state

    def with_map(self, state: Tensor, features: Tensor) -> Tensor:
        """`state` with another map."""
        return features

    def pooled(self, state: Tensor) -> Tensor:
        """What the last stage hands on -> [B, D], the input of the head."""
        return functional.adaptive_avg_pool2d(state, 1).flatten(1)

    def features(self, x: Tensor, stage: str) -> Tensor:
        self.check_stage(stage)
        for name, part in self.stages():
            x = part(x)
            if name == stage:
                break
        return self.as_map(x)

    def embedded(self, x: Tensor, stage: str = "input", change: Change | None = None) -> Tensor:
        if change is not None:
            self.check_stage(stage)
        for name, part in self.stages():
            x = part(x)
            if name == stage and change is not None:
                x = self.with_map(x, change(self.as_map(x)))
        return self.pooled(x)
