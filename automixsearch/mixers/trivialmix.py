"""TrivialMix: a random method with a random alpha for every batch; the baseline that needs no search."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob, knobs_of
from automixsearch.lazy import torch
from automixsearch.mixers.base import Draw, Mixed, Mixer, Shape

if TYPE_CHECKING:
    from torch import Generator, Tensor


POOLS = {
    "cheap": ("vanilla", "mixup", "cutmix", "resizemix", "saliencymix", "fmix"),
    "all": ("vanilla", "mixup", "cutmix", "manifoldmix", "resizemix", "saliencymix", "fmix", "puzzlemix", "comixup"),
}


@dataclass(frozen=True)
class TrivialMixDraw(Draw):
    """mixer: the method with the alpha that was drawn. draw: what it drew."""

    mixer: Mixer
    draw: Draw

    def between(self, count: int) -> TrivialMixDraw:
        return TrivialMixDraw(self.mixer, self.draw.between(count))


@dataclass(frozen=True)
class TrivialMix(Mixer):
    """Draw a method uniformly, then its alpha uniformly over the searched range, anew for every batch.

    What a search over methods and alpha has to beat. The pool holds vanilla and methods that mix labels at no pass of
    the network (`cheap`), or some that take saliency or mix hidden features as well (`all`). It stays as it is whatever
    methods are added: a baseline does not move.

    Source: ours, after TrivialAugment (arXiv 2103.10158), which does the same for augmentations.

    Examples:
        >>> draw = TrivialMix().draw((8, 3, 32, 32), torch.Generator().manual_seed(0))
        >>> type(draw.mixer) in TrivialMix().methods
        True
    """

    name: ClassVar[str] = "trivialmix"
    whole: ClassVar[bool] = True
    label_slack: ClassVar[int] = 1  # that of FMix
    needs: ClassVar[frozenset[str]] = frozenset({"pixels", "mean", "std", "saliency", "gradient"})
    source: ClassVar[str] = "after arXiv 2103.10158"
    published: ClassVar = {family: {"pool": "cheap"} for family in ("cifar", "tiny", "imagenet", "fine_grained")}

    pool: str = knob("cheap", "methods drawn: those that cost no pass of the network, or all", choices=("cheap", "all"))

    @property
    def methods(self) -> tuple[type[Mixer], ...]:
        """The pool."""
        from automixsearch.mixers import MIXERS

        return tuple(MIXERS[name] for name in POOLS[self.pool])

    def draw(self, shape: Shape, generator: Generator) -> TrivialMixDraw:
        """Draw the method, its alpha, then what the method draws."""
        chosen, level = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        kind = self.methods[int(chosen * len(self.methods))]
        mixer = kind()
        alpha = knobs_of(kind).get("alpha")
        if alpha is not None and alpha.search is not None:
            low, high = (float(end) for end in alpha.search)
            mixer = dataclasses.replace(mixer, alpha=low + (high - low) * level)  # pyright: ignore[reportCallIssue]
        return TrivialMixDraw(mixer, mixer.draw(shape, generator))

    def needs_of(self, draw: TrivialMixDraw) -> frozenset[str]:
        return draw.mixer.needs_of(draw.draw)

    def clean_weight_of(self, draw: TrivialMixDraw) -> float:
        return draw.mixer.clean_weight_of(draw.draw)

    def apply(self, x: Tensor, draw: TrivialMixDraw, **supplied: Tensor) -> Mixed:
        """Mix `x` as the drawn method says."""
        return draw.mixer.apply(x, draw.draw, **{need: supplied[need] for need in self.needs_of(draw)})
