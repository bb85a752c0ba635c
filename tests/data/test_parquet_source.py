"""Images in Parquet files."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from automixsearch.config.data import Data
from automixsearch.data import load
from automixsearch.data.parquet import listed
from automixsearch.errors import DataError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
RANDOM = np.random.default_rng(0)


def noise(n: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (n, 5, 4, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def column(pixels: np.ndarray) -> pa.Array:
    return pa.array([{"bytes": png(image), "path": None} for image in pixels], IMAGE)


def write(path: Path, columns: dict[str, Any], names: list[str] | None = None, label: str = "label") -> Path:
    table = pa.table(columns)
    if names is not None:
        features = {label: {"_type": "ClassLabel", "names": names}}
        content = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": content})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def fill(root: Path, train: str = "train-00000-of-00001", test: str = "test-0") -> Data:
    for name, n in ((train, 6), (test, 4)):
        columns = {"image": column(noise(n)), "label": pa.array(np.arange(n) % 2)}
        write(root / f"{name}.parquet", columns, ["cat", "dog"])
    return Data(source="parquet", path=str(root))


def one(root: Path, **columns: Any) -> Data:
    """A single file of six images whose columns are replaced or added by name; None leaves one out."""
    columns = {"image": column(noise(6)), "label": pa.array([0, 1, 0, 1, 0, 1])} | columns
    path = write(root / "one.parquet", {name: c for name, c in columns.items() if c is not None})
    return Data(source="parquet", path=str(path))


def test_images_labels_and_names_come_back_over_row_groups_and_files(tmp_path: Path) -> None:
    pixels, labels = noise(7), np.array([2, 0, 1, 1, 0, 2, 2])
    root = tmp_path / "ein Satz für dich"
    for start, stop in ((0, 3), (3, 3), (3, 7)):
        columns = {"img": column(pixels[start:stop]), "fine_label": pa.array(labels[start:stop])}
        write(root / f"data/train-{start}-{stop}.parquet", columns, ["a", "b", "c"], "fine_label")
    columns = {"img": column(pixels[:2]), "fine_label": pa.array(labels[:2])}
    write(root / "data/test-0.parquet", columns, ["a", "b", "c"], "fine_label")
    made = load(Data(source="parquet", path=str(root)))
    assert np.array_equal(made.train.images, pixels)
    assert np.array_equal(made.train.labels, labels)
    assert np.array_equal(made.test.images, pixels[:2])
    assert made.classes == ("a", "b", "c")
    assert made.name == "ein Satz für dich"
    (note,) = made.notes
    assert note.startswith("looks doubled: 2 test images are in the training part too, the first ")
    assert re.search("test-0.parquet row 0 = .*train-0-3.parquet row 0$", note)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("train/0", "test/0"), ("cifar_train_0", "cifar_test_0"), ("a/Training-1", "a/TEST-1")],
)
def test_splits_are_known_by_file_or_folder_name(tmp_path: Path, train: str, test: str) -> None:
    made = load(fill(tmp_path, train, test))
    assert (len(made.train), len(made.test)) == (6, 4)


def test_validation_is_the_test_part_where_there_is_no_test(tmp_path: Path) -> None:
    made = load(fill(tmp_path, "train-0", "validation-0"))
    assert len(made.test) == 4
    assert made.notes == ("test part: the validation split",)


def test_validation_is_left_out_where_there_is_a_test(tmp_path: Path) -> None:
    data = fill(tmp_path)
    expected = load(data).fingerprint
    fill(tmp_path / "other", "validation", "x")
    for name in ("validation", "x"):
        (tmp_path / f"other/{name}.parquet").rename(tmp_path / f"{name}.parquet")
    made = load(data)
    assert made.fingerprint == expected
    assert made.notes == ("not read: validation.parquet, x.parquet",)


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    data = fill(tmp_path)
    expected = listed(data).files
    fill(tmp_path / ".cache")
    assert listed(data).files == expected
    assert len(load(data).train) == 6


def test_one_file_holds_out_a_fixed_fifth(tmp_path: Path) -> None:
    made = load(one(tmp_path))
    assert (len(made.train), len(made.test)) == (4, 2)
    assert made.name == "one"
    assert made.notes == ("test part: a fixed stratified 20 %",)


@pytest.mark.parametrize(("train", "test"), [("a", "b"), ("train", "b"), ("a", "test"), ("train_test", "b")])
def test_unclear_splits_say_what_to_do(tmp_path: Path, train: str, test: str) -> None:
    with pytest.raises(DataError, match=rf"needs files of a split train .* found {min(train, test)}\.parquet"):
        load(fill(tmp_path, train, test))


def test_a_directory_without_parquet_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no Parquet file"):
        load(Data(source="parquet", path=str(tmp_path)))


def test_a_split_in_several_folders_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "small")
    fill(tmp_path / "large")
    with pytest.raises(DataError, match=r"split train lie in several folders, .*/large, .*/small\); give one"):
        load(Data(source="parquet", path=str(tmp_path)))


def test_the_same_data_in_folders_and_parquet_have_one_fingerprint(tmp_path: Path) -> None:
    pixels, labels = noise(8), np.repeat([0, 1], 4)
    for part in ("train", "test"):
        write(tmp_path / f"p/{part}.parquet", {"image": column(pixels), "label": pa.array(labels)})
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            folder = tmp_path / "f" / part / ("cat", "dog")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.bmp")
    parquet = load(Data(source="parquet", path=str(tmp_path / "p")))
    folders = load(Data(source="folder", path=str(tmp_path / "f")))
    assert parquet.fingerprint == folders.fingerprint
    assert (parquet.classes, folders.classes) == (("0", "1"), ("cat", "dog"))


# Columns -----------------------------------------------------------------------------------------------------


def test_plain_binary_and_large_types_are_read(tmp_path: Path) -> None:
    pixels = noise(6)
    expected = load(one(tmp_path, image=column(pixels))).fingerprint
    plain = [png(image) for image in pixels]
    large = pa.array([{"bytes": b} for b in plain], pa.struct([("bytes", pa.large_binary())]))
    for images in (pa.array(plain, pa.binary()), pa.array(plain, pa.large_binary()), large):
        assert load(one(tmp_path, image=images)).fingerprint == expected


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_every_integer_type_is_a_label(tmp_path: Path, kind: pa.DataType) -> None:
    made = load(one(tmp_path, label=pa.array([0, 1, 0, 1, 0, 1], kind)))
    assert np.bincount(made.train.labels).tolist() == [2, 2]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_string_labels_give_sorted_classes(tmp_path: Path, kind: pa.DataType) -> None:
    made = load(one(tmp_path, label=pa.array(["owl", "ant", "Öl"] * 2, pa.string()).cast(kind)))
    assert made.classes == ("ant", "owl", "Öl")
    assert sorted([*made.train.labels, *made.test.labels]) == [0, 0, 1, 1, 2, 2]


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    other = noise(6)
    data = one(tmp_path, thumb=column(other), coarse=pa.array([1, 1, 1, 0, 0, 0]))
    made = load(data.model_copy(update={"image_column": "thumb", "label_column": "coarse"}))
    both = np.concatenate([made.train.images, made.test.images])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in other}
    assert np.array_equal(np.bincount(made.train.labels), [2, 2])


def test_label_counts_before_fine_label_and_other_integers(tmp_path: Path) -> None:
    data = one(tmp_path, fine_label=pa.array(range(6)), id=pa.array(range(6)))
    assert load(data).classes == ("0", "1")


def test_the_only_integer_column_is_the_label(tmp_path: Path) -> None:
    assert load(one(tmp_path, label=None, kind=pa.array([0, 1] * 3), score=pa.array([0.5] * 6))).classes == ("0", "1")


@pytest.mark.parametrize(
    ("columns", "chosen", "message"),
    [
        ({"thumb": column(noise(6))}, {}, r"several .* the image column; set data\.image_column to one of image, t"),
        ({"image": None}, {}, r"no column looks like the image column; .* to one of label \(int64\)"),
        ({"label": None}, {}, r"no column looks like the label column; set data\.label_column to one of image"),
        ({"label": None, "a": range(6), "b": range(6)}, {}, r"the label column; set data\.label_column .* a, b"),
        ({}, {"label_column": "lable"}, r"unknown label column 'lable'; did you mean 'label'"),
        ({}, {"image_column": "img"}, r"unknown image column 'img'"),
        ({}, {"image_column": "label"}, r"image column label is int64; needs struct<bytes: binary> or binary"),
        ({}, {"label_column": "image"}, r"label column image is struct<.*; needs integers or strings"),
        ({"label": pa.array([0.5] * 6)}, {}, r"label column label is double; needs integers or strings"),
    ],
)  # fmt: skip
def test_unclear_columns_list_the_choices(
    tmp_path: Path, columns: dict[str, Any], chosen: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=rf"one\.parquet: .*{message}"):
        load(one(tmp_path, **columns).model_copy(update=chosen))


# Rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0, 1, None, 1], r"one\.parquet row 4: label is null"),
        ([0, 1, 0, -1, 0, 1], r"row 3: label = -1 must be 0 to 5; negative labels are hidden ones"),
        ([0, 1, 0, 10**12, 0, 1], r"row 3: label = 1000000000000 must be 0 to 5"),
        ([0, 1, 2, 1, 0, 1], r"class '2' has 1 image\(s\)"),
        ([0] * 6, r"one: has 1 class\(es\)"),
        (["a", "b", None, "a", "b", "a"], r"row 2: label is null"),
    ],
)
def test_bad_labels_are_named_by_row(tmp_path: Path, labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(one(tmp_path, label=pa.array(labels)))


def test_a_label_beyond_the_class_names_is_refused(tmp_path: Path) -> None:
    columns = {"image": column(noise(4)), "label": pa.array([0, 1, 2, 1])}
    write(tmp_path / "train.parquet", columns, ["a", "b"])
    write(tmp_path / "test.parquet", columns, ["a", "b"])
    with pytest.raises(DataError, match=r"train\.parquet row 2: label = 2 must be 0 to 1$"):
        load(Data(source="parquet", path=str(tmp_path)))


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [(pa.array([0, 1] * 2), ["dog", "cat"], r"other class names"), (pa.array(["a", "b"] * 2), None, r"another type")],
)
def test_files_must_agree_on_classes(tmp_path: Path, labels: pa.Array, names: Any, message: str) -> None:
    data = fill(tmp_path)
    write(tmp_path / "test-0.parquet", {"image": column(noise(4)), "label": labels}, names)
    with pytest.raises(DataError, match=rf"{message} than .*; must agree|has {message} than in .*; must agree"):
        load(data)


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": "a.png"}])
def test_a_missing_image_is_named_by_row(tmp_path: Path, missing: Any) -> None:
    images = column(noise(6)).to_pylist()
    images[3] = missing
    with pytest.raises(
        DataError, match=r"one\.parquet row 3: cannot be decoded: is null; replace or remove it, or leave"
    ):
        load(one(tmp_path, image=pa.array(images, IMAGE)))


def test_a_corrupt_image_is_named_by_row(tmp_path: Path) -> None:
    images = column(noise(6)).to_pylist()
    images[5]["bytes"] = images[5]["bytes"][:50]
    with pytest.raises(DataError, match=r"one\.parquet row 5: cannot be decoded: .*; replace or remove it"):
        load(one(tmp_path, image=pa.array(images, IMAGE)))


def test_images_of_different_size_are_refused_unless_resized(tmp_path: Path) -> None:
    images = column(noise(6)).to_pylist()
    images[4]["bytes"] = png(np.zeros((9, 9, 3), np.uint8))
    data = one(tmp_path, image=pa.array(images, IMAGE))
    with pytest.raises(DataError, match=r"row 4: is 9x9 pixels, but .*one\.parquet row 0 is 4x5; .*data\.size=32"):
        load(data)
    assert load(data.model_copy(update={"size": 8})).train.images.shape == (4, 8, 8, 3)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    data, path = fill(tmp_path), tmp_path / "test-0.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=r"test-0\.parquet: cannot be read as Parquet: .*; fetch the file again"):
        load(data)


def test_a_file_with_damaged_pages_is_named(tmp_path: Path) -> None:
    table = pa.table({"image": column(noise(60)), "label": pa.array(np.arange(60) % 2)})
    path = tmp_path / "one.parquet"
    pq.write_table(table, path, write_page_checksum=True)
    whole = bytearray(path.read_bytes())
    whole[1000] ^= 255
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"one\.parquet: cannot be read as Parquet: .*"):
        load(Data(source="parquet", path=str(path)))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    data = one(tmp_path, image=column(noise(0)), label=pa.array([], pa.int64()))
    with pytest.raises(DataError, match=r"one\.parquet: has no images"):
        load(data)


def test_a_test_split_without_rows_is_refused(tmp_path: Path) -> None:
    data = fill(tmp_path)
    write(tmp_path / "test-0.parquet", {"image": column(noise(0)), "label": pa.array([], pa.int64())})
    with pytest.raises(DataError, match=r"the test part has no images"):
        load(data)


@pytest.mark.parametrize("metadata", [b"", b"not json", b"[]", b'{"info": {"features": {"label": {}}}}'])
def test_metadata_without_class_names_is_no_obstacle(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"image": column(noise(6)), "label": pa.array([0, 1] * 3)})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "one.parquet")
    assert load(Data(source="parquet", path=str(tmp_path / "one.parquet"))).classes == ("0", "1")


@pytest.mark.parametrize("bad", [(0,), (2, 3), (5, 9)])  # the first of all, a whole row group, one of each part
def test_bad_images_are_left_out_with_their_labels(tmp_path: Path, bad: tuple[int, ...]) -> None:
    pixels, labels = noise(10), np.arange(10) % 2
    rows = [{"bytes": b"no image" if i in bad else png(pixels[i]), "path": None} for i in range(10)]
    for name, part in (("train", slice(6)), ("test", slice(6, 10))):
        write(tmp_path / f"{name}.parquet", {"image": pa.array(rows[part], IMAGE), "label": pa.array(labels[part])})
    made = load(Data(source="parquet", path=str(tmp_path), on_bad_image="skip"))
    for part, chosen in ((made.train, range(6)), (made.test, range(6, 10))):
        good = [i for i in chosen if i not in bad]
        assert np.array_equal(part.images, pixels[good])
        assert part.labels.tolist() == labels[good].tolist()
    assert made.skipped == len(bad)
    assert f"{'train' if bad[0] < 6 else 'test'}.parquet row {bad[0]}: cannot be decoded" in made.notes[-1]


def test_bad_images_of_one_file_are_left_out_of_either_part(tmp_path: Path) -> None:
    pixels = noise(20)
    rows = [{"bytes": png(image), "path": None} for image in pixels]
    labels = pa.array(np.arange(20) % 2)
    whole = load(one(tmp_path, image=pa.array(rows, IMAGE), label=labels))
    for i in (3, 4):
        rows[i]["bytes"] = b"no image"
    data = one(tmp_path, image=pa.array(rows, IMAGE), label=labels).model_copy(update={"on_bad_image": "skip"})
    made = load(data)
    assert (made.skipped, len(made.train) + len(made.test)) == (2, 18)
    assert {image.tobytes() for image in made.test.images} <= {image.tobytes() for image in whole.test.images}
    assert {image.tobytes() for image in made.train.images} <= {image.tobytes() for image in whole.train.images}
