"""Data sets, decoded once into arrays; large ones lie in a cache that all processes of a node share.

Each source is one module with two functions: `listed(data)`, which lists the files that it reads, and `load(data,
listing, sink)`, which decodes these and no others. One from outside is a function that gives all of a set: see `own`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch.data import cache
from automixsearch.data.base import ImageSet, Part, Split, channel_statistics, split
from automixsearch.data.files import lookalikes, stamp
from automixsearch.data.own import Own
from automixsearch.data.sink import Sink
from automixsearch.errors import DataError
from automixsearch.registry import look_up
from automixsearch.visible import visible

if TYPE_CHECKING:
    from automixsearch.config.data import Data
    from automixsearch.registry import Plugin

__all__ = ["ImageSet", "Part", "Split", "channel_statistics", "load", "split"]

FORMAT = 4
"""Of the cache, and of how images are decoded: higher when either changes."""

_lock = threading.Lock()
_latest: tuple[tuple[str, str, tuple[str, ...]], ImageSet] | None = None


def load(data: Data, plugins: Iterable[Plugin] = ()) -> ImageSet:
    """Decode the data set that `data` names, which can be one of `plugins`; `val_fraction` plays no part here.

    The latest set stays in memory, so that a worker which is used again does not decode again. A file that was changed,
    replaced or linked elsewhere is noticed, by what `files.stamp` says. Safe to call from several threads: one decodes,
    the others wait.

    Raises:
        DataError: the data are missing, corrupt or unfit; names the file, the rule and the remedy.
    """
    global _latest
    plugins = tuple(plugins)
    module = look_up("data", data.source, plugins)
    source: Any = import_module(f"automixsearch.data.{module}") if isinstance(module, str) else Own(module)
    digests = [plugin.digest for plugin in plugins if (plugin.kind, plugin.name) == ("data", data.source)]
    with _lock:
        try:
            listing = source.listed(data)
            new: ImageSet | None = None
            if data.download and not listing.files:
                new = source.load(data, listing, Sink())
                listing = source.listed(data)
            key = _key(data, listing.files, *digests)
            wanted = (key, data.pipeline, listing.notes)
            if _latest is None or _latest[0] != wanted:
                _latest = None  # let go of the old set before the new one takes memory
                name = f"{data.source}-{key[:24]}"
                made = new or cache.through(name, lambda sink: source.load(data, listing, sink), data.pipeline)
                _latest = wanted, made.told((*listing.notes, *lookalikes(made.classes)))
        except OSError as error:
            raise DataError(
                f"{visible(error.filename or data.path)}: cannot be read: {error.strerror or error}"
            ) from None
        return _latest[1]


def _key(data: Data, files: Iterable[str | Path], *digests: str) -> str:
    """What changes when the settings, a file or the code of a source from outside do."""
    from PIL import __version__ as pillow  # another version may decode otherwise

    settings = data.model_dump_json(exclude={"val_fraction", "download", "pipeline"})
    digest = hashlib.sha256("".join([f"{FORMAT} {pillow} {settings}\n", *digests]).encode())
    for file in (*files, *([data.labels] if isinstance(data.labels, str) else [])):
        digest.update(stamp(file).encode(errors="surrogateescape"))
    return digest.hexdigest()
