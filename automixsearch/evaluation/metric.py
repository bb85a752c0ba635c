"""What a metric of one's own is: sums over images, and a figure that follows from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor


class Metric(ABC):
    """A figure of how well a network classifies, measured after every epoch on the validation split and at the end on
    the test set; the ledger has it as `val_NAME` and `test_NAME`.

    Batches, and the workers of a trial, see different images: what they give in `sums` is added up.

    Example:
        >>> class Balanced(Metric):  # mean over the classes of the share of their images that is recognised
        ...     name, goal = "balanced", "max"
        ...
        ...     def sums(self, logits, labels):
        ...         hits = logits.new_zeros(2, logits.shape[1], dtype=torch.float64)
        ...         right = (logits.argmax(1) == labels).double()
        ...         return hits.index_add_(1, labels, torch.stack([right, torch.ones_like(right)]))
        ...
        ...     def value(self, sums):
        ...         return float((sums[0] / sums[1]).nanmean())
    """

    name: ClassVar[str]
    goal: ClassVar[Literal["max", "min"]]
    """Whether it is to be as large or as small as can be."""

    @abstractmethod
    def sums(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is added up, float64 of any shape that only the number of classes decides.

        Args:
            logits: float32 [B, K]. labels: int64 [B]. Both on the device; B can be 0.
        """

    @abstractmethod
    def value(self, sums: Tensor) -> float:
        """The figure of all images; NaN, which the ledger keeps as null, where they have none."""
