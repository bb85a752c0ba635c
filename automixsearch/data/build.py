"""From a listing to a set: its images decoded once, or streamed where they have no room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data.base import ImageSet, cut
from automixsearch.data.decode import Decoder
from automixsearch.data.files import Listing
from automixsearch.data.labels import kept
from automixsearch.data.sink import NoRoom, Sink
from automixsearch.data.stream import surveyed
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data


def decoded(data: Data, listing: Listing, sink: Sink) -> ImageSet:
    """The data set of the files that are listed, of the training part what `data.labels` keeps.

    Raises:
        DataError: `data.labels` does not fit, an image is missing, corrupt or of another size.
    """
    name, train, test, classes = listing.name, listing.train, listing.test, listing.classes
    chosen = kept(train.labels, classes, data, name, train.paths)
    paths = [*(train.paths[i] for i in chosen), *test.paths]
    labels = np.concatenate([train.labels[chosen], test.labels])

    def once() -> ImageSet:
        decoder = Decoder(len(paths), data, sink)
        decoder.add(paths, lambda i: paths[i])
        good = ~decoder.bad
        parts = cut(decoder.result(), labels[good], int(good[: len(chosen)].sum()))
        notes = decoder.notes + decoder.doubled(np.arange(len(paths)) >= len(chosen), lambda i: paths[i])
        return ImageSet(name, *parts, classes, notes, decoder.skipped)

    return once_or_streamed(once, lambda: paths, labels, len(chosen), data, (name, classes), sink)


def once_or_streamed(
    once: Callable[[], ImageSet],
    places: Callable[[], Sequence[str]],
    labels: np.ndarray,
    n: int,
    data: Data,
    named: tuple[str, tuple[str, ...]],
    sink: Sink,
) -> ImageSet:
    """What `once` gives, or where it has no room and the pipeline lets it, a stream of the images at some `places`.

    Args:
        labels: of the images at the places, of which the first n are the training part. named: name and classes.
    """
    try:
        if data.pipeline == "stream":
            raise NoRoom("data.pipeline=stream")
        return once()
    except NoRoom as error:
        if data.pipeline == "cache":
            raise DataError(f"{error}, or let images be decoded for every epoch with data.pipeline=auto") from None
        why = str(error).partition("; ")[0]
    return surveyed(named[0], places(), labels, n, named[1], data, (), why, sink)
