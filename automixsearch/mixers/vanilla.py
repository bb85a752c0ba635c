"""No mixing: the baseline that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.lazy import torch
from automixsearch.mixers.base import Mixed, Mixer, PairDraw, Shape, pairs

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class VanillaDraw(PairDraw):
    """Every sample is its own partner."""

    def with_lam(self, lam: float) -> VanillaDraw:
        """The same draw: a sample mixed with itself does not depend on `lam`."""
        return self


@dataclass(frozen=True)
class Vanilla(Mixer):
    """Leave the batch as it is: x, labels and loss of ordinary training.

    Examples:
        >>> x = torch.randn(4, 3, 8, 8)
        >>> torch.equal(Vanilla()(x, torch.Generator()).x, x)
        True
    """

    name: ClassVar[str] = "vanilla"
    mixes: ClassVar[bool] = False
    source: ClassVar[str] = "no mixing"

    def draw(self, shape: Shape, generator: Generator) -> VanillaDraw:
        """Pair each of the B samples with itself; consumes no randomness."""
        return VanillaDraw(torch.arange(shape[0]))

    def apply(self, x: Tensor, draw: VanillaDraw) -> Mixed:
        """Return `x` itself with lam = 1."""
        return pairs(x, draw.partner, 1.0)
