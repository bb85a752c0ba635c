"""Where decoded images lie: a small set in memory, a large one in the cache, memory-mapped.

The cache is a directory, `AUTOMIXSEARCH_CACHE` or ~/.cache/automixsearch, with one directory for each set:

    <source>-<stamp>/images-0000.npy ...   uint8 [n, H, W, C], shards of the training part and then the test part
    <source>-<stamp>/labels.npy            int64 [N]
    <source>-<stamp>/set.json              names, notes, sizes, fingerprint
    <source>-<stamp>.stream/               the same without images, of a set that is streamed: see `stream`

The stamp is that of the files and of the settings, so that an entry is never out of date; it may be deleted at any
time. All processes of a node share the pages of the images, and a set larger than the memory can be opened.
`AUTOMIXSEARCH_CACHE=off` decodes into memory, each process for itself.

One process builds an entry under a lock, the others wait for it; a directory is named when it is complete. If that
process dies, the next one begins anew. Whoever has an entry open holds a shared lock on its set.json. The cache takes
`AUTOMIXSEARCH_CACHE_GB` at most: where a new set needs room, those sets go that were used longest ago and that nobody
has open.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from automixsearch.data import stream
from automixsearch.data.base import ImageSet, Part
from automixsearch.data.shards import Files, Shards
from automixsearch.data.sink import NoRoom, Sink, copy
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from automixsearch.config.data import Pipeline

VARIABLE, LIMIT = "AUTOMIXSEARCH_CACHE", "AUTOMIXSEARCH_CACHE_GB"
SMALL = 64 * 2**20
"""Bytes of decoded images below which a set is faster decoded again than looked after."""
SHARE = 0.5
"""Of the disk that is free or already the cache's: what the cache may take where `LIMIT` does not say it."""
SHARD = 2**30
"""Bytes of the images in one file."""
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

    size: bytes. used_at: when it was opened last, in seconds since 1970. busy: someone has it open or builds it.
    """

    path: Path
    size: int
    used_at: float
    busy: bool

    @property
    def name(self) -> str:
        return self.path.name


def entries(place: Path) -> list[Entry]:
    """What lies in a cache; what was used longest ago comes first."""
    found = []
    for path in place.iterdir() if place.is_dir() else ():
        with suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile
            if _NAME.fullmatch(path.name):
                size = sum(file.stat().st_size for file in path.iterdir())
                with _alone(path) as alone:
                    found.append(Entry(path, size, path.stat().st_mtime, not alone))
    return sorted(found, key=lambda entry: entry.used_at)


def limit(place: Path) -> int:
    """The most bytes that a cache may take.

    Raises:
        DataError: `AUTOMIXSEARCH_CACHE_GB` is no number of GB.
    """
    written = os.environ.get(LIMIT)
    if not written:
        return int(SHARE * (free(place) + _sum(entries(place))))
    try:
        gigabytes = float(written)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise DataError(f"{LIMIT} = {written!r} must be a number of GB, 0 or more; correct or unset it")
    return int(gigabytes * 1e9)


def free(place: Path) -> int:
    """Bytes that are free on the disk of a directory, which need not exist yet."""
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free


def clear(place: Path) -> tuple[list[Entry], list[Entry]]:
    """Remove what nobody has open or builds; what went, and what stays."""
    gone, kept = [], []
    for entry in entries(place):
        (gone if _remove(entry.path) else kept).append(entry)
    return gone, kept


def _sum(some: Sequence[Entry]) -> int:
    return sum(entry.size for entry in some)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody has an entry open or builds it; nobody will while the block runs."""
    try:
        lock = (path.with_suffix(".lock") if path.suffix == PART else path / "set.json").open("rb")
    except FileNotFoundError:  # what a process that was killed left
        yield True
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _remove(path: Path) -> bool:
    """Remove an entry unless someone has it open or builds it; whether it went."""
    with suppress(OSError), _alone(path) as alone:  # another user's, as a rule: it stays, and counts
        if alone:
            (path / "set.json").unlink(missing_ok=True)  # half an entry is none
            shutil.rmtree(path)
            return True
    return False


def _room(place: Path, kept: Sequence[Entry], there: Sequence[Entry]) -> int:
    """Bytes of room for more if of all that is `there` only some is kept."""
    return max(0, min(limit(place) - _sum(kept), free(place) + _sum(there) - _sum(kept)))


def _make_room(place: Path, need: int) -> int:
    """Remove what was used longest ago until `need` bytes fit, or nothing if they never will; the room then."""
    kept = entries(place)
    if need <= _room(place, [entry for entry in kept if entry.busy], kept):
        for entry in [entry for entry in kept if not entry.busy]:
            if need <= _room(place, kept, kept):
                break
            if _remove(entry.path):
                kept.remove(entry)
    return _room(place, kept, kept)


# Building -----------------------------------------------------------------------------------------------------


class _Built(Exception):
    """Another process has built the entry while this one waited."""


class _Building(Sink):
    """An entry that may come to be: nothing is written, and no lock taken, before a large array is asked for."""

    def __init__(self, entry: Path, pipeline: Pipeline) -> None:
        self._place, self._entry, self._pipeline = entry.parent, entry, pipeline
        self._stream, self._part = (entry.with_name(f"{entry.name}{ending}") for ending in (STREAM, PART))
        self._lock: IO[bytes] | None = None
        self._images: Shards | None = None

    def found(self) -> ImageSet | None:
        """The set if it is there in the way that is wanted."""
        made = _opened(self._entry) if self._pipeline != "stream" else None
        if made is not None or self._pipeline == "cache":
            return made
        made = _opened(self._stream)
        if made is None or self._pipeline == "stream":
            return made
        there = entries(self._place)  # what had no room may have some by now
        need = sum(math.prod(part.images.shape) for part in (made.train, made.test))
        return None if need <= _room(self._place, [entry for entry in there if entry.busy], there) else made

    def empty(self, shape: tuple[int, ...], where: str) -> np.ndarray | Shards:
        """Memory for a small array; for a large one files, mapped. Those that were made before stay usable until they
        are let go."""
        if math.prod(shape) < SMALL:
            return super().empty(shape, where)
        self.begin()
        need, have = math.prod(shape), 0
        try:
            self._clear()
            with (self._place / "room.lock").open("w") as alone:  # two that make room at once would count the same room
                fcntl.flock(alone, fcntl.LOCK_EX)
                have = _make_room(self._place, need)
                if need > have:
                    raise OSError
                self._images = Shards(Files(self._file(number, size) for number, size in enumerate(_sizes(shape))))
        except OSError as error:
            with suppress(OSError):  # what stays is cleared by whoever builds here next
                self._clear()
            if error.errno not in (*FULL, None):
                raise _unwritable(self._place, error) from None
            raise NoRoom(
                f"{where}: {shape[0]} images of {shape[2]}x{shape[1]} pixels take {need / 1e9:,.1f} GB decoded, and "
                f"the cache {self._place} has room for {have / 1e9:,.1f} GB, of {limit(self._place) / 1e9:,.1f} GB in "
                f"all; {_REMEDY}, allow it more with {LIMIT}, or use a smaller data.size"
            ) from None
        return self._images

    def streamed(self) -> ImageSet | None:
        """The set as a stream, if someone has looked through its images before; else this process is to do it."""
        with suppress(NoRoom):  # then nobody will know what this process finds out
            self.begin()
        return _opened(self._stream)

    def _file(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """A new file of the part."""
        file = self._part / f"images-{number:04d}.npy"
        mapped = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
        with file.open("r+b") as opened:  # without the blocks, a disk that fills up would end the process
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        return mapped

    def _clear(self) -> None:
        """Remove all images of the part."""
        for file in self._part.glob("images-*.npy"):
            file.unlink()

    def keep(self, made: ImageSet) -> ImageSet:
        """The set from its new entry, or as it was `made` if it is small; so too if there is no room for it."""
        if isinstance(made.train.images, Shards | np.ndarray):
            if sum(math.prod(part.images.shape) for part in (made.train, made.test)) < SMALL:
                return made
        elif made.train.images.kept:
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
        }
        content |= {"skipped": made.skipped, "fingerprint": made.fingerprint}
        train, test = made.train.images, made.test.images
        entry = self._entry
        if not isinstance(train, Shards | np.ndarray) or not isinstance(test, Shards | np.ndarray):
            entry = self._stream
            self._clear()
            with _writing(self._place):
                content |= stream.save(self._part, made, save)
        elif not self._holds(train, test):
            whole = self.empty((n + m, *train.shape[1:]), made.name)
            copy(train, whole[:n])
            copy(test, whole[n:])
        for file in self._images.files if self._images is not None else ():
            assert isinstance(file, np.memmap)
            file.flush()
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

    def _holds(self, train: np.ndarray | Shards, test: np.ndarray | Shards) -> bool:
        """Whether both parts already lie in the files, one after the other."""
        if self._images is None or not isinstance(train, Shards) or not isinstance(test, Shards):
            return False
        same = train.files is test.files is self._images.files
        return same and train.start == 0 and test.start == train.stop


def _sizes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of the files of an array [N, H, W, C]."""
    each = max(1, SHARD // math.prod(shape[1:]))
    return [(min(each, shape[0] - start), *shape[1:]) for start in range(0, shape[0], each)]


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
    """The set of a complete entry, which stays where it is while the set is in use; None where there is none."""
    try:
        lock = (entry / "set.json").open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
    with suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_SH)
    if not os.fstat(lock.fileno()).st_nlink:  # removed before we had the lock
        lock.close()
        return None
    with suppress(OSError):  # a cache that others may only read
        os.utime(entry)
    try:
        content = json.load(lock)
        labels, n, m = np.load(entry / "labels.npy"), content["train"], content["test"]
        train, test = _images(entry, content, lock)
        parts = (Part(train, labels[:n]), Part(test, labels[n : n + m]))
        made = ImageSet(content["name"], *parts, tuple(content["classes"]), tuple(content["notes"]), content["skipped"])
        vars(made)["fingerprint"] = content["fingerprint"]  # where cached_property keeps it
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        lock.close()
        raise DataError(f"{entry}: damaged entry of the cache: {error}; delete it") from None
    return made


def _images(entry: Path, content: dict[str, Any], lock: IO[bytes]) -> tuple[Any, Any]:
    """The images of both parts; the lock is given back when the last of them is let go."""
    n, m = content["train"], content["test"]
    if entry.suffix == STREAM:
        whole = stream.opened(entry, content)
        weakref.finalize(whole.loaders, lock.close)
        return whole.part(0, n), whole.part(n, n + m)
    files = Files(np.load(file, mmap_mode="r") for file in sorted(entry.glob("images-*.npy")))
    if [len(files[0])] * (len(files) - 1) != [len(file) for file in files[:-1]] or sum(map(len, files)) < n + m:
        raise ValueError("images are missing")
    weakref.finalize(files, lock.close)
    return Shards(files, 0, n), Shards(files, n, n + m)
