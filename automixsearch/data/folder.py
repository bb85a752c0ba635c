"""Image files: how they are decoded, and data sets that have one folder for each class.

    root/train/<class>/*.png   or, without a test part,   root/<class>/*.png
    root/test/<class>/*.png

The test part may also be called val, valid or validation; if there is a test folder too, that one counts,
since validation images are taken from the training part. Hidden files, and files whose suffix is not that of
an image, are left out. Classes, and the files of a class, come in the order of their names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data.base import ImageSet, cut, find, hold_out
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from automixsearch.spec import Data

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
HELD_OUT_NAMES = ("test", "val", "valid", "validation")

Tree = dict[str, list[Path]]
"""The image files of each class."""


def files(data: Data) -> list[Path]:
    """Every file under the root that is not hidden, sorted."""
    found = []
    for folder, inner, names in os.walk(find(data.path)):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return found


def load(data: Data) -> ImageSet:
    """Decode the images; a flat root gets a fixed stratified 20 % as test part (`base.hold_out`).

    Raises:
        DataError: another layout, classes that differ between the parts, a class without images, a bad image.
    """
    root = find(data.path)
    if not root.is_dir():
        raise DataError(f"{root}: is a file; source folder needs a directory with a folder for each class")
    inside = {folder.name.lower(): folder for folder in _folders(root)}
    if "train" not in inside or not _folders(inside["train"]):  # without folders in it, `train` is a class
        return _flat(root, data.size)
    held = next((inside[name] for name in HELD_OUT_NAMES if name in inside), None)
    if held is None:
        raise DataError(
            f"{root}: has {inside['train'].name}/ but none of {', '.join(HELD_OUT_NAMES)}; add one, or give "
            f"data.path={inside['train']} to hold out a fixed 20 % of it for testing"
        )
    train, test = _tree(inside["train"]), _tree(held)
    if odd := sorted(train.keys() ^ test.keys()):
        where = inside["train"] if odd[0] in train else held
        raise DataError(
            f"{root}: class {odd[0]!r} is in {where.name}/ only ({len(odd)} such); both parts need the same classes"
        )
    images, labels = _decode([train, test], data.size)
    n = sum(map(len, train.values()))
    notes = () if held.name.lower() == "test" else (f"test part: {held.name}/",)
    return ImageSet(root.name, *cut(images, labels, n), tuple(train), notes)


def _flat(root: Path, size: int | None) -> ImageSet:
    tree = _tree(root)
    if len(tree) < 2:
        raise DataError(
            f"{root}: has {len(tree)} class folder(s); source folder expects train/<class>/*.png and "
            "test/<class>/*.png, or <class>/*.png, with 2 or more classes"
        )
    images, labels = _decode([tree], size)
    train, test = hold_out(images, labels, tuple(tree), str(root))
    return ImageSet(root.name, train, test, tuple(tree), ("test part: a fixed stratified 20 %",))


def _tree(root: Path) -> Tree:
    tree = {}
    for folder in _folders(root):
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES))
        tree[folder.name] = [folder / name for name in names if not name.startswith(".")]
        if not tree[folder.name]:
            kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
            raise DataError(f"{folder}: class folder without images ({kinds}); add some or remove it")
    return tree


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _decode(trees: list[Tree], size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all trees, one after the other."""
    paths = [path for tree in trees for inside in tree.values() for path in inside]
    counts = [len(inside) for tree in trees for inside in tree.values()]
    numbers = [number for tree in trees for number in range(len(tree))]
    decoder = Decoder(len(paths), size)
    decoder.add(paths, lambda i: str(paths[i]))
    return decoder.result(), np.repeat(np.array(numbers, np.int64), counts)


# Decoding ---------------------------------------------------------------------------------------------------

Encoded = bytes | Path | np.ndarray
"""The content of an image file, its path, or pixels uint8 [H, W] or [H, W, 3]."""


class Decoder:
    """Decodes the images of one set into one array, with a thread for each core.

    With `size`, the centre square of each image is resized to size x size pixels, bilinear with antialiasing:
    the shorter side resized and the rest cropped, in one step. Without, all images must have the size of the
    first. Palettes are resolved, alpha is dropped, EXIF rotation is not applied, an animation gives its first
    frame. The result has one channel if every image is grayscale (modes L and 1), else three.
    """

    def __init__(self, total: int, size: int | None) -> None:
        self._total, self._size = total, size
        self._images = np.empty((0, 0, 0, 3), np.uint8)
        self._first, self._done, self._gray = "", 0, True

    def add(self, encoded: Sequence[Encoded], where: Callable[[int], str]) -> None:
        """Decode the next images; `where(i)` names the i-th of them in errors.

        Raises:
            DataError: an image is corrupt or of another size, or the set does not fit in memory.
        """
        if not encoded:
            return
        if not self._done:
            self._first = where(0)
            width, height = self._open(encoded[0], where, 0)[0].size
            shape = (self._total, height, width, 3)
            check_memory(shape, self._first)
            self._images = np.empty(shape, np.uint8)

        def decode(block: range) -> bool:
            return all([self._into(self._images[self._done + i], encoded[i], where, i) for i in block])

        step = 64  # a task for each image would cost as much as decoding a small one
        blocks = [range(i, min(i + step, len(encoded))) for i in range(0, len(encoded), step)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._gray &= all(list(pool.map(decode, blocks)))
        self._done += len(encoded)

    def result(self) -> np.ndarray:
        """All images, uint8 [N, H, W, C]."""
        return np.ascontiguousarray(self._images[..., :1]) if self._gray else self._images

    def _into(self, out: np.ndarray, encoded: Encoded, where: Callable[[int], str], i: int) -> bool:
        image, gray = self._open(encoded, where, i)
        height, width, _ = out.shape
        if image.size != (width, height):
            raise DataError(
                f"{where(i)}: is {image.width}x{image.height} pixels, but {self._first} is {width}x{height}; "
                "images of one set must have the same size; resize them with e.g. data.size=32"
            )
        out[...] = np.asarray(image)
        return gray

    def _open(self, encoded: Encoded, where: Callable[[int], str], i: int) -> tuple[Image, bool]:
        try:
            return _pixels(encoded, self._size)
        except Exception as error:  # on damaged files Pillow raises anything from OSError to IndexError
            if type(error).__name__ == "UnidentifiedImageError":
                reason = "no image format that Pillow knows"
            else:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DataError(f"{where(i)}: cannot be decoded: {reason}; replace or remove it") from None


def _pixels(encoded: Encoded, size: int | None) -> tuple[Image, bool]:
    """The image in RGB, fitted to `size`, and whether it was grayscale."""
    from PIL import Image

    if isinstance(encoded, np.ndarray):
        image = Image.fromarray(encoded)
    else:
        image = Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
    with image:
        if image.mode[0] in "IF":  # Pillow would clip these to 255
            raise ValueError(f"has {image.mode} pixels, and only 8 bits a channel are supported")
        gray = image.mode in ("L", "1")
        clear = image.mode == "P" and "transparency" in image.info  # Pillow warns unless alpha is named
        rgb = (image.convert("RGBA") if clear else image).convert("RGB")
    if size is not None:
        side = min(rgb.size)
        left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
        box = (left, top, left + side, top + side)
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return rgb, gray


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """Resize decoded images [N, H, W, C] as `Decoder` does; `size` None leaves them alone."""
    if size is None:
        return images
    decoder = Decoder(len(images), size)
    decoder.add(list(images[..., 0] if images.shape[3] == 1 else images), lambda i: f"image {i}")
    return decoder.result()


def check_memory(shape: tuple[int, ...], where: str) -> None:
    """Refuse a uint8 array [N, H, W, C] that takes more than half of the available memory.

    Raises:
        DataError: with the size, and what to do.
    """
    need, have = math.prod(shape), available_bytes()
    if need > have / 2:
        raise DataError(
            f"{where}: {shape[0]} images of {shape[2]}x{shape[1]} pixels take {need / 1e9:,.1f} GB decoded, "
            f"more than half of the {have / 1e9:,.1f} GB of free memory; use e.g. data.size=32"
        )


def available_bytes() -> int:
    """Memory that can still be used: the system's, or the container's limit where that is lower."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        have = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup 2 and 1
        try:
            have = min(have, int(Path("/sys/fs/cgroup", limit).read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return have
