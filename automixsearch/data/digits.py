"""The 1,797 handwritten digits that come with scikit-learn: 8x8 pixels, gray, no files and no download.

Source: the test part of Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.data.base import HELD_OUT, ImageSet, cut, hold_out
from automixsearch.data.decode import resize
from automixsearch.data.files import Watched
from automixsearch.data.labels import kept
from automixsearch.data.sink import Sink

if TYPE_CHECKING:
    from automixsearch.config.data import Data


def listed(data: Data) -> Watched:
    """No file: the digits are part of scikit-learn."""
    return Watched()


def load(data: Data, listing: Watched, sink: Sink) -> ImageSet:
    """Decode the digits.

    The 17 grey levels 0..16 become round(level * 255 / 16). There is no official test part: a stratified 20 %
    drawn with a constant seed (`base.hold_out`) is part of the data set's definition.
    """
    from sklearn.datasets import load_digits

    stored: Any = load_digits()
    levels = stored.images.astype(np.int64)[..., None]  # [N, 8, 8, 1]
    images, labels = ((levels * 255 + 8) // 16).astype(np.uint8), stored.target.astype(np.int64)
    classes = tuple("0123456789")
    train, test = hold_out(labels, classes, "digits")
    train = train[kept(labels[train], classes, data, "digits")]
    rows = np.concatenate([train, test])
    parts = cut(resize(images[rows], data, sink), labels[rows], len(train))
    return ImageSet("digits", *parts, classes, (HELD_OUT,))
