"""What a data set guarantees, how it is fingerprinted and how the latest one is kept."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import automixsearch.data.folder as folder_source
from automixsearch.config.data import Data
from automixsearch.data import ImageSet, Part, channel_statistics, load
from automixsearch.errors import DataError


def part(labels: list[int], channels: int = 3, seed: int = 0) -> Part:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 5, 4, channels), dtype=np.uint8)
    return Part(images, np.array(labels, np.int64))


def tree(root: Path, per_class: int = 5, value: int = 0) -> Data:
    for number, name in enumerate(("a", "b")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            pixels = np.full((4, 4, 3), value + 10 * number + i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.bmp")
    return Data(source="folder", path=str(root))


def test_importing_data_loads_no_heavy_library() -> None:
    heavy = ["torch", "torchvision", "sklearn", "pyarrow", "pandas", "ray", "optuna", "scipy"]
    code = f"import sys, automixsearch.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), [0, 1], r"must be uint8 .* got float32"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], r"must be uint8 \[N, H, W, 1 or 3\]; got uint8 \[2, 4, 4\]"),
        (np.zeros((2, 4, 4, 4), np.uint8), [0, 1], r"\[2, 4, 4, 4\]"),
        (np.zeros((2, 4, 4, 6), np.uint8)[..., :3], [0, 1], r"C-contiguous"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 1, 1], r"labels must be int64 \[2\]; got int64 \[3\]"),
    ],
)
def test_a_part_refuses_arrays_of_another_form(images: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Part(images, np.array(labels, np.int64))


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        (part([0, 0]), part([0]), ("a",), r"x: has 1 class\(es\); classification needs 2 or more"),
        (part([]), part([0]), ("a", "b"), r"x: the training part has no images"),
        (part([0, 1]), part([]), ("a", "b"), r"x: the test part has no images"),
        (part([0, 2]), part([0]), ("a", "b"), r"label 2 of the training part must be 0 to 1"),
        (part([0, 1]), part([-1]), ("a", "b"), r"label -1 of the test part must be 0 to 1"),
        (part([0, 1]), part([0], 1), ("a", "b"), r"\(5, 4, 3\) \(H, W, C\), test images \(5, 4, 1\)"),
    ],
)
def test_an_image_set_refuses_parts_that_do_not_fit(
    train: Part, test: Part, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet("x", train, test, classes)


def test_the_fingerprint_is_pinned() -> None:
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    whole = Part(images, np.array([0, 1], np.int64))
    assert ImageSet("x", whole, whole, ("a", "b")).fingerprint == "b027bd2ce62b3ad2"


def test_every_content_changes_the_fingerprint_and_names_do_not() -> None:
    base = ImageSet("x", part([0, 1, 0]), part([1], seed=1), ("a", "b"))
    pixel = base.train.images.copy()
    pixel[0, 0, 0, 0] ^= 1
    others = [
        ImageSet("x", Part(pixel, base.train.labels), base.test, ("a", "b")),
        ImageSet("x", Part(base.train.images, np.array([0, 1, 1])), base.test, ("a", "b")),
        ImageSet("x", Part(base.train.images[::-1].copy(), base.train.labels), base.test, ("a", "b")),
        ImageSet("x", base.train, part([0], seed=1), ("a", "b")),
        ImageSet("x", base.train, base.test, ("a", "b", "c")),
        ImageSet("x", Part(base.train.images.reshape(3, 4, 5, 3), base.train.labels),
                 Part(base.test.images.reshape(1, 4, 5, 3), base.test.labels), ("a", "b")),
    ]  # fmt: skip
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    assert ImageSet("y", base.train, base.test, ("c", "d"), ("n",)).fingerprint == base.fingerprint


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_equal_those_of_the_chosen_pixels(channels: int) -> None:
    images = part([0] * 700, channels).images
    chosen = np.arange(0, 700, 3)
    mean, std = channel_statistics(images, chosen)
    pixels = images[chosen].astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_has_a_std_that_can_divide() -> None:
    mean, std = channel_statistics(np.full((3, 2, 2, 1), 51, np.uint8), np.arange(3))
    assert mean.tolist() == [0.2]
    assert std.tolist() == [1 / 255]


def test_the_latest_set_is_kept(tmp_path: Path) -> None:
    data = tree(tmp_path / "set")
    first = load(data)
    assert load(data) is first
    assert load(data.model_copy(update={"val_fraction": 0.5})) is first
    assert load(data.model_copy(update={"size": 8})) is not first


def test_a_file_that_changes_is_noticed_even_at_the_same_size(tmp_path: Path) -> None:
    data, file = tree(tmp_path / "set"), tmp_path / "set/a/0.bmp"
    first, before = load(data), file.stat()
    tree(tmp_path / "set", value=100)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert file.stat().st_size == before.st_size
    assert load(data).fingerprint != first.fingerprint


def test_a_failed_load_leaves_no_stale_set_behind(tmp_path: Path) -> None:
    data = tree(tmp_path / "set")
    load(data)
    (tmp_path / "set" / "a" / "0.bmp").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(DataError, match=r"0\.bmp: cannot be decoded"):
            load(data)


def test_threads_that_load_at_once_decode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, calls, real = tree(tmp_path / "set"), [], folder_source.load
    monkeypatch.setattr(folder_source, "load", lambda *words: calls.append(1) or real(*words))
    found: list[ImageSet] = []
    threads = [threading.Thread(target=lambda: found.append(load(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert all(image_set is found[0] for image_set in found)


def test_paths_are_relative_to_the_working_directory_and_may_name_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(tree(tmp_path / "ein Bild für dich")).fingerprint
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("ein Bild für dich", "~/ein Bild für dich"):
        assert load(Data(source="folder", path=path)).fingerprint == expected


@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_a_missing_path_names_its_nearest_neighbour(tmp_path: Path, source: Any) -> None:
    (tmp_path / "cifar100").mkdir()
    with pytest.raises(DataError, match=r"cifar10O: no such file or directory; did you mean '.*cifar100'"):
        load(Data(source=source, path=str(tmp_path / "cifar10O")))
    with pytest.raises(DataError, match=r"cifr100/train: no such .* did you mean '.*/cifar100'"):
        load(Data(source=source, path=str(tmp_path / "cifr100" / "train")))
    with pytest.raises(DataError, match=r"zzz: no such file or directory; check data\.path"):
        load(Data(source=source, path=str(tmp_path / "zzz")))


def test_an_operating_system_error_becomes_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(folder_source, "load", refuse)
    with pytest.raises(DataError, match=r"/secret: cannot be read: Permission denied"):
        load(tree(tmp_path / "set"))
