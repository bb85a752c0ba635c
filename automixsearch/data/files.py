"""Where files are found, and what a data set consists of before it is decoded."""

from __future__ import annotations

import difflib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from pathlib import Path
from typing import BinaryIO

import numpy as np

from automixsearch.errors import DataError
from automixsearch.visible import visible

JUNK = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
"""What systems leave in folders without being asked; left out as hidden files are."""
UNREADABLE = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow tells apart but reads only with another program, or not at all."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """The image files of a part, with labels: int64 [N]."""

    paths: Sequence[str]
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Listing:
    """A data set before it is decoded: listed once, for the key of its cache and for the loader alike.

    index: files that were read to list it. notes: what was decided or left out on the way.
    """

    name: str
    train: Labelled
    test: Labelled
    classes: tuple[str, ...]
    index: Sequence[Path] = ()
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> list[str | Path]:
        """Every file that decides what the set is."""
        return [*self.index, *self.train.paths, *self.test.paths]


@dataclass(frozen=True, eq=False)
class Watched:
    """Files of a source that is not made of image files."""

    files: Sequence[str | Path] = ()
    notes: tuple[str, ...] = ()


def stamp(path: str | Path) -> str:
    """What changes when a file does, or what it links to: size, times of content and of inode, inode."""
    try:
        found = os.stat(path)
    except OSError as error:  # a link to nothing, as a rule: whoever decodes it says so
        return f"{path}\0{error.strerror}\n"
    return f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0{found.st_ino}\n"


# Folders ----------------------------------------------------------------------------------------------------


@cache
def formats() -> tuple[str, ...]:
    """The image formats that Pillow reads by itself."""
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.ID if name not in UNREADABLE)


@cache
def suffixes() -> tuple[str, ...]:
    """The endings of names that these formats have."""
    from PIL import Image

    return tuple(suffix for suffix, name in Image.registered_extensions().items() if name in formats())


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no part of a data set: by a leading dot, or as `JUNK`."""
    return name.startswith(".") or name.lower() in JUNK


@dataclass
class Left:
    """What was found and not read: how many files of each kind, and the first of them."""

    kinds: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def add(self, kind: str, path: str | Path, count: int = 1) -> None:
        """Leave out a file, or so many of a kind."""
        self.kinds[kind] += count
        self.first = self.first or str(path)

    @property
    def notes(self) -> tuple[str, ...]:
        """One note, if anything was left out."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return (f"not read: {kinds}; the first {visible(self.first)}",) if kinds else ()


def walk(root: str | Path, left: Left) -> list[str]:
    """Every file under a folder that is not hidden, through links, by folder and then by name, as ImageFolder goes.

    A folder that can be reached in several ways is read once.

    Raises:
        DataError: a folder cannot be listed.
    """
    found: list[tuple[str, str]] = []
    to_do, seen = [str(root)], set[tuple[int, int]]()
    while to_do:
        folder = heappop(to_do)  # by name, so that of two ways to a folder the same one is taken everywhere
        try:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in seen:
                left.add("link to a folder that is read anyway", folder)
                continue
            seen.add((here.st_dev, here.st_ino))
            with os.scandir(folder) as inside:
                for entry in inside:
                    if is_hidden(entry.name):
                        left.add("hidden", entry.path)
                    elif _is_folder(entry):
                        heappush(to_do, entry.path)
                    else:
                        found.append((folder, entry.name))
        except OSError as error:
            raise DataError(
                f"{visible(folder)}: the folder cannot be listed: {error.strerror}; mend or remove it"
            ) from None
    return [f"{folder}/{name}" for folder, name in sorted(found)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: whoever opens it says so
        return False


def images_in(root: str | Path, left: Left) -> list[str]:
    """The image files under a folder, as `walk` finds them; other files are left out."""
    images = []
    for path in walk(root, left):
        if path.lower().endswith(suffixes()):
            images.append(path)
        else:
            left.add(os.path.splitext(path)[1].lower() or "without suffix", path)
    return images


def folders(root: Path) -> list[Path]:
    """The folders in a directory that are not hidden, by name.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    except OSError as error:
        raise DataError(f"{visible(root)}: the folder cannot be listed: {error.strerror}; mend or remove it") from None


def lookalikes(names: Sequence[str]) -> tuple[str, ...]:
    """A note where several class names look the same."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        other = first.setdefault(plain(name), name)
        if other is not name:
            pairs.append(f"{other!a} and {name!a}")
    return (f"looks doubled: {len(pairs)} class name(s), e.g. {pairs[0]}",) if pairs else ()


def plain(name: str) -> str:
    """A name without case, outer blanks and Unicode form, by which names that look alike are known."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


# Files ------------------------------------------------------------------------------------------------------


def opened_file(path: str | Path) -> BinaryIO:
    """A file, opened to be read; a pipe or device, which could make its reader wait for ever, is refused.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(0, "is no regular file", str(path))
    return os.fdopen(file, "rb")


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as `opened_file`.
    """
    with opened_file(path) as file:
        return file.read()


def absolute(path: str | None) -> Path:
    """`path` relative to the working directory, `~` expanded."""
    return Path(os.path.abspath(os.path.expanduser(path or "")))


def find(path: str | None) -> Path:
    """`absolute(path)`, which must exist.

    Raises:
        DataError: it does not; names the nearest existing neighbour.
    """
    found = absolute(path)
    if not found.exists():
        raise DataError(f"{found}: no such file or directory{nearest(found) or '; check data.path'}")
    return found


def nearest(missing: Path) -> str:
    """`; did you mean ...?` with the existing path that looks most like the `missing` one, if any does."""
    while not missing.parent.is_dir():
        missing = missing.parent
    near = difflib.get_close_matches(missing.name, os.listdir(missing.parent), n=1, cutoff=0.5)
    return f"; did you mean {str(missing.with_name(near[0]))!r}?" if near else ""


def within(path: str | None, *names: str) -> Path:
    """The first of the folders `names` that exists in the directory `path`, else the directory itself.

    So `data.path` may be the folder of a data set, or what it was unpacked in (as torchvision wants it).
    """
    root = find(path)
    return next((root / name for name in names if (root / name).is_dir()), root)


def need(path: Path, source: str) -> Path:
    """`path`, a file or directory of the official layout.

    Raises:
        DataError: it does not exist.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file or directory{nearest(path)}; source {source} reads the official layout "
            "(search_spaces/README.md); check data.path, or fetch the data set again"
        )
    return path


def read_rows(path: Path, form: str) -> Iterator[list[str]]:
    """The words of each line of an index file; the last word of `form` takes what is left of the line.

    Raises:
        DataError: a line has fewer words than `form`.
    """
    count = len(form.split())
    for number, line in enumerate(read_bytes(path).decode(errors="surrogateescape").splitlines(), 1):
        words = line.split(maxsplit=count - 1)
        if words and len(words) < count:
            raise DataError(f"{path} line {number}: must read {form!r}; got {line!r}; fetch the file again")
        if words:
            yield words


def inside(name: str, index: Path) -> str:
    """The name of a file that an index file lists, which leads nowhere but into the folder it counts from.

    Raises:
        DataError: it is absolute, or goes up.
    """
    if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise DataError(f"{index}: lists {visible(name)!r}, which leads out of its folder; fetch the file again")
    return name


def numbered(name: str, numbers: Mapping[str, int], path: Path) -> int:
    """The label of a class that an index file names.

    Raises:
        DataError: there is no such class.
    """
    if name not in numbers:
        raise DataError(f"{path}: class {name!r} is none of the {len(numbers)} classes; fetch the file again")
    return numbers[name]
