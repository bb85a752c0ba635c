"""Where the images of a set go while they are decoded: into memory, or where whoever asks for the set wants them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.data.base import ImageSet


class NoRoom(DataError):
    """Decoded images fit neither the cache nor the memory."""


class Sink:
    """Memory; the cache has a sink of its own."""

    def empty(self, shape: tuple[int, ...], where: str) -> np.ndarray:
        """An uninitialised uint8 array [N, H, W, C].

        Raises:
            NoRoom: it does not fit; `where` is named.
        """
        check_memory(shape, where)
        return np.empty(shape, np.uint8)

    def streamed(self) -> ImageSet | None:
        """The set as a stream, if someone has looked through its images before."""
        return None


def check_memory(shape: tuple[int, ...], where: str) -> None:
    """Refuse a uint8 array [N, H, W, C] that takes more than half of the available memory.

    Raises:
        NoRoom: with the size, and what to do.
    """
    need, have = math.prod(shape), available_bytes()
    if need > have / 2:
        raise NoRoom(
            f"{where}: {shape[0]} images of {shape[2]}x{shape[1]} pixels take {need / 1e9:,.1f} GB decoded, "
            f"more than half of the {have / 1e9:,.1f} GB of free memory; use e.g. data.size=32"
        )


def available_bytes() -> int:
    """Memory that can still be used: the system's, or the container's limit where that is lower."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        have = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup 2 and 1
        try:
            have = min(have, int(Path("/sys/fs/cgroup", limit).read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return have
