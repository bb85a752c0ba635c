"""Which worker this is, and what workers do together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


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

    def share(self, batch: Tensor) -> Tensor:
        """This worker's equal share of a global batch [B, ...]."""
        if self.size == 1:
            return batch
        each = batch.shape[0] // self.size
        return batch[self.rank * each : (self.rank + 1) * each]
