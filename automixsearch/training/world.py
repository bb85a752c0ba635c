"""Which worker this is, and what workers do together."""

from __future__ import annotations

from dataclasses import dataclass

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

    def share(self, batch: Tensor) -> Tensor:
        """This worker's equal share of a global batch [B, ...]."""
        if self.size == 1:
            return batch
        each = batch.shape[0] // self.size
        return batch[self.rank * each : (self.rank + 1) * each]
