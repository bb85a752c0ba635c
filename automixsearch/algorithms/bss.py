"""Batch Spectral Shrinkage: fine-tuning that presses down the smallest singular values of a batch's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.fine_tuning import FineTuning, TuningKnobs
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BSSKnobs(TuningKnobs):
    """The settings of BSS."""

    shrinkage: float = knob(
        0.001, "weight of the smallest squared singular values", low=0, high=10, search=(1e-4, 1e-2), log=True
    )
    smallest: int = knob(1, "how many of them", low=1, high=1000)


class BSS(FineTuning):
    """L = CE + shrinkage times the sum of the `smallest` squared singular values of the features [B, D] of the batch.

    Source: Chen et al., NeurIPS 2019, Catastrophic Forgetting Meets Negative Transfer; Batch-Spectral-Shrinkage at
        d8c255d.
    """

    name: ClassVar[str] = "bss"
    knobs: ClassVar[type[Knobbed]] = BSSKnobs

    def extra_term(self, features: Tensor, y: Tensor) -> Tensor:
        whole = self.world.gather_with_gradient(features)
        return self.settings.shrinkage * smallest_squares(whole, self.settings.smallest)


def smallest_squares(features: Tensor, count: int) -> Tensor:
    """The sum of the smallest `count` squared singular values of features [B, D], by the smaller of their two Gram
    matrices, in double precision.

    Examples:
        >>> smallest_squares(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).item()
        5.0
    """
    wide = features.double()
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    return torch.linalg.eigvalsh(gram)[:count].sum().float()
