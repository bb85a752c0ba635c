"""Image files in folders, and how images are decoded."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automixsearch.config.data import Data
from automixsearch.data import load, sink
from automixsearch.data.decode import resize
from automixsearch.data.sink import Sink, available_bytes
from automixsearch.errors import DataError

RANDOM = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)


def fill(root: Path, parts: tuple[str, ...] = ("train", "test"), n: int = 3) -> Data:
    for part in parts:
        for name in ("cat", "dog"):
            for i in range(n):
                save(root / part / name / f"{i}.png", noise(6, 6, 3))
    return Data(source="folder", path=str(root))


def with_image(root: Path, image: np.ndarray | Image.Image, name: str = "x.png") -> Data:
    """A set of colour images, the first of the class dog being `image`."""
    data = fill(root)
    (root / "train/dog/0.png").unlink()
    save(root / "train/dog" / name, image)
    return data


def test_images_come_in_the_order_of_classes_and_names(tmp_path: Path) -> None:
    pixels = {}
    for part in ("train", "test"):
        for name in ("zebra", "a cat", "Öl"):
            for file in ("10.png", "2.PNG", "ü 1.png"):
                pixels[part, name, file] = noise(5, 7, 3)
                save(tmp_path / part / name / file, pixels[part, name, file])
    made = load(Data(source="folder", path=str(tmp_path)))
    assert made.classes == ("a cat", "zebra", "Öl")
    assert made.notes == ()
    assert made.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    order = [(name, file) for name in made.classes for file in ("10.png", "2.PNG", "ü 1.png")]
    for part, got in (("train", made.train), ("test", made.test)):
        assert np.array_equal(got.images, np.stack([pixels[part, *place] for place in order]))


@pytest.mark.parametrize("held", ["val", "valid", "validation", "Test"])
def test_the_test_part_has_several_names(tmp_path: Path, held: str) -> None:
    made = load(fill(tmp_path, ("train", held)))
    assert len(made.train) == len(made.test) == 6
    assert made.notes == (() if held == "Test" else (f"test part: {held}/",))


def test_a_test_folder_counts_before_a_validation_folder(tmp_path: Path) -> None:
    fill(tmp_path, ("train", "val"))
    data = fill(tmp_path, ("test",), n=1)
    assert len(load(data).test) == 2


def test_a_flat_root_holds_out_a_fixed_fifth(tmp_path: Path) -> None:
    first = load(fill(tmp_path / "one", (".",), n=10))
    assert (len(first.train), len(first.test)) == (16, 4)
    assert np.bincount(first.test.labels).tolist() == [2, 2]
    assert first.notes == ("test part: a fixed stratified 20 %",)
    again = load(Data(source="folder", path=str(tmp_path / "one")))
    assert again.fingerprint == first.fingerprint


def test_train_without_folders_inside_is_a_class(tmp_path: Path) -> None:
    for name in ("train", "tram"):
        for i in range(5):
            save(tmp_path / name / f"{i}.png", noise(4, 4, 3))
    assert load(Data(source="folder", path=str(tmp_path))).classes == ("train", "tram")


def test_hidden_files_and_other_suffixes_are_left_out(tmp_path: Path) -> None:
    data = fill(tmp_path)
    expected = load(data).fingerprint
    (tmp_path / ".cache").mkdir()
    (tmp_path / "train/.hidden").mkdir()
    (tmp_path / "train/dog/.0.png").write_bytes(b"")
    (tmp_path / "train/dog/readme.txt").write_text("not an image")
    assert load(data).fingerprint == expected


def test_gray_images_keep_one_channel(tmp_path: Path) -> None:
    pixels = noise(6, 6)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            save(tmp_path / part / name / "l.png", pixels)
            save(tmp_path / part / name / "m.png", Image.fromarray(pixels).convert("1"))
    made = load(Data(source="folder", path=str(tmp_path)))
    assert made.train.images.shape == (4, 6, 6, 1)
    assert np.array_equal(made.train.images[0, ..., 0], pixels)
    assert set(np.unique(made.train.images[1])) <= {0, 255}


def test_one_colour_image_makes_the_whole_set_rgb(tmp_path: Path) -> None:
    gray = noise(6, 6)
    made = load(with_image(tmp_path, gray))
    assert made.train.images.shape == (6, 6, 6, 3)
    assert np.array_equal(made.train.images[5], np.stack([gray] * 3, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(6, 6, 3)).convert(mode)
    name = "x.jpg" if mode == "CMYK" else "x.png"
    made = load(with_image(tmp_path, image, name))
    with Image.open(tmp_path / "train/dog" / name) as stored:
        assert np.array_equal(made.train.images[5], np.asarray(stored.convert("RGB")))


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(noise(6, 6, 3)).convert("P")
    expected = np.asarray(image.convert("RGB"))
    image.info["transparency"] = bytes(range(256))
    assert np.array_equal(load(with_image(tmp_path, image)).train.images[5], expected)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp", "webp", "gif"])
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    assert len(load(with_image(tmp_path, noise(6, 6, 3), f"x.{suffix}")).train) == 6


def test_sixteen_bit_pixels_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((6, 6), 1000, np.uint16))
    with pytest.raises(DataError, match=r"x\.png: cannot be decoded: has I;16 pixels, and only 8 bits"):
        load(with_image(tmp_path, image))


def test_images_of_different_size_are_refused_with_both_names(tmp_path: Path) -> None:
    data = with_image(tmp_path, noise(6, 9, 3))
    first = re.escape(str(tmp_path / "train/cat/0.png"))
    with pytest.raises(DataError, match=rf"dog/x\.png: is 9x6 pixels, but {first} is 6x6; .* data\.size=32"):
        load(data)


def test_size_takes_the_centre_square(tmp_path: Path) -> None:
    wide = np.zeros((6, 12, 3), np.uint8)
    wide[:, 3:9] = 200
    data = with_image(tmp_path, wide).model_copy(update={"size": 6})
    made = load(data)
    assert made.train.images.shape == (6, 6, 6, 3)
    assert (made.train.images[5] == 200).all()
    with Image.open(tmp_path / "train/cat/0.png") as image:
        assert np.array_equal(made.train.images[0], np.asarray(image))  # of that size already: untouched


def test_downsizing_is_antialiased() -> None:
    checker = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)[None, ..., None]
    small = resize(checker, Data(size=8), Sink())
    assert small.shape == (1, 8, 8, 1)
    assert np.abs(small.astype(int) - 127).max() <= 8


@pytest.mark.parametrize("content", [b"", b"not an image", "half"])
def test_a_corrupt_image_is_named_with_the_reason(tmp_path: Path, content: bytes | str) -> None:
    data, bad = fill(tmp_path / "ein Ordner"), tmp_path / "ein Ordner/test/dog/2.png"
    whole = bad.read_bytes()
    bad.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    reason = "no image format" if isinstance(content, bytes) else r"\w+"
    with pytest.raises(DataError, match=rf"ein Ordner/test/dog/2\.png: cannot be decoded: .*{reason}.* remove it"):
        load(data)


def test_the_first_of_several_corrupt_images_is_named(tmp_path: Path) -> None:
    data = fill(tmp_path, n=150)
    for i in (149, 120, 33):
        (tmp_path / f"train/cat/{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"cat/120\.png"):
        load(data)


def test_classes_must_agree_between_the_parts(tmp_path: Path) -> None:
    data = fill(tmp_path)
    save(tmp_path / "test/eel/0.png", noise(6, 6, 3))
    with pytest.raises(DataError, match=r"class 'eel' is in test/ only \(1 such\); both parts need the same"):
        load(data)


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    data = fill(tmp_path)
    (tmp_path / "train/eel").mkdir()
    with pytest.raises(DataError, match=r"train/eel: class folder without images \(\.png, \.jpg"):
        load(data)


def test_train_without_a_test_part_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has train/ but none of test, val, .* give data\.path=.*/train to hold"):
        load(fill(tmp_path, ("train",)))


@pytest.mark.parametrize("classes", [[], ["cat"]])
def test_fewer_than_two_class_folders_are_refused(tmp_path: Path, classes: list[str]) -> None:
    for name in classes:
        save(tmp_path / name / "0.png", noise(4, 4, 3))
    with pytest.raises(DataError, match=rf"has {len(classes)} class folder\(s\); source folder expects train/"):
        load(Data(source="folder", path=str(tmp_path)))


def test_a_flat_class_with_one_image_cannot_be_split(tmp_path: Path) -> None:
    data = fill(tmp_path, (".",), n=4)
    save(tmp_path / "eel/0.png", noise(6, 6, 3))
    with pytest.raises(DataError, match=r"class 'eel' has 1 image\(s\); a split needs 2 or more"):
        load(data)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.png: is a file; source folder needs a directory"):
        load(Data(source="folder", path=str(tmp_path / "x.png")))


def test_a_set_larger_than_half_of_the_memory_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "available_bytes", lambda: 2 * 12 * 6 * 6 * 3 - 1)
    data = fill(tmp_path).model_copy(update={"pipeline": "cache"})
    with pytest.raises(DataError, match=r"cat/0\.png: 12 images of 6x6 pixels take 0\.0 GB .* e\.g\. data\.size"):
        load(data)
    monkeypatch.setattr(sink, "available_bytes", lambda: 2 * 12 * 6 * 6 * 3)
    assert len(load(data).train) == 6


def test_available_memory_is_a_plausible_number() -> None:
    assert 2**24 < available_bytes() < 2**50


def test_squash_takes_the_whole_image(tmp_path: Path) -> None:
    wide = np.zeros((6, 12, 3), np.uint8)
    wide[:, 6:] = 200
    data = with_image(tmp_path, wide).model_copy(update={"size": 6, "resize": "squash"})
    image = load(data).train.images[5, :, :, 0]
    assert image[:, :2].max() == 0
    assert image[:, 4:].min() == 200


def test_trim_cuts_rows_off_at_the_bottom(tmp_path: Path) -> None:
    data = fill(tmp_path).model_copy(update={"trim": 2})
    made = load(data)
    assert made.train.images.shape == (6, 4, 6, 3)
    with Image.open(tmp_path / "train/cat/0.png") as image:
        assert np.array_equal(made.train.images[0], np.asarray(image)[:4])
    small = load(data.model_copy(update={"size": 4})).train.images[0]
    assert np.array_equal(small, made.train.images[0][:, 1:5])
    with pytest.raises(DataError, match=r"cat/0\.png: .*: is 6 pixels high, and data\.trim=6 leaves nothing of it"):
        load(data.model_copy(update={"trim": 6}))
