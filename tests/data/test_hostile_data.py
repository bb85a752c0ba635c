"""Folders and files as people have them are read, or refused, or counted; nothing hangs, nothing is silent."""

import io
import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

import automixsearch.data as data_module
from automixsearch.cli import main
from automixsearch.config.data import Data
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.data import ImageSet, load
from automixsearch.data.base import stratified
from automixsearch.data.files import Left, formats, suffixes, walk
from automixsearch.errors import DataError

SIDE = 8


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def tree(root: Path, n: int = 4, suffix: str = ".png") -> Path:
    """train/ and test/ with classes a and b of n different images each."""
    for seed, (part, name) in enumerate((part, name) for part in ("train", "test") for name in "ab"):
        folder = root / part / name
        folder.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(pixels(100 * seed + i)).save(folder / f"{i}{suffix}")
    return root


def folder(root: Path, **more: Any) -> Data:
    return Data(source="folder", path=str(root), **more)


def png(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels(seed)).save(sink, "png")
    return sink.getvalue()


def write(path: Path, seeds: list[int | None], labels: list[int] | None = None) -> Path:
    """A Parquet file of images; None: a null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [None if seed is None else {"bytes": png(seed), "path": None} for seed in seeds]
    image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": image, "label": labels or [i % 2 for i in range(len(seeds))]}), path)
    return path


def parquet(root: Path, **more: Any) -> Data:
    return Data(source="parquet", path=str(root), **more)


# What is read -------------------------------------------------------------------------------------------------


def test_folders_are_descended_into_as_image_folder_does(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    for place in ("x", "x/y", "x-y", "w.png"):
        (root / "train/a" / place).mkdir(parents=True)
        Image.fromarray(pixels(hash(place) % 1000 + 5000)).save(root / "train/a" / place / "0.png")
    theirs = ImageFolder(str(root / "train"))
    made = load(folder(root))
    assert np.array_equal(made.train.images, [np.asarray(theirs[i][0]) for i in range(len(theirs))])
    assert made.train.labels.tolist() == theirs.targets
    assert made.notes == ()


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".ppm", ".jfif", ".jpe", ".avif", ".TGA", ".jp2", ".webp"])
def test_what_pillow_reads_is_read(tmp_path: Path, suffix: str) -> None:
    root = tree(tmp_path)
    Image.fromarray(pixels(999)).save(root / f"train/a/x{suffix}")
    assert len(load(folder(root, size=SIDE)).train) == 9


def test_formats_that_need_another_program_are_not_opened(tmp_path: Path) -> None:
    assert not {".eps", ".h5", ".mpg", ".wmf"} & set(suffixes())
    assert {"PNG", "JPEG", "TIFF", "WEBP", "AVIF"} <= set(formats())
    root = tree(tmp_path)
    Image.fromarray(pixels(1)).save(tmp_path / "x.eps")
    shutil.move(tmp_path / "x.eps", root / "train/a/x.png")
    with pytest.raises(DataError, match="no image format that Pillow knows"):
        load(folder(root))


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_links_are_followed_and_what_they_lead_to_is_watched(tmp_path: Path, layout: str) -> None:
    if layout == "folder":
        tree(tmp_path / "disk")
    else:
        write(tmp_path / "disk/train/0.parquet", list(range(8)))
        write(tmp_path / "disk/test/0.parquet", list(range(20, 24)))
    (tmp_path / "set").mkdir()
    for part in ("train", "test"):
        (tmp_path / "set" / part).symlink_to(tmp_path / "disk" / part)
    data = Data(source=layout, path=str(tmp_path / "set"))  # type: ignore[arg-type]
    first = load(data)
    assert (len(first.train), load(data)) == (8, first)
    target = next(path for path in sorted((tmp_path / "disk/train").rglob("*.*")) if path.is_file())
    times = target.stat()
    if layout == "folder":
        Image.fromarray(pixels(77)).save(target)
    else:
        write(target, [77, *range(1, 8)])
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(data).fingerprint != first.fingerprint


def test_folders_that_change_places_are_noticed_though_names_sizes_and_times_stay(tmp_path: Path) -> None:
    root = tree(tmp_path, suffix=".bmp")
    for path in root.rglob("*.bmp"):
        os.utime(path, (0, 0))
    first = load(folder(root))
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (root / "train" / old).rename(root / "train" / new)
    second = load(folder(root))
    assert np.array_equal(second.train.images[:4], first.train.images[4:])


def test_a_link_that_leads_back_is_counted_and_ends(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "train/a/again").symlink_to(root / "train/a")
    for i in range(12):  # 2 ** 12 ways through, were each taken
        (root / f"train/b/{i:02d}").mkdir()
        for way in "xy":
            (root / f"train/b/{i:02d}/{way}").symlink_to(root / f"train/b/{i + 1:02d}")
    (root / "train/b/12").mkdir()
    made = load(folder(root))
    assert len(made.train) == 8
    assert re.search("not read: .* link to a folder that is read anyway", made.notes[0])


# What is not read is counted ----------------------------------------------------------------------------------


def test_what_is_not_read_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "set")
    for name in ("readme.txt", "more.txt", ".DS_Store", "Thumbs.db", "noname"):
        (root / "train/a" / name).write_bytes(b"")
    for name in ("__MACOSX", ".ipynb_checkpoints"):
        (root / "train/b" / name).mkdir()
        Image.fromarray(pixels(1)).save(root / "train/b" / name / "x.png")
    Image.fromarray(pixels(2)).save(root / "train/loose.png")
    shutil.copytree(root / "train/a", root / "val/a")
    made = load(folder(root))
    assert len(made.train) == 8
    (note,) = made.notes
    for count in ("4 hidden", "2 .txt", "1 without suffix", "1 in train/ itself", "7 in val/"):
        assert count in note
    assert main(["data", "folder", f"data.path={root}"]) == 0
    assert note[:60] in capsys.readouterr().out.replace("\n", " ")


def test_a_parquet_folder_says_what_it_does_not_read(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", list(range(6)))
    write(tmp_path / "test-0.parquet", list(range(20, 24)))
    write(tmp_path / "extra.parquet", [1])
    (tmp_path / "README.md").write_text("")
    assert load(parquet(tmp_path)).notes == (
        "not read: extra.parquet",
        f"not read: 1 .md; the first {tmp_path}/README.md",
    )


def test_what_looks_doubled_is_counted(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    for name in ("0", "1"):
        shutil.copy(root / f"train/a/{name}.png", root / f"test/b/copy-{name}.png")
    Image.open(root / "train/a/2.png").save(root / "train/b/same pixels.bmp")
    expected = {
        f"looks doubled: 2 test images are in the training part too, the first {root}/test/b/copy-0.png = "
        f"{root}/train/a/0.png",
        f"looks doubled: 1 training images are there before, the first {root}/train/b/same pixels.bmp = "
        f"{root}/train/a/2.png",
    }
    assert set(load(folder(root)).notes) == expected
    assert set(load(folder(root, pipeline="stream")).notes) >= expected


def test_a_copy_that_a_browser_made_and_equal_parts_are_told(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", list(range(6)))
    shutil.copy(tmp_path / "train-0.parquet", tmp_path / "train-0 (1).parquet")
    shutil.copy(tmp_path / "train-0.parquet", tmp_path / "test-0.parquet")
    notes = " ".join(load(parquet(tmp_path)).notes)
    assert "6 training images are there before" in notes
    assert "6 test images are in the training part too" in notes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00003", "train-00002-of-00003"], "split train lacks 1 of its 3 shards, e.g. -00001-of-00003"),
        (["train-00000-of-00002", "train-00001-of-00002", "train-00000-of-00003"], "are of several exports"),
        (["train-0", "test-hard"], r"split test have several names, .*\(test-0.parquet, test-hard.parquet\)"),
        (["train-0", "train-0 - copy"], "split train have several names"),
    ],
)
def test_sets_that_are_not_whole_or_not_one_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for seed, name in enumerate([*names, "test-0"]):
        write(tmp_path / f"{name}.parquet", [10 * seed + i for i in range(4)])
    with pytest.raises(DataError, match=message):
        load(parquet(tmp_path))


@pytest.mark.parametrize("first", [0, 1])
def test_whole_sets_are_read_as_they_are_named(tmp_path: Path, first: int) -> None:
    for i in range(2):
        write(
            tmp_path / f"train-{i + first:05d}-of-00002-{'9f3b7c01' if i else 'a0b1c2d3'}.parquet", [10 * i, 10 * i + 1]
        )
    write(tmp_path / "test-00000-of-00001-77aa.parquet", [90, 91])
    assert len(load(parquet(tmp_path)).train) == 4
    one = tmp_path / f"train-{first:05d}-of-00002-a0b1c2d3.parquet"
    with pytest.raises(DataError, match="has 1 image"):  # a share of four images cannot be held out of two
        load(parquet(one))


# Bad images, on every path alike ------------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


BAD: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(png(1)[:60]),
    "empty": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_bytes(b"no image" * 9),
    "a link to nothing": lambda path: path.symlink_to("/nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a pipe": fifo,
    "16 bits": lambda path: Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(path),
}


@pytest.mark.parametrize("pipeline", ["cache", "stream"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_refused_or_counted_however_it_is_bad(tmp_path: Path, kind: str, pipeline: Any) -> None:
    root = tree(tmp_path)
    BAD[kind](root / "train/a/bad.png")
    with pytest.raises(DataError, match=r"train/a/bad\.png: .*data\.on_bad_image=skip"):
        load(folder(root, pipeline=pipeline))
    made = load(folder(root, pipeline=pipeline, on_bad_image="skip"))
    assert (len(made.train), made.skipped) == (8, 1)
    assert re.match(r"bad images left out: 1, the first .*bad\.png: ", made.notes[0])


@pytest.mark.parametrize("pipeline", ["cache", "stream"])
def test_nulls_of_parquet_are_bad_images(tmp_path: Path, pipeline: Any) -> None:
    write(tmp_path / "train-0.parquet", [0, None, 2, 3, 4])
    write(tmp_path / "test-0.parquet", [20, 21])
    with pytest.raises(DataError, match=r"row 1: cannot be decoded: is null; .* data\.on_bad_image=skip"):
        load(parquet(tmp_path, pipeline=pipeline))
    made = load(parquet(tmp_path, pipeline=pipeline, on_bad_image="skip"))
    assert (len(made.train), made.skipped) == (4, 1)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, real = tree(tmp_path), os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"train/b: the folder cannot be listed: Permission denied; mend or remove it"):
        load(folder(root))


def test_pipes_instead_of_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "p/train-0.parquet", list(range(4)))
    os.mkfifo(tmp_path / "p/test-0.parquet")
    with pytest.raises(DataError, match=r"test-0\.parquet: .*is no regular file"):
        load(parquet(tmp_path / "p"))
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"list\.txt: the list of data\.labels cannot be read: is no regular file"):
        load(folder(tree(tmp_path / "f"), labels=str(tmp_path / "list.txt")))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe"):
        load(parquet(tmp_path / "pipe"))


# Orientation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("pipeline", ["cache", "stream"])
def test_exif_orientation_is_applied_where_it_is_asked_for_and_told_where_not(
    tmp_path: Path, kind: str, pipeline: Any
) -> None:
    root = tree(tmp_path, suffix=f".{kind}")
    for path in root.rglob("*.*"):
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as image:
            image.save(path, exif=exif)
    plain = load(folder(root, pipeline=pipeline))
    turned = load(folder(root, pipeline=pipeline, orientation="exif"))
    places = np.arange(8)
    assert np.array_equal(turned.train.images[places], np.rot90(plain.train.images[places], -1, (1, 2)))
    assert plain.notes[0].startswith("images whose EXIF orientation is not applied: 16, the first ")
    assert not [note for note in turned.notes if "EXIF" in note]
    assert plain.fingerprint != turned.fingerprint


def test_orientation_changes_ids_only_where_it_is_used() -> None:
    def ids(**data: Any) -> tuple[str, str]:
        made = Data(source="folder", path="/d", **data)
        knobs: dict[str, Any] = {"method": "mixup"}
        return TrialConfig(data=made, knobs=knobs).config_id, SearchSpace(data=made, knobs=knobs).space_id

    assert ids() == ids(orientation="stored")
    assert not set(ids()) & set(ids(orientation="exif"))
    again = Data.model_validate(Data(source="folder", path="/d", orientation="exif").model_dump())
    assert again.orientation == "exif"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    root = tree(tmp_path, suffix=".jpg")
    for path in root.rglob("*.jpg"):
        with Image.open(path) as image:
            image.save(path, quality="keep", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert load(folder(root, orientation="exif")).fingerprint == load(folder(root)).fingerprint


# Names --------------------------------------------------------------------------------------------------------


def test_names_that_look_alike_are_told_apart_by_code_points(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (root / "train/a").rename(root / "train" / composed)
    (root / "test/a").rename(root / "test" / apart)
    with pytest.raises(DataError, match=r"only \(1 such\); .*; test/ has 'e\\u0301', and this one is '\\xe9': rename"):
        load(folder(root))
    both = tree(tmp_path / "both")
    for name in (composed, apart):
        shutil.copytree(both / "train/a", both / f"train/{name}")
        shutil.copytree(both / "test/a", both / f"test/{name}")
    assert r"looks doubled: 1 class name(s), e.g. 'e\u0301' and '\xe9'" in load(folder(both)).notes


def test_two_folders_of_one_part_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path)
    shutil.copytree(root / "train", root / "Train")
    with pytest.raises(DataError, match="has both Train/ and train/; put them together, or rename one"):
        load(folder(root))


def test_names_that_are_no_text_can_be_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path)
    odd = os.fsdecode(b"\xff\n\x1b[31m.png")
    (root / "train/a" / odd).write_bytes(b"no image")
    assert main(["data", "folder", f"data.path={root}", "on_bad_image=skip"]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out
    with pytest.raises(DataError, match=r"\\udcff\\n\\x1b\[31m\.png"):
        load(folder(root))


@pytest.mark.parametrize("word", ["data.size", "size", "=3", "trials"])
def test_a_word_without_a_value_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "digits", word]) == 2
    assert f"override {word!r} must read key=value, e.g. data.path=DIR or data.size=64" in capsys.readouterr().err


# Splits -------------------------------------------------------------------------------------------------------


def one_by_one(labels: np.ndarray, classes: int, take: np.ndarray, seed: int) -> np.ndarray:
    """How splits were drawn when each class looked through all labels."""
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = np.zeros(len(labels), bool)
    for number in range(classes):
        chosen[generator.permutation(np.flatnonzero(labels == number))[: take[number]]] = True
    return np.flatnonzero(chosen)


@pytest.mark.parametrize("seed", range(20))
def test_one_sort_draws_the_splits_that_a_look_for_each_class_drew(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 40))
    labels = rng.permutation(np.concatenate([np.arange(classes).repeat(2), rng.integers(0, classes, 500)]))
    rest, held = stratified(labels, [str(i) for i in range(classes)], 0.1, seed, "set")
    assert np.array_equal(held, one_by_one(labels, classes, np.bincount(labels[held], minlength=classes), seed))
    assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(labels)))


# Whatever comes -----------------------------------------------------------------------------------------------

NAMES = (
    "x.png",
    "é.jpg",
    "nested",
    ".hidden.png",
    "Thumbs.db",
    "no suffix",
    "a b\n.png",
    "x.tiff",
    "list.csv",
    "-.gif",
)


def harm(folder: Path, rng: np.random.Generator) -> None:
    """Put something into a folder that does not belong there, or take something away."""
    path = folder / f"{rng.integers(9)}{NAMES[rng.integers(len(NAMES))]}"
    if path.exists() or path.is_symlink():
        return
    match int(rng.integers(8)):
        case 0:
            path.mkdir()
            (path / "x.png").write_bytes(png(int(rng.integers(10**6))))
        case 1:
            path.symlink_to(folder.parent)
        case 2:
            os.mkfifo(path)
        case 3:
            path.write_bytes(rng.bytes(40))
        case 4:
            content = bytearray(png(int(rng.integers(10**6))))
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            path.write_bytes(content)
        case 5:
            for old in sorted(folder.iterdir())[:1]:
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        case 6:
            path.symlink_to(path)
        case _:
            path.write_bytes(png(int(rng.integers(10**6))))


def accounted(made: ImageSet, root: Path) -> bool:
    """Whether every file is an image of the set, left out as bad, or counted in a note."""
    left = Left()
    files = [path for part in ("train", "test") for name in "ab" for path in walk(root / part / name, left)]
    images = len(made.train) + len(made.test) + made.skipped
    told = [note for note in made.notes if note.startswith("not read: ")]
    others = sum(int(count) for note in told for count in re.findall(r"(\d+) [^;]*?(?:,|;)", note))
    return images + others == len(files) + sum(left.kinds.values())


@pytest.mark.parametrize("seed", range(40))
def test_a_folder_of_anything_is_read_or_refused_and_every_file_accounted_for(tmp_path: Path, seed: int) -> None:
    rng, root = np.random.default_rng(seed), tree(tmp_path / "set")
    places = [root / part / name for part in ("train", "test") for name in "ab"]
    for _ in range(int(rng.integers(1, 12))):
        harm(places[rng.integers(4)], rng)
    data_module._latest.clear()
    made = load(folder(root, size=SIDE, on_bad_image="skip"))
    assert accounted(made, root), made.notes
    if made.skipped:
        with pytest.raises(DataError, match=r"data\.on_bad_image=skip"):
            load(folder(root, size=SIDE))
    else:
        assert load(folder(root, size=SIDE)).fingerprint == made.fingerprint


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_parquet_file_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    write(tmp_path / "train-0.parquet", list(range(8)))
    path = write(tmp_path / "test-0.parquet", list(range(20, 24)))
    content = bytearray(path.read_bytes())
    if seed % 4 == 0:
        content = content[: rng.integers(len(content))]
    else:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    for on_bad_image in ("fail", "skip"):
        said = ""
        try:
            load(parquet(tmp_path, on_bad_image=on_bad_image))
        except DataError as error:
            said = str(error)
        assert not said or re.search("parquet|label|images", said)
