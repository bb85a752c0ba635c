"""Which training images keep their labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from automixsearch.config.data import Data
from automixsearch.data import load
from automixsearch.data.labels import kept
from automixsearch.errors import DataError

CLASSES = tuple("abcd")


def data(labels: Any, **more: Any) -> Data:
    return Data(labels=str(labels) if isinstance(labels, Path) else labels, **more)


def counts(labels: np.ndarray, share: float) -> np.ndarray:
    return np.bincount(labels[kept(labels, CLASSES, data(share), "x")])


@pytest.mark.parametrize(("sizes", "published"), [
    ([30] * 194 + [29] * 6, {0.15: 1000, 0.3: 1800, 0.5: 3000}),  # CUB-200: 5,994 images
    ([67] * 67 + [66] * 33, {0.15: 1067, 0.3: 2067, 0.5: 3367}),  # FGVC-Aircraft: 6,667
])  # fmt: skip
def test_shares_keep_as_many_images_as_the_published_lists(sizes: list[int], published: dict[float, int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    classes = [str(number) for number in range(len(sizes))]
    for share, total in published.items():
        assert len(kept(labels, classes, data(share), "x")) == total


def test_a_share_is_the_one_that_is_written() -> None:
    assert 0.07 * 100 > 7
    assert counts(np.repeat(np.arange(4), [100, 1, 3, 50]), 0.07).tolist() == [7, 1, 1, 4]


def test_a_smaller_share_lies_within_a_larger_one_and_the_seed_decides() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 20))
    small, large = (set(kept(labels, CLASSES, data(share), "x").tolist()) for share in (0.15, 0.5))
    assert small < large
    assert small == set(kept(labels, CLASSES, data(3), "x").tolist())
    assert small != set(kept(labels, CLASSES, data(0.15, labels_seed=1), "x").tolist())


def test_a_number_of_each_class_needs_that_many() -> None:
    labels = np.repeat(np.arange(4), [5, 4, 5, 5])
    assert np.bincount(labels[kept(labels, CLASSES, data(4), "x")]).tolist() == [4, 4, 4, 4]
    with pytest.raises(DataError, match=r"x \(training part\): class 'b' has 4 image\(s\), and data\.labels=5 asks"):
        kept(labels, CLASSES, data(5), "x")


PATHS = ["/root/a/1.jpg", "/root/a b/2.jpg", "/root/c/1.jpg"]


@pytest.mark.parametrize("lines", ["2\n0\n", "c/1.jpg\na/1.jpg", "\nroot/c/1.jpg 7\na/1.jpg 0\n\n"])
def test_a_list_holds_indices_or_names_in_any_order(tmp_path: Path, lines: str) -> None:
    (tmp_path / "list.txt").write_text(lines)
    assert kept(np.zeros(3, np.int64), CLASSES, data(tmp_path / "list.txt"), "x", PATHS).tolist() == [0, 2]


def test_names_may_hold_spaces(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a b/2.jpg\n")
    assert kept(np.zeros(3, np.int64), CLASSES, data(tmp_path / "list.txt"), "x", PATHS).tolist() == [1]


@pytest.mark.parametrize(("lines", "message"), [
    ("0\n3\n", r"list\.txt line 2: '3' must be an index from 0 to 2, or the name of a file of the training part of x"),
    ("0\n\u0663\n", r"line 2: '\u0663' must be an index"),
    ("0\n" + "9" * 5000, "line 2: .* must be an index"),
    ("0\nd/1.jpg\n", r"line 2: 'd/1\.jpg' must be an index"),
    ("1.jpg", r"line 1: '1\.jpg' fits 2 training images of x; correct the list"),
    ("1\n0\n1\n", r"line 3: '1' is listed in line 1 too; remove one"),
    ("\n", r"list\.txt: lists no image; data\.labels needs one in each line"),
])  # fmt: skip
def test_a_list_that_does_not_fit_is_refused_by_line(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(DataError, match=message):
        kept(np.zeros(3, np.int64), CLASSES, data(tmp_path / "list.txt"), "x", PATHS)


def test_a_list_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list\.txt: the list of data\.labels cannot be read: No such file"):
        kept(np.zeros(3, np.int64), CLASSES, data(tmp_path / "list.txt"), "x")


def test_digits_can_be_thinned_and_keep_their_test_part(tmp_path: Path) -> None:
    whole, few = load(Data()), load(data(4))
    assert np.bincount(few.train.labels).tolist() == [4] * 10
    assert np.array_equal(few.test.images, whole.test.images)
    (tmp_path / "list.txt").write_text("5\n3\n")
    listed = load(data(tmp_path / "list.txt"))
    assert np.array_equal(listed.train.images, whole.train.images[[3, 5]])
    (tmp_path / "list.txt").write_text("5\n4\n7\n")  # a list that changes is noticed
    assert len(load(data(tmp_path / "list.txt")).train) == 3


@pytest.mark.parametrize("held", ["test", None])
def test_folders_and_parquet_keep_the_same_images(tmp_path: Path, held: str | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "p").mkdir()
    for part in ("train", held) if held else (".",):
        rows = []
        for label, name in enumerate("ab"):
            for i in range(10):
                path = tmp_path / "f" / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((4, 4, 3), 10 * i + label, np.uint8)).save(path)
                rows.append({"image": path.read_bytes(), "label": label})
        pq.write_table(
            pa.Table.from_pylist(rows), tmp_path / "p" / f"{part.strip('.') or 'all'}.parquet", row_group_size=7
        )
    place = tmp_path / "p" if held else tmp_path / "p/all.parquet"
    folder, parquet = (
        load(data(0.25, source=source, path=str(path)))
        for source, path in (("folder", tmp_path / "f"), ("parquet", place))
    )
    assert np.bincount(folder.train.labels).tolist() == ([3, 3] if held else [2, 2])
    assert folder.fingerprint == parquet.fingerprint
