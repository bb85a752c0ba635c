"""Data sets that have one folder for each class.

    root/train/<class>/*.png   or, without a test part,   root/<class>/*.png
    root/test/<class>/*.png

The test part may also be called val, valid or validation; if there is a test folder too, that one counts,
since validation images are taken from the training part. Folders inside a class folder are its images too, and links
are followed, as torchvision's ImageFolder has it. Hidden files, and files whose suffix is not that of an image, are
left out and counted. Classes, and the files of a class, come in the order of their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data.base import HELD_OUT, hold_out
from automixsearch.data.build import decoded
from automixsearch.data.files import Labelled, Left, Listing, find, folders, images_in, is_hidden, plain, walk
from automixsearch.errors import DataError
from automixsearch.visible import visible

if TYPE_CHECKING:
    from automixsearch.config.data import Data

HELD_OUT_NAMES = ("test", "val", "valid", "validation")

load = decoded


def listed(data: Data) -> Listing:
    """The images of both parts; a flat root gets a fixed stratified 20 % as test part, as `base.hold_out` draws it.

    Raises:
        DataError: another layout, classes that differ between the parts, a class without images.
    """
    root = find(data.path)
    if not root.is_dir():
        raise DataError(f"{root}: is a file; source folder needs a directory with a folder for each class")
    inside: dict[str, Path] = {}
    for folder in folders(root):
        name = folder.name.lower()
        if name in ("train", *HELD_OUT_NAMES) and name in inside:
            raise DataError(
                f"{root}: has both {inside[name].name}/ and {folder.name}/; put them together, or rename one"
            )
        inside[name] = folder
    if "train" not in inside or not folders(inside["train"]):  # without folders in it, `train` is a class
        return _flat(root)
    held = next((inside[name] for name in HELD_OUT_NAMES if name in inside), None)
    if held is None:
        raise DataError(
            f"{root}: has {inside['train'].name}/ but none of {', '.join(HELD_OUT_NAMES)}; add one, or give "
            f"data.path={inside['train']} to hold out a fixed 20 % of it for testing"
        )
    notes = () if held.name.lower() == "test" else (f"test part: {held.name}/",)
    left = Left()
    _outside(root, left, [inside["train"].name, held.name])
    return two_trees(root.name, inside["train"], held, notes, left)


def two_trees(name: str, train: Path, test: Path, notes: tuple[str, ...] = (), left: Left | None = None) -> Listing:
    """The images in the class folders of two directories.

    Raises:
        DataError: classes that differ between the parts, a class without images.
    """
    left = left or Left()
    trees = {part: _tree(part, left) for part in (train, test)}
    for part, other in ((train, test), (test, train)):
        if odd := sorted(trees[part].keys() - trees[other].keys()):
            raise DataError(
                f"{part.parent}: class {odd[0]!r} is in {part.name}/ only ({len(odd)} such); both parts need the same "
                f"classes{_like(odd[0], trees[other], other.name)}"
            )
    return Listing(
        name, _labelled(trees[train]), _labelled(trees[test]), tuple(trees[train]), (), (*notes, *left.notes)
    )


def _like(name: str, others: Mapping[str, object], where: str) -> str:
    """Which other name looks the same, in code points that tell them apart."""
    for other in others:
        if plain(other) == plain(name):
            return f"; {where}/ has {other!a}, and this one is {name!a}: rename one as the other"
    return ""


def _flat(root: Path) -> Listing:
    left = Left()
    tree = _tree(root, left)
    if len(tree) < 2:
        raise DataError(
            f"{root}: has {len(tree)} class folder(s); source folder expects train/<class>/*.png and "
            "test/<class>/*.png, or <class>/*.png, with 2 or more classes"
        )
    whole, classes = _labelled(tree), tuple(tree)
    train, test = (
        Labelled([whole.paths[int(i)] for i in part], whole.labels[part])
        for part in hold_out(whole.labels, classes, str(root))
    )
    return Listing(root.name, train, test, classes, (), (HELD_OUT, *left.notes))


def _outside(root: Path, left: Left, parts: Sequence[str]) -> None:
    """Leave out what lies beside the folders that are read."""
    for path in sorted(root.iterdir()):
        if path.name not in parts and not is_hidden(path.name):
            if path.is_dir() and (inside := walk(path, Left())):
                left.add(f"in {visible(path.name)}/", inside[0], len(inside))
            elif not path.is_dir():
                left.add(f"in {visible(root.name)}/ itself", path)


def _tree(root: Path, left: Left) -> dict[str, list[str]]:
    """The image files of each class."""
    tree = {}
    inside = folders(root)
    _outside(root, left, [folder.name for folder in inside])
    for folder in inside:
        tree[folder.name] = images_in(folder, left)
        if not tree[folder.name]:
            raise DataError(f"{visible(folder)}: class folder without images (.png, .jpg, ...); add some or remove it")
    return tree


def _labelled(tree: Mapping[str, Sequence[str]]) -> Labelled:
    paths = [path for inside in tree.values() for path in inside]
    return Labelled(paths, np.repeat(np.arange(len(tree)), [len(inside) for inside in tree.values()]))
