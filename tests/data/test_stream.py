"""What is streamed is the set that would be decoded once, and trains as it does, to the last digit."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

import automixsearch.data as data_module
from automixsearch.algorithms.base import Needs
from automixsearch.config.data import Data
from automixsearch.config.recipe import Recipe
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.data import ImageSet, cache, channel_statistics, load, sink
from automixsearch.data.stream import Streamed
from automixsearch.errors import DataError, SpecError
from automixsearch.search.memory import peak_rss
from automixsearch.training.batches import Batches, training_batches
from automixsearch.training.run import TrainingRun
from automixsearch.training.world import World

N = 12


def shuffled(part, recipe, seed, epoch):
    """Pixels and labels of each batch of an epoch."""
    for batch in training_batches(part, part, Needs(), recipe, seed, epoch):
        yield batch.views[0], batch.y


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for every set of more than 1,000 bytes."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALL", 1000)
    data_module._latest.clear()
    return tmp_path / "cache"


def tree(root: Path, mode: str = "RGB") -> Data:
    """JPEGs of several shapes, in three classes."""
    random = np.random.default_rng(0)
    for part, count in (("train", N), ("test", 3)):
        for name in ("a", "b", "ç"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (20 + i % 5, 24, 3), np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / part / name / f"{i} {name}.jpg")
    return Data(source="folder", path=str(root), size=12, val_fraction=0.25)


def by(data: Data, pipeline: str, **more: Any) -> ImageSet:
    """The set by one pipeline, looked up anew."""
    data_module._latest.clear()
    return load(data.model_copy(update={"pipeline": pipeline, **more}))


def config(data: Data, pipeline: str, **knobs: Any) -> TrialConfig:
    base = {"method": "cutmix", "epochs": 2, "width": 4, "batch_size": 8, "warmup_epochs": 0, "crop_pad": 2}
    return TrialConfig(data=data.model_copy(update={"pipeline": pipeline}), knobs={**base, **knobs})


def same(one: ImageSet, other: ImageSet) -> None:
    assert (one.name, one.classes, one.skipped, one.fingerprint) == (
        other.name, other.classes, other.skipped, other.fingerprint
    )  # fmt: skip
    for part, decoded in ((one.train, other.train), (one.test, other.test)):
        assert isinstance(part.images, Streamed)
        assert not isinstance(decoded.images, Streamed)
        places = np.arange(len(decoded))
        np.testing.assert_array_equal(part.images[places], decoded.images[places])
        np.testing.assert_array_equal(part.images.begin(places[::-1], 2).result(), decoded.images[places[::-1]])
        np.testing.assert_array_equal(part.labels, decoded.labels)
        for streamed, exact in zip(
            channel_statistics(part.images, places[::2]), channel_statistics(decoded.images, places[::2]), strict=True
        ):
            np.testing.assert_array_equal(streamed, exact)


@pytest.mark.parametrize(("mode", "bad"), [("RGB", False), ("L", True)])
def test_a_streamed_set_is_the_decoded_set(tmp_path: Path, mode: str, bad: bool) -> None:
    data, kept = tree(tmp_path / "set", mode), {"labels": 0.75, "on_bad_image": "skip" if bad else "fail"}
    if bad:
        for name in ("train/a/0 a.jpg", "train/ç/3 ç.jpg", "test/b/1 b.jpg"):
            (tmp_path / "set" / name).write_bytes(b"no image")
    decoded = by(data, "cache", **kept)
    built, opened = by(data, "stream", **kept), by(data, "stream", **kept)
    assert opened.train.images.shape[3] == (3 if mode == "RGB" else 1)
    assert opened.skipped == (decoded.skipped if bad else 0)
    for made in (built, opened):
        same(made, decoded)
        assert made.notes == (*decoded.notes, "images are decoded for every epoch: data.pipeline=stream")


@pytest.mark.parametrize("layout", ["parts", "one file"])
def test_a_parquet_set_is_streamed_by_its_rows(tmp_path: Path, layout: str) -> None:
    random, folder = np.random.default_rng(0), tmp_path / "set"
    folder.mkdir()
    for part, count in (("train", 24), ("test", 7)):
        encoded = []
        for _ in range(count):
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (14, 12, 3), np.uint8)).save(buffer, "png")
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        encoded[count // 2]["bytes"] = b"no image"
        table = pa.table({"image": encoded, "label": [i % 3 for i in range(count)]})
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=5)
    path = folder if layout == "parts" else folder / "train.parquet"
    data = Data(source="parquet", path=str(path), size=12, on_bad_image="skip", labels=0.5)
    decoded = by(data, "cache")
    for _ in range(2):
        made = by(data, "stream")
        same(made, decoded)
        assert made.notes[:-1] == decoded.notes
    with pytest.raises(DataError, match=r"train\.parquet row 12: cannot be decoded: no image format"):
        by(data, "stream", on_bad_image="fail", labels=None)


def test_what_is_not_gray_after_all_is_noticed(tmp_path: Path) -> None:
    data = tree(tmp_path / "set")
    first = tmp_path / "set/train/a/0 a.jpg"
    with Image.open(first) as image:
        gray = image.convert("L")
    gray.save(first)
    same(by(data, "stream"), by(data, "cache"))


def test_a_training_gives_the_same_scores_to_the_last_digit(tmp_path: Path) -> None:
    data = tree(tmp_path / "set")
    knobs = {"rand_augment": 5.0, "erasing": 0.3, "repeated": 2, "train_size": 8, "test_size": 8}
    outcomes = {}
    for pipeline in ("cache", "stream"):
        for _ in range(2):  # the second finds the set and its processes in place
            made = config(data, pipeline, **knobs)
            run = TrainingRun(made, load(made.data), "cpu")
            epochs = [metrics for metrics in run.epochs()]
            told = [(one.train_loss, one.val_loss, one.val_ece) for one in epochs]
            outcomes[pipeline] = (epochs[-1].losses, told, asdict(run.finish().test), made.config_id)
    assert outcomes["cache"] == outcomes["stream"]


def counted(loaders: Any) -> list[int]:
    """How many images are asked for at once, from now on."""
    seen, begin = [], loaders.begin
    loaders.begin = lambda paths, count: seen.append(len(paths)) or begin(paths, count)
    return seen


def worker(rank: int, size: int, folder: str, made: TrialConfig) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    torch.set_num_threads(1)
    cache.SMALL = 1000
    for pipeline in ("cache", "stream"):
        images = load(made.data.model_copy(update={"pipeline": pipeline}))
        run = TrainingRun(made, images, "cpu", World(rank, size))
        seen = []
        if isinstance(images.train.images, Streamed):
            seen = counted(images.train.images.loaders)
        losses = [loss for metrics in run.epochs() for loss in metrics.losses]
        assert run.last is not None
        np.savez(f"{folder}/{pipeline}{rank}.npz", losses=losses, last=run.last.val_loss, seen=seen)
    dist.destroy_process_group()


def test_each_of_two_daemonic_workers_decodes_its_share_and_trains_as_with_the_cache(tmp_path: Path) -> None:
    made = config(tree(tmp_path / "set"), "auto", epochs=1)
    mp.spawn(worker, (2, str(tmp_path), made), nprocs=2, daemon=True)
    found = {name: dict(np.load(tmp_path / f"{name}.npz")) for name in ("cache0", "cache1", "stream0", "stream1")}
    for rank in "01":
        np.testing.assert_array_equal(found[f"cache{rank}"]["losses"], found[f"stream{rank}"]["losses"])
        assert found[f"cache{rank}"]["last"] == found[f"stream{rank}"]["last"]
        assert found[f"stream{rank}"]["seen"].tolist() == [4, 4, 4, 5 - int(rank)], "halves of 8, and of 9 to validate"


# When there is no room ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_streamed_until_it_does(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tree(tmp_path / "set")
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    made = by(data, "auto")
    assert isinstance(made.train.images, Streamed)
    assert f"more than half of what is free on the disk of the cache {place} (0.0 GB)" in made.notes[-1]
    assert made.notes[-1].startswith("images are decoded for every epoch: ")
    assert [path.suffix for path in place.iterdir() if path.is_dir()] == [".stream"]
    usage.free = 10**9
    same(made, by(data, "auto"))


def test_a_full_disk_leads_to_streaming_and_leaves_nothing_half_written(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    data = tree(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setenv(cache.VARIABLE, "off")
        decoded = by(data, "cache")
    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "posix_fallocate", full)
        patch.setattr(cache, "save", full)
        same(by(data, "auto"), decoded)
        assert [path.name for path in place.iterdir() if path.suffix != ".lock"] == []
        patch.setattr(cache.Path, "mkdir", full)
        same(by(data, "auto"), decoded)
    with monkeypatch.context() as patch:
        patch.setenv(cache.VARIABLE, "off")
        patch.setattr(sink, "available_bytes", lambda: 0)
        same(by(data, "auto"), decoded)


def test_of_two_processes_one_looks_through_the_images(tmp_path: Path, place: Path) -> None:
    code = (
        "import sys; from automixsearch.data import cache, decode, load; from automixsearch.config.data import Data\n"
        "cache.SMALL, real = 1000, decode._pixels\n"
        "decode._pixels = lambda *words: print('decoded') or real(*words)\n"
        "print(load(Data.model_validate_json(sys.argv[1])).fingerprint)"
    )
    data = tree(tmp_path / "set")
    command = [sys.executable, "-c", code, data.model_copy(update={"pipeline": "stream"}).model_dump_json()]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].split() for process in processes]
    assert said[0][-1] == said[1][-1] == by(data, "cache").fingerprint
    once = 3 * (N + 3) + 2  # the first image is looked at for its size and colours before
    assert sorted(words.count("decoded") for words in said) in ([0, once], [1, once])


# What goes wrong ----------------------------------------------------------------------------------------------


def batches(made: ImageSet) -> Batches:
    part = made.train
    return Batches(part.images, part.labels, np.full(3, 0.5), np.full(3, 0.2), torch.device("cpu"))


def test_an_image_that_was_good_and_is_not_any_more_is_named(tmp_path: Path) -> None:
    part = batches(by(tree(tmp_path / "set"), "stream"))
    (tmp_path / "set/train/ç/3 ç.jpg").unlink()
    with pytest.raises(DataError, match=r"train/ç/3 ç\.jpg: no such file, though the data set lists it"):
        list(part.in_order(16))
    Image.new("RGB", (12, 30)).save(tmp_path / "set/train/ç/3 ç.jpg")
    assert sum(len(y) for _, y in part.in_order(16)) == 3 * N


def test_without_a_size_an_image_of_another_one_is_named(tmp_path: Path) -> None:
    data = Data(source="folder", path=str(tmp_path / "set"))
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (9, 8), (i, 0, 0)).save(tmp_path / "set" / part / name / f"{i}.png")
    made = by(data, "stream")
    same(made, by(data, "cache"))
    Image.new("RGB", (8, 8)).save(tmp_path / "set/train/b/0.png")
    with pytest.raises(DataError, match=r"b/0\.png: is 8x8 pixels now and was 9x8; restore it"):
        batches(made).images.begin(np.arange(6), 1).result()  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"b/0\.png: is 8x8 pixels, but .*a/0\.png is 9x8"):
        by(data, "stream")


def test_a_process_that_is_killed_fails_the_epoch_and_not_the_next(tmp_path: Path) -> None:
    part = batches(by(tree(tmp_path / "set"), "stream"))
    expected = [y.tolist() for _, y in part.in_order(5)]
    (pid,) = part.images.loaders.pids  # type: ignore[union-attr]
    assert peak_rss(pid) > 2**24
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"a process that decodes images has died \(status -9\); perhaps memory"):
        list(part.in_order(5))
    assert [y.tolist() for _, y in part.in_order(5)] == expected


def test_an_epoch_that_is_left_in_the_middle_disturbs_no_other(tmp_path: Path) -> None:
    part = batches(by(tree(tmp_path / "set"), "stream"))
    recipe = Recipe(batch_size=4, crop_pad=0, flip=False)
    whole = [pixels for pixels, _ in shuffled(part, recipe, 0, 1)]
    left = shuffled(part, recipe, 0, 0)
    next(left)
    beside = shuffled(part, recipe, 0, 1)
    assert torch.equal(next(beside)[0], whole[0])
    left.close()
    for pixels, expected in zip((pixels for pixels, _ in beside), whole[1:], strict=True):
        assert torch.equal(pixels, expected)


def test_the_processes_end_when_the_one_that_asks_them_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time, numpy as np; from automixsearch.data import load;"
        " from automixsearch.config.data import Data\n"
        "images = load(Data.model_validate_json(sys.argv[1])).train.images\n"
        "images.begin(np.arange(4), 2).result()\n"
        "print(*images.loaders.pids, flush=True); time.sleep(60)"
    )
    data = tree(tmp_path / "set").model_copy(update={"pipeline": "stream"})
    process = subprocess.Popen([sys.executable, "-c", code, data.model_dump_json()], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = process.stdout.readline().split()
    assert len(pids) == 2
    process.kill()
    process.communicate()
    until = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < until, "they outlive it"
        time.sleep(0.05)


def alive(pid: str) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for its status does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


# The setting --------------------------------------------------------------------------------------------------


def test_the_pipeline_is_no_part_of_what_a_config_or_a_space_is() -> None:
    data = Data(source="folder", path="/x")
    assert config(data, "auto").config_id == config(data, "stream").config_id
    spaces = [
        SearchSpace(data=data.model_copy(update={"pipeline": name}), knobs={"method": "mixup"})
        for name in ("auto", "stream")
    ]
    assert spaces[0].space_id == spaces[1].space_id


@pytest.mark.parametrize("source", ["digits", "cifar10"])
def test_sources_without_image_files_cannot_be_streamed(source: str) -> None:
    from automixsearch.config.files import parse_space

    data = {"source": source, "pipeline": "stream"} | ({} if source == "digits" else {"path": "/x"})
    with pytest.raises(
        SpecError, match=f"pipeline = stream reads encoded images, and source {source} has none; drop it"
    ):
        parse_space({"data": data, "knobs": {"method": "mixup"}}, "test")
