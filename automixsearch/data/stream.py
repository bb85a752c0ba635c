"""Sets whose images are decoded anew for every epoch: those that fit neither the cache nor the memory.

One look through all images finds what training has to know beforehand: which are bad, their size and channels, the
fingerprint, and the sums behind mean and deviation. All of it equals that of the decoded set, so a training does not
depend on where its images come from. It is kept in the cache, about two hundred bytes for each image:

    paths.npy     uint8, the names of the files, one after the other
    ends.npy      int64 [N], where each ends
    moments.npy   int64 [N, 2, C], the sum of the values of each image, and of their squares
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.data.base import ImageSet, Part, header
from automixsearch.data.decode import Decoder
from automixsearch.data.decode import opened as decode
from automixsearch.data.loaders import Coming, Form, Loaders, read
from automixsearch.data.rows import told
from automixsearch.data.sink import Sink
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data


@dataclass(frozen=True, eq=False)
class Streamed:
    """Images uint8 [N, H, W, C] as files: decoded here (`images[places]`) or by other processes (`begin`).

    paths, starts, ends, moments: as in the module's files. kept: whether the cache has them.
    """

    paths: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    moments: np.ndarray
    loaders: Loaders
    kept: bool = False
    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.ends), *self.loaders.form.shape)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        return read(self._named(places), self.loaders.form)

    def blocks(self) -> Iterator[np.ndarray]:
        """All images in order, some at a time."""
        for start in range(0, len(self), 256):
            yield self[np.arange(start, min(start + 256, len(self)))]

    def begin(self, places: np.ndarray, processes: int) -> Coming:
        """Let processes decode the images at int64 [n] places; several batches may be under way."""
        return self.loaders.begin(self._named(places), processes)

    def part(self, start: int, stop: int) -> Streamed:
        """The images from one place to another."""
        chosen = slice(start, stop)
        return replace(self, starts=self.starts[chosen], ends=self.ends[chosen], moments=self.moments[chosen])

    def taken(self, places: np.ndarray) -> Streamed:
        """The images at int64 [n] places."""
        return replace(self, starts=self.starts[places], ends=self.ends[places], moments=self.moments[places])

    def _named(self, places: Sequence[int] | np.ndarray) -> list[str]:
        bounds = zip(self.starts[places].tolist(), self.ends[places].tolist(), strict=True)
        return [self.paths[start:end].tobytes().decode(errors="surrogateescape") for start, end in bounds]


def surveyed(
    name: str,
    paths: Sequence[str],
    labels: np.ndarray,
    n: int,
    classes: tuple[str, ...],
    data: Data,
    notes: tuple[str, ...],
    why: str,
    sink: Sink,
) -> ImageSet:
    """The set of the files `paths` (or rows of Parquet files), of which the first n are the training part; `why` it is
    not decoded once.

    Raises:
        DataError: an image is missing, corrupt or of another size.
    """
    known = sink.streamed()
    if known is not None:
        return known
    seen = _Seen(np.zeros(len(paths), bool), _is_gray(paths, data))
    for _ in range(3):  # once, and again where images are bad or not all of them gray
        before, seen = seen, _look(paths, labels, n, classes, data, seen, sink)
        if (seen.bad == before.bad).all() and seen.gray == before.gray:
            break
    else:
        raise DataError(f"{name}: its images change while they are read; try again when they do not")
    good = ~seen.bad
    encoded = [path.encode(errors="surrogateescape") for path, taken in zip(paths, good, strict=True) if taken]
    ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
    form = Form(seen.shape, data.size, data.resize, data.trim, data.orientation)
    blob = np.frombuffer(b"".join(encoded), np.uint8)
    whole = Streamed(blob, _starts(ends), ends, seen.moments, Loaders(form))
    trained, labels = int(good[:n].sum()), labels[good]
    parts = (Part(whole.part(0, trained), labels[:trained]), Part(whole.part(trained, len(ends)), labels[trained:]))
    notes += (*seen.notes, f"images are decoded for every epoch: {why}")
    made = ImageSet(name, *parts, classes, notes, int(seen.bad.sum()))
    vars(made)["fingerprint"] = seen.fingerprint  # where cached_property keeps it
    return made


def save(folder: Path, made: ImageSet, write: Callable[[Path, np.ndarray], None]) -> dict[str, Any]:
    """Write what `opened` reads, array by array, and return what it finds in set.json."""
    parts = [part.images for part in (made.train, made.test) if isinstance(part.images, Streamed)]
    write(folder / "paths.npy", parts[0].paths)
    write(folder / "ends.npy", np.concatenate([part.ends for part in parts]))
    write(folder / "moments.npy", np.concatenate([part.moments for part in parts]))
    return {"form": asdict(parts[0].loaders.form)}


def opened(folder: Path, content: dict[str, Any]) -> Streamed:
    """Both parts of a set that `save` has written."""
    paths, ends, moments = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("paths", "ends", "moments"))
    form = Form(**{**content["form"], "shape": tuple(content["form"]["shape"])})
    return Streamed(paths, _starts(ends), ends, moments, Loaders(form), kept=True)


def _starts(ends: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], ends[:-1]]).astype(np.int64)


# Looking through a set ----------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """What was found out about all images: which are bad, whether all are gray; shape [H, W, C] of the good ones."""

    bad: np.ndarray
    gray: bool
    shape: tuple[int, int, int] = (0, 0, 3)
    moments: np.ndarray = field(default_factory=lambda: np.empty((0, 2, 3), np.int64))
    notes: tuple[str, ...] = ()
    fingerprint: str = ""


def _is_gray(paths: Sequence[str], data: Data) -> bool:
    """Whether the first image is gray: a guess at all of them."""
    try:
        return bool(paths) and decode(paths[0], data, paths[0])[1]
    except DataError:  # which the look through all of them tells
        return False


def _look(
    paths: Sequence[str], labels: np.ndarray, n: int, classes: tuple[str, ...], data: Data, before: _Seen, sink: Sink
) -> _Seen:
    """Decode all images once; moments and fingerprint are right if `before` is right about bad and gray images."""
    decoder, digest = Decoder(len(paths), data, sink), hashlib.sha256()
    good, seen = ~before.bad, _Seen(before.bad, before.gray)
    sums: list[np.ndarray] = []
    for start, stop in ((0, n), (n, len(paths))):
        begun = False
        for images in decoder.windows(paths[start:stop], lambda i, start=start: told(paths[start + i])):
            images = np.ascontiguousarray(images[..., :1] if before.gray else images)
            seen.shape = images.shape[1:]  # type: ignore[assignment]
            if not begun:
                digest.update(header((int(good[start:stop].sum()), *seen.shape), classes))
            begun = True
            digest.update(images.data)
            sums += map(_moments, images)
        digest.update(labels[start:stop][good[start:stop]].astype("<i8").data)
    seen.bad, seen.gray, seen.notes = decoder.bad, decoder.gray, decoder.notes
    seen.notes += decoder.doubled(np.arange(len(paths)) >= n, lambda i: told(paths[i]))
    seen.moments = np.array(sums, np.int64).reshape(len(sums), 2, seen.shape[2])
    seen.fingerprint = digest.hexdigest()[:16]
    return seen


def _moments(image: np.ndarray) -> np.ndarray:
    """The sum of the values of each channel, and of their squares: int64 [2, C] of uint8 [H, W, C]."""
    from PIL import Image

    counts = Image.fromarray(image if image.shape[2] > 1 else image[..., 0]).histogram()  # far faster than numpy
    histograms, values = np.array(counts, np.int64).reshape(-1, 256), np.arange(256)
    return np.stack([histograms @ values, histograms @ values**2])
