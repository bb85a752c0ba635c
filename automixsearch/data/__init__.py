"""Data sets, decoded once into arrays; large ones lie in a cache that all processes of a node share.

Each source is one module with two functions: `files(data)`, the files and folders it reads, and `load(data)`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from automixsearch.data import cache
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
    "tiny_imagenet": "automixsearch.data.imagenet",
    "imagenet": "automixsearch.data.imagenet",
    "cub200": "automixsearch.data.fine_grained",
    "aircraft": "automixsearch.data.fine_grained",
    "cars": "automixsearch.data.fine_grained",
    "inat2017": "automixsearch.data.inaturalist",
    "inat2018": "automixsearch.data.inaturalist",
    "places205": "automixsearch.data.places",
    "voc2007": "automixsearch.data.detection",
    "voc2012": "automixsearch.data.detection",
    "coco2014": "automixsearch.data.detection",
    "coco2017": "automixsearch.data.detection",
}
"""Where each source lives; imported at first use, because each needs another library."""

FORMAT = 2
"""Of the cache, and of how images are decoded: higher when either changes."""

_lock = threading.Lock()
_latest: tuple[tuple[str, str], ImageSet] | None = None


def load(data: Data) -> ImageSet:
    """Decode the data set that `data` names; `val_fraction` plays no part here.

    The latest set stays in memory, so that a worker which is used again does not decode again; a changed file
    (size or modification time) is noticed. Sources with an official index are watched by their index files and
    image folders only: an image that is overwritten in place is not noticed there. Safe to call from several
    threads: one decodes, the others wait.

    Raises:
        DataError: the data are missing, corrupt or unfit; names the file, the rule and the remedy.
    """
    global _latest
    source = import_module(SOURCES[data.source])
    with _lock:
        try:
            key = _stamp(data, source.files(data))
            if _latest is None or _latest[0] != (key, data.pipeline):
                _latest = None  # let go of the old set before the new one takes memory
                if data.download and not source.files(data):
                    image_set: ImageSet = source.load(data)
                    key = _stamp(data, source.files(data))  # the files are new
                else:
                    image_set = cache.through(f"{data.source}-{key[:24]}", lambda: source.load(data), data.pipeline)
                _latest = (key, data.pipeline), image_set
        except OSError as error:
            raise DataError(f"{error.filename or data.path}: cannot be read: {error.strerror or error}") from None
        return _latest[1]


def _stamp(data: Data, files: Iterable[Path]) -> str:
    from PIL import __version__ as pillow  # another version may decode otherwise

    settings = data.model_dump_json(exclude={"val_fraction", "download", "pipeline"})
    digest = hashlib.sha256(f"{FORMAT} {pillow} {settings}\n".encode())
    listed = [Path(data.labels)] if isinstance(data.labels, str) else []
    for file in (*files, *listed):
        stat = file.stat()
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
