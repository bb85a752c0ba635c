"""How image files become arrays: decoded by a thread for each core, fitted to one size, in one array for a set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from automixsearch.data import cache
from automixsearch.data.base import ImageSet, Listing, cut
from automixsearch.data.labels import kept
from automixsearch.data.rows import encoded_at, is_place
from automixsearch.data.shards import Shards
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from automixsearch.spec import Data

Encoded = bytes | str | Path | np.ndarray
"""The content of an image file, its path or place in a Parquet file, or pixels uint8 [H, W] or [H, W, 3]."""


class Fit(Protocol):
    """How images are fitted to one size: what `Data` says of it."""

    @property
    def size(self) -> int | None: ...
    @property
    def resize(self) -> str: ...
    @property
    def trim(self) -> int: ...


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

    def once() -> ImageSet:
        decoder = Decoder(len(paths), data)
        decoder.add(paths, lambda i: str(paths[i]))
        good = ~decoder.bad
        parts = cut(decoder.result(), labels[good], int(good[: len(chosen)].sum()))
        return ImageSet(name, *parts, classes, notes + decoder.notes, decoder.skipped)

    return once_or_streamed(once, lambda: paths, labels, len(chosen), data, (name, classes, notes))


def once_or_streamed(
    once: Callable[[], ImageSet],
    places: Callable[[], Sequence[str]],
    labels: np.ndarray,
    n: int,
    data: Data,
    named: tuple[str, tuple[str, ...], tuple[str, ...]],
) -> ImageSet:
    """What `once` gives, or where it has no room and the pipeline lets it, a stream of the images at some `places`.

    Args:
        labels: of the images at the places, of which the first n are the training part. named: name, classes, notes.
    """
    try:
        if data.pipeline == "stream":
            raise cache.NoRoom("data.pipeline=stream")
        return once()
    except cache.NoRoom as error:
        if data.pipeline == "cache":
            raise DataError(f"{error}, or let images be decoded for every epoch with data.pipeline=auto") from None
        why = str(error).partition("; ")[0]
    from automixsearch.data.stream import surveyed

    name, classes, notes = named
    return surveyed(name, places(), labels, n, classes, data, notes, why)


class Decoder:
    """Decodes the images of one set into one array.

    With `data.size`, each image becomes size x size pixels, bilinear with antialiasing, in one step: of its centre
    square (`resize: crop`, which is the shorter side resized and the rest cropped), or of all of it (`squash`).
    Without, all images must have the size of the first. `data.trim` rows at the bottom are cut off before.
    Palettes are resolved, alpha is dropped, EXIF rotation is not applied, an animation gives its first frame. The
    result has one channel if every image is grayscale (modes L and 1), else three.

    bad: bool [total], which images were left out; all False unless `data.on_bad_image` is skip. gray: whether all those
    so far were grayscale.
    """

    def __init__(self, total: int, data: Data) -> None:
        self._data = data
        self._images: np.ndarray | Shards | None = None
        self._first, self._first_bad, self._done = "", "", 0
        self._fitted: tuple[int, int] | None = None
        self.gray = True
        self.bad = np.zeros(total, bool)

    def add(self, encoded: Sequence[Encoded], where: Callable[[int], str]) -> None:
        """Decode the next images; `where(i)` names the i-th of them in errors.

        Raises:
            DataError: an image is missing, corrupt or of another size, or the set fits neither memory nor cache.
        """
        if self._images is None:
            size = self._size(encoded, where)
            self._images = None if size is None else cache.empty((len(self.bad), *size, 3), self._first)
        images = self._images
        if not isinstance(images, Shards) or len(encoded) < len(self.bad):
            self._decode(encoded, where, images, self._done)
            return
        step = len(images.files[0])
        for number, start in enumerate(range(0, len(encoded), step)):
            stop = min(start + step, len(encoded))
            known = cache.known(number)
            if known is None:
                self._decode(encoded[start:stop], lambda i, start=start: where(start + i), images, start)
                bad = np.flatnonzero(self.bad[start:stop]).tolist()
                cache.remember(number, {"bad": bad, "first_bad": self._first_bad, "gray": self.gray})
            else:
                self.bad[start:stop][known["bad"]] = True
                self._first_bad, self.gray, self._done = known["first_bad"], known["gray"], stop

    def windows(self, encoded: Sequence[Encoded], where: Callable[[int], str]) -> Iterator[np.ndarray]:
        """Decode all images, some at a time: uint8 [n, H, W, 3] of those that are not `bad`, in order.

        Raises:
            DataError: as `add`.
        """
        size, step = self._size(encoded, where) or (0, 0), 256
        for start in range(0, len(encoded), step):
            some, first = encoded[start : start + step], self._done
            images = np.empty((len(some), *size, 3), np.uint8)
            self._decode(some, lambda i, start=start: where(start + i), images, 0)
            yield images[~self.bad[first : self._done]]

    def _decode(
        self, encoded: Sequence[Encoded], where: Callable[[int], str], images: np.ndarray | Shards | None, first: int
    ) -> None:
        """Decode the next images into `images`, from the place `first` on."""

        def decode(block: range) -> list[tuple[bool, DataError | None]]:
            return [self._into(images, first + i, encoded[i], where(i)) for i in block]

        step = 64  # a task for each image would cost as much as decoding a small one
        blocks = [range(i, min(i + step, len(encoded))) for i in range(0, len(encoded), step)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = [each for block in pool.map(decode, blocks) for each in block]
        for i, (gray, error) in enumerate(done):
            self.gray &= gray
            if error is not None:
                self.bad[self._done + i] = True
                self._first_bad = self._first_bad or str(error).partition("; ")[0]
        self._done += len(encoded)

    def result(self) -> np.ndarray | Shards:
        """The images that are not `bad`, in order: uint8 [N, H, W, C]."""
        if self._images is None:
            return np.empty((0, 0, 0, 3), np.uint8)
        good = np.flatnonzero(~self.bad)
        if len(good) < len(self.bad):
            cache.forget()  # what is moved is not where it was remembered
        for place, i in enumerate(good):
            if place != i:
                self._images[place] = self._images[i]
        images = self._images[: len(good)]
        if not self.gray:
            return images
        single = cache.empty((*images.shape[:3], 1), self._first)
        cache.copy(images, single)
        return single

    @property
    def skipped(self) -> int:
        """How many images were left out."""
        return int(self.bad.sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, if anything was."""
        return (f"bad images left out: {self.skipped}, the first {self._first_bad}",) if self.skipped else ()

    def _size(self, encoded: Sequence[Encoded], where: Callable[[int], str]) -> tuple[int, int] | None:
        """Height and width of the first good image of the set; None: there is none yet."""
        for i, content in enumerate(encoded if self._fitted is None else ()):
            try:
                width, height = opened(content, self._data, where(i))[0].size
            except DataError:
                if self._data.on_bad_image == "fail":
                    raise
            else:
                self._first, self._fitted = where(i), (height, width)
                break
        return self._fitted

    def _into(
        self, images: np.ndarray | Shards | None, place: int, encoded: Encoded, where: str
    ) -> tuple[bool, DataError | None]:
        """Whether the image, now in its place, was grayscale; or why it was skipped."""
        try:
            image, gray = opened(encoded, self._data, where)
        except DataError as error:
            if self._data.on_bad_image == "fail":
                raise
            return True, error
        assert images is not None  # a good image made room
        height, width = images.shape[1:3]
        if image.size != (width, height):
            raise DataError(
                f"{where}: is {image.width}x{image.height} pixels, but {self._first} is {width}x{height}; "
                "images of one set must have the same size; resize them with e.g. data.size=32"
            )
        images[place] = np.asarray(image)
        return gray, None


def opened(encoded: Encoded, data: Fit, where: str) -> tuple[Image, bool]:
    """The image in RGB, fitted as `Decoder` says, and whether it was grayscale.

    Raises:
        DataError: it is missing or cannot be decoded; `where` is named.
    """
    try:
        return _pixels(encoded, data)
    except FileNotFoundError:
        rule, remedy = "no such file, though the data set lists it", "fetch it again"
    except Exception as error:  # on damaged files Pillow raises anything from OSError to IndexError
        if type(error).__name__ == "UnidentifiedImageError":
            reason = "no image format that Pillow knows"
        else:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        rule, remedy = f"cannot be decoded: {reason}", "replace or remove it"
    raise DataError(f"{where}: {rule}; {remedy}, or leave out such images with data.on_bad_image=skip")


def _pixels(encoded: Encoded, data: Fit) -> tuple[Image, bool]:
    from PIL import Image

    if isinstance(encoded, str) and is_place(encoded):
        encoded = encoded_at(encoded)
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


def resize(images: np.ndarray, data: Data) -> np.ndarray | Shards:
    """Resize decoded images [N, H, W, C] as `Decoder` does; `data.size` None leaves them alone."""
    if data.size is None:
        return images
    decoder = Decoder(len(images), data)
    decoder.add(list(images[..., 0] if images.shape[3] == 1 else images), lambda i: f"image {i}")
    return decoder.result()
