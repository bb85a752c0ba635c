"""Data sets, decoded once into arrays; large ones lie in a cache that all processes of a node share.

Each source is one module with two functions: `listed(data)`, which lists the files that it reads, and `load(data,
listing, sink)`, which decodes these and no others. One from outside is a function that gives all of a set: see `own`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch.data import cache, unlabelled
from automixsearch.data.base import ImageSet, Part, Split, channel_statistics, split
from automixsearch.data.build import decoded
from automixsearch.data.files import Listing, Watched, lookalikes, stamp
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
_latest: dict[str, tuple[tuple[object, ...], ImageSet]] = {}
"""The set that was loaded last, and likewise the unlabelled images beside one."""


def load(data: Data, plugins: Iterable[Plugin] = ()) -> ImageSet:
    """Decode the data set that `data` names, which can be one of `plugins`; `val_fraction` plays no part here.

    The latest set stays in memory, so that a worker which is used again does not decode again. A file that was changed,
    replaced or linked elsewhere is noticed, by what `files.stamp` says. Safe to call from several threads: one decodes,
    the others wait.

    Raises:
        DataError: the data are missing, corrupt or unfit; names the file, the rule and the remedy.
    """
    with _lock:
        try:
            if data.unlabelled is None:
                return _labelled(data, tuple(plugins))[0]
            plain = type(data).model_fields
            whole = {
                name: plain[name].default for name in ("labels", "labels_seed", "labels_draw", "unlabelled", "val_from")
            }
            made, listing = _labelled(data.model_copy(update=whole), tuple(plugins))
            paths = listing.train.paths if isinstance(listing, Listing) else None
            return unlabelled.divided(made, data, paths, lambda: _of_folder(data, made))
        except OSError as error:
            raise DataError(
                f"{visible(error.filename or data.path)}: cannot be read: {error.strerror or error}"
            ) from None


def _labelled(data: Data, plugins: tuple[Plugin, ...]) -> tuple[ImageSet, Listing | Watched]:
    """The set of a source, with the labels that `data.labels` keeps, and what it was made of."""
    module = look_up("data", data.source, plugins)
    source: Any = import_module(f"automixsearch.data.{module}") if isinstance(module, str) else Own(module)
    digests = [plugin.digest for plugin in plugins if (plugin.kind, plugin.name) == ("data", data.source)]
    listing = source.listed(data)
    new: ImageSet | None = None
    if data.download and not listing.files:
        new = source.load(data, listing, Sink())
        listing = source.listed(data)
    key = _key(data, listing.files, *digests)

    def made() -> ImageSet:
        name = f"{data.source}-{key[:24]}"
        loaded = new or cache.through(name, lambda sink: source.load(data, listing, sink), data.pipeline)
        return loaded.told((*listing.notes, *lookalikes(loaded.classes)))

    return _kept("labelled", (key, data.pipeline, listing.notes), made), listing


def _of_folder(data: Data, whole: ImageSet) -> ImageSet:
    """The images of the folder `data.unlabelled`, fitted to those of a set."""
    assert data.unlabelled is not None
    fitted, listing = unlabelled.settings(data, whole), unlabelled.listed(data.unlabelled)
    key = _key(fitted, listing.files)

    def made() -> ImageSet:
        loaded = cache.through(f"unlabelled-{key[:24]}", lambda sink: decoded(fitted, listing, sink), data.pipeline)
        return loaded.told(listing.notes)

    return _kept("unlabelled", (key, data.pipeline, listing.notes), made)


def _kept(which: str, wanted: tuple[object, ...], make: Callable[[], ImageSet]) -> ImageSet:
    """The set that is `wanted`, made unless it is the latest one."""
    if which not in _latest or _latest[which][0] != wanted:
        _latest.pop(which, None)  # let go of the old set before the new one takes memory
        _latest[which] = wanted, make()
    return _latest[which][1]


def _key(data: Data, files: Iterable[str | Path], *digests: str) -> str:
    """What changes when the settings, a file or the code of a source from outside do."""
    from PIL import __version__ as pillow  # another version may decode otherwise

    later = ("labels_draw", "unlabelled", "val_from")  # which the cache knows nothing of but by what they name
    plain = {name for name in later if getattr(data, name) == type(data).model_fields[name].default}
    settings = data.model_dump_json(exclude={"val_fraction", "download", "pipeline", *plain})
    digest = hashlib.sha256("".join([f"{FORMAT} {pillow} {settings}\n", *digests]).encode())
    for file in (*files, *([data.labels] if isinstance(data.labels, str) else [])):
        digest.update(stamp(file).encode(errors="surrogateescape"))
    return digest.hexdigest()
