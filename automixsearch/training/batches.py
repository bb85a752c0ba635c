"""Batches from a data set, wherever its images lie: shuffled, augmented and normalised on the device."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Generator, Tensor

from automixsearch.algorithms.base import Batch, Images, Needs
from automixsearch.config.recipe import Recipe
from automixsearch.data.stream import Streamed
from automixsearch.seeds import derive_seed
from automixsearch.training.augment import VIEWS
from automixsearch.training.world import World

AHEAD = 2
"""Batches that are read before they are needed."""
RESIDENT_SHARE = 0.3
"""Of the free memory of a GPU, for images that stay there."""


class Batches:
    """A part of a data set as uint8, with all that turns it into training batches.

    Nothing is copied on a CPU: images stay where they are, in memory or in a mapped file, which may be larger than
    memory. On a GPU they are resident if they fit, else each batch is fetched while the one before is trained on. What
    is streamed is decoded by as many processes as torch has threads here; each of several workers decodes its share of
    a training batch and gets the others'.

    Args:
        images: uint8 [N, H, W, C], labels: int64 [N], of the whole set. indices: int64 [n], which of them are the
            part; None: all. mean, std: per channel, in 0..1 units.
    """

    def __init__(
        self,
        images: np.ndarray | Streamed,
        labels: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        device: torch.device,
        indices: np.ndarray | None = None,
        world: World | None = None,
    ) -> None:
        indices = np.arange(len(labels)) if indices is None else indices
        self.shape = images.shape[1:]
        self.indices = torch.from_numpy(indices)
        self.world = world or World()
        mapped = isinstance(images, np.memmap | Streamed)
        self.images = images if mapped else torch.from_numpy(images)
        self.fetched = device.type != "cpu" or mapped
        if device.type == "cuda" and not isinstance(images, Streamed):
            room = RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
            if len(indices) * math.prod(self.shape) <= room:
                self.images = torch.from_numpy(images[indices]).to(device)
                self.indices, self.fetched = torch.arange(len(indices), device=device), False
        self.labels = torch.from_numpy(labels[indices]).to(device)
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

    def shorten(self, count: int) -> None:
        """Keep the first `count` images; those that are resident stay so."""
        self.indices, self.labels = self.indices[:count], self.labels[:count]

    def viewed(
        self, chosen: Sequence[Tensor], views: Sequence[str], recipe: Recipe, generators: Sequence[Generator]
    ) -> Iterator[Images]:
        """The `views` of batches of images, each int64 [B] of places here; each view draws from a generator."""
        for batch, (images, places) in zip(chosen, self._fetch(chosen, common=True), strict=True):
            seen = [VIEWS[view](images, places, recipe, g) for view, g in zip(views, generators, strict=True)]
            yield Images(tuple(seen), batch.to(self.device, non_blocking=True))

    def _fetch(self, batches: Sequence[Tensor], common: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch, int64 [B] places in this part: images uint8 [M, H, W, C] there, and which of those.

        common: all workers want the same batches, so each needs to decode a share of them only.
        """
        if not self.fetched:
            assert isinstance(self.images, Tensor)
            for batch in batches:
                yield self.images, self.indices[batch.to(self.indices.device, non_blocking=True)]
            return
        shared = common and isinstance(self.images, Streamed)
        own = [self.world.share(batch) if shared else batch for batch in batches]
        with ThreadPoolExecutor(1) as ahead:
            coming = deque(ahead.submit(self._begin(batch)) for batch in own[:AHEAD])
            for number in range(len(batches)):
                pixels = coming.popleft().result()
                if number + AHEAD < len(batches):
                    coming.append(ahead.submit(self._begin(own[number + AHEAD])))
                pixels = pixels.to(self.device, non_blocking=True)
                pixels = self.world.gather(pixels) if shared else pixels
                yield pixels, torch.arange(len(pixels), device=self.device)

    def _begin(self, batch: Tensor) -> Callable[[], Tensor]:
        """Start to fetch a batch; what is returned waits for its pixels uint8 [B, H, W, C]."""
        images, places = self.images, self.indices[batch]
        if isinstance(images, Tensor):
            return lambda: self._pinned(images[places])
        if isinstance(images, Streamed):
            begun = images.begin(places.numpy(), torch.get_num_threads())
            return lambda: self._pinned(torch.from_numpy(begun.result()))
        return lambda: self._pinned(torch.from_numpy(images[places.numpy()]))

    def _pinned(self, pixels: Tensor) -> Tensor:
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def in_order(self, batch_size: int, rank: int = 0, size: int = 1, side: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every size-th image from `rank` on, normalised, in order; the last batch may be smaller.

        Args:
            side: of the square in the middle that is kept; 0: all of the image.
        """
        top, left = ((have - side) // 2 if side else 0 for have in self.shape[:2])
        height, width = (side, side) if side else self.shape[:2]
        rows = torch.arange(top, top + height, device=self.device)[:, None]
        columns = torch.arange(left, left + width, device=self.device)
        starts = range(rank, len(self), batch_size * size)
        parts = [torch.arange(start, min(start + batch_size * size, len(self)), size) for start in starts]
        for part, (images, places) in zip(parts, self._fetch(parts), strict=True):
            yield (
                self.normalise(images[places[:, None, None], rows, columns]),
                self.labels[part.to(self.device, non_blocking=True)],
            )


def _generator(seed: int, stream: str, epoch: int) -> Generator:
    return Generator().manual_seed(derive_seed(seed, stream, epoch))


def training_batches(
    labelled: Batches,
    unlabelled: Batches,
    needs: Needs,
    recipe: Recipe,
    seed: int,
    epoch: int,
    steps: int | None = None,
) -> Iterator[Batch]:
    """Yield what each step of an epoch trains on: labelled images in random order and, beside them, unlabelled ones; of
    both as many passes are made as it takes.

    Order and augmentation depend on (seed, epoch) only, so a run can be resumed at any epoch.

    Args:
        steps: None: those of the recipe.
    """
    steps = recipe.steps(len(labelled)) if steps is None else steps
    chosen = _order(len(labelled), steps * recipe.batch_size, recipe, _generator(seed, "order", epoch))
    chosen = chosen.split(recipe.batch_size)
    seen = labelled.viewed(chosen, needs.views, recipe, _generators(seed, "augment", epoch, needs.views))
    if not needs.unlabelled:
        for images in seen:
            yield Batch(images.views, images.index, labelled.labels[images.index])
        return
    size = needs.ratio * recipe.batch_size
    once = dataclasses.replace(recipe, repeated=1)
    others = _order(len(unlabelled), steps * size, once, _generator(seed, "unlabelled order", epoch))
    beside = unlabelled.viewed(
        others.split(size),
        needs.unlabelled,
        recipe,
        _generators(seed, "unlabelled augment", epoch, needs.unlabelled),
    )
    for images, more in zip(seen, beside, strict=True):
        truth = unlabelled.labels[more.index]
        yield Batch(images.views, images.index, labelled.labels[images.index], more, truth)


def _order(images: int, count: int, recipe: Recipe, generator: Generator) -> Tensor:
    """`count` places of so many images, in the order in which they are shown: int64 [count]."""
    if recipe.sampling == "replacement":
        return torch.randint(images, (count,), generator=generator)
    passes = []
    while sum(map(len, passes)) < count:
        order = torch.randperm(images, generator=generator)
        passes.append(order.repeat_interleave(recipe.repeated)[:images])
    return torch.cat(passes)[:count]


def _generators(seed: int, stream: str, epoch: int, views: Sequence[str]) -> list[Generator]:
    """A generator for each view."""
    return [_generator(seed, f"{stream} {number}" if number else stream, epoch) for number in range(len(views))]
