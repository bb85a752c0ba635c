"""ImageNet-1k and Tiny-ImageNet; the official validation images are the test part of both, as in the literature.

    imagenet: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG. Classes in the order of their WordNet ids, as torchvision's.
    tiny_imagenet: wnids.txt (the classes in order), train/<wnid>/images/*.JPEG, val/images/*.JPEG and
        val/val_annotations.txt; the folder may be `data.path` itself or tiny-imagenet-200 in it.

Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge (2015), arXiv 1409.0575; Le and Yang, Tiny
ImageNet Visual Recognition Challenge, Stanford CS 231N (2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data.build import decoded
from automixsearch.data.files import (
    Labelled,
    Left,
    Listing,
    find,
    folders,
    images_in,
    inside,
    need,
    numbered,
    read_rows,
    within,
)
from automixsearch.data.folder import two_trees
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
    return _tiny_imagenet(data) if data.source == "tiny_imagenet" else _imagenet(data)


def _imagenet(data: Data) -> Listing:
    root = find(data.path)
    train, val = (need(root / part, data.source) for part in ("train", "val"))
    if not folders(val):
        raise DataError(
            f"{val}: has no class folders, and source imagenet reads val/<wnid>/*.JPEG; let "
            f"torchvision.datasets.ImageNet({str(root)!r}, 'val') sort them, from ILSVRC2012_img_val.tar and "
            "ILSVRC2012_devkit_t12.tar.gz in that directory (move the flat val folder away first)"
        )
    return two_trees("imagenet", train, val, (NOTE,))


def _tiny_imagenet(data: Data) -> Listing:
    root = within(data.path, "tiny-imagenet-200")
    index, annotations = (need(root / name, data.source) for name in ("wnids.txt", "val/val_annotations.txt"))
    numbers = {wnid: number for number, (wnid,) in enumerate(read_rows(index, "wnid"))}
    paths, labels, left = [], [], Left()
    for wnid, number in numbers.items():
        folder = need(root / "train" / inside(wnid, index) / "images", data.source)
        images = images_in(folder, left)
        paths += images
        labels += [number] * len(images)
    rows = list(read_rows(annotations, "file wnid box"))
    test = Labelled(
        [f"{root}/val/images/{inside(name, annotations)}" for name, _, _ in rows],
        np.array([numbered(wnid, numbers, annotations) for _, wnid, _ in rows], np.int64),
    )
    train = Labelled(paths, np.array(labels, np.int64))
    return Listing(data.source, train, test, tuple(numbers), [index, annotations], (NOTE, *left.notes))
