"""How image files become arrays: decoded by a thread for each core, fitted to one size, in one array for a set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data import cache
from automixsearch.data.base import ImageSet, Listing, cut
from automixsearch.data.labels import kept
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from automixsearch.spec import Data

Encoded = bytes | str | Path | np.ndarray
"""The content of an image file, its path, or pixels uint8 [H, W] or [H, W, 3]."""


def decoded(
    name: str, train: Listing, test: Listing, classes: tuple[str, ...], data: Data, notes: tuple[str, ...] = ()
) -> ImageSet:
    """The data set of the files that `train` (what `data.labels` keeps of it) and `test` list.

    Raises:
        DataError: `data.labels` does not fit, an image is missing, corrupt or of another size.
    """
    chosen = kept(train.labels, classes, data, name, train.paths)
    paths = [*(train.paths[i] for i in chosen), *test.paths]
    labels = np.concatenate([train.labels[chosen], test.labels])
    decoder = Decoder(len(paths), data)
    decoder.add(paths, lambda i: str(paths[i]))
    good = ~decoder.bad
    parts = cut(decoder.result(), labels[good], int(good[: len(chosen)].sum()))
    return ImageSet(name, *parts, classes, notes + decoder.notes, decoder.skipped)


class Decoder:
    """Decodes the images of one set into one array.

    With `data.size`, each image becomes size x size pixels, bilinear with antialiasing, in one step: of its centre
    square (`resize: crop`, which is the shorter side resized and the rest cropped), or of all of it (`squash`).
    Without, all images must have the size of the first. `data.trim` rows at the bottom are cut off before.
    Palettes are resolved, alpha is dropped, EXIF rotation is not applied, an animation gives its first frame. The
    result has one channel if every image is grayscale (modes L and 1), else three.

    bad: bool [total], which images were left out; all False unless `data.on_bad_image` is skip.
    """

    def __init__(self, total: int, data: Data) -> None:
        self._data = data
        self._images: np.ndarray | None = None
        self._first, self._done, self._gray = "", 0, True
        self._first_bad = ""
        self.bad = np.zeros(total, bool)

    def add(self, encoded: Sequence[Encoded], where: Callable[[int], str]) -> None:
        """Decode the next images; `where(i)` names the i-th of them in errors.

        Raises:
            DataError: an image is missing, corrupt or of another size, or the set fits neither memory nor cache.
        """
        images = self._images = self._array(encoded, where) if self._images is None else self._images

        def decode(block: range) -> list[tuple[bool, DataError | None]]:
            return [self._into(images, encoded[i], where, i) for i in block]

        step = 64  # a task for each image would cost as much as decoding a small one
        blocks = [range(i, min(i + step, len(encoded))) for i in range(0, len(encoded), step)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = [each for block in pool.map(decode, blocks) for each in block]
        for i, (gray, error) in enumerate(done):
            self._gray &= gray
            if error is not None:
                self.bad[self._done + i] = True
                self._first_bad = self._first_bad or str(error).partition("; ")[0]
        self._done += len(encoded)

    def result(self) -> np.ndarray:
        """The images that are not `bad`, in order: uint8 [N, H, W, C]."""
        if self._images is None:
            return np.empty((0, 0, 0, 3), np.uint8)
        good = np.flatnonzero(~self.bad)
        for place, i in enumerate(good):
            if place != i:
                self._images[place] = self._images[i]
        images = self._images[: len(good)]
        if not self._gray:
            return images
        single = cache.empty((*images.shape[:3], 1), self._first)
        cache.copy(images[..., :1], single)
        return single

    @property
    def skipped(self) -> int:
        """How many images were left out."""
        return int(self.bad.sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, if anything was."""
        return (f"bad images left out: {self.skipped}, the first {self._first_bad}",) if self.skipped else ()

    def _array(self, encoded: Sequence[Encoded], where: Callable[[int], str]) -> np.ndarray | None:
        """Room for all images in the size of the first good one; None: there is none among `encoded`."""
        for i, content in enumerate(encoded):
            try:
                width, height = self._open(content, where, i)[0].size
            except DataError:
                if self._data.on_bad_image == "fail":
                    raise
            else:
                self._first = where(i)
                return cache.empty((len(self.bad), height, width, 3), self._first)
        return None

    def _into(
        self, images: np.ndarray | None, encoded: Encoded, where: Callable[[int], str], i: int
    ) -> tuple[bool, DataError | None]:
        """Whether the image, now in its place, was grayscale; or why it was skipped."""
        try:
            image, gray = self._open(encoded, where, i)
        except DataError as error:
            if self._data.on_bad_image == "fail":
                raise
            return True, error
        assert images is not None  # a good image made room
        height, width = images.shape[1:3]
        if image.size != (width, height):
            raise DataError(
                f"{where(i)}: is {image.width}x{image.height} pixels, but {self._first} is {width}x{height}; "
                "images of one set must have the same size; resize them with e.g. data.size=32"
            )
        images[self._done + i] = np.asarray(image)
        return gray, None

    def _open(self, encoded: Encoded, where: Callable[[int], str], i: int) -> tuple[Image, bool]:
        try:
            return _pixels(encoded, self._data)
        except FileNotFoundError:
            rule, remedy = "no such file, though the data set lists it", "fetch it again"
        except Exception as error:  # on damaged files Pillow raises anything from OSError to IndexError
            if type(error).__name__ == "UnidentifiedImageError":
                reason = "no image format that Pillow knows"
            else:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            rule, remedy = f"cannot be decoded: {reason}", "replace or remove it"
        raise DataError(f"{where(i)}: {rule}; {remedy}, or leave out such images with data.on_bad_image=skip")


def _pixels(encoded: Encoded, data: Data) -> tuple[Image, bool]:
    """The image in RGB, fitted as `Decoder` says, and whether it was grayscale."""
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
    width, height = rgb.width, rgb.height - data.trim
    if height < 1:
        raise ValueError(f"is {rgb.height} pixels high, and data.trim={data.trim} leaves nothing of it")
    if data.size is None:
        return (rgb.crop((0, 0, width, height)) if data.trim else rgb), gray
    side = min(width, height)
    left, top = ((width - side) / 2, (height - side) / 2) if data.resize == "crop" else (0, 0)
    box = (left, top, width - left, height - top)
    return rgb.resize((data.size, data.size), Image.Resampling.BILINEAR, box=box), gray


def resize(images: np.ndarray, data: Data) -> np.ndarray:
    """Resize decoded images [N, H, W, C] as `Decoder` does; `data.size` None leaves them alone."""
    if data.size is None:
        return images
    decoder = Decoder(len(images), data)
    decoder.add(list(images[..., 0] if images.shape[3] == 1 else images), lambda i: f"image {i}")
    return decoder.result()
