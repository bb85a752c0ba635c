"""CIFAR-10 and CIFAR-100, as torchvision keeps them on disk.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.data.base import ImageSet, cut
from automixsearch.data.decode import resize
from automixsearch.data.files import Watched, absolute, nearest
from automixsearch.data.labels import kept
from automixsearch.data.sink import Sink
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data

_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def listed(data: Data) -> Watched:
    """The batches under the root; none where they are still to be downloaded."""
    return Watched(sorted(map(str, (absolute(data.path) / _FOLDERS[data.source]).glob("*"))))


def load(data: Data, listing: Watched, sink: Sink) -> ImageSet:
    """Decode the official training and test parts; labels of CIFAR-100 are the 100 fine ones.

    Every file's published MD5 is checked before torchvision unpickles it. Several processes must not download
    at once: load the data in one of them before the others start.

    Raises:
        DataError: a file is missing or damaged, or the download failed.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[data.source]
    root = absolute(data.path)
    if data.download:
        _download(kind, root)
    _check(kind, root)
    with warnings.catch_warnings():  # numpy 2.4.0 to 2.4.4 about the age of the official pickles
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        parts = [kind(root, train=True), kind(root, train=False)]
    train, test = (np.array(part.targets, np.int64) for part in parts)
    classes = tuple(parts[0].classes)
    chosen = kept(train, classes, data, data.source)
    pixels = [np.ascontiguousarray(part.data) for part in parts]  # they come in planes
    images = np.concatenate([pixels[0][chosen], pixels[1]])
    labels = np.concatenate([train[chosen], test])
    return ImageSet(data.source, *cut(resize(images, data, sink), labels, len(chosen)), classes)


def _download(kind: Any, root: Path) -> None:
    try:
        kind(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{root}: download from {kind.url} failed: {error}; fetch it by hand") from None


def _check(kind: Any, root: Path) -> None:
    from torchvision.datasets.utils import check_integrity

    folder = root / kind.base_folder
    remedy = "let torchvision fetch it with data.download=true"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory{nearest(folder)}; data.path is its parent, or {remedy}")
    for name, md5 in [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]:
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: no such file; {remedy}")
        if not check_integrity(str(folder / name), md5):
            raise DataError(f"{folder / name}: damaged (not the published MD5); delete it and {remedy}")
