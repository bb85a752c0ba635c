"""Boxes of class activation maps against the authors' evaluation, and against boxes that are drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from automixsearch.errors import SpecError
from automixsearch.evaluation import Localisation, Pictures, Subject
from automixsearch.evaluation.class_map import class_map
from automixsearch.evaluation.contours import overlap
from automixsearch.evaluation.localisation import DELTAS, best_overlaps, boxes_of, levels, resized
from automixsearch.models.base import Chain
from automixsearch.training.batches import Batches


class Linear(Chain):
    """A map, its mean, and a linear head."""

    def __init__(self, stage: nn.Module, weight: torch.Tensor) -> None:
        super().__init__()
        self.stage1, self.widths = stage, {"stage1": weight.shape[1]}
        self.head = nn.Linear(weight.shape[1], len(weight))
        self.head.weight.data = weight


def test_localisation_is_that_of_the_authors(golden):
    file = golden("wsol")
    np.testing.assert_array_equal(overlap(file["iou_a"], file["iou_b"]), file["iou"])
    labels = torch.from_numpy(file["label"])
    network = Linear(nn.Identity(), torch.from_numpy(file["fc_weight"])).requires_grad_(False)
    level = levels(class_map(network, torch.from_numpy(file["feature"]), labels), 224).numpy()
    assert (level[:5] != file["scoremap_u8"]).mean() < 1e-4
    assert not level[-1].any()  # of constant features
    image = file["gt_image"]
    truth = [resized(file["gt_box_xyxy"][image == i], tuple(file["image_size_wh"][i]), 224) for i in range(30)]
    np.testing.assert_array_equal(np.concatenate(truth), file["gt_box_resized"])
    drawn = [(255 * one).astype(np.uint8) for one in file["drawn_map"]]
    for maps, thresholds, name in (
        (drawn, file["drawn_thresholds"], "drawn_boxes"),
        (level, file["box_thresholds"], "boxes"),
    ):
        for place, one in enumerate(maps):
            for number, threshold in enumerate(thresholds):
                made, largest = boxes_of(one, int(threshold * one.max()))
                for version, have in (("v1", made[[largest]]), ("v2", made)):
                    rows = file[f"{name}_{version}"]
                    rows = rows[(rows[:, 0] == place) & (rows[:, 1] == number), 2:]
                    assert sorted(have.tolist()) == sorted(rows.tolist()), (name, version, place, threshold)
    best = np.stack([best_overlaps(one, boxes, 100) for one, boxes in zip(level, truth, strict=True)])
    for number, version in enumerate(("v1", "v2")):
        right = np.stack([(best[:, number] >= delta).sum(0) for delta in DELTAS])
        np.testing.assert_array_equal(right, file[f"coarse_{version}_curve"])
        np.testing.assert_allclose(100 * right.max(1) / 30, file[f"coarse_{version}_maxboxacc"])


@pytest.fixture
def subject():
    """A network for which what is bright is of class day, and what is dark of class night."""
    network = Linear(nn.AvgPool2d(2), torch.tensor([[1.0, 1, 1], [-1, -1, -1]])).requires_grad_(False)
    images, labels = np.zeros((2, 32, 32, 3), np.uint8), np.array([0, 1])
    pictures = Pictures(Batches(images, labels, np.zeros(3), np.ones(3), torch.device("cpu")))
    return Subject(network, pictures, pictures, ("day", "night"), lambda x: x)


def draw(path, box, inside):
    """An image of 96 x 64 pixels with a rectangle."""
    pixels = np.full((64, 96, 3), 255 - inside, np.uint8)
    left, top, right, bottom = box
    pixels[top : bottom + 1, left : right + 1] = inside
    Image.fromarray(pixels).save(path)


def test_boxes_drawn_by_hand_are_found(tmp_path, subject):
    one, two, wrong = (12, 8, 47, 39), (60, 20, 89, 51), (0, 0, 20, 9)
    draw(tmp_path / "a.png", one, 255)
    draw(tmp_path / "b.png", two, 0)
    draw(tmp_path / "c.png", one, 255)
    lines = ["image,class,x0,y0,x1,y1", "a.png,day,12,8,47,39", "b.png,night,0,0,5,5", "b.png,night,60,20,89,51"]
    lines += ["c.png,day," + ",".join(map(str, wrong)), "none.png,day,,,,"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    evaluation = Localisation(boxes=str(tmp_path / "boxes.csv"))
    found = {(score.name, score.setting): score for score in evaluation.scores(subject, torch.Generator())}
    for version in ("maxboxacc", "maxboxacc_v2"):
        assert [found[version, f"iou={delta}"].value for delta in DELTAS] == pytest.approx([200 / 3] * 3)
    assert found["maxboxacc_v2", "iou=mean"].value == pytest.approx(200 / 3)
    assert found["maxboxacc", "iou=0.5"].images == 3
    assert (found["skipped", ""].value, found["skipped", ""].images) == (1, 4)


def test_the_layout_of_cub_is_read(tmp_path, subject):
    (tmp_path / "images" / "001.day").mkdir(parents=True)
    for name in ("a", "b"):
        draw(tmp_path / "images" / "001.day" / f"{name}.png", (12, 8, 47, 39), 255)
    for name, content in {
        "images": "1 001.day/a.png\n2 001.day/b.png\n",
        "image_class_labels": "1 1\n2 1\n",
        "train_test_split": "1 1\n2 0\n",
        "classes": "1 day\n2 night\n",
        "bounding_boxes": "1 0.0 0.0 5.0 5.0\n2 12.0 8.0 36.0 32.0\n",
    }.items():
        (tmp_path / f"{name}.txt").write_text(content)
    found = list(Localisation(boxes=str(tmp_path)).scores(subject, torch.Generator()))
    assert [(score.value, score.images) for score in found[:-1]] == [(100, 1)] * 7
    (tmp_path / "bounding_boxes.txt").unlink()
    with pytest.raises(SpecError, match=r"bounding_boxes\.txt: No such file or directory; name CUB_200_2011"):
        list(Localisation(boxes=str(tmp_path)).scores(subject, torch.Generator()))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("image,label,x0,y0,x1,y1\n", r"line 1: must be image,class,x0,y0,x1,y1; got 'image,label"),
        ("image,class,x0,y0,x1,y1\na.png,dya,1,1,2,2\n", r"line 2: unknown class 'dya'; did you mean 'day'"),
        ("image,class,x0,y0,x1,y1\na.png,day,5,1,2,2\n", r"line 2: must have 0 <= x0 <= x1.*got 5, 1, 2, 2"),
        ("image,class,x0,y0,x1,y1\na.png,day,5,1,six,2\n", r"line 2: must have.*got 5, 1, six, 2"),
        ("image,class,x0,y0,x1,y1\na.png,day,,,,\n", r"has no box for any of 1 images"),
        ("image,class,x0,y0,x1,y1\na.png,day,1,1,2,2\n", r"a\.png cannot be read: .*No such file"),
        (None, r"boxes\.csv: No such file or directory; name a CSV file"),
    ],
    ids=["head", "class", "order", "word", "none", "image", "file"],
)
def test_boxes_that_cannot_be_used_are_refused_by_place(tmp_path, subject, lines, message):
    file = tmp_path / "boxes.csv"
    if lines is not None:
        file.write_text(lines)
    with pytest.raises(SpecError, match=message):
        list(Localisation(boxes=str(file)).scores(subject, torch.Generator()))


def test_without_boxes_it_says_what_to_name(subject):
    with pytest.raises(SpecError, match="name the folder CUB_200_2011, or a CSV file image,class"):
        list(Localisation().scores(subject, torch.Generator()))
