"""The data sets of the papers, on tiny trees in their official layouts; every image is of one grey level of its own."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from automixsearch.config.data import Data
from automixsearch.data import load
from automixsearch.errors import DataError

OFFICIAL = "test part: the official validation images"


@dataclass
class Made:
    """What a tree must give. train, test: (label, grey level) of each image in order. index: a file it cannot miss."""

    data: Data
    classes: tuple[str, ...]
    train: list[tuple[int, int]]
    test: list[tuple[int, int]]
    notes: tuple[str, ...]
    image: Path
    index: Path


def save(path: Path, level: int) -> None:
    """An image of some shape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((10 + level % 7, 12 + level % 3, 3), level, np.uint8)
    Image.fromarray(pixels).save(path, "jpeg", quality=100)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def tiny_imagenet(root: Path) -> Made:
    inside = root / "tiny-imagenet-200"
    write(inside / "wnids.txt", "n02", "n01", "n03")  # an order of its own
    for number, wnid in enumerate(("n02", "n01", "n03")):
        for i in range(2):
            save(inside / f"train/{wnid}/images/{wnid}_{i}.JPEG", 40 * number + 10 * i)
        write(inside / f"train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t9\t9")
    for i, level in enumerate((150, 160, 170)):
        save(inside / f"val/images/val_{i}.JPEG", level)
    rows = [f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62" for i, wnid in enumerate(("n03", "n02", "n01"))]
    write(inside / "val/val_annotations.txt", *rows)
    return Made(
        Data(source="tiny_imagenet", path=str(root), size=8), ("n02", "n01", "n03"),
        [(0, 0), (0, 10), (1, 40), (1, 50), (2, 80), (2, 90)], [(2, 150), (0, 160), (1, 170)], (OFFICIAL,),
        inside / "train/n01/images/n01_1.JPEG", inside / "val/val_annotations.txt",
    )  # fmt: skip


def imagenet(root: Path) -> Made:
    for number, wnid in enumerate(("n01", "n02")):
        for i in range(3):
            save(root / f"train/{wnid}/{wnid}_{i}.JPEG", 50 * number + 10 * i)
        save(root / f"val/{wnid}/ILSVRC2012_val_{number}.JPEG", 150 + number)
    return Made(
        Data(source="imagenet", path=str(root), size=8), ("n01", "n02"),
        [(0, 0), (0, 10), (0, 20), (1, 50), (1, 60), (1, 70)], [(0, 150), (1, 151)], (OFFICIAL,),
        root / "train/n02/n02_0.JPEG", root / "val",
    )  # fmt: skip


def cub200(root: Path) -> Made:
    inside = root / "CUB_200_2011"
    folders = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    write(inside / "classes.txt", *(f"{i} {name}" for i, name in enumerate(folders, 1)))
    names, labels, split = [], [], []
    for i in range(8):
        names.append(f"{i + 1} {folders[i // 4]}/bird_{i}.jpg")
        labels.append(f"{i + 1} {i // 4 + 1}")
        split.append(f"{i + 1} {int(i % 4 < 3)}")
        save(inside / "images" / folders[i // 4] / f"bird_{i}.jpg", 20 * i)
    write(inside / "images.txt", *names)
    write(inside / "image_class_labels.txt", *labels)
    write(inside / "train_test_split.txt", *split)
    return Made(
        Data(source="cub200", path=str(root), size=8), folders,
        [(0, 0), (0, 20), (0, 40), (1, 80), (1, 100), (1, 120)], [(0, 60), (1, 140)], (),
        inside / "images" / folders[1] / "bird_5.jpg", inside / "train_test_split.txt",
    )  # fmt: skip


def aircraft(root: Path) -> Made:
    inside = root / "fgvc-aircraft-2013b/data"
    variants = ("Boeing 707-320", "F/A-18")
    write(inside / "variants.txt", *variants)
    for part, first in (("trainval", 0), ("test", 4)):
        rows = [f"{1000 + i:07} {variants[i % 2]}" for i in range(first, first + 4)]
        write(inside / f"images_variant_{part}.txt", *rows)
    for i in range(8):
        save(inside / f"images/{1000 + i:07}.jpg", 20 * i)
    return Made(
        Data(source="aircraft", path=str(root), size=8), variants,
        [(0, 0), (1, 20), (0, 40), (1, 60)], [(0, 80), (1, 100), (0, 120), (1, 140)], (),
        inside / "images/0001002.jpg", inside / "images_variant_trainval.txt",
    )  # fmt: skip


def cars(root: Path) -> Made:
    inside = root / "stanford_cars"
    classes = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    (inside / "devkit").mkdir(parents=True)
    savemat(inside / "devkit/cars_meta.mat", {"class_names": np.array([classes], object)})
    fields: Any = [("bbox_x1", "u1"), ("class", "u1"), ("fname", object)]
    for part, file, first in (
        ("cars_train", inside / "devkit/cars_train_annos.mat", 0),
        ("cars_test", inside / "cars_test_annos_withlabels.mat", 100),
    ):
        rows = np.array([[(1, 2 - i % 2, f"{i + 1:05}.jpg") for i in range(4)]], fields)
        savemat(file, {"annotations": rows})
        for i in range(4):
            save(inside / part / f"{i + 1:05}.jpg", first + 20 * i)
    return Made(
        Data(source="cars", path=str(root), size=8), classes,
        [(1, 0), (0, 20), (1, 40), (0, 60)], [(1, 100), (0, 120), (1, 140), (0, 160)], (),
        inside / "cars_test/00002.jpg", inside / "cars_test_annos_withlabels.mat",
    )  # fmt: skip


def inaturalist(year: int, folder: str) -> Callable[[Path], Made]:
    def make(root: Path) -> Made:
        categories = [{"id": 7, "name": "Abies alba"}, {"id": 3, "name": "Bufo bufo"}]  # ids rule, not their order
        for part, levels in (("train", (0, 20, 40, 60)), ("val", (100, 120))):
            names = [f"{folder}/Kingdom/some species/{part}{level}.jpg" for level in levels]
            images = [{"id": level, "file_name": name} for level, name in zip(levels, names, strict=True)]
            rows = [{"id": i, "image_id": level, "category_id": (7, 3)[i % 2]} for i, level in enumerate(levels)]
            content = {"images": images, "annotations": rows[::-1], "categories": categories}
            write(root / f"{part}{year}.json", json.dumps(content))
            for level, name in zip(levels, names, strict=True):
                save(root / name, level)
        return Made(
            Data(source=f"inat{year}", path=str(root), size=8), ("Bufo bufo", "Abies alba"),  # pyright: ignore[reportArgumentType]
            [(1, 0), (0, 20), (1, 40), (0, 60)], [(1, 100), (0, 120)], (OFFICIAL,),
            root / folder / "Kingdom/some species/train20.jpg", root / f"val{year}.json",
        )  # fmt: skip

    return make


def places205(root: Path) -> Made:
    images, lists = root / "data/vision/torralba/deeplearning/images256", root / "trainvalsplit_places205"
    scenes = ("a/abbey", "a/apartment_building/outdoor")
    for part, first in (("train", 0), ("val", 100)):
        rows = [f"{scenes[i % 2]}/gsun_{first + i}.jpg {i % 2}" for i in range(4)]
        write(lists / f"{part}_places205.csv", *rows)
        for i in range(4):
            save(images / scenes[i % 2] / f"gsun_{first + i}.jpg", first + 20 * i)
    return Made(
        Data(source="places205", path=str(root), size=8), ("abbey", "apartment_building/outdoor"),
        [(0, 0), (1, 20), (0, 40), (1, 60)], [(0, 100), (1, 120), (0, 140), (1, 160)], (OFFICIAL,),
        images / "a/abbey/gsun_102.jpg", lists / "train_places205.csv",
    )  # fmt: skip


LAYOUTS: dict[str, Callable[[Path], Made]] = {
    "tiny_imagenet": tiny_imagenet,
    "imagenet": imagenet,
    "cub200": cub200,
    "aircraft": aircraft,
    "cars": cars,
    "inat2017": inaturalist(2017, "train_val_images"),
    "inat2018": inaturalist(2018, "train_val2018"),
    "places205": places205,
}
NESTED = {
    "tiny_imagenet": "tiny-imagenet-200",
    "cub200": "CUB_200_2011",
    "aircraft": "fgvc-aircraft-2013b",
    "cars": "stanford_cars",
}


@pytest.fixture(params=list(LAYOUTS))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return LAYOUTS[request.param](tmp_path / "my data")


def levels(images: np.ndarray) -> list[int]:
    return np.rint(images.mean((1, 2, 3))).astype(int).tolist()


def test_parts_labels_and_classes_are_the_official_ones(made: Made) -> None:
    found = load(made.data)
    assert found.name == made.data.source
    assert found.classes == made.classes
    assert found.notes == made.notes
    assert found.skipped == 0
    for part, expected in ((found.train, made.train), (found.test, made.test)):
        assert part.images.shape == (len(expected), 8, 8, 3)
        assert list(zip(part.labels.tolist(), levels(part.images), strict=True)) == expected


def test_a_corrupt_image_is_named(made: Made) -> None:
    made.image.write_bytes(made.image.read_bytes()[:200])
    with pytest.raises(
        DataError, match=rf"{re.escape(str(made.image))}: cannot be decoded: .* data\.on_bad_image=skip"
    ):
        load(made.data)


def test_a_missing_image_is_named(made: Made) -> None:
    made.image.unlink()
    if made.data.source in ("tiny_imagenet", "imagenet"):  # folders list their own training images
        assert len(load(made.data).train) == len(made.train) - 1
        made = tiny_imagenet(made.image.parents[5] / "again")
        made.image = made.index.parent / "images/val_1.JPEG"
        made.image.unlink()
    message = rf"{re.escape(str(made.image))}: no such file, though the data set lists it; .* data\.on_bad_image=skip"
    with pytest.raises(DataError, match=message):
        load(made.data)


def test_a_missing_index_is_named_with_what_to_do(made: Made) -> None:
    made.index.rename(made.index.with_name("elsewhere"))
    message = (
        rf"{re.escape(str(made.index))}: no such file or directory.*; source {made.data.source} reads the official"
    )
    with pytest.raises(DataError, match=message):
        load(made.data)


def test_bad_images_can_be_left_out_and_are_counted(made: Made) -> None:
    made.image.write_bytes(b"no image")
    found = load(made.data.model_copy(update={"on_bad_image": "skip"}))
    assert found.skipped == 1
    assert re.search(rf"bad images left out: 1, the first .*{re.escape(made.image.name)}", found.notes[-1])
    assert len(found.train) + len(found.test) == len(made.train) + len(made.test) - 1
    for part, expected in ((found.train, made.train), (found.test, made.test)):
        assert set(zip(part.labels.tolist(), levels(part.images), strict=True)) <= set(expected)


def test_a_share_of_the_labels_leaves_the_test_part_alone(made: Made) -> None:
    found = load(made.data.model_copy(update={"labels": 1}))
    assert sorted(found.train.labels.tolist()) == list(range(len(made.classes)))
    assert set(zip(found.train.labels.tolist(), levels(found.train.images), strict=True)) <= set(made.train)
    assert found.test.labels.tolist() == [label for label, _ in made.test]


def test_an_image_that_is_replaced_is_noticed_though_its_size_and_time_stay(made: Made) -> None:
    first, times = load(made.data), os.stat(made.image)
    content = bytearray(made.image.read_bytes())
    content[-4] ^= 255
    made.image.with_name("new").write_bytes(content)
    os.utime(made.image.with_name("new"), ns=(times.st_atime_ns, times.st_mtime_ns))
    made.image.with_name("new").replace(made.image)
    assert (os.stat(made.image).st_size, os.stat(made.image).st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert load(made.data) is not first


def test_the_path_may_be_the_folder_of_the_set_itself(tmp_path: Path) -> None:
    for source, folder in NESTED.items():
        made = LAYOUTS[source](tmp_path / source)
        direct = made.data.model_copy(update={"path": str(tmp_path / source / folder)})
        assert load(direct).fingerprint == load(made.data).fingerprint


# What torchvision makes of the same trees ---------------------------------------------------------------------


def torchvision_levels(part: Any) -> list[tuple[int, int]]:
    return [(int(label), int(np.rint(np.asarray(image).mean()))) for image, label in part]


def test_torchvision_reads_the_same_aircraft(tmp_path: Path) -> None:
    from torchvision.datasets import FGVCAircraft

    made = aircraft(tmp_path)
    for split, expected in (("trainval", made.train), ("test", made.test)):
        part = FGVCAircraft(tmp_path, split)
        assert (tuple(part.classes), torchvision_levels(part)) == (made.classes, expected)


def test_torchvision_reads_the_same_cars(tmp_path: Path) -> None:
    from torchvision.datasets import StanfordCars

    made = cars(tmp_path)
    for split, expected in (("train", made.train), ("test", made.test)):
        part = StanfordCars(tmp_path, split)
        assert (tuple(part.classes), torchvision_levels(part)) == (made.classes, expected)


def test_torchvision_reads_the_same_imagenet(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    made = imagenet(tmp_path)
    for split, expected in (("train", made.train), ("val", made.test)):
        part = ImageFolder(tmp_path / split)  # what its ImageNet is, apart from the names of the classes
        assert (tuple(part.classes), torchvision_levels(part)) == (made.classes, expected)


# Refusals -----------------------------------------------------------------------------------------------------


def test_the_flat_validation_folder_of_imagenet_is_refused_with_a_remedy(tmp_path: Path) -> None:
    made = imagenet(tmp_path)
    shutil.rmtree(tmp_path / "val")
    save(tmp_path / "val/ILSVRC2012_val_00000001.JPEG", 0)
    with pytest.raises(DataError, match=r"/val: has no class folders.* torchvision\.datasets\.ImageNet\('.*', 'val'\)"):
        load(made.data)


def test_imagenet_needs_the_same_classes_in_both_parts(tmp_path: Path) -> None:
    made = imagenet(tmp_path)
    save(tmp_path / "val/n03/x.JPEG", 0)
    with pytest.raises(DataError, match=r"class 'n03' is in val/ only"):
        load(made.data)


@pytest.mark.parametrize(("source", "file", "content", "message"), [
    ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "val_0.JPEG\tn09\t0\t1\t2\t3\n",
     r"val_annotations\.txt: class 'n09' is none of the 3 classes"),
    ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "\nval_0.JPEG\n",
     r"val_annotations\.txt line 2: must read 'file wnid box'; got 'val_0\.JPEG'"),
    ("cub200", "CUB_200_2011/image_class_labels.txt", "1 1\n",
     r"image_class_labels\.txt: image 2 is in only one of it and images\.txt"),
    ("cub200", "CUB_200_2011/images.txt", "1\n", r"images\.txt line 1: must read 'image file'; got '1'"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "0001004 Concorde\n",
     r"images_variant_test\.txt: class 'Concorde' is none of the 2 classes"),
    ("cars", "stanford_cars/devkit/cars_meta.mat", "text", r"cars_meta\.mat: class_names cannot be read: .*; fetch"),
    ("inat2017", "val2017.json", "[]", r"val2017\.json: no annotations of iNaturalist: TypeError: .*; fetch"),
    ("inat2018", "val2018.json", '{"images": []', r"val2018\.json: no annotations of iNaturalist: JSONDecodeError"),
    ("inat2018", "val2018.json", '{"images": [], "annotations": [], "categories": [{"id": 0, "name": "x"}]}',
     r"val2018\.json: has other categories than train2018\.json"),
    ("places205", "trainvalsplit_places205/val_places205.csv", "a/abbey/x.jpg zero\n",
     r"val_places205\.csv: a/abbey/x\.jpg has label 'zero'; must be a number"),
    ("places205", "trainvalsplit_places205/train_places205.csv", "a/abbey/x.jpg 7\n",
     r"train_places205\.csv: no image has label 2, and one has 7"),
    ("places205", "trainvalsplit_places205/val_places205.csv", "/../../x.jpg 0\n",
     r"val_places205\.csv: lists '\.\./\.\./x\.jpg', which leads out of its folder"),
    ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "../../../x.JPEG\tn01\t0\t1\t2\t3\n",
     r"val_annotations\.txt: lists '\.\./\.\./\.\./x\.JPEG', which leads out of its folder; fetch"),
    ("tiny_imagenet", "tiny-imagenet-200/wnids.txt", "../../x\n", r"wnids\.txt: lists '\.\./\.\./x', which leads out"),
    ("cub200", "CUB_200_2011/images.txt", "".join(f"{i} /etc/{i}.jpg\n" for i in range(1, 9)),
     r"images\.txt: lists '/etc/1\.jpg', which leads out"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "../../x F/A-18\n",
     r"images_variant_test\.txt: lists '\.\./\.\./x', which leads out"),
    ("inat2018", "train2018.json", '{"images": [{"id": 1, "file_name": "a/../../x.jpg"}], "annotations": [], '
     '"categories": []}', r"train2018\.json: lists 'a/\.\./\.\./x\.jpg', which leads out"),
])  # fmt: skip
def test_a_damaged_index_is_refused_by_name(tmp_path: Path, source: str, file: str, content: str, message: str) -> None:
    made = LAYOUTS[source](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        load(made.data)


def test_test_annotations_of_cars_without_labels_are_refused(tmp_path: Path) -> None:
    made = cars(tmp_path)
    fields: Any = [("bbox_x1", "u1"), ("fname", object)]
    savemat(made.index, {"annotations": np.array([[(1, "00001.jpg")]], fields)})
    with pytest.raises(DataError, match=r"annos_withlabels\.mat: has no labels; fetch cars_test_annos_withlabels"):
        load(made.data)


def test_the_index_of_cars_may_lie_in_the_devkit(tmp_path: Path) -> None:
    made = cars(tmp_path)
    made.index.rename(made.index.parent / "devkit" / made.index.name)
    assert len(load(made.data).test) == 4


def test_the_ledger_counts_the_images_that_were_left_out(tmp_path: Path) -> None:
    import torch

    from automixsearch.config.trial import TrialConfig
    from automixsearch.results.store import Store
    from automixsearch.search.task import Task
    from automixsearch.search.trial import run_trial
    from automixsearch.training.world import World

    made = places205(tmp_path)
    made.image.write_bytes(b"no image")
    data = made.data.model_copy(update={"on_bad_image": "skip"})
    config = TrialConfig(
        data=data, knobs={"method": "vanilla", "epochs": 1, "warmup_epochs": 0, "width": 8, "batch_size": 2}
    )
    store = Store(tmp_path / "results", "x")
    for _ in run_trial(store, Task("t00000", 0, "x", 0, "", "search", 1, config), torch.device("cpu"), World()):
        pass
    row = store.trial_row("t00000")
    assert row is not None, "no row"
    assert (row["state"], row["skipped_images"], row["test_images"]) == ("complete", 1, 3)
