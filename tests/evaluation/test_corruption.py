"""Corruptions against the generator of the published sets, and the evaluation that asks about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from PIL import Image

from automixsearch.errors import SpecError
from automixsearch.evaluation import Corruption, Pictures, Subject
from automixsearch.evaluation.corruption import ALEXNET
from automixsearch.evaluation.corruptions import CORRUPTIONS, corrupted, own_textures, textures_of
from automixsearch.training.batches import Batches

ABOUT = {"elastic_transform": 0.02}
"""Share of values that may be a level off: the reference keeps coordinates as multiples of 1/32. All others: none."""


@pytest.mark.parametrize("large", [False, True], ids=["cifar", "imagenet"])
def test_corruptions_are_those_of_the_authors(golden, large):
    file = golden("corruptions_224" if large else "corruptions")
    image, end = (file["image_u8"], "_output_crop") if large else (file["image"], "_output")
    row, column = file["crop_row_col"] if large else (0, 0)
    seen = 0
    for name in CORRUPTIONS:
        for severity in range(5 if name + end in file else 0):
            textures, expected = None, file[name + end][severity]
            if name == "frost":  # the part that was used of a texture, at its place
                stride = 1 if large else 5
                texture = np.zeros((*file["frost_texture_shape"][severity] * stride, 3), np.uint8)
                crop = file["frost_crop_crop" if large else "frost_crop"][severity]
                _, top, left = file["frost_draws"][severity]
                place = texture[stride // 2 :: stride, stride // 2 :: stride][top + row :, left + column :]
                place[: len(crop), : len(crop)] = crop
                textures = [texture] * 5
            draws = [RandomState(file[f"{name}_seed"][severity])]
            made = corrupted(image[None], name, severity + 1, draws, large, textures)[0]
            cut = made[row : row + len(expected), column : column + len(expected)]
            difference = np.abs(cut.astype(int) - expected)
            assert difference.max() <= (name in ABOUT), (name, severity)
            assert (difference > 0).mean() <= ABOUT.get(name, 0), (name, severity)
            if large and name != "frost":
                np.testing.assert_allclose(made.mean((0, 1)), file[f"{name}_output_mean"][severity], atol=0.02)
            seen += 1
    assert seen == (75 if large else 95)


def test_an_image_is_corrupted_alike_alone_and_among_others():
    images = RandomState(0).randint(0, 256, (3, 24, 40, 3)).astype(np.uint8)  # neither square nor a power of two
    for name in CORRUPTIONS:
        together = corrupted(images, name, 4, [RandomState(seed) for seed in range(3)])
        assert together.shape == images.shape
        np.testing.assert_array_equal(together[1:2], corrupted(images[1:2], name, 4, [RandomState(1)]), name)


def subject(images, labels, classes=5, side=0):
    """A network that knows how bright images are, and these images as its test set."""
    mean, std = np.full(images.shape[3], 0.4), np.full(images.shape[3], 0.2)
    pictures = Pictures(Batches(images, labels, mean, std, torch.device("cpu")), side, batch=7)

    class Brightness(torch.nn.Module):
        def forward(self, x):
            level = (x * 0.2 + 0.4).mean((1, 2, 3))
            return -(level[:, None] - torch.linspace(0.1, 0.9, classes)).abs()

    return Subject(Brightness(), pictures, pictures, tuple(map(str, range(classes))), lambda x: (x - 0.4) / 0.2)


def scores(evaluation, seen):
    found = list(evaluation.scores(seen, torch.Generator()))
    return {(score.name, score.setting): score.value for score in found}, found


def test_scores_are_those_of_corrupted_images_and_draws_are_the_same_for_all():
    images = RandomState(1).randint(60, 190, (20, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(20) % 5
    images = (images * (0.4 + 0.3 * labels[:, None, None, None])).clip(0, 255).astype(np.uint8)
    seen = subject(images, labels)
    found, every = scores(Corruption(extra=True), seen)
    assert len(every) == 1 + 19 * 5 + 2
    by_name = {name: [found["top1", f"corruption={name} severity={s}"] for s in range(1, 6)] for name in CORRUPTIONS}
    assert found["mean_top1", "corruptions=15"] == pytest.approx(np.mean([by_name[name] for name in ALEXNET]))
    assert found["mean_top1", "corruptions=19"] == pytest.approx(np.mean(list(by_name.values())))
    assert by_name["brightness"][4] < found["clean_top1", ""]  # what it judges by
    one, _ = scores(Corruption(severity=3), seen)
    assert len(one) == 17
    assert {value for key, value in one.items() if "severity" in key[1]} <= {value[2] for value in by_name.values()}
    assert one["top1", "corruption=fog severity=3"] == by_name["fog"][2]


def test_published_sets_are_read(tmp_path):
    images = RandomState(2).randint(0, 256, (10, 8, 8, 3)).astype(np.uint8)
    labels = (images.mean((1, 2, 3)) / 255 * 5).astype(int)
    seen = subject(images, labels, side=8)
    with pytest.raises(SpecError, match=r"corruption\.sets: .*labels\.npy cannot be read: No such file"):
        scores(Corruption(sets=str(tmp_path)), seen)
    np.save(tmp_path / "labels.npy", np.tile(labels, 5))
    for name in ALEXNET:
        np.save(tmp_path / f"{name}.npy", np.concatenate([images] * 4 + [255 - images]))
    found, _ = scores(Corruption(sets=str(tmp_path)), seen)
    for name in ALEXNET:
        assert found["top1", f"corruption={name} severity=4"] == found["clean_top1", ""]
    dark, _ = scores(Corruption(sets=str(tmp_path), severity=5), seen)
    assert dark["top1", "corruption=fog severity=5"] == found["top1", "corruption=fog severity=5"]
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "snow.npy", np.zeros((50, 9, 8, 3), np.uint8))
    with pytest.raises(SpecError, match=r"snow\.npy: must hold five blocks of images uint8 \(8, 8, 3\), got uint8"):
        scores(Corruption(sets=str(tmp_path)), seen)
    np.save(tmp_path / "labels.npy", np.full(50, 7))
    with pytest.raises(SpecError, match=r"labels\.npy: has label 7, the network 5 classes"):
        scores(Corruption(sets=str(tmp_path)), seen)


def test_the_error_relative_to_alexnet_is_of_a_thousand_classes():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    seen = subject(images, np.array([999, 999]), classes=1000)  # never right about them
    found, _ = scores(Corruption(constants="imagenet"), seen)
    assert found["mce", ""] == pytest.approx(100 * np.mean([100 / error for error in ALEXNET.values()]))
    assert not any(name == "mce" for name, _ in scores(Corruption(constants="imagenet", severity=2), seen)[0])


def test_textures_of_frost_are_ours_or_those_of_a_folder(tmp_path):
    assert len({texture.mean() for texture in own_textures()}) == 5
    for number, end in enumerate(("png", "png", "png", "jpg", "jpg"), 1):
        Image.fromarray(np.full((60, 70, 3), 40 * number, np.uint8)).save(tmp_path / f"frost{number}.{end}")
    assert [int(texture.mean()) for texture in textures_of(str(tmp_path))] == [40, 80, 120, 160, 200]
    with pytest.raises(SpecError, match=r"12 x 14 pixels \(shrunk by 5\); images of 32 x 32"):
        corrupted(np.zeros((1, 32, 32, 3), np.uint8), "frost", 1, [RandomState(0)], False, textures_of(str(tmp_path)))
    (tmp_path / "frost4.jpg").unlink()
    with pytest.raises(SpecError, match=r"has no frost4\.png or \.jpg; leave it out to take ours"):
        textures_of(str(tmp_path))
