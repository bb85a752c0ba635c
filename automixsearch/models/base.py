"""What every backbone offers: stages with names, at whose outputs features can be changed or taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from automixsearch.errors import TrainingError, unknown


class Backbone(nn.Module):
    """A network that is a chain of named stages and a linear head: [B, C, H, W] -> logits [B, K].

    What a stage hands on is a map [B, C, h, w], or holds one: then `as_map` and `with_map` lead there and back.
    """

    widths: dict[str, int]
    """The stages in order (stem, stage1, stage2, ...), each with the channels of its map."""
    head: nn.Linear
    theirs: ClassVar[tuple[tuple[str, str], ...]] = ()
    """How torchvision's names of parameters become ours: regular expressions and what replaces them."""

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

    def classify(self, state: Tensor) -> Tensor:
        """What the last stage hands on -> logits [B, K]."""
        return self.head(self.pooled(state))

    def features(self, x: Tensor, stage: str) -> Tensor:
        """The map [B, C, h, w] of `stage`; nothing after it is computed.

        Raises:
            TrainingError: this network has no such stage.
        """
        self._check(stage)
        for name, part in self.stages():
            x = part(x)
            if name == stage:
                break
        return self.as_map(x)

    def forward(self, x: Tensor, stage: str = "input", change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Logits of `x`, with `change` applied to the map of `stage` on the way.

        Raises:
            TrainingError: this network has no such stage.
        """
        return self.head(self.embedded(x, stage, change))

    def embedded(self, x: Tensor, stage: str = "input", change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """What the head sees, [B, D], as `forward` makes it."""
        if change is not None:
            self._check(stage)
        for name, part in self.stages():
            x = part(x)
            if name == stage and change is not None:
                x = self.with_map(x, change(self.as_map(x)))
        return self.pooled(x)

    def _check(self, stage: str) -> None:
        if stage not in self.widths:
            raise TrainingError(f"{type(self).__name__}: {unknown('stage', stage, self.widths)}")
