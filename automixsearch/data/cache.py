"""Where decoded images lie: a small set in memory, a large one in the cache, memory-mapped.

The cache is a directory, `AUTOMIXSEARCH_CACHE` or ~/.cache/automixsearch, with one directory for each set:

    <source>-<stamp>/images.npy    uint8 [N, H, W, C], the training part and then the test part
    <source>-<stamp>/labels.npy    int64 [N]
    <source>-<stamp>/set.json      names, notes, sizes, fingerprint
    <source>-<stamp>.stream/       the same without images, of a set that is streamed: see `stream`

The stamp is that of the files and of the settings, so that an entry is never out of date. An entry may be deleted at
any time: whoever has it open keeps what is mapped. All processes of a node share the pages of the images, and a set
larger than the memory can be opened. `AUTOMIXSEARCH_CACHE=off` decodes into memory, each process for itself.

One process builds an entry under a lock, the others wait for it; a directory is named when it is complete. If that
process dies, the next one begins anew. A set may take at most half of the disk that is free; a larger one is streamed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from automixsearch.data import stream
from automixsearch.data.base import ImageSet, Part
from automixsearch.data.sink import NoRoom, Sink
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from automixsearch.config.data import Pipeline

VARIABLE = "AUTOMIXSEARCH_CACHE"
SMALL = 64 * 2**20
"""Bytes of decoded images below which a set is faster decoded again than looked after."""
SHARE = 0.5
"""Of the disk that is free: what one set may take."""
STREAM, PART = ".stream", ".part"
"""Endings of the names of entries without images, and of what is being built."""
_NAME = re.compile(r"[a-z0-9_]+-[0-9a-f]{24}(\.stream|\.part)?")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_REMEDY = f"set {VARIABLE} to a directory on another disk, or to off to decode into memory"


def folder() -> Path | None:
    """The directory of the cache, None where it is off."""
    named = os.environ.get(VARIABLE) or "~/.cache/automixsearch"
    return None if named == "off" else Path(os.path.abspath(os.path.expanduser(named)))


def through(name: str, build: Callable[[Sink], ImageSet], pipeline: Pipeline = "auto") -> ImageSet:
    """The set of that `name` from the cache; else what `build` decodes into a sink, kept in the cache if it is large.

    Raises:
        DataError: what `build` raises; the cache cannot be written, has no room, or holds a damaged entry.
    """
    place = folder()
    if place is None:
        return build(Sink())
    while True:
        building = _Building(place / name, pipeline)
        try:
            return building.found() or building.keep(build(building))
        except _Built:
            continue
        finally:
            building.close()


# What there is, and what goes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A set in the cache, or the part of one that is being built.

    size: bytes. used_at: when it was opened last, in seconds since 1970.
    """

    path: Path
    size: int
    used_at: float

    @property
    def name(self) -> str:
        return self.path.name


def entries(place: Path) -> list[Entry]:
    """What lies in a cache; what was used longest ago comes first."""
    found = []
    for path in place.iterdir() if place.is_dir() else ():
        with suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile
            if _NAME.fullmatch(path.name):
                found.append(Entry(path, sum(file.stat().st_size for file in path.iterdir()), path.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.used_at)


def free(place: Path) -> int:
    """Bytes that are free on the disk of a directory, which need not exist yet."""
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free


def clear(place: Path) -> tuple[list[Entry], list[Entry]]:
    """Remove every entry but those that are being built; what went, and what stays."""
    gone, kept = [], []
    for entry in entries(place):
        (gone if _remove(entry.path) else kept).append(entry)
    return gone, kept


def _remove(path: Path) -> bool:
    """Remove an entry unless someone builds it; whether it went."""
    with suppress(OSError):  # another user's, as a rule
        with path.with_name(f"{path.name.partition('.')[0]}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (path / "set.json").unlink(missing_ok=True)  # half an entry is none
            shutil.rmtree(path)
        return True
    return False


# Building -----------------------------------------------------------------------------------------------------


class _Built(Exception):
    """Another process has built the entry while this one waited."""


class _Building(Sink):
    """An entry that may come to be: nothing is written, and no lock taken, before a large array is asked for."""

    def __init__(self, entry: Path, pipeline: Pipeline) -> None:
        self._place, self._entry, self._pipeline = entry.parent, entry, pipeline
        self._stream, self._part = (entry.with_name(f"{entry.name}{ending}") for ending in (STREAM, PART))
        self._lock: IO[bytes] | None = None
        self._images: np.memmap | None = None

    def found(self) -> ImageSet | None:
        """The set if it is there in the way that is wanted."""
        made = _opened(self._entry) if self._pipeline != "stream" else None
        if made is not None or self._pipeline == "cache":
            return made
        made = _opened(self._stream)
        if made is None or self._pipeline == "stream":
            return made
        return None if made.nbytes <= SHARE * free(self._place) else made  # what had no room may have some by now

    def empty(self, shape: tuple[int, ...], where: str) -> np.ndarray:
        """Memory for a small array; for a large one a mapped file. One that was made before stays usable until it is
        let go."""
        need = math.prod(shape)
        if need < SMALL:
            return super().empty(shape, where)
        self.begin()
        file = self._part / "images.npy"
        try:
            file.unlink(missing_ok=True)
            have = SHARE * free(self._place)
            if need > have:
                raise OSError(errno.ENOSPC, "")
            self._images = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
            with file.open("r+b") as opened:  # without the blocks, a disk that fills up would end the process
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            with suppress(OSError):  # what stays is removed by whoever builds here next
                file.unlink(missing_ok=True)
            if error.errno not in FULL:
                raise _unwritable(self._place, error) from None
            raise NoRoom(
                f"{where}: {shape[0]} images of {shape[2]}x{shape[1]} pixels take {need / 1e9:,.1f} GB decoded, more "
                f"than half of what is free on the disk of the cache {self._place} ({free(self._place) / 1e9:,.1f} "
                f"GB); {_REMEDY}, clear it with automixsearch cache --clear, or use a smaller data.size"
            ) from None
        return self._images

    def streamed(self) -> ImageSet | None:
        """The set as a stream, if someone has looked through its images before; else this process is to do it."""
        with suppress(NoRoom):  # then nobody will know what this process finds out
            self.begin()
        return _opened(self._stream)

    def keep(self, made: ImageSet) -> ImageSet:
        """The set from its new entry, or as it was `made` if it is small; so too if there is no room for it."""
        images = made.train.images
        if made.nbytes < SMALL if isinstance(images, np.ndarray) else images.kept:
            return made
        try:
            self.begin()
            entry = self._write(made)
        except NoRoom:
            if self._pipeline == "cache":
                raise
            return made  # what is mapped stays so, and its blocks are free when this process ends
        return _opened(entry) or made  # which others may have removed by now

    def _write(self, made: ImageSet) -> Path:
        """Write all files of a set and name its directory, which is returned."""
        n, m = map(len, (made.train, made.test))
        content: dict[str, Any] = {
            "name": made.name,
            "train": n,
            "test": m,
            "classes": made.classes,
            "notes": made.notes,
            "skipped": made.skipped,
            "fingerprint": made.fingerprint,
        }
        train, test = made.train.images, made.test.images
        entry = self._entry
        if not isinstance(train, np.ndarray) or not isinstance(test, np.ndarray):
            entry = self._stream
            (self._part / "images.npy").unlink(missing_ok=True)
            with _writing(self._place):
                content |= stream.save(self._part, made, save)
        elif not self._holds(train, test):
            whole = self.empty((n + m, *train.shape[1:]), made.name)
            whole[:n], whole[n:] = train, test
        if self._images is not None:
            self._images.flush()
        with _writing(self._place):
            save(self._part / "labels.npy", np.concatenate([part.labels for part in (made.train, made.test)]))
            with _synced(self._part / "set.json") as file:
                file.write(json.dumps(content).encode())
            return self._part.rename(entry)

    def close(self) -> None:
        """Remove what was not finished and let the next process build."""
        if self._lock is not None:
            shutil.rmtree(self._part, ignore_errors=True)
            self._lock.close()

    def begin(self) -> None:
        """Become the only builder of the entry.

        Raises:
            NoRoom: the disk is full. DataError: the cache cannot be written.
        """
        if self._lock is not None:
            return
        with _writing(self._place):
            self._place.mkdir(parents=True, exist_ok=True)
            lock = self._entry.with_name(f"{self._entry.name}.lock").open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back by the system if the process dies
            self._lock = lock
            if self.found() is not None:
                raise _Built
            for left in (self._entry, self._stream):  # by one who died while he removed it
                if not (left / "set.json").exists():
                    shutil.rmtree(left, ignore_errors=True)
            shutil.rmtree(self._part, ignore_errors=True)  # left by one who died while he built it
            self._part.mkdir()

    def _holds(self, train: np.ndarray, test: np.ndarray) -> bool:
        """Whether both parts already lie in the file, one after the other."""
        if self._images is None:
            return False
        first, second = train.ctypes.data, test.ctypes.data
        return first == self._images.ctypes.data and second == first + train.nbytes


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Turn failures to write the cache into errors that say what to do; a full disk is a `NoRoom`."""
    try:
        yield
    except OSError as error:
        raise _unwritable(place, error) from None


def _unwritable(place: Path, error: OSError) -> DataError:
    kind = NoRoom if error.errno in (*FULL, None) else DataError  # numpy gives no number where a disk is full
    return kind(f"{place}: the cache cannot be written: {error.strerror or error}; {_REMEDY}")


def save(path: Path, values: np.ndarray) -> None:
    """Write an array, on disk when this returns."""
    with _synced(path) as file:
        np.save(file, values)


@contextmanager
def _synced(path: Path) -> Iterator[IO[bytes]]:
    """A new file, on disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _opened(entry: Path) -> ImageSet | None:
    """The set of a complete entry; None where there is none."""
    try:
        content = json.loads((entry / "set.json").read_bytes())
        labels, n, m = np.load(entry / "labels.npy"), content["train"], content["test"]
        if entry.suffix == STREAM:
            whole = stream.opened(entry, content)
            train, test = whole.part(0, n), whole.part(n, n + m)
        else:
            images = np.load(entry / "images.npy", mmap_mode="r")
            train, test = images[:n], images[n : n + m]
        parts = (Part(train, labels[:n]), Part(test, labels[n : n + m]))
        made = ImageSet(content["name"], *parts, tuple(content["classes"]), tuple(content["notes"]), content["skipped"])
        vars(made)["fingerprint"] = content["fingerprint"]  # where cached_property keeps it
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        if not (entry / "set.json").exists():  # never there, or removed meanwhile
            return None
        raise DataError(f"{entry}: damaged entry of the cache: {error}; delete it") from None
    with suppress(OSError):  # a cache that others may only read
        os.utime(entry)
    return made
