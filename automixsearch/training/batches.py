"""Batches from a resident data set: shuffled, cropped, flipped and normalised on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from automixsearch.recipe import Recipe
from automixsearch.spec import derive_seed


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
        augment = _generator(seed, "augment", epoch)
        for start in range(0, len(self) - recipe.batch_size + 1, recipe.batch_size):
            chosen = order[start : start + recipe.batch_size]
            yield self.crop_and_flip(chosen, recipe, augment), self.labels[chosen]

    def crop_and_flip(self, chosen: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
        """Gather randomly shifted and flipped images: uint8 [B, H, W, C].

        One gather does it all: padding is index arithmetic, so no padded copy is made.
        """
        pad, count = recipe.crop_pad, len(chosen)
        if pad == 0 and not recipe.flip:
            return self.images[chosen]
        height, width = self.images.shape[1:3]
        offsets = torch.randint(-pad, pad + 1, (2, count, 1), generator=generator)
        rows, row_inside = _shifted(height, offsets[0], recipe.pad_mode)
        columns, column_inside = _shifted(width, offsets[1], recipe.pad_mode)
        if recipe.flip:
            flipped = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(flipped, columns.flip(1), columns)
            column_inside = torch.where(flipped, column_inside.flip(1), column_inside)
        rows, columns = rows.to(self.device), columns.to(self.device)
        pixels = self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        if pad and recipe.pad_mode == "zero":
            inside = row_inside.to(self.device)[:, :, None] & column_inside.to(self.device)[:, None, :]
            pixels = pixels * inside[..., None]
        return pixels

    def in_order(self, batch_size: int, rank: int = 0, size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every size-th image from `rank` on, normalised, in order; the last batch may be smaller."""
        for start in range(rank, len(self), batch_size * size):
            part = slice(start, start + batch_size * size, size)
            yield self.normalise(self.images[part]), self.labels[part]


def _shifted(length: int, offset: Tensor, pad_mode: str) -> tuple[Tensor, Tensor]:
    """Source positions [B, length] of a line shifted by `offset` [B, 1], and which of them lie inside."""
    position = torch.arange(length) + offset
    inside = (position >= 0) & (position < length)
    if pad_mode == "reflect":
        position = (length - 1) - ((length - 1) - position.abs()).abs()
    return position.clamp(0, length - 1), inside


def _generator(seed: int, stream: str, epoch: int) -> Generator:
    return Generator().manual_seed(derive_seed(seed, stream, epoch))
