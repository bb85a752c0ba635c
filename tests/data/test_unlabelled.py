"""Labelled subsets, and unlabelled images beside them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.data.labels import kept
from automixsearch.errors import DataError
from automixsearch.training.run import TrainingRun


def run(data, **knobs):
    config = TrialConfig(data=data, knobs={"algorithm": "fixmatch", "method": "vanilla", "width": 4, "batch_size": 8,
                                           "steps_per_epoch": 2, "epochs": 1, "crop_pad": 0, **knobs})  # fmt: skip
    return TrainingRun(config, load(config.data), "cpu")


def test_the_released_draw_of_labels_is_that_of_numpy_with_the_seed():
    labels = np.arange(60) % 3
    chosen = kept(labels, "abc", Data(labels=4, labels_draw="released", labels_seed=7), "test")
    np.random.seed(7)  # noqa: NPY002
    expected = [np.random.choice(np.where(labels == c)[0], 4, False) for c in range(3)]  # noqa: NPY002
    assert chosen.tolist() == sorted(np.concatenate(expected).tolist())


@pytest.mark.parametrize(("which", "count"), [("all", 1438 - 10), ("rest", 1438 - 40)])
def test_what_is_validated_on_is_never_trained_on_without_its_label_either(which, count):
    trained = run({"labels": 4, "unlabelled": which, "val_fraction": 0.25}, epochs=2)
    whole = load(Data())
    assert (len(trained.train), len(trained.val), len(trained.unlabelled)) == (30, 10, count)
    pixels = {image.tobytes() for image in whole.train.images[trained.unlabelled.indices]}
    held = trained.val.images[trained.val.indices]
    assert not pixels & {image.numpy().tobytes() for image in held}
    batch = next(trained.batches(0))
    assert [len(view) for view in batch.unlabelled.views] == [56, 56]
    places = trained.unlabelled.indices[batch.unlabelled.index]
    assert batch.truth.tolist() == whole.train.labels[places].tolist()
    for metrics in trained.epochs():
        assert 0 <= metrics.extra["guess_top1"] <= 100
    trained.finish()


def test_who_uses_labels_alone_trains_as_without_unlabelled_images():
    knobs = {"method": "mixup", "width": 4, "epochs": 1, "batch_size": 8, "normalisation": "imagenet"}
    knobs |= {"normalisation": "data"}
    losses = []
    for beside in (None, "rest"):
        config = TrialConfig(data={"labels": 4, "unlabelled": beside, "val_fraction": 0.25}, knobs=knobs)
        images = load(config.data)
        (metrics,) = TrainingRun(config, images, "cpu").epochs()
        losses.append(len(metrics.losses))
        assert images.fingerprint == load(config.data).fingerprint
    assert losses[0] == losses[1] == 3


def test_other_labels_and_other_unlabelled_images_are_other_data():
    settings = [{}, {"labels_seed": 1}, {"labels": 5}, {"unlabelled": "rest"}, {"labels_draw": "released"}]
    prints = {load(Data(**{"labels": 4, "unlabelled": "all", **more})).fingerprint for more in settings}
    assert len(prints) == len(settings)


@pytest.fixture
def folder(tmp_path):
    """Images of several sizes in several depths, one that is none, and a text."""
    generator = np.random.default_rng(0)
    for number, place in enumerate(["a.png", "dogs/b.png", "dogs/old/c.jpg", "d.png"]):
        path = tmp_path / "wild" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(9 + number, 12), dtype=np.uint8)).save(path)
    (tmp_path / "wild" / "notes.txt").write_text("no image")
    return tmp_path / "wild"


def test_a_folder_without_classes_is_read_whole_and_fitted(folder):
    images = load(Data(labels=4, unlabelled=str(folder)))
    assert images.unlabelled.part.images.shape == (4, 8, 8, 1)
    assert images.unlabelled.part.labels.tolist() == [-1] * 4
    assert [note for note in images.notes if note.startswith("unlabelled")] == [
        f"unlabelled: not read: 1 .txt; the first {folder}/notes.txt"
    ]
    trained = run({"labels": 4, "unlabelled": str(folder), "val_fraction": 0.25})
    assert len(trained.unlabelled) == 4
    (metrics,) = trained.epochs()
    assert "guess_top1" not in metrics.extra  # the truth is not known
    assert 0 <= metrics.extra["used"] <= 1


def test_broken_images_of_a_folder_are_refused_or_left_out(folder):
    (folder / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        load(Data(labels=4, unlabelled=str(folder)))
    images = load(Data(labels=4, unlabelled=str(folder), on_bad_image="skip"))
    assert len(images.unlabelled.part) == 3
    assert any(note.startswith("unlabelled: bad images left out") for note in images.notes)


def test_what_cannot_be_is_refused_with_a_remedy(folder, tmp_path):
    with pytest.raises(DataError, match="leaves nothing, as all 1438 training images keep their labels"):
        load(Data(unlabelled="rest"))
    with pytest.raises(DataError, match=r"no such folder.*check data\.unlabelled"):
        load(Data(labels=4, unlabelled=str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        load(Data(labels=4, unlabelled=str(tmp_path / "empty")))
    with pytest.raises(ValidationError, match="'everything' must be all, rest, or the path of a folder"):
        Data(unlabelled="everything")
    with pytest.raises(ValidationError, match="labels_draw = released is of a number of images"):
        Data(labels=0.5, labels_draw="released")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8) + np.arange(3, dtype=np.uint8)).save(folder / "colour.png")
    with pytest.raises(DataError, match=r"unlabelled images are \(8, 8, 3\) .* and those of digits \(8, 8, 1\)"):
        load(Data(labels=4, unlabelled=str(folder)))
    with pytest.raises(DataError, match=r"learns from unlabelled images too, and data.labels=4 leaves none; add"):
        run({"labels": 4, "val_fraction": 0.25})
