"""ImageNet-1k and Tiny-ImageNet; the official validation images are the test part of both, as in the literature.

    imagenet: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG. Classes in the order of their WordNet ids, as torchvision's.
    tiny_imagenet: wnids.txt (the classes in order), train/<wnid>/images/*.JPEG, val/images/*.JPEG and
        val/val_annotations.txt; the folder may be `data.path` itself or tiny-imagenet-200 in it.

Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge (2015), arXiv 1409.0575; Le and Yang, Tiny
ImageNet Visual Recognition Challenge, Stanford CS 231N (2015).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data.base import ImageSet, Listing, find, need, numbered, read_rows, within
from automixsearch.data.decode import decoded
from automixsearch.data.folder import SUFFIXES, folders, two_trees
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.spec import Data

NOTE = "test part: the official validation images"


def files(data: Data) -> list[Path]:
    """The folders of images, and the index files of Tiny-ImageNet."""
    if data.source == "imagenet":
        parts = [need(find(data.path) / part, data.source) for part in ("train", "val")]
        return [*parts, *(folder for part in parts for folder in folders(part))]
    root = _tiny(data)
    names = ("wnids.txt", "val/val_annotations.txt", "val/images", "train")
    return [*(need(root / name, data.source) for name in names), *sorted(root.glob("train/*/images"))]


def load(data: Data) -> ImageSet:
    """Decode the images.

    Raises:
        DataError: a file is missing or not of the official layout, an image is bad.
    """
    return _load_tiny(data) if data.source == "tiny_imagenet" else _load_imagenet(data)


def _load_imagenet(data: Data) -> ImageSet:
    root = find(data.path)
    train, val = (need(root / part, data.source) for part in ("train", "val"))
    if not folders(val):
        raise DataError(
            f"{val}: has no class folders, and source imagenet reads val/<wnid>/*.JPEG; let "
            f"torchvision.datasets.ImageNet({str(root)!r}, 'val') sort them, from ILSVRC2012_img_val.tar and "
            "ILSVRC2012_devkit_t12.tar.gz in that directory (move the flat val folder away first)"
        )
    return two_trees("imagenet", train, val, data, (NOTE,))


def _tiny(data: Data) -> Path:
    return within(data.path, "tiny-imagenet-200")


def _load_tiny(data: Data) -> ImageSet:
    root = _tiny(data)
    index, annotations = (need(root / name, data.source) for name in ("wnids.txt", "val/val_annotations.txt"))
    numbers = {wnid: number for number, (wnid,) in enumerate(read_rows(index, "wnid"))}
    paths, labels = [], []
    for wnid, number in numbers.items():
        folder = need(root / "train" / wnid / "images", data.source)
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES))
        paths += [f"{folder}/{name}" for name in names]
        labels += [number] * len(names)
    rows = list(read_rows(annotations, "file wnid box"))
    test = Listing(
        [f"{root}/val/images/{name}" for name, _, _ in rows],
        np.array([numbered(wnid, numbers, annotations) for _, wnid, _ in rows], np.int64),
    )
    train = Listing(paths, np.array(labels, np.int64))
    return decoded(data.source, train, test, tuple(numbers), data, (NOTE,))
