"""Data sets, decoded once into arrays.

Each source is one module with two functions: `files(data)`, the files it reads, and `load(data)`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from automixsearch.data.base import ImageSet, Part, Split, channel_statistics, split
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.spec import Data

__all__ = ["ImageSet", "Part", "Split", "channel_statistics", "load", "split"]

SOURCES = {
    "digits": "automixsearch.data.digits",
    "parquet": "automixsearch.data.parquet",
    "folder": "automixsearch.data.folder",
    "cifar10": "automixsearch.data.cifar",
    "cifar100": "automixsearch.data.cifar",
}
"""Where each source lives; imported at first use, because each needs another library."""

_lock = threading.Lock()
_latest: tuple[str, ImageSet] | None = None


def load(data: Data) -> ImageSet:
    """Decode the data set that `data` names; `val_fraction` plays no part here.

    The latest set stays in memory, so that a worker which is used again does not decode again; a changed file
    (size or modification time) is noticed. Safe to call from several threads: one decodes, the others wait.

    Raises:
        DataError: the data are missing, corrupt or unfit; names the file, the rule and the remedy.
    """
    global _latest
    source = import_module(SOURCES[data.source])
    with _lock:
        try:
            key = _stamp(data, source.files(data))
            if _latest is None or _latest[0] != key:
                _latest = None  # let go of the old set before the new one takes memory
                image_set: ImageSet = source.load(data)
                if data.download:
                    key = _stamp(data, source.files(data))  # the files may be new
                _latest = key, image_set
        except OSError as error:
            raise DataError(f"{error.filename or data.path}: cannot be read: {error.strerror or error}") from None
        return _latest[1]


def _stamp(data: Data, files: Iterable[Path]) -> str:
    digest = hashlib.sha256(data.model_dump_json(exclude={"val_fraction", "download"}).encode())
    for file in files:
        stat = file.stat()
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
