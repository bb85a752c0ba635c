"""RegMixup: MixUp beside the clean images, as a regulariser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.mixers.base import alpha_knob
from automixsearch.mixers.mixup import MixUp

if TYPE_CHECKING:
    from automixsearch.mixers.mixup import MixUpDraw


@dataclass(frozen=True)
class RegMixup(MixUp):
    """Train on every batch twice, as it is and mixed by MixUp with shares near 1/2: L = clean_lam CE + loss of the mix.

    Each step costs two passes.

    Source: Pinto et al., arXiv 2206.14502; settings from the authors' code RegMixup at 0fa323a.
    Differs: the losses are added, as in the paper (released: their mean, so that the same step takes twice the learning
    rate here); each pass has a batch of its own, so that BatchNorm sees clean and mixed images apart (released: both
    in one batch).

    Examples:
        >>> mixer = RegMixup()
        >>> mixer.clean_weight_of(mixer.draw((2, 1, 8, 8), torch.Generator().manual_seed(1)))
        1.0
    """

    name: ClassVar[str] = "regmixup"
    crosses: ClassVar[bool] = False
    source: ClassVar[str] = "arXiv 2206.14502"
    published: ClassVar = {"cifar": {"alpha": 10.0}}  # CIFAR-100; 20 on CIFAR-10

    alpha: float = alpha_knob(20.0, search=(1.0, 40.0))
    clean_lam: float = knob(1.0, "weight of the loss of the clean images", low=0, high=100)

    def clean_weight_of(self, draw: MixUpDraw) -> float:
        """`clean_lam`."""
        return self.clean_lam
