"""Large sets lie in the cache: built once, shared, and the same as without it."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import automixsearch.data as data_module
from automixsearch.cli import main
from automixsearch.config.data import Data
from automixsearch.data import ImageSet, cache, decode, load
from automixsearch.errors import DataError

N = 8


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for every set of more than 1,000 bytes."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALL", 1000)
    forget()
    return tmp_path / "cache"


def forget() -> None:
    """What a new process knows."""
    data_module._latest.clear()


def tree(root: Path, side: int = 12, mode: str = "RGB", parts: tuple[str, ...] = ("train", "test")) -> Data:
    random = np.random.default_rng(0)
    for part in parts:
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for i in range(N):
                image = Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))
                image.convert(mode).save(root / part / name / f"{i}.png")
    return Data(source="folder", path=str(root))


def entries(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.suffix != ".lock") if place.exists() else []


def uncached(data: Data, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    with monkeypatch.context() as patch:
        patch.setenv(cache.VARIABLE, "off")
        forget()
        made = load(data)
    forget()
    return made


def mapped(images: Any) -> bool:
    return isinstance(images, np.memmap)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("parts", [("train", "test"), (".",)])
def test_a_cached_set_is_the_set(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, mode: str, parts: tuple[str, ...]
) -> None:
    data = tree(tmp_path / "set", mode=mode, parts=parts)
    plain = uncached(data, monkeypatch)
    assert not place.exists()
    built = load(data)
    forget()
    monkeypatch.setattr(decode, "_pixels", lambda *_: pytest.fail("decoded"))
    opened = load(data)
    assert len(entries(place)) == 1
    for made in (built, opened):
        assert mapped(made.train.images)
        assert mapped(made.test.images)
        assert (made.name, made.classes, made.notes, made.skipped) == (plain.name, plain.classes, plain.notes, 0)
        assert made.fingerprint == plain.fingerprint
        assert ImageSet("x", made.train, made.test, made.classes).fingerprint == plain.fingerprint  # hashed again


def test_the_fingerprint_is_kept_with_the_images(tmp_path: Path) -> None:
    data = tree(tmp_path / "set")
    expected = load(data).fingerprint
    forget()
    assert vars(load(data))["fingerprint"] == expected  # there before anyone asks for it


def test_a_set_that_is_not_decoded_from_files_is_cached_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = uncached(Data(), monkeypatch)
    built = load(Data())
    assert mapped(built.train.images)
    assert built.fingerprint == plain.fingerprint
    assert ImageSet("x", built.train, built.test, built.classes).fingerprint == plain.fingerprint
    assert [name.partition("-")[0] for name in entries(place)] == ["digits"]


def test_a_small_set_leaves_no_trace(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALL", 2**20)
    assert not mapped(load(tree(tmp_path / "set")).train.images)
    assert not place.exists()


def test_images_of_the_cache_cannot_be_written(tmp_path: Path) -> None:
    made = load(tree(tmp_path / "set"))
    for part in (made.train, made.test):
        with pytest.raises(ValueError, match="read-only"):
            part.images[0] = 0


def test_other_settings_and_other_files_have_other_entries(tmp_path: Path, place: Path) -> None:
    data = tree(tmp_path / "set")
    load(data)
    load(data.model_copy(update={"val_fraction": 0.3}))
    assert len(entries(place)) == 1
    load(data.model_copy(update={"size": 16}))
    (tmp_path / "set/train/a/0.png").unlink()
    assert len(load(data).train) == 2 * N - 1
    assert len(entries(place)) == 3


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_bad_images_leave_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    data = tree(tmp_path / "set", mode=mode).model_copy(update={"on_bad_image": "skip"})
    for name in ("train/a/0.png", "train/b/3.png", "test/b/7.png"):
        (tmp_path / "set" / name).write_bytes(b"no image")
    plain = uncached(data, monkeypatch)
    assert (len(plain.train), len(plain.test), plain.skipped) == (2 * N - 2, 2 * N - 1, 3)
    load(data)
    forget()
    opened = load(data)
    assert ImageSet("x", opened.train, opened.test, opened.classes).fingerprint == plain.fingerprint
    assert (opened.skipped, opened.notes) == (3, plain.notes)
    assert opened.notes[-1].startswith("bad images left out: 3, the first ")
    assert "train/a/0.png: cannot be decoded: no image format" in opened.notes[-1]


def test_a_set_of_bad_images_only_has_no_training_part(tmp_path: Path) -> None:
    data = tree(tmp_path / "set").model_copy(update={"on_bad_image": "skip"})
    for file in (tmp_path / "set/train").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="the training part has no images"):
        load(data)


# Building -----------------------------------------------------------------------------------------------------


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path, place: Path) -> None:
    data, bad = tree(tmp_path / "set"), tmp_path / "set/test/b/7.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"test/b/7\.png: cannot be decoded"):
        load(data)
    assert entries(place) == []
    bad.write_bytes(whole)
    assert len(load(data).train) == 2 * N


def test_what_a_dead_builder_left_is_replaced(tmp_path: Path, place: Path) -> None:
    data = tree(tmp_path / "set")
    expected = load(data).fingerprint
    (name,) = entries(place)
    (place / name).rename(place / f"{name}.part")
    (place / f"{name}.part" / "images.npy").write_bytes(b"half")
    forget()
    assert load(data).fingerprint == expected
    assert entries(place) == [name]


BUILD = """
import sys, time
from automixsearch.data import cache, decode, folder, load
from automixsearch.config.data import Data
cache.SMALL = 1000
real = decode._pixels
def slow(*args):
    print("decoded", flush=True)
    time.sleep(0.05)
    return real(*args)
decode._pixels = slow
print(load(Data(source="folder", path=sys.argv[1], on_bad_image="skip")).fingerprint)
"""


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BUILD, str(root)], stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_decodes_and_the_other_waits_for_it(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tree(tmp_path / "set").model_copy(update={"on_bad_image": "skip"})
    expected = uncached(data, monkeypatch).fingerprint
    said = [process.communicate()[0].split() for process in [start(tmp_path / "set") for _ in range(2)]]
    assert [words[-1] for words in said] == [expected] * 2
    # To know the size of the set, each may decode the first image; it is decoded again in its turn.
    assert sorted(words.count("decoded") for words in said) in ([0, 4 * N + 1], [1, 4 * N + 1])
    assert len(entries(place)) == 1


def test_a_process_that_is_killed_leaves_the_building_to_the_next(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tree(tmp_path / "set").model_copy(update={"on_bad_image": "skip"})
    plain = uncached(data, monkeypatch)
    process = start(tmp_path / "set")
    while not any(place.glob("*.part/images.npy")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    made = load(data)
    assert ImageSet("x", made.train, made.test, made.classes).fingerprint == made.fingerprint == plain.fingerprint
    (name,) = entries(place)
    assert {path.name for path in (place / name).iterdir()} == {"images.npy", "labels.npy", "set.json"}


# Room ---------------------------------------------------------------------------------------------------------

SET = 4 * N * 12 * 12 * 3
"""Bytes of the images of a tree."""


def other(data: Data, resize: str) -> Data:
    """The same images, resized to the size they have: a set of its own."""
    return data.model_copy(update={"size": 12, "resize": resize})


def hold(data: Data) -> subprocess.Popen[str]:
    """A process that has a set open until its standard input is closed."""
    code = (
        "import sys; from automixsearch.data import cache, load; from automixsearch.config.data import Data\n"
        "cache.SMALL = 1000; data = load(Data.model_validate_json(sys.argv[1]))\n"
        "print(len(data.train), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, data.model_dump_json()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == str(2 * N)
    return process


def test_a_disk_that_is_full_when_the_last_files_are_written_leaves_no_half_and_the_set_in_use(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    data = tree(tmp_path / "set")
    expected = uncached(data, monkeypatch).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(cache, "save", full)
        made = load(data)
        assert entries(place) == []
        assert ImageSet("x", made.train, made.test, made.classes).fingerprint == expected
        with pytest.raises(DataError, match="the cache cannot be written: No space left on device; set AUTOMIXSEARCH"):
            load(data.model_copy(update={"pipeline": "cache"}))
    forget()
    assert load(data).fingerprint == expected
    assert len(entries(place)) == 1


def test_the_cache_is_shown_and_cleared_but_for_what_is_being_built(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tree(tmp_path / "set")
    made = load(data)
    expected = made.train.images[:].copy()
    (place / "folder-000000000000000000000000.part").mkdir()  # of a builder that was killed
    building = f"folder-{'1' * 24}"
    (place / f"{building}.part").mkdir()
    (place / "mine").mkdir()
    with (place / f"{building}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["cache", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert len(shown["sets"]) == 3
        assert shown["place"] == str(place)
        assert SET < shown["bytes"] < shown["room_bytes"]
        assert main(["cache"]) == 0
        assert re.search(r"folder-[0-9a-f]{24} ", capsys.readouterr().out)
        assert main(["cache", "--clear"]) == 0
        assert "removed 2 sets" in capsys.readouterr().out
        assert entries(place) == [f"{building}.part", "mine"]
    np.testing.assert_array_equal(made.train.images, expected)  # whoever has a set open keeps it
    assert main(["cache", "--clear"]) == 0
    assert entries(place) == ["mine"], "what is not the cache's is left alone"


def test_the_doctor_says_where_the_cache_lies(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from automixsearch.doctor import _cache

    check = _cache()
    assert (check.ok, check.found) == (True, f"0 sets of images, 0.0 GB, at {place}")
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert _cache().found.startswith("off (AUTOMIXSEARCH_CACHE=off)")


# Refusals -----------------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_refused_before_decoding(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tree(tmp_path / "set").model_copy(update={"pipeline": "cache"})
    usage = type("usage", (), {"free": 2 * SET - 1})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    message = (
        rf"train/a/0\.png: 32 images of 12x12 .* more than half of what is free on the disk of the cache {place} .*; "
        "set AUTOMIXSEARCH_CACHE to .*, clear it with automixsearch cache --clear, .*, or let "
        "images be decoded for every epoch with data.pipeline=auto"
    )
    with pytest.raises(DataError, match=message):
        load(data)
    assert entries(place) == []


def test_a_disk_that_fills_up_meanwhile_is_refused_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"GB\); set AUTOMIXSEARCH_CACHE to a directory on another disk"):
        load(tree(tmp_path / "set").model_copy(update={"pipeline": "cache"}))


def test_a_disk_that_fails_is_not_taken_for_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache.os, "posix_fallocate", broken)
    with pytest.raises(DataError, match="the cache cannot be written: Input/output error; set AUTOMIXSEARCH_CACHE"):
        load(tree(tmp_path / "set"))


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path, place: Path) -> None:
    place.write_text("a file")
    with pytest.raises(DataError, match=r"cache: the cache cannot be written: File exists; set AUTOMIXSEARCH_CACHE to"):
        load(tree(tmp_path / "set"))


def damage_images(entry: Path) -> None:
    os.truncate(entry / "images.npy", 500)


def damage_size(entry: Path) -> None:
    np.save(entry / "images.npy", np.zeros((3, 12, 12, 3), np.uint8))


def damage_set(entry: Path) -> None:
    (entry / "set.json").write_text(json.dumps({"train": 3}))


def damage_labels(entry: Path) -> None:
    (entry / "labels.npy").unlink()


@pytest.mark.parametrize("damage", [damage_images, damage_size, damage_set, damage_labels])
def test_a_damaged_entry_is_named(tmp_path: Path, place: Path, damage: Callable[[Path], None]) -> None:
    data = tree(tmp_path / "set")
    load(data)
    (name,) = entries(place)
    damage(place / name)
    forget()
    with pytest.raises(DataError, match=rf"{name}: damaged entry of the cache: .*; delete it"):
        load(data)


def test_the_cache_lies_at_home_unless_it_is_named_or_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for named, expected in (("", ".cache/automixsearch"), ("~/elsewhere", "elsewhere")):
        monkeypatch.setenv(cache.VARIABLE, named)
        assert cache.folder() == tmp_path / expected
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert cache.folder() is None
