"""The fine-grained sets: CUB-200-2011, FGVC-Aircraft and Stanford Cars, with their official parts.

    cub200: images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, images/ (in CUB_200_2011)
    aircraft: variants.txt, images_variant_trainval.txt, images_variant_test.txt, images/ (in fgvc-aircraft-2013b/data);
        the 100 variants are the classes, trainval is the training part
    cars: devkit/cars_meta.mat, devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat (beside devkit or in it),
        cars_train/, cars_test/ (in stanford_cars)

`data.path` is that folder or the one that holds it. Index files are read here, because torchvision has no CUB-200 and
its other two classes keep the paths to themselves; the tests compare with them.

The README of FGVC-Aircraft asks for its images to be used without the banner of 20 pixels at the bottom. The published
figures of mixup methods were made with it (the loaders of OpenMixup and Self-Tuning take the whole image), so it stays
by default; `data.trim: 20` cuts it off.

Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset (2011); Maji et al., Fine-Grained Visual Classification of
Aircraft (2013), arXiv 1306.5151; Krause et al., 3D Object Representations for Fine-Grained Categorization (2013).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.data.build import decoded
from automixsearch.data.files import Labelled, Listing, inside, need, numbered, opened_file, read_rows, within
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data

_FOLDERS = {
    "cub200": ("CUB_200_2011",),
    "aircraft": ("fgvc-aircraft-2013b/data", "data"),
    "cars": ("stanford_cars",),
}
_INDEX = {
    "cub200": ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images"),
    "aircraft": ("variants.txt", "images_variant_trainval.txt", "images_variant_test.txt", "images"),
    "cars": ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_train", "cars_test"),
}


load = decoded


def listed(data: Data) -> Listing:
    """The images of both parts.

    Raises:
        DataError: a file is missing or not of the official layout.
    """
    root = _root(data)
    index = [need(root / name, data.source) for name in _INDEX[data.source]]
    if data.source == "cars":
        index.append(_test_annotations(root))
    classes, train, test = {"cub200": _cub, "aircraft": _aircraft, "cars": _cars}[data.source](root)
    return Listing(data.source, train, test, classes, [path for path in index if path.is_file()])


Parts = tuple[tuple[str, ...], Labelled, Labelled]
"""Classes, training part, test part."""


def _root(data: Data) -> Path:
    return within(data.path, *_FOLDERS[data.source])


def _cub(root: Path) -> Parts:
    paths = dict(read_rows(root / "images.txt", "image file"))
    classes = dict(read_rows(root / "classes.txt", "class name"))
    numbers = {name: number for number, name in enumerate(classes)}
    label_file, split_file = root / "image_class_labels.txt", root / "train_test_split.txt"
    labels, split = dict(read_rows(label_file, "image class")), dict(read_rows(split_file, "image training"))
    for file, found in ((label_file, labels), (split_file, split)):
        for image in sorted(paths.keys() ^ found.keys())[:1]:
            raise DataError(f"{file}: image {image} is in only one of it and images.txt; fetch the data set again")
    train, test = (
        Labelled(
            [f"{root}/images/{inside(paths[image], root / 'images.txt')}" for image in images],
            np.array([numbered(labels[image], numbers, label_file) for image in images], np.int64),
        )
        for images in ([image for image in paths if split[image] == flag] for flag in "10")
    )
    return tuple(classes.values()), train, test


def _aircraft(root: Path) -> Parts:
    classes = tuple(name for (name,) in read_rows(root / "variants.txt", "variant"))
    numbers = {name: number for number, name in enumerate(classes)}
    parts = []
    for index in (root / "images_variant_trainval.txt", root / "images_variant_test.txt"):
        rows = list(read_rows(index, "image variant"))
        labels = np.array([numbered(variant, numbers, index) for _, variant in rows], np.int64)
        parts.append(Labelled([f"{root}/images/{inside(image, index)}.jpg" for image, _ in rows], labels))
    return classes, parts[0], parts[1]


def _cars(root: Path) -> Parts:
    classes = tuple(map(str, _mat(root / "devkit/cars_meta.mat", "class_names")))
    parts = []
    for index, images in (
        (root / "devkit/cars_train_annos.mat", "cars_train"),
        (_test_annotations(root), "cars_test"),
    ):
        rows = _mat(index, "annotations")
        if "class" not in (rows.dtype.names or ()):
            raise DataError(f"{index}: has no labels; fetch cars_test_annos_withlabels.mat")
        labels = rows["class"].astype(np.int64) - 1  # they count from 1
        parts.append(Labelled([f"{root}/{images}/{inside(str(name), index)}" for name in rows["fname"]], labels))
    return classes, parts[0], parts[1]


def _test_annotations(root: Path) -> Path:
    name = "cars_test_annos_withlabels.mat"
    inside = root / "devkit" / name
    return inside if inside.exists() else need(root / name, "cars")


def _mat(path: Path, name: str) -> np.ndarray:
    """A variable of a MATLAB file, as an array of one dimension."""
    from scipy.io import loadmat

    try:
        with opened_file(path) as file:
            found: Any = loadmat(file, squeeze_me=True)[name]
    except OSError:
        raise
    except Exception as error:  # on damaged files scipy raises anything from ValueError to zlib.error
        raise DataError(f"{path}: {name} cannot be read: {error}; fetch the file again") from None
    return np.atleast_1d(found)
