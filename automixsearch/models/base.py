"""What every backbone offers: stages with names, at whose outputs features can be changed or taken."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from automixsearch.errors import TrainingError, unknown


class Backbone(nn.Module):
    """A network that is a chain of named stages and a head: [B, C, H, W] -> logits [B, K]."""

    @abstractmethod
    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """The stages in order, by name: stem, stage1, stage2, ..."""

    head: nn.Linear
    widths: dict[str, int]
    """Channels of what each stage puts out."""

    @abstractmethod
    def pooled(self, features: Tensor) -> Tensor:
        """What the last stage puts out -> [B, D]."""

    def classify(self, features: Tensor) -> Tensor:
        """What the last stage puts out -> logits [B, K]."""
        return self.head(self.pooled(features))

    def features(self, x: Tensor, stage: str) -> Tensor:
        """What `stage` puts out, [B, C, h, w]; later stages are not computed."""
        for name, part in self.stages():
            x = part(x)
            if name == stage:
                break
        return x

    def forward(self, x: Tensor, stage: str = "input", change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Logits of `x`, with `change` applied to the output of `stage` on the way.

        Raises:
            TrainingError: this network has no such stage.
        """
        done = change is None
        for name, part in self.stages():
            x = part(x)
            if name == stage and change is not None:
                x, done = change(x), True
        if not done:
            raise TrainingError(
                f"{type(self).__name__}: {unknown('stage', stage, [name for name, _ in self.stages()])}"
            )
        return self.classify(x)
