"""Where decoded images lie: a small set in memory, a large one in the cache, memory-mapped.

The cache is a directory, `AUTOMIXSEARCH_CACHE` or ~/.cache/automixsearch, with one directory for each set:

    <source>-<stamp>/images.npy   uint8 [N, H, W, C], the training part and then the test part
    <source>-<stamp>/labels.npy   int64 [N]
    <source>-<stamp>/set.json     names, notes, sizes, fingerprint

The stamp is that of the files and of the settings, so that an entry is never out of date; it may be deleted at any
time. All processes of a node share the pages of `images.npy`, and a set larger than the memory can be opened.
One process builds an entry under a lock, the others wait for it; a directory is named when it is complete.
`AUTOMIXSEARCH_CACHE=off` decodes into memory, each process for itself.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from automixsearch.data.base import ImageSet, Part
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "AUTOMIXSEARCH_CACHE"
SMALL = 64 * 2**20
"""Bytes of decoded images below which a set is faster decoded again than looked after."""

_REMEDY = f"set {VARIABLE} to a directory on another disk, or to off to decode into memory"


def folder() -> Path | None:
    """The directory of the cache, None where it is off."""
    named = os.environ.get(VARIABLE) or "~/.cache/automixsearch"
    return None if named == "off" else Path(os.path.abspath(os.path.expanduser(named)))


def through(name: str, build: Callable[[], ImageSet]) -> ImageSet:
    """The set of that `name` from the cache; else what `build` gives, kept in the cache if it is large.

    Raises:
        DataError: what `build` raises; the cache cannot be written, has no room, or holds a damaged entry.
    """
    place = folder()
    if place is None:
        return build()
    entry = place / name
    if entry.is_dir():
        return _opened(entry)
    building = _Building(entry)
    token = _building.set(building)
    try:
        return building.keep(build())
    except _Built:
        return _opened(entry)
    finally:
        _building.reset(token)
        building.close()


def empty(shape: tuple[int, ...], where: str) -> np.ndarray:
    """An uninitialised uint8 array [N, H, W, C]: in the entry that is being built if it is large, else in memory.

    Raises:
        DataError: it does not fit; `where` is named.
    """
    building = _building.get()
    if building is not None and math.prod(shape) >= SMALL:
        return building.array(shape, where)
    check_memory(shape, where)
    return np.empty(shape, np.uint8)


def copy(source: np.ndarray, target: np.ndarray) -> None:
    """Copy images [N, ...] in blocks, so that little of a mapped file has to be in memory at once."""
    for start in range(0, len(source), 512):
        target[start : start + 512] = source[start : start + 512]


# Building ---------------------------------------------------------------------------------------------------


class _Built(Exception):
    """Another process has built the entry while this one waited."""


class _Building:
    """An entry that may come to be: nothing is written, and no lock taken, before a large array is asked for."""

    def __init__(self, entry: Path) -> None:
        self._entry, self._part = entry, entry.with_name(f"{entry.name}.part")
        self._lock: IO[str] | None = None
        self._images: np.ndarray | None = None

    def array(self, shape: tuple[int, ...], where: str) -> np.ndarray:
        """A new images.npy of that shape, mapped; one that was made before stays usable until it is let go."""
        self._begin()
        need, have = math.prod(shape), shutil.disk_usage(self._part).free
        file = self._part / "images.npy"
        try:
            if need > have:
                raise OSError
            file.unlink(missing_ok=True)
            mapped = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
            with file.open("r+b") as opened:  # without the blocks, a disk that fills up would end the process
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError:
            raise DataError(
                f"{where}: {shape[0]} images of {shape[2]}x{shape[1]} pixels take {need / 1e9:,.1f} GB decoded, and "
                f"the cache {self._entry.parent} has room for {have / 1e9:,.1f} GB; {_REMEDY}, or use a smaller "
                "data.size"
            ) from None
        self._images = mapped
        return mapped

    def keep(self, made: ImageSet) -> ImageSet:
        """The set from its new entry, or as it was `made` if it is small."""
        parts = (made.train, made.test)
        n, m = map(len, parts)
        if sum(part.images.nbytes for part in parts) < SMALL:
            return made
        self._begin()
        if not self._holds(made):
            whole = self.array((n + m, *made.train.images.shape[1:]), made.name)
            copy(made.train.images, whole[:n])
            copy(made.test.images, whole[n:])
        assert isinstance(self._images, np.memmap)
        self._images.flush()
        content = {"name": made.name, "train": n, "test": m, "classes": made.classes, "notes": made.notes}
        content |= {"skipped": made.skipped, "fingerprint": made.fingerprint}
        with _synced(self._part / "labels.npy") as file:
            np.save(file, np.concatenate([part.labels for part in parts]))
        with _synced(self._part / "set.json") as file:
            file.write(json.dumps(content).encode())
        self._part.rename(self._entry)
        return _opened(self._entry)

    def close(self) -> None:
        """Remove what was not finished and let the next process build."""
        if self._lock is not None:
            shutil.rmtree(self._part, ignore_errors=True)
            self._lock.close()

    def _begin(self) -> None:
        """Become the only builder of the entry."""
        if self._lock is not None:
            return
        try:
            self._entry.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._entry.with_name(f"{self._entry.name}.lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)  # given back by the system if the process dies
            if self._entry.is_dir():
                raise _Built
            shutil.rmtree(self._part, ignore_errors=True)  # of a builder that died
            self._part.mkdir()
        except OSError as error:
            raise DataError(f"{self._entry.parent}: the cache cannot be written: {error.strerror}; {_REMEDY}") from None

    def _holds(self, made: ImageSet) -> bool:
        """Whether both parts already lie in images.npy, one after the other."""
        if self._images is None:
            return False
        start, train, test = (array.ctypes.data for array in (self._images, made.train.images, made.test.images))
        return start == train and test == train + made.train.images.nbytes


_building: ContextVar[_Building | None] = ContextVar("building", default=None)


@contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _opened(entry: Path) -> ImageSet:
    """The set of a complete entry."""
    try:
        content = json.loads((entry / "set.json").read_text())
        labels, n, m = np.load(entry / "labels.npy"), content["train"], content["test"]
        whole = np.load(entry / "images.npy", mmap_mode="r")
        parts = (Part(np.asarray(whole[:n]), labels[:n]), Part(np.asarray(whole[n : n + m]), labels[n:]))
        made = ImageSet(content["name"], *parts, tuple(content["classes"]), tuple(content["notes"]), content["skipped"])
        vars(made)["fingerprint"] = content["fingerprint"]  # where cached_property keeps it
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(f"{entry}: damaged entry of the cache: {error}; delete it") from None
    return made


# Memory -----------------------------------------------------------------------------------------------------


def check_memory(shape: tuple[int, ...], where: str) -> None:
    """Refuse a uint8 array [N, H, W, C] that takes more than half of the available memory.

    Raises:
        DataError: with the size, and what to do.
    """
    need, have = math.prod(shape), available_bytes()
    if need > have / 2:
        raise DataError(
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
