"""Where a network sees a class: its class activation map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from automixsearch.errors import AutoMixError
from automixsearch.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def class_map(network: Any, x: Tensor, y: Tensor) -> Tensor:
    """The evidence for classes y, int64 [B], at each place of the last map of a backbone -> float32 [B, h, w].

    It is the sum over channels of the map times the derivative of the logit by it: where the head reads the mean of the
    map, the class activation map (without its ReLU), divided by the number of places. Zeros where the head reads no map
    but a class token alone.

    Source: Zhou et al., arXiv 1512.04150; Draelos and Carin, arXiv 2011.08891, for other heads.
    """
    kept = []

    def keep(features: Tensor) -> Tensor:
        kept.append(features.detach().requires_grad_())
        return kept[0].clone()  # what follows may work in place

    with torch.enable_grad():
        logits = network(x, last_map(network), keep)
        (slope,) = torch.autograd.grad(logits.float().gather(1, y[:, None]).sum(), kept, allow_unused=True)
    features = kept[0].detach().float()
    return torch.zeros_like(features[:, 0]) if slope is None else (slope.float() * features).sum(1)


def last_map(network: Any) -> str:
    """The last stage whose map the rest of the network reads."""
    for stage in reversed(network.widths):
        try:
            network.check_stage(stage, mixed=True)
        except AutoMixError:
            continue
        return stage
    raise AutoMixError(f"{type(network).__name__} has no stage whose map its head reads; use another backbone")
