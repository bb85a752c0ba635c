"""One image of a Parquet file: where it lies, as a text that stands where the path of an image file would, and what is
there."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_reading = threading.Lock()


def place_of(path: object, leaf: str, group: int, inside: int, row: int) -> str:
    """The place of an image: file, column, row group, row in it, and row of the file."""
    return f"{path}\0{leaf}\0{group}\0{inside}\0{row}"


def is_place(text: object) -> bool:
    """Whether this is such a place, and no path."""
    return isinstance(text, str) and "\0" in text


def told(text: str) -> str:
    """A place or a path as errors name it."""
    return f"{text.partition(chr(0))[0]} row {text.rpartition(chr(0))[2]}" if is_place(text) else text


def encoded_at(place: str) -> bytes:
    """The encoded image at a place.

    Raises:
        ValueError: it is null. OSError, pyarrow.ArrowException: the file cannot be read.
    """
    path, leaf, group, inside, _ = place.split("\0")
    with _reading:  # one file at a time, and neighbours from memory
        found = _group(path, leaf, int(group))[int(inside)].as_py()
    if found is None:
        raise ValueError("is null")
    return found


@lru_cache(maxsize=16)
def _file(path: str) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


@lru_cache(maxsize=2)
def _group(path: str, leaf: str, group: int) -> pa.ChunkedArray:
    column = _file(path).read_row_group(group, columns=[leaf]).column(0)
    return column.flatten()[0] if "." in leaf else column  # of a struct
