"""What all semi-supervised ways of training share: a threshold for guesses, and an average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.across import Across, AcrossKnobs
from automixsearch.algorithms.base import Clock, Needs, Setup
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.lazy import torch
from automixsearch.results.columns import Column, percent

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from automixsearch.models.base import Backbone


@dataclass(frozen=True)
class SemiKnobs(AcrossKnobs):
    """The settings that all of these algorithms have."""

    threshold: float = knob(0.95, "confidence from which a guess counts", low=0, high=1, search=(0.5, 0.99))
    decay: float = knob(
        0.999, "share of the averaged weights that each step keeps", low=0, high=0.999999, search=(0.9, 0.9999)
    )
    unlabelled_weight: float = knob(
        1.0, "weight of the loss of unlabelled images", low=0, high=1000, search=(0.1, 10.0), log=True
    )


class SemiSupervised(Across):
    """Guesses that count from some confidence on; see `Across` for how images are mixed.

    What is scored is the network of averaged weights, whose buffers are the trained network's.

    Source: TorchSSL at f26e1d4.
    """

    knobs: ClassVar[type[Knobbed]] = SemiKnobs
    columns: ClassVar[tuple[Column, ...]] = (
        percent("val_top1.average", "top-1 accuracy of the averaged weights"),
        percent("val_top1.student", "top-1 accuracy of the weights that are trained"),
        *Across.columns,
    )
    heads = ("average", "student")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.average_logits = self.compiled(self.average.forward)

    @property
    def needs(self) -> Needs:
        return Needs(unlabelled=("cropped", "strong"), ratio=self.settings.ratio)

    def after_step(self, clock: Clock) -> None:
        follow(self.average, self.network, self.settings.decay)

    def predict(self, x: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
        networks = {"average": self.average, "student": self.network}
        return {head: networks[head](x) for head in heads}

    def reported(self) -> Backbone:
        return self.average


def follow(average: Module, network: Module, decay: float) -> None:
    """Move averaged weights a step towards those of a network: a <- decay a + (1 - decay) w; buffers are copied."""
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(network.parameters()), 0)
    with torch.no_grad():
        for follower, leader in zip(average.buffers(), network.buffers(), strict=True):
            follower.copy_(leader)


def ramp(progress: float, share_of_run: float) -> float:
    """From 0 to 1 over the first part of a run, and 1 from there on.

    Examples:
        >>> [ramp(progress, 0.4) for progress in (0, 0.2, 0.4, 1)]
        [0.0, 0.5, 1.0, 1.0]
    """
    return min(1.0, progress / share_of_run)


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """Probabilities [B, K] to the power 1 / temperature, of sum 1 again.

    Examples:
        >>> sharpened(torch.tensor([[0.75, 0.25]]), 0.5).tolist()
        [[0.8999999761581421, 0.10000000149011612]]
    """
    raised = p ** (1 / temperature)
    return raised / raised.sum(dim=1, keepdim=True)
