"""What a data set is, and how a validation split is drawn.

N images, H W pixels, C channels (1 or 3), K classes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.data.stream import Streamed


@dataclass(frozen=True, eq=False)
class Part:
    """Images with their labels; shared between trials, so never edited in place.

    images: uint8 [N, H, W, C], a C-contiguous array, in memory or in a mapped file, or decoded when asked for. labels:
    int64 [N].
    """

    images: np.ndarray | Streamed
    labels: np.ndarray

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise DataError(f"images must be uint8 [N, H, W, 1 or 3]; got {images.dtype} {list(images.shape)}")
        if isinstance(images, np.ndarray) and not images.flags.c_contiguous:
            raise DataError("images must be C-contiguous; use numpy.ascontiguousarray")
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise DataError(f"labels must be int64 [{len(images)}]; got {labels.dtype} {list(labels.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, places: np.ndarray) -> Part:
        """The images at int64 [n] places."""
        images = self.images
        own = np.ascontiguousarray(images[places]) if isinstance(images, np.ndarray) else images.taken(places)
        return Part(own, self.labels[places])


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Images beside the labelled ones, of which the classes are not used.

    part: the images; its labels are for telling how good guesses are, and -1 where they are not known. known: int64
    [N], where in it each image of the training part is, or -1. labelled_too: whether those that are trained on with
    their labels count too.
    """

    part: Part
    known: np.ndarray
    labelled_too: bool

    def places(self, split: Split) -> np.ndarray:
        """Which images of the part are trained on, those that are validated never: sorted int64."""
        out = [self.known[split.val], *([] if self.labelled_too else [self.known[split.train]])]
        return np.setdiff1d(np.arange(len(self.part)), np.concatenate(out))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A training and a test part with the same classes; `notes` say what was decided on the way.

    skipped: how many bad images were left out of both parts. unlabelled: further images, if there are any. labelled:
    int64 [n], the images of the training part that are trained on with their labels, where others validate; None: all
    but those that validate.

    Raises:
        DataError: fewer than 2 classes, an empty part, a label outside 0 to K - 1, parts of different size.
    """

    name: str
    train: Part
    test: Part
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    skipped: int = 0
    unlabelled: Unlabelled | None = None
    labelled: np.ndarray | None = None

    def __post_init__(self) -> None:
        top = len(self.classes) - 1
        if top < 1:
            raise DataError(f"{self.name}: has {top + 1} class(es); classification needs 2 or more")
        for kind, part in (("training", self.train), ("test", self.test)):
            if not len(part):
                raise DataError(f"{self.name}: the {kind} part has no images; check the files")
            for label in part.labels[(part.labels < 0) | (part.labels > top)][:1]:
                raise DataError(f"{self.name}: label {label} of the {kind} part must be 0 to {top}")
        train, test = self.train.images.shape[1:], self.test.images.shape[1:]
        if train != test:
            raise DataError(f"{self.name}: training images are {train} (H, W, C), test images {test}; must agree")

    @property
    def nbytes(self) -> int:
        """Bytes of all images, decoded."""
        return sum(math.prod(part.images.shape) for part in (self.train, self.test))

    def told(self, notes: tuple[str, ...]) -> ImageSet:
        """The same set with more notes before its own."""
        made = replace(self, notes=(*notes, *self.notes))
        vars(made).update({"fingerprint": vars(self)["fingerprint"]} if "fingerprint" in vars(self) else {})
        return made

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of pixels, shapes, labels and the number of classes.

        The content decides, not the layout: the same images and labels in the same order have the same
        fingerprint from Parquet files, folders and torchvision. Class names stay out for that reason (many
        files carry none, and no result depends on them). Their number is in: it sets the width of the head.
        """
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(header(part.images.shape, self.classes))
            for block in [part.images] if isinstance(part.images, np.ndarray) else part.images.blocks():
                digest.update(block.ravel().data)
            digest.update(part.labels.astype("<i8").data)
        return digest.hexdigest()[:16]


def header(shape: tuple[int, ...], classes: Sequence[str]) -> bytes:
    """What precedes the pixels of a part in the fingerprint."""
    return json.dumps([*shape, len(classes)]).encode()


def channel_statistics(images: np.ndarray | Streamed, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over `images[indices]`, in units of 0 to 1.

    Exact: integer sums over the values of each channel. A standard deviation below one grey level (as of a
    constant channel) is raised to 1/255, so that dividing by it is safe.

    Args:
        images: uint8 [N, H, W, C].
        indices: int64 [n], the training images, n > 0.

    Returns:
        float64 [C] each.
    """
    sums = getattr(images, "moments", None)  # which what is streamed has of every image
    if sums is not None:
        sums = sums[indices].sum(0)
    else:
        blocks = (images[indices[start : start + 512]] for start in range(0, len(indices), 512))
        sums = sum(moments(block) for block in blocks)
    n = len(indices) * math.prod(images.shape[1:3])
    mean, std = np.empty(images.shape[3]), np.empty(images.shape[3])
    for channel, (first, second) in enumerate(np.asarray(sums).T.tolist()):
        mean[channel] = first / n / 255
        std[channel] = max((n * second - first**2) ** 0.5 / n, 1) / 255
    return mean, std


def moments(images: np.ndarray) -> np.ndarray:
    """The sum of the values of each channel, and of their squares: int64 [2, C] of uint8 [..., C]."""
    values = np.arange(256)
    histograms = (np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(images.shape[-1]))
    return np.stack([(histogram @ values, histogram @ values**2) for histogram in histograms], axis=1)


# Splits -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """A partition of the training part into training and validation images.

    train, val: sorted int64 indices into `ImageSet.train`; together all of it, or less where validation images come
    from those without a label. fingerprint: of the data set they belong to.
    """

    train: np.ndarray
    val: np.ndarray
    fingerprint: str

    @cached_property
    def split_id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the indices and the data's fingerprint."""
        digest = hashlib.sha256(f"{self.fingerprint} {len(self.train)} {len(self.val)}".encode())
        for indices in (self.train, self.val):
            digest.update(indices.astype("<i8").data)
        return digest.hexdigest()[:16]

    def to_json(self, image_set: ImageSet | None = None) -> str:
        """One line that `from_json` reads: the validation indices and what they refer to; of `image_set` the class of
        each of these images and the names of the classes too."""
        images = len(self.train) + len(self.val)
        content: dict[str, Any] = {"split_id": self.split_id, "fingerprint": self.fingerprint, "images": images}
        if max(self.train[-1], self.val[-1]) >= images:
            content["train"] = self.train.tolist()
        if image_set is not None:
            content |= {"labels": image_set.train.labels[self.val].tolist(), "classes": image_set.classes}
        return json.dumps(content | {"val": self.val.tolist()}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            DataError: the text is no split, or was changed since (its split_id differs).
        """
        try:
            content = json.loads(text)
            if "train" in content:
                train, val = (np.array(content[part], np.int64) for part in ("train", "val"))
            else:
                chosen = np.zeros(content["images"], bool)
                chosen[content["val"]] = True
                train, val = np.flatnonzero(~chosen), np.flatnonzero(chosen)
            made = cls(train, val, content["fingerprint"])
            recorded = content["split_id"]
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError, RecursionError) as error:
            raise DataError(f"not a recorded split: {type(error).__name__}: {error}") from None
        if made.split_id != recorded:
            raise DataError(f"recorded split {recorded} has the content of {made.split_id}: it was changed")
        return made


def split(image_set: ImageSet, val_fraction: float, seed: int) -> Split:
    """Draw a stratified validation split from the training part, or from what of it may not be trained on with its
    labels, where there is such; `stratified` says how.

    Raises:
        DataError: a class has fewer than 2 training images.
    """
    where, labels = f"{image_set.name} (training part)", image_set.train.labels
    if image_set.labelled is not None:
        others = np.setdiff1d(np.arange(len(labels)), image_set.labelled)
        _, held = stratified(labels[others], image_set.classes, val_fraction, seed, f"{where}, without labels")
        return Split(image_set.labelled, others[held], image_set.fingerprint)
    rest, held = stratified(labels, image_set.classes, val_fraction, seed, where)
    return Split(rest, held, image_set.fingerprint)


HELD_OUT = "test part: a fixed stratified 20 %"
"""The note of a data set that `hold_out` divided."""


def hold_out(labels: np.ndarray, classes: Sequence[str], where: str) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) of data without a test part: indices of a fixed stratified 20 %, part of the data's definition."""
    if not len(labels):
        raise DataError(f"{where}: has no images")
    return stratified(labels, classes, 0.2, 0, where)


def cut(images: np.ndarray, labels: np.ndarray, n: int) -> tuple[Part, Part]:
    """(train, test): the first n images and the others."""
    return Part(images[:n], labels[:n]), Part(images[n:], labels[n:])


def stratified(
    labels: np.ndarray, classes: Sequence[str], fraction: float, seed: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out `fraction` of the images of each class: (rest, held out), sorted int64 indices.

    How many: round(fraction N), shared between the classes by largest remainders (ties: the class that comes
    first), except that each class keeps at least one image on either side, which may raise or lower the
    total. Which: the first of a permutation of each class, drawn class by class from one PCG64 generator.

    Raises:
        DataError: a class has fewer than 2 images.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        few = int(counts.argmin())
        raise DataError(
            f"{where}: class {classes[few]!r} has {counts[few]} image(s); a split needs 2 or more of each; "
            "add images or drop the class"
        )
    quota = fraction * counts
    take = np.clip(quota.astype(np.int64), 1, counts - 1)
    total = np.clip(round(fraction * len(labels)), len(counts), len(labels) - len(counts))
    while take.sum() < total:
        take[np.where(take < counts - 1, quota - take, -np.inf).argmax()] += 1
    while take.sum() > total:
        take[np.where(take > 1, quota - take, np.inf).argmin()] -= 1
    chosen = drawn(labels, take, seed)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def drawn(labels: np.ndarray, take: Sequence[int] | np.ndarray, seed: int) -> np.ndarray:
    """bool [N]: of each class the first `take` images of a permutation, drawn class by class from one PCG64."""
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = np.zeros(len(labels), bool)
    order = np.argsort(labels, kind="stable")  # the images of each class together, in order
    ends = np.cumsum(np.bincount(labels, minlength=len(take)))
    for start, end, count in zip([0, *ends[:-1]], ends, take, strict=True):
        chosen[generator.permutation(order[start:end])[:count]] = True
    return chosen
