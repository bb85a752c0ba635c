"""iNaturalist 2017 and 2018: train<year>.json and val<year>.json, and the images where these say, below `data.path`.

The annotations are those of the challenge, in the format of COCO: `images` (id, file_name), `annotations` (image_id,
category_id), `categories` (id, name). Classes come in the order of their ids (5,089 in 2017, 8,142 in 2018). The
official validation images are the test part, as in the literature. torchvision's class knows no parts of these years.

Source: Van Horn et al., The iNaturalist Species Classification and Detection Dataset (2018), arXiv 1707.06642.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.data.build import decoded
from automixsearch.data.files import Labelled, Listing, find, inside, need, read_bytes
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data


NOTE = "test part: the official validation images"

load = decoded


def listed(data: Data) -> Listing:
    """The images of both parts.

    Raises:
        DataError: a file is missing or not of the official layout.
    """
    root = find(data.path)
    (train, classes), (test, others) = (_part(root, path) for path in _annotations(data))
    if classes != others:
        paths = _annotations(data)
        raise DataError(f"{paths[1]}: has other categories than {paths[0].name}; both must be of one year")
    return Listing(data.source, train, test, classes, _annotations(data), (NOTE,))


def _annotations(data: Data) -> list[Path]:
    year = data.source.removeprefix("inat")
    return [need(find(data.path) / f"{part}{year}.json", data.source) for part in ("train", "val")]


def _part(root: Path, path: Path) -> tuple[Labelled, tuple[str, ...]]:
    """The images that a file lists, and the classes."""
    try:
        content: Any = json.loads(read_bytes(path))
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        numbers = {category: number for number, category in enumerate(sorted(names))}
        found = {each["image_id"]: numbers[each["category_id"]] for each in content["annotations"]}
        paths = [f"{root}/{inside(str(each['file_name']), path)}" for each in content["images"]]
        labels = np.array([found[each["id"]] for each in content["images"]], np.int64)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: no annotations of iNaturalist: {reason}; fetch the file again") from None
    return Labelled(paths, labels), tuple(names[category] for category in numbers)
