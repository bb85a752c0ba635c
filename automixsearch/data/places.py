"""Places205: trainvalsplit_places205/{train,val}_places205.csv, and the images as the official archive unpacks.

    trainvalsplit_places205/train_places205.csv      lines such as `a/abbey/gsun_0003.jpg 0`
    data/vision/torralba/deeplearning/images256/     a/abbey/gsun_0003.jpg; or images256/ beside the lists

A class is named by the folder of its images. The official validation images are the test part, as in the literature.

Source: Zhou et al., Learning Deep Features for Scene Recognition using Places Database (2014).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.config.knobs import whole_number
from automixsearch.data.build import decoded
from automixsearch.data.files import Labelled, Listing, find, inside, need, read_rows, within
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data


load = decoded


def listed(data: Data) -> Listing:
    """The images of both parts.

    Raises:
        DataError: a file is missing or not of the official layout.
    """
    names: dict[int, str] = {}
    train, test = (_part(path, _images(data), names) for path in _lists(data))
    if sorted(names) != list(range(len(names))):
        gap = next(number for number in range(len(names)) if number not in names)
        raise DataError(f"{_lists(data)[0]}: no image has label {gap}, and one has {max(names)}; fetch the list again")
    classes = tuple(names[number] for number in sorted(names))
    return Listing(data.source, train, test, classes, _lists(data), ("test part: the official validation images",))


def _lists(data: Data) -> list[Path]:
    root = find(data.path) / "trainvalsplit_places205"
    return [need(root / f"{part}_places205.csv", data.source) for part in ("train", "val")]


def _images(data: Data) -> Path:
    root = within(data.path, "data/vision/torralba/deeplearning")
    return need(root / "images256", data.source)


def _part(path: Path, images: Path, names: dict[int, str]) -> Labelled:
    """The images of a list; adds the `names` of its classes."""
    paths, labels = [], []
    for file, label in read_rows(path, "file label"):
        if (number := whole_number(label)) is None:
            raise DataError(f"{path}: {file} has label {label!r}; must be a number from 0; fetch the list again")
        paths.append(f"{images}/{inside(file.lstrip('/'), path)}")
        labels.append(number)
        names.setdefault(labels[-1], file.strip("/").rpartition("/")[0].partition("/")[2])
    return Labelled(paths, np.array(labels, np.int64))
