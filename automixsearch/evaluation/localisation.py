"""Localisation: whether what a network looks at is where the object is."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from automixsearch.config.knobs import knob
from automixsearch.errors import SpecError, unknown
from automixsearch.evaluation.class_map import class_map
from automixsearch.evaluation.contours import contours, overlap
from automixsearch.evaluation.suite import Evaluation, Score, Subject
from automixsearch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

DELTAS = (0.3, 0.5, 0.7)
"""Overlaps from which on a box counts as found."""
AT_ONCE = 64
"""Images of a batch."""
CSV = "image,class,x0,y0,x1,y1"


@dataclass(frozen=True)
class Boxed:
    """An image file, its class and the boxes on it, int64 [n, 4]: left, top, right, bottom in its pixels."""

    path: Path
    label: int
    boxes: np.ndarray


@dataclass(frozen=True)
class Localisation(Evaluation):
    """How many objects are boxed by the class activation map of their true class, in percent, at the best threshold.

    maxboxacc: by the box of the largest contour; maxboxacc_v2: by the best box of any contour, holes too; each at
    overlaps (IoU) of 0.3, 0.5, 0.7, and of the second the mean of these. skipped: images without a box. Images are
    resized whole to the size at which the network was tested, boxes with them.

    Source: Choe et al., arXiv 2007.04178; authors' code wsolevaluation at 96f4b88, whose figures are met.
    Differs: the map is that of `class_map` where the head does not read the mean of the last map alone.

    Examples:
        >>> Localisation(boxes="/data/CUB_200_2011").thresholds
        100
    """

    name: ClassVar[str] = "localisation"
    source: ClassVar[str] = "arXiv 2007.04178"

    boxes: str = knob("", f"CUB_200_2011, or a CSV file {CSV} of pixels, with images beside it", word="")
    thresholds: int = knob(100, "of the map: 0, 1/thresholds, ... of its largest value", low=2, high=1000)

    def passes(self, images: int) -> float:
        return 3.0

    def scores(self, subject: Subject, generator: Generator) -> Iterator[Score]:
        if not self.boxes:
            raise SpecError(f"localisation.boxes: name the folder CUB_200_2011, or a CSV file {CSV}")
        read = _of_cub if Path(self.boxes).is_dir() else _of_csv
        listed = read(Path(self.boxes), subject.classes)
        boxed = [one for one in listed if len(one.boxes)]
        if not boxed:
            raise SpecError(f"localisation.boxes: {self.boxes} has no box for any of {len(listed)} images")
        part = subject.test.part
        side = subject.test.side or min(part.shape[:2])
        best = []
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for start in range(0, len(boxed), AT_ONCE):
                some = boxed[start : start + AT_ONCE]
                seen = list(threads.map(lambda one: _seen(one.path, side, part.shape[2]), some))
                x = torch.from_numpy(np.stack([pixels for pixels, _ in seen])).to(part.device)
                x = x.permute(0, 3, 1, 2).float() / 255
                labels = torch.tensor([one.label for one in some], device=part.device)
                maps = levels(class_map(subject.network, subject.normalise(x), labels), side).cpu().numpy()
                scaled = [resized(one.boxes, size, side) for one, (_, size) in zip(some, seen, strict=True)]
                best += threads.map(lambda level, boxes: best_overlaps(level, boxes, self.thresholds), maps, scaled)
        curves = np.stack(best)  # [N, 2, thresholds]
        found = {
            (version, delta): 100 * float((curves[:, number] >= delta).mean(0).max())
            for number, version in enumerate(("maxboxacc", "maxboxacc_v2"))
            for delta in DELTAS
        }
        for (version, delta), value in found.items():
            yield Score(version, value, len(boxed), f"iou={delta:g}")
        mean = float(np.mean([found["maxboxacc_v2", delta] for delta in DELTAS]))
        yield Score("maxboxacc_v2", mean, len(boxed), "iou=mean")
        yield Score("skipped", float(len(listed) - len(boxed)), len(listed))


def levels(maps: Tensor, side: int) -> Tensor:
    """Class activation maps [B, h, w] as uint8 [B, side, side] from least to greatest; constant ones are 0."""
    large = functional.interpolate(maps[:, None], (side, side), mode="bicubic", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return (255 * ((large - low) / (high - low)).nan_to_num(0, 0, 0)).to(torch.uint8)


def resized(boxes: np.ndarray, size: tuple[int, int], side: int) -> np.ndarray:
    """Boxes of an image of `size` (width, height) as they lie on it at side x side pixels, in whole ones."""
    return np.minimum((boxes * np.tile(side / np.array(size), 2)).astype(np.int64), side - 1)


def best_overlaps(level: np.ndarray, boxes: np.ndarray, thresholds: int) -> np.ndarray:
    """The greatest overlap with any of `boxes` [n, 4] at each threshold, [2, thresholds]: of the box of the largest
    contour, and of that of any; level: uint8 [H, W]."""
    made: dict[int, tuple[float, float]] = {}
    highest, out = int(level.max()), []
    for threshold in np.arange(0, 1, 1 / thresholds):
        limit = int(threshold * highest)
        if limit not in made:
            whole, largest = boxes_of(level, limit)
            made[limit] = float(overlap(whole[[largest]], boxes).max()), float(overlap(whole, boxes).max())
        out.append(made[limit])
    return np.array(out).T


def boxes_of(level: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """The boxes of the contours of what is above `limit` in a map, int64 [n, 4], and the place of the largest."""
    found = contours(level > limit)
    if not len(found):
        return np.zeros((1, 4), np.int64), 0
    last = np.array([level.shape[1], level.shape[0]]) - 1
    return np.c_[found[:, :2], np.minimum(found[:, 2:4], last)], int(found[:, 4].argmax())


def _seen(path: Path, side: int, channels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """An image file as uint8 [side, side, C], and its width and height."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            made = image.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError) as error:
        raise SpecError(f"localisation.boxes: {path} cannot be read: {error}") from None
    pixels = np.asarray(made.resize((side, side), Image.Resampling.BILINEAR))
    return pixels.reshape(side, side, channels), made.size


def _of_cub(folder: Path, classes: Sequence[str]) -> list[Boxed]:
    """The test images of CUB-200-2011."""

    def rows(name: str) -> dict[str, list[str]]:
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise SpecError(f"localisation.boxes: {folder / name}: {error.strerror}; name CUB_200_2011") from None
        return {words[0]: words[1:] for line in lines if (words := line.split())}

    boxes, labels, split = map(rows, ("bounding_boxes.txt", "image_class_labels.txt", "train_test_split.txt"))
    names = {number: words[0] for number, words in rows("classes.txt").items()}
    made = []
    for image, (name,) in rows("images.txt").items():
        if split[image] == ["0"]:
            left, top, width, height = map(float, boxes[image])
            box = np.array([[left, top, left + width, top + height]]).astype(np.int64)
            label = _label(names[labels[image][0]], classes, folder / "classes.txt")
            made.append(Boxed(folder / "images" / name, label, box))
    return made


def _of_csv(file: Path, classes: Sequence[str]) -> list[Boxed]:
    """The images of a file, in the order in which they come first; one without numbers has no box."""
    labels: dict[str, int] = {}
    boxes: dict[str, list[list[int]]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as content:
            reader = csv.DictReader(content)
            head = ",".join(reader.fieldnames or ())
            if head != CSV:
                raise SpecError(f"localisation.boxes: {file} line 1: must be {CSV}; got {head!r}")
            for row in reader:
                place = f"{file} line {reader.line_num}"
                label = _label(row["class"], classes, place)
                if labels.setdefault(row["image"], label) != label:
                    raise SpecError(f"localisation.boxes: {place}: {row['image']} is of another class further up")
                own = boxes.setdefault(row["image"], [])
                edges = [row[name] for name in ("x0", "y0", "x1", "y1")]
                if any(edges):
                    own.append(_edges(edges, place))
    except OSError as error:
        raise SpecError(f"localisation.boxes: {file}: {error.strerror}; name a CSV file {CSV}") from None
    return [
        Boxed(file.parent / image, labels[image], np.array(own, np.int64).reshape(-1, 4))
        for image, own in boxes.items()
    ]


def _edges(written: Sequence[str], place: str) -> list[int]:
    try:
        left, top, right, bottom = (int(float(word)) for word in written)
        if 0 <= left <= right and 0 <= top <= bottom:
            return [left, top, right, bottom]
    except (TypeError, ValueError):
        pass
    raise SpecError(f"localisation.boxes: {place}: must have 0 <= x0 <= x1 and 0 <= y0 <= y1; got {', '.join(written)}")


def _label(name: str, classes: Sequence[str], place: object) -> int:
    if name not in classes:
        raise SpecError(f"localisation.boxes: {place}: {unknown('class', name, classes)}")
    return classes.index(name)
