"""PASCAL VOC and COCO, whose images hold several objects: to look at, and for detectors; training takes one class each.

    voc2007, voc2012: ImageSets/Main/{trainval,test}.txt (2012: train, val), JPEGImages/*.jpg, Annotations/*.xml
        (in VOCdevkit/VOC2007 or VOC2012)
    coco2014, coco2017: annotations/instances_{train,val}YEAR.json, trainYEAR/*.jpg, valYEAR/*.jpg

`data.path` is that folder or the one that holds it. The test part of VOC 2007 has public labels; of VOC 2012 and COCO
the validation images are the test part, as in the literature. Annotations are read here: torchvision's class for COCO
needs pycocotools for what is plain JSON, and its class for VOC leaves boxes as text; the tests compare with the latter.

Source: Everingham et al., The PASCAL Visual Object Classes Challenge (2010, 2015); Lin et al., Microsoft COCO: Common
Objects in Context (2014), arXiv 1405.0312.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automixsearch.data.base import ImageSet
from automixsearch.data.decode import opened
from automixsearch.data.files import Watched, inside, need, numbered, read_bytes, read_rows, within
from automixsearch.data.sink import Sink
from automixsearch.errors import DataError

if TYPE_CHECKING:
    from automixsearch.config.data import Data

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
NOTE = "test part: the official validation images"


@dataclass(frozen=True, eq=False)
class Scene:
    """An image file and the objects on it.

    boxes: float64 [n, 4], left, top, right and bottom edge in pixels from the corner of the image. labels: int64 [n].
    hard: bool [n], VOC's `difficult` and COCO's `iscrowd`, which evaluations leave out.
    """

    path: str
    boxes: np.ndarray
    labels: np.ndarray
    hard: np.ndarray

    def pixels(self, data: Data) -> np.ndarray:
        """The image: uint8 [H, W, 3]."""
        return np.asarray(opened(self.path, data, self.path)[0])


@dataclass(frozen=True, eq=False)
class Scenes:
    """A training and a test part with the same classes. skipped: how many bad images were left out of both."""

    name: str
    train: tuple[Scene, ...]
    test: tuple[Scene, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    skipped: int = 0

    def present(self, part: Sequence[Scene]) -> np.ndarray:
        """Which classes are on each image, hard objects left out: bool [N, K], as multi-label classification has it."""
        found = np.zeros((len(part), len(self.classes)), bool)
        for row, scene in zip(found, part, strict=True):
            row[scene.labels[~scene.hard]] = True
        return found


def listed(data: Data) -> Watched:
    """Refuse to train on several classes in an image; `scenes` reads them.

    Raises:
        DataError: always; or what is wrong with the files.
    """
    _files(data)
    raise DataError(
        f"{data.path}: images of source {data.source} hold several classes each, and training takes one; look at it "
        f"with automixsearch data {data.source} {shlex.quote(f'data.path={data.path}')}, and train on another set"
    )


def load(data: Data, listing: Watched, sink: Sink) -> ImageSet:
    """Never called: `listed` refuses."""
    raise NotImplementedError


def _files(data: Data) -> list[Path]:
    """The lists, annotations and folders of images."""
    if data.source.startswith("voc"):
        root = _voc_root(data)
        return [need(root / name, data.source) for name in ("ImageSets/Main", "Annotations", "JPEGImages")]
    return [need(_coco_root(data) / name, data.source) for name in _coco_names(data)]


def scenes(data: Data) -> Scenes:
    """Read the annotations, and see that every image can be decoded.

    Raises:
        DataError: a file is missing or not of the official layout, an image is bad.
    """
    classes, train, test = _voc(data) if data.source.startswith("voc") else _coco(data)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(pool.map(lambda scene: _problem(scene, data), [*train, *test]))
    kept = [[scene for scene, problem in zip(part, told, strict=True) if problem is None]
            for part, told in ((train, problems[: len(train)]), (test, problems[len(train) :]))]  # fmt: skip
    bad = [problem for problem in problems if problem is not None]
    notes = () if data.source == "voc2007" else (NOTE,)
    notes += (f"bad images left out: {len(bad)}, the first {bad[0].partition('; ')[0]}",) if bad else ()
    return Scenes(data.source, tuple(kept[0]), tuple(kept[1]), classes, notes, len(bad))


def _problem(scene: Scene, data: Data) -> str | None:
    """Why an image is left out."""
    try:
        scene.pixels(data)
    except DataError as error:
        if data.on_bad_image == "fail":
            raise
        return str(error)
    return None


Parts = tuple[tuple[str, ...], list[Scene], list[Scene]]
"""Classes, training part, test part."""


def _scene(path: str, found: Sequence[tuple[Sequence[float], int, bool]]) -> Scene:
    """A scene of objects (box, label, hard)."""
    boxes = np.array([box for box, _, _ in found], np.float64).reshape(-1, 4)
    labels = np.array([label for _, label, _ in found], np.int64)
    return Scene(path, boxes, labels, np.array([hard for _, _, hard in found], bool))


# PASCAL VOC ---------------------------------------------------------------------------------------------------


def _voc_root(data: Data) -> Path:
    folder = data.source.upper()
    return within(data.path, f"VOCdevkit/{folder}", folder)


def _voc(data: Data) -> Parts:
    root, numbers = _voc_root(data), {name: number for number, name in enumerate(VOC_CLASSES)}
    parts = []
    for part in ("trainval", "test") if data.source == "voc2007" else ("train", "val"):
        index = need(root / f"ImageSets/Main/{part}.txt", data.source)
        images = [inside(words[0], index) for words in read_rows(index, "image")]
        parts.append([_scene(f"{root}/JPEGImages/{image}.jpg", _objects(root, image, numbers)) for image in images])
    return VOC_CLASSES, parts[0], parts[1]


def _objects(root: Path, image: str, numbers: dict[str, int]) -> list[tuple[list[float], int, bool]]:
    """The objects of an annotation file; VOC counts pixels from 1 and includes the last one."""
    from xml.etree import ElementTree

    path = root / "Annotations" / f"{image}.xml"
    found = []
    try:
        for each in ElementTree.fromstring(read_bytes(path)).iterfind("object"):
            edges = ("xmin", "ymin", "xmax", "ymax")
            left, top, right, bottom = (float(_text(each, f"bndbox/{edge}")) for edge in edges)
            label = numbered(_text(each, "name"), numbers, path)
            found.append(([left - 1, top - 1, right, bottom], label, each.findtext("difficult", "0").strip() == "1"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, though ImageSets lists {image}; fetch the data set again") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: no annotation of VOC: {error}; fetch the file again") from None
    return found


def _text(element: Any, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"an object has no {path}")
    return text.strip()


# COCO ---------------------------------------------------------------------------------------------------------


def _coco_root(data: Data) -> Path:
    return within(data.path, "coco")


def _coco_names(data: Data) -> list[str]:
    year = data.source.removeprefix("coco")
    parts = [f"{part}{year}" for part in ("train", "val")]
    return [*(f"annotations/instances_{part}.json" for part in parts), *parts]


def _coco(data: Data) -> Parts:
    indices, folders = (_files(data)[start : start + 2] for start in (0, 2))
    (classes, train), (others, test) = map(_instances, indices, folders)
    if classes != others:
        raise DataError(f"{indices[1]}: has other categories than {indices[0].name}; both must be of one year")
    return classes, train, test


def _instances(path: Path, folder: Path) -> tuple[tuple[str, ...], list[Scene]]:
    """The classes, in the order of their ids, and the images of a file, likewise."""
    try:
        content: Any = json.loads(read_bytes(path))
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        numbers = {category: number for number, category in enumerate(sorted(names))}
        images = {each["id"]: f"{folder}/{inside(str(each['file_name']), path)}" for each in content["images"]}
        found: dict[int, list[tuple[list[float], int, bool]]] = {image: [] for image in images}
        for each in content["annotations"]:
            left, top, width, height = map(float, each["bbox"])
            box = [left, top, left + width, top + height]
            found[each["image_id"]].append((box, numbers[each["category_id"]], bool(each.get("iscrowd", 0))))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: no annotations of COCO: {reason}; fetch the file again") from None
    return tuple(names[category] for category in numbers), [_scene(images[i], found[i]) for i in sorted(images)]
