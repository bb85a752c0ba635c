"""Data sets that have one folder for each class.

    root/train/<class>/*.png   or, without a test part,   root/<class>/*.png
    root/test/<class>/*.png

The test part may also be called val, valid or validation; if there is a test folder too, that one counts,
since validation images are taken from the training part. Hidden files, and files whose suffix is not that of
an image, are left out. Classes, and the files of a class, come in the order of their names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data.base import HELD_OUT, ImageSet, Listing, find, hold_out
from automixsearch.data.decode import decoded
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.spec import Data

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
HELD_OUT_NAMES = ("test", "val", "valid", "validation")

Tree = dict[str, list[str]]
"""The image files of each class."""


def files(data: Data) -> list[Path]:
    """Every file under the root that is not hidden, sorted."""
    found = []
    for folder, inner, names in os.walk(find(data.path)):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return found


def load(data: Data) -> ImageSet:
    """Decode the images; a flat root gets a fixed stratified 20 % as test part, as `base.hold_out` draws it.

    Raises:
        DataError: another layout, classes that differ between the parts, a class without images, a bad image.
    """
    root = find(data.path)
    if not root.is_dir():
        raise DataError(f"{root}: is a file; source folder needs a directory with a folder for each class")
    inside = {folder.name.lower(): folder for folder in folders(root)}
    if "train" not in inside or not folders(inside["train"]):  # without folders in it, `train` is a class
        return _flat(root, data)
    held = next((inside[name] for name in HELD_OUT_NAMES if name in inside), None)
    if held is None:
        raise DataError(
            f"{root}: has {inside['train'].name}/ but none of {', '.join(HELD_OUT_NAMES)}; add one, or give "
            f"data.path={inside['train']} to hold out a fixed 20 % of it for testing"
        )
    notes = () if held.name.lower() == "test" else (f"test part: {held.name}/",)
    return two_trees(root.name, inside["train"], held, data, notes)


def two_trees(name: str, train: Path, test: Path, data: Data, notes: tuple[str, ...] = ()) -> ImageSet:
    """Decode the class folders of two directories.

    Raises:
        DataError: classes that differ between the parts, a class without images, a bad image.
    """
    trees = _tree(train), _tree(test)
    if odd := sorted(trees[0].keys() ^ trees[1].keys()):
        where = train if odd[0] in trees[0] else test
        raise DataError(
            f"{where.parent}: class {odd[0]!r} is in {where.name}/ only ({len(odd)} such); both parts need the same "
            "classes"
        )
    return decoded(name, _listing(trees[0]), _listing(trees[1]), tuple(trees[0]), data, notes)


def _flat(root: Path, data: Data) -> ImageSet:
    tree = _tree(root)
    if len(tree) < 2:
        raise DataError(
            f"{root}: has {len(tree)} class folder(s); source folder expects train/<class>/*.png and "
            "test/<class>/*.png, or <class>/*.png, with 2 or more classes"
        )
    whole, classes = _listing(tree), tuple(tree)
    train, test = (
        Listing([whole.paths[int(i)] for i in part], whole.labels[part])
        for part in hold_out(whole.labels, classes, str(root))
    )
    return decoded(root.name, train, test, classes, data, (HELD_OUT,))


def _tree(root: Path) -> Tree:
    tree = {}
    for folder in folders(root):
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES))
        tree[folder.name] = [f"{folder}/{name}" for name in names if not name.startswith(".")]
        if not tree[folder.name]:
            kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
            raise DataError(f"{folder}: class folder without images ({kinds}); add some or remove it")
    return tree


def _listing(tree: Tree) -> Listing:
    paths = [path for inside in tree.values() for path in inside]
    return Listing(paths, np.repeat(np.arange(len(tree)), [len(inside) for inside in tree.values()]))


def folders(root: Path) -> list[Path]:
    """The folders in a directory that are not hidden, by name."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
