"""Occlusion: how often a network is right about images of which patches are missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.errors import SpecError
from automixsearch.evaluation.suite import Evaluation, Score, Subject
from automixsearch.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Occlusion(Evaluation):
    """Accuracy on the test set, in percent, with a share of the patches of every image set to the mean colour.

    Source: Naseer et al., arXiv 2105.10497; OpenMixup at 37e1372.
    Differs: each image loses patches of its own (released: all of a batch the same).

    Examples:
        >>> Occlusion(patch=4).patch
        4
    """

    name: ClassVar[str] = "occlusion"
    source: ClassVar[str] = "arXiv 2105.10497"

    patch: int = knob(0, "side of a patch in pixels; 0: a fourteenth of the image, 4 at least", low=0, high=1024)
    steps: int = knob(10, "shares that are tried: 0, 1/steps, ..., 1 - 1/steps", low=1, high=100)

    def passes(self, images: int) -> float:
        return self.steps

    def scores(self, subject: Subject, generator: Generator) -> Iterator[Score]:
        hits = [0] * self.steps
        for x, y in subject.test.batches():
            patch = patch_of(x.shape[2], x.shape[3], self.patch)
            grid = x.shape[2] // patch, x.shape[3] // patch
            order = torch.rand(len(x), grid[0] * grid[1], generator=generator).argsort(1).argsort(1)
            rank = order.to(x.device, non_blocking=True).unflatten(1, grid)
            normalised = subject.normalise(x)
            with torch.no_grad():
                for step in range(self.steps):
                    left = occluded(normalised, rank, step / self.steps)
                    hits[step] += (subject.network(left).argmax(1) == y).sum()
        count = len(subject.test)
        for step, number in enumerate(hits):
            yield Score("top1", 100 * int(number) / count, count, f"ratio={step / self.steps:g}")


def patch_of(height: int, width: int, wanted: int) -> int:
    """The side of a patch that divides an image: the one that is `wanted`, or 0 for about a fourteenth of it.

    Raises:
        SpecError: it does not divide it.
    """
    fitting = [side for side in range(1, min(height, width) + 1) if height % side == 0 and width % side == 0]
    if not wanted:
        aim = max(4, min(height, width) / 14)
        return min(fitting, key=lambda side: abs(side - aim))
    if wanted not in fitting:
        raise SpecError(
            f"occlusion.patch = {wanted} does not divide images of {height} x {width} pixels; use one of "
            f"{', '.join(map(str, fitting))}"
        )
    return wanted


def occluded(x: Tensor, rank: Tensor, ratio: float) -> Tensor:
    """Normalised images [B, C, H, W] with round(`ratio` of the patches) set to 0, those of the lowest ranks.

    Args:
        rank: int64 [B, h, w], of each patch among those of its image, from 0 on.
    """
    kept = rank >= round(ratio * rank[0].numel())
    height, width = x.shape[2] // rank.shape[1], x.shape[3] // rank.shape[2]
    return x * kept.repeat_interleave(height, 1).repeat_interleave(width, 2)[:, None]
