"""Images in several memory-mapped files that are one array to whoever asks for some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class Files(list[np.ndarray]):
    """Mapped files uint8 [n, H, W, C], of equally many images but for the last; unlike a list, it can be referred to
    weakly."""


class Shards:
    """Images uint8 [N, H, W, C], from `start` to `stop` of those in `files`. Slices are views, lists are copies."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, files: Files, start: int = 0, stop: int | None = None) -> None:
        self.files, self.start = files, start
        self.stop = sum(map(len, files)) if stop is None else stop

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.files[0].shape[1:])

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, key: slice) -> Shards: ...
    @overload
    def __getitem__(self, key: int | np.integer | Sequence[int] | np.ndarray) -> np.ndarray: ...
    def __getitem__(self, key: int | np.integer | slice | Sequence[int] | np.ndarray) -> np.ndarray | Shards:
        if isinstance(key, slice):
            inside = range(len(self))[key]
            if inside.step != 1:
                raise IndexError(f"{key}: parts of images in files have no steps; use an array of places")
            return Shards(self.files, self.start + inside.start, self.start + max(inside.start, inside.stop))
        if isinstance(key, int | np.integer):
            file, place = self._place(key)
            return self.files[file][place]
        places = np.flatnonzero(key) if np.asarray(key).dtype == bool else np.asarray(key, np.int64)
        files, inside = np.divmod(places + self.start, len(self.files[0]))
        images = np.empty((len(places), *self.shape[1:]), np.uint8)
        for file in np.unique(files):
            chosen = files == file
            images[chosen] = self.files[file][inside[chosen]]
        return images

    def __setitem__(self, place: int, image: np.ndarray) -> None:
        file, inside = self._place(place)
        self.files[file][inside] = image

    def blocks(self) -> Iterator[np.ndarray]:
        """The images in order, as C-contiguous arrays of some of them each."""
        each = len(self.files[0])
        for number, file in enumerate(self.files):
            first, last = max(0, self.start - number * each), min(len(file), self.stop - number * each)
            if first < last:
                yield np.asarray(file[first:last])

    def _place(self, place: int | np.integer) -> tuple[int, int]:
        return divmod(range(len(self))[int(place)] + self.start, len(self.files[0]))
