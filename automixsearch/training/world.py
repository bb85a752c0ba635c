"""Which worker this is, and what workers do together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from automixsearch.mixers import Mixed


@dataclass(frozen=True)
class World:
    """Worker `rank` of `size`; alone, every reduction is the identity."""

    rank: int = 0
    size: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """Add `values` over all workers, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, part: Tensor) -> Tensor:
        """Put the equal shares of all workers together again: [b, ...] -> [B, ...]."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def gather_with_gradient(self, part: Tensor) -> Tensor:
        """As `gather`; what the other workers do with this part reaches it in the backward pass."""
        if self.size == 1:
            return part
        own = part.new_zeros((self.size, *part.shape))
        own = own.index_add(0, torch.tensor([self.rank], device=part.device), part[None])
        return all_reduce(own).flatten(0, 1)

    def mean_with_gradient(self, value: Tensor) -> Tensor:
        """The mean of a scalar over all workers, through which each worker's part is trained."""
        return value if self.size == 1 else all_reduce(value) / self.size

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Put in place of each gradient its mean over all workers."""
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(self.size)
        dist.all_reduce(flat)
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def agree(self, values: Iterable[Tensor]) -> None:
        """Put in place of `values` those of the first worker."""
        if self.size > 1:
            for value in values:
                dist.broadcast(value, src=0)

    def hidden_mixing(self, mixed: Mixed) -> HiddenMixing:
        """What mixes features where `mixed` asks a stage of the network for it."""
        return HiddenMixing(mixed, self)

    def share(self, batch: Tensor) -> Tensor:
        """This worker's equal share of a global batch [B, ...]."""
        if self.size == 1:
            return batch
        each = batch.shape[0] // self.size
        return batch[self.rank * each : (self.rank + 1) * each]


class HiddenMixing:
    """What a network does to the output of the stage that `mixed` names: blend the features of mixed samples."""

    def __init__(self, mixed: Mixed, world: World) -> None:
        self.mixed, self.world = mixed, world

    def __call__(self, features: Tensor) -> Tensor:
        """[b, ...] of this worker -> the same shape, each row a blend of rows of the global batch."""
        everything = self.world.gather_with_gradient(features)
        sources, shares = self.world.share(self.mixed.sources), self.world.share(self.mixed.shares)
        shares = shares.to(features.dtype)[(...,) + (None,) * (features.ndim - 1)]
        blend = shares[:, 0] * everything[sources[:, 0]]
        for source in range(1, sources.shape[1]):
            blend = blend + shares[:, source] * everything[sources[:, source]]
        return blend
