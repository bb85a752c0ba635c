"""PASCAL VOC and COCO on tiny trees in their official layouts: read, looked at, and not trained on."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from automixsearch.cli import main
from automixsearch.config.data import Data
from automixsearch.config.files import parse_space
from automixsearch.data import load
from automixsearch.data.detection import Scene, scenes
from automixsearch.errors import DataError, SpecError

Box = tuple[str, list[float], bool]
"""Class, edges from 0, whether it is hard."""


@dataclass
class Made:
    """What a tree must give: the objects of each image in order. image, index: files it cannot miss."""

    data: Data
    train: dict[str, list[Box]]
    test: dict[str, list[Box]]
    image: Path
    index: Path


TRAIN: dict[str, list[Box]] = {
    "000005": [("dog", [0, 0, 10, 8], False), ("person", [2, 1, 5, 7], True), ("dog", [3, 3, 4, 4], False)],
    "000007": [("chair", [1, 1, 12, 9], False)],
}
TEST: dict[str, list[Box]] = {"000009": [("person", [0, 2, 6, 9], False)], "000012": []}


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 12, 3), int(re.sub(r"\D", "", path.stem)) * 10, np.uint8)).save(path, "jpeg")


def voc(year: int) -> Callable[[Path], Made]:
    def make(root: Path) -> Made:
        inside = root / f"VOCdevkit/VOC{year}"
        names = ("trainval", "test") if year == 2007 else ("train", "val")
        for part, content in zip(names, (TRAIN, TEST), strict=True):
            index = inside / f"ImageSets/Main/{part}.txt"
            index.parent.mkdir(parents=True, exist_ok=True)
            index.write_text("".join(f"{name}\n" for name in content))
            for name, boxes in content.items():
                save(inside / f"JPEGImages/{name}.jpg")
                objects = "".join(
                    f"<object><name>{label}</name><difficult>{int(hard)}</difficult><bndbox><xmax>{right}</xmax>"
                    f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><ymax>{bottom}</ymax></bndbox>"
                    "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
                    for label, (left, top, right, bottom), hard in boxes
                )
                (inside / "Annotations").mkdir(exist_ok=True)
                (inside / f"Annotations/{name}.xml").write_text(
                    f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
                )
        data = Data(source=f"voc{year}", path=str(root))  # pyright: ignore[reportArgumentType]
        return Made(data, TRAIN, TEST, inside / "JPEGImages/000007.jpg", inside / f"ImageSets/Main/{names[1]}.txt")

    return make


def coco(root: Path) -> Made:
    numbers = {"person": 1, "dog": 18, "chair": 62}  # with gaps, as the official ones
    for part, content in (("train2017", TRAIN), ("val2017", TEST)):
        images = [{"id": int(name), "file_name": f"{name}.jpg"} for name in content]
        found = [
            {"image_id": int(name), "category_id": numbers[label], "iscrowd": int(hard),
             "bbox": [left, top, right - left, bottom - top]}
            for name, boxes in content.items() for label, (left, top, right, bottom), hard in boxes
        ]  # fmt: skip
        categories = [{"id": number, "name": name} for name, number in reversed(numbers.items())]
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        text = json.dumps({"images": images[::-1], "annotations": found, "categories": categories})
        (root / f"annotations/instances_{part}.json").write_text(text)
        for name in content:
            save(root / part / f"{name}.jpg")
    return Made(Data(source="coco2017", path=str(root)), TRAIN, TEST, root / "train2017/000007.jpg",
                root / "annotations/instances_val2017.json")  # fmt: skip


LAYOUTS: dict[str, Callable[[Path], Made]] = {"voc2007": voc(2007), "voc2012": voc(2012), "coco2017": coco}


@pytest.fixture(params=list(LAYOUTS))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return LAYOUTS[request.param](tmp_path / "my data")


def told(scene: Scene, classes: tuple[str, ...]) -> list[Box]:
    return [
        (classes[label], box, hard)
        for label, box, hard in zip(scene.labels, scene.boxes.tolist(), scene.hard.tolist(), strict=True)
    ]


def test_parts_and_objects_are_the_official_ones(made: Made) -> None:
    found = scenes(made.data)
    for part, expected in ((found.train, made.train), (found.test, made.test)):
        assert {Path(scene.path).stem: told(scene, found.classes) for scene in part} == expected
        assert [Path(scene.path).stem for scene in part] == list(expected)
        assert [scene.boxes.shape for scene in part] == [(len(boxes), 4) for boxes in expected.values()]
    assert found.train[0].pixels(made.data).shape == (9, 12, 3)
    assert int(found.train[0].pixels(made.data).mean().round()) == 50
    assert found.notes == (() if made.data.source == "voc2007" else ("test part: the official validation images",))


def test_the_classes_on_an_image_are_those_of_objects_that_are_not_hard(made: Made) -> None:
    found = scenes(made.data)
    named = [{found.classes[i] for i in np.flatnonzero(row)} for row in found.present(found.train)]
    assert named == [{"dog"}, {"chair"}]
    assert found.present(found.test).sum(1).tolist() == [1, 0]


def test_bad_and_missing_images_are_named_or_left_out_and_counted(made: Made) -> None:
    whole = made.image.read_bytes()
    made.image.write_bytes(whole[:150])
    with pytest.raises(DataError, match=rf"{re.escape(str(made.image))}: cannot be decoded: .*on_bad_image=skip"):
        scenes(made.data)
    made.image.unlink()
    with pytest.raises(DataError, match=rf"{re.escape(str(made.image))}: no such file, though the data set lists it"):
        scenes(made.data)
    found = scenes(made.data.model_copy(update={"on_bad_image": "skip"}))
    assert (len(found.train), len(found.test), found.skipped) == (1, 2, 1)
    assert re.search(r"bad images left out: 1, the first .*000007\.jpg", found.notes[-1])


def test_a_missing_index_is_named_with_what_to_do(made: Made) -> None:
    made.index.rename(made.index.with_name("elsewhere"))
    with pytest.raises(DataError, match=rf"{re.escape(str(made.index))}: no such file or directory.*official layout"):
        scenes(made.data)


@pytest.mark.parametrize(("source", "file", "content", "message"), [
    ("voc2007", "VOCdevkit/VOC2007/Annotations/000005.xml", None, r"000005\.xml: no such file, though ImageSets lists"),
    ("voc2007", "VOCdevkit/VOC2007/Annotations/000005.xml", "<annotation>", r"000005\.xml: no annotation of VOC: .*"),
    ("voc2012", "VOCdevkit/VOC2012/Annotations/000005.xml", "<a><object><name>dog</name></object></a>",
     r"000005\.xml: no annotation of VOC: an object has no bndbox/xmin; fetch"),
    ("coco2017", "annotations/instances_val2017.json", "[]", r"val2017\.json: no annotations of COCO: TypeError"),
    ("coco2017", "annotations/instances_val2017.json", '{"images": [', r"val2017\.json: no annotations of COCO: JSON"),
    ("coco2017", "annotations/instances_val2017.json", '{"images": [], "annotations": [], "categories": []}',
     r"val2017\.json: has other categories than instances_train2017\.json"),
    ("coco2017", "annotations/instances_train2017.json",
     '{"images": [{"id": 1, "file_name": "/etc/x.jpg"}], "annotations": [], "categories": []}',
     r"train2017\.json: lists '/etc/x\.jpg', which leads out of its folder; fetch"),
    ("voc2007", "VOCdevkit/VOC2007/ImageSets/Main/test.txt", "../../x\n", r"test\.txt: lists '\.\./\.\./x'"),
])  # fmt: skip
def test_damaged_annotations_are_refused_by_name(
    tmp_path: Path, source: str, file: str, content: str | None, message: str
) -> None:
    made = LAYOUTS[source](tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        scenes(made.data)


def test_torchvision_reads_the_same_voc(tmp_path: Path) -> None:
    from torchvision.datasets import VOCDetection

    found = scenes(voc(2007)(tmp_path).data)
    for part, own in (("trainval", found.train), ("test", found.test)):
        theirs = VOCDetection(tmp_path, "2007", part)
        assert [str(path) for path in theirs.images] == [scene.path for scene in own]
        for (_, target), scene in zip(theirs, own, strict=True):
            objects: Any = target["annotation"].get("object", [])
            assert [each["name"] for each in objects] == [found.classes[label] for label in scene.labels]
            boxes = [[int(each["bndbox"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax")] for each in objects]
            assert boxes == [[left + 1, top + 1, right, bottom] for left, top, right, bottom in scene.boxes]


def test_training_is_refused_with_what_can_be_done_and_looking_is_not(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    command = shlex.join(["automixsearch", "data", made.data.source, f"data.path={made.data.path}"])
    with pytest.raises(DataError, match=rf"hold several classes each, and training takes one; .*{re.escape(command)}"):
        load(made.data)
    assert main([*shlex.split(command)[1:], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(row["part"], row["images"], row["objects"], row["hard"]) for row in shown["parts"]] == [
        ("train", 2, 4, 1), ("test", 2, 1, 0)
    ]  # fmt: skip
    assert main(["data", made.data.source, f"path={made.data.path}"]) == 0
    assert re.search(r"train +2 +2 +0 \(\w+\) +1 \(\w+\) +4 +1", capsys.readouterr().out)


def test_any_set_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "digits", "data.size=4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parts"][1] == {
        "part": "test", "images": 359, "classes": 10, "fewest": "35 (2)", "most": "37 (3)", "pixels": "4x4x1"
    }  # fmt: skip
    assert main(["data", "digits", "data.sise=4"]) == 2
    assert "data: unknown key 'sise'; did you mean 'size'?" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value"), [("size", 32), ("labels", 5), ("trim", 4)])
def test_what_is_for_one_class_in_an_image_is_refused(key: str, value: int) -> None:
    data = {"source": "voc2007", "path": "/x", key: value}
    with pytest.raises(SpecError, match=f"{key} is for images with one class, and source voc2007 has several; drop it"):
        parse_space({"data": data, "knobs": {"method": "mixup"}}, "test")
