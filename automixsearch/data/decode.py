"""How image files become arrays: decoded by a thread for each core, fitted to one size, in one array for a set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from automixsearch.data.files import formats, opened_file
from automixsearch.data.rows import encoded_at, is_place
from automixsearch.data.sink import Sink
from automixsearch.errors import DataError
from automixsearch.visible import visible

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

    from automixsearch.config.data import Data

Encoded = bytes | str | Path | np.ndarray | None
"""The content of an image file or None, its path or place in a Parquet file, or pixels uint8 [H, W] or [H, W, 3]."""
ORIENTATION = 0x0112
"""The EXIF tag that says how an image has to be turned; 1: it stands as it should."""


class Fit(Protocol):
    """How images are fitted to one size: what `Data` says of it."""

    @property
    def size(self) -> int | None: ...
    @property
    def resize(self) -> str: ...
    @property
    def trim(self) -> int: ...
    @property
    def orientation(self) -> str: ...


class Decoder:
    """Decodes the images of one set into one array.

    With `data.size`, each image becomes size x size pixels, bilinear with antialiasing, in one step: of its centre
    square (`resize: crop`, which is the shorter side resized and the rest cropped), or of all of it (`squash`).
    Without, all images must have the size of the first. `data.trim` rows at the bottom are cut off before.
    Palettes are resolved, alpha is dropped, an animation gives its first frame. EXIF orientation is applied where
    `data.orientation` says so. The result has one channel if every image is grayscale (modes L and 1), else three.

    bad: bool [total], which images were left out; all False unless `data.on_bad_image` is skip. gray: whether all those
    so far were grayscale.
    """

    def __init__(self, total: int, data: Data, sink: Sink) -> None:
        self._data, self._sink = data, sink
        self._images: np.ndarray | None = None
        self._first, self._first_bad, self._first_turned, self._done = "", "", "", 0
        self._fitted: tuple[int, int] | None = None
        self.gray = True
        self.bad = np.zeros(total, bool)
        self._turned = 0
        self._digests = np.zeros(total, np.uint64)

    def add(self, encoded: Sequence[Encoded], where: Callable[[int], str]) -> None:
        """Decode the next images; `where(i)` names the i-th of them in errors.

        Raises:
            DataError: an image is missing, corrupt or of another size, or the set fits neither memory nor cache.
        """
        if self._images is None:
            size = self._size(encoded, where)
            self._images = None if size is None else self._sink.empty((len(self.bad), *size, 3), self._first)
        self._decode(encoded, where, self._images, self._done)

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
        self, encoded: Sequence[Encoded], where: Callable[[int], str], images: np.ndarray | None, first: int
    ) -> None:
        """Decode the next images into `images`, from the place `first` on."""

        begun = self._done

        def decode(block: range) -> list[tuple[bool, bool, DataError | None]]:
            return [self._into(images, first + i, begun + i, encoded[i], where(i)) for i in block]

        step = 64  # a task for each image would cost as much as decoding a small one
        blocks = [range(i, min(i + step, len(encoded))) for i in range(0, len(encoded), step)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = [each for block in pool.map(decode, blocks) for each in block]
        for i, (gray, turned, error) in enumerate(done):
            self.gray &= gray
            self._turned += turned
            self._first_turned = self._first_turned or (where(i) if turned else "")
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
        if not self.gray:
            return images
        single = self._sink.empty((*images.shape[:3], 1), self._first)
        single[...] = images[..., :1]
        return single

    @property
    def skipped(self) -> int:
        """How many images were left out."""
        return int(self.bad.sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, or stands otherwise than its EXIF orientation says, if anything does."""
        notes = (f"bad images left out: {self.skipped}, the first {self._first_bad}",) if self.skipped else ()
        if self._turned and self._data.orientation == "stored":
            notes += (
                f"images whose EXIF orientation is not applied: {self._turned}, the first "
                f"{visible(self._first_turned)}; data.orientation=exif turns them",
            )
        return notes

    def doubled(self, test: np.ndarray, where: Callable[[int], str]) -> tuple[str, ...]:
        """Notes on equal images: in both parts, and in the training part. test: bool [total], which are of the test
        part."""
        first: dict[int, int] = {}
        counts, pairs = Counter[str](), dict[str, str]()
        for part, chosen in (("training", ~test), ("test", test)):
            for i in np.flatnonzero(chosen & ~self.bad).tolist():
                same = first.setdefault(int(self._digests[i]), i)
                if same != i and not test[same]:
                    counts[part] += 1
                    pairs.setdefault(part, f"{visible(where(i))} = {visible(where(same))}")
        words = {"training": "training images are there before", "test": "test images are in the training part too"}
        return tuple(f"looks doubled: {n} {words[part]}, the first {pairs[part]}" for part, n in counts.items())

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
        self, images: np.ndarray | None, place: int, number: int, encoded: Encoded, where: str
    ) -> tuple[bool, bool, DataError | None]:
        """Whether the image, the number-th of all and now in its place, was grayscale, and whether EXIF turns it; or
        why it was skipped."""
        try:
            image, gray, turned = opened(encoded, self._data, where)
        except DataError as error:
            if self._data.on_bad_image == "fail":
                raise
            return True, False, error
        assert images is not None  # a good image made room
        height, width = images.shape[1:3]
        if image.size != (width, height):
            raise DataError(
                f"{where}: is {image.width}x{image.height} pixels, but {self._first} is {width}x{height}; "
                "images of one set must have the same size; resize them with e.g. data.size=32"
            )
        pixels = np.asarray(image)
        images[place] = pixels
        self._digests[number] = int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest())
        return gray, turned, None


class Opened(NamedTuple):
    """An image in RGB, whether it was grayscale, and whether its EXIF orientation turns it."""

    image: Image
    gray: bool
    turned: bool


def opened(encoded: Encoded, data: Fit, where: str) -> Opened:
    """An image, fitted as `Decoder` says.

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
    raise DataError(f"{visible(where)}: {rule}; {remedy}, or leave out such images with data.on_bad_image=skip")


def _pixels(encoded: Encoded, data: Fit) -> Opened:
    from PIL import Image

    if encoded is None:
        raise ValueError("is null")
    if isinstance(encoded, str) and is_place(encoded):
        encoded = encoded_at(encoded)
    if isinstance(encoded, np.ndarray):
        return _fitted(Image.fromarray(encoded), data)
    with (
        BytesIO(encoded) if isinstance(encoded, bytes) else opened_file(encoded) as content,
        Image.open(content, formats=formats()) as image,
    ):
        return _fitted(image, data)


def _fitted(image: Image, data: Fit) -> Opened:
    from PIL.Image import Resampling

    if image.mode[0] in "IF":  # Pillow would clip these to 255
        raise ValueError(f"has {image.mode} pixels, and only 8 bits a channel are supported")
    gray = image.mode in ("L", "1")
    clear = image.mode == "P" and "transparency" in image.info  # Pillow warns unless alpha is named
    rgb = (image.convert("RGBA") if clear else image).convert("RGB")
    turn = _turn(image)
    if turn is not None and data.orientation == "exif":
        rgb = rgb.transpose(turn)
    turned = turn is not None
    width, height = rgb.width, rgb.height - data.trim
    if height < 1:
        raise ValueError(f"is {rgb.height} pixels high, and data.trim={data.trim} leaves nothing of it")
    if data.size is None:
        return Opened(rgb.crop((0, 0, width, height)) if data.trim else rgb, gray, turned)
    side = min(width, height)
    left, top = ((width - side) / 2, (height - side) / 2) if data.resize == "crop" else (0, 0)
    box = (left, top, width - left, height - top)
    return Opened(rgb.resize((data.size, data.size), Resampling.BILINEAR, box=box), gray, turned)


def _turn(image: Image) -> Transpose | None:
    """How EXIF says that an image has to be turned; one whose EXIF cannot be read stays as it is."""
    from PIL.Image import Transpose

    turns = (
        Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
        Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
    )  # fmt: skip
    try:
        return dict(enumerate(turns, 2)).get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # on damaged EXIF Pillow raises anything; the pixels are whole
        return None


def resize(images: np.ndarray, data: Data, sink: Sink) -> np.ndarray:
    """Resize decoded images [N, H, W, C] as `Decoder` does; `data.size` None leaves them alone."""
    if data.size is None:
        return images
    decoder = Decoder(len(images), data, sink)
    decoder.add(list(images[..., 0] if images.shape[3] == 1 else images), lambda i: f"image {i}")
    return decoder.result()
