"""Batches from a resident data set: shuffled, augmented and normalised on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from automixsearch.recipe import Recipe
from automixsearch.spec import derive_seed
from automixsearch.training.augment import augmented


class Batches:
    """A part of a data set, resident on one device as uint8, with all that turns it into training batches.

    images: uint8 [N, H, W, C]; labels: int64 [N]; mean, std: per channel, in 0..1 units.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, mean: np.ndarray, std: np.ndarray, device: torch.device
    ) -> None:
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.device = device
        # (u / 255 - mean) / std as one multiply-add.
        self.mean = torch.as_tensor(mean, dtype=torch.float32, device=device)
        self.std = torch.as_tensor(std, dtype=torch.float32, device=device)
        self.scale = torch.as_tensor(1.0 / (255.0 * std), dtype=torch.float32, device=device)
        self.shift = torch.as_tensor(-mean / std, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, C] -> float [B, C, H, W], in channels_last layout."""
        return torch.addcmul(self.shift, pixels.float(), self.scale).permute(0, 3, 1, 2)

    def shuffled(self, recipe: Recipe, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented (pixels uint8 [B, H, W, C], y int64 [B]) in random order; an incomplete batch is left out.

        Order and augmentation depend on (seed, epoch) only, so a run can be resumed at any epoch.
        """
        order = torch.randperm(len(self), generator=_generator(seed, "order", epoch)).to(self.device)
        order = order.repeat_interleave(recipe.repeated)[: len(self)]
        augment = _generator(seed, "augment", epoch)
        for start in range(0, len(self) - recipe.batch_size + 1, recipe.batch_size):
            chosen = order[start : start + recipe.batch_size]
            yield augmented(self.images, chosen, recipe, augment), self.labels[chosen]

    def in_order(self, batch_size: int, rank: int = 0, size: int = 1, side: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every size-th image from `rank` on, normalised, in order; the last batch may be smaller.

        Args:
            side: of the square in the middle that is kept; 0: all of the image.
        """
        top, left = ((have - side) // 2 if side else 0 for have in self.images.shape[1:3])
        rows, columns = (slice(start, start + side if side else None) for start in (top, left))
        for start in range(rank, len(self), batch_size * size):
            part = slice(start, start + batch_size * size, size)
            yield self.normalise(self.images[part, rows, columns]), self.labels[part]


def _generator(seed: int, stream: str, epoch: int) -> Generator:
    return Generator().manual_seed(derive_seed(seed, stream, epoch))
