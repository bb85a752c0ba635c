"""A source from outside: a function that gives all images of a set, of which ours keeps what the settings say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data.base import ImageSet, cut
from automixsearch.data.decode import resize
from automixsearch.data.files import Watched
from automixsearch.data.labels import kept
from automixsearch.data.sink import Sink
from automixsearch.errors import AutoMixError, DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data


@dataclass(frozen=True)
class Own:
    """What the modules of our sources are, of a function `NAME(data) -> ImageSet` of somebody else.

    Every file below `data.path`, where one is given, is watched: if it changes, the function is called again.
    """

    function: Callable[..., ImageSet]

    def listed(self, data: Data) -> Watched:
        """The files below the path."""
        return Watched(() if data.path is None else sorted(map(str, Path(data.path).rglob("*"))))

    def load(self, data: Data, listing: Watched, sink: Sink) -> ImageSet:
        """What the function gives, with the labels that `data.labels` keeps, resized as `data.size` says.

        Raises:
            DataError: the function raises, or gives no `ImageSet`.
        """
        try:
            made = self.function(data=data)
        except (AutoMixError, OSError):
            raise
        except Exception as error:  # of any type
            raise DataError(f"data set {data.source}: its function ended in {type(error).__name__}: {error}") from error
        if not isinstance(made, ImageSet):
            raise DataError(
                f"data set {data.source}: its function gave a {type(made).__name__} and must give an "
                "automixsearch.data.ImageSet"
            )
        chosen = kept(made.train.labels, made.classes, data, data.source)
        if data.size is None and data.labels is None:
            return made
        images = np.concatenate([np.asarray(made.train.images)[chosen], np.asarray(made.test.images)])
        labels = np.concatenate([made.train.labels[chosen], made.test.labels])
        parts = cut(resize(images, data, sink), labels, len(chosen))
        return ImageSet(made.name, *parts, made.classes, made.notes, made.skipped)
