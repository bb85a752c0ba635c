"""Batches: augmentation against a slow, obvious implementation."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from automixsearch.algorithms.base import Needs
from automixsearch.config.recipe import Recipe
from automixsearch.training.augment import augmented
from automixsearch.training.batches import Batches, training_batches

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 6, 9, 3), dtype=np.uint8)
LABELS = np.arange(23) % 5
MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])


def shuffled(part, recipe, seed, epoch):
    """Pixels and labels of each batch of an epoch."""
    for batch in training_batches(part, part, Needs(), recipe, seed, epoch):
        yield batch.views[0], batch.y


def batches() -> Batches:
    return Batches(IMAGES, LABELS.astype(np.int64), MEAN, STD, torch.device("cpu"))


def padded(image: np.ndarray, pad: int, mode: str) -> np.ndarray:
    widths = ((pad, pad), (pad, pad), (0, 0))
    return np.pad(image, widths, mode="reflect") if mode == "reflect" else np.pad(image, widths)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("flip", [True, False])
def test_every_augmented_image_is_a_crop_of_the_padded_image_maybe_mirrored(mode, flip):
    recipe = Recipe(crop_pad=2, pad_mode=mode, flip=flip)
    chosen = torch.arange(23)
    out = augmented(batches().images, chosen, recipe, torch.Generator().manual_seed(0)).numpy()
    mirrored = 0
    for image, got in zip(IMAGES, out, strict=True):
        wide = padded(image, 2, mode)
        crops = [wide[top : top + 6, left : left + 9] for top in range(5) for left in range(5)]
        straight = any(np.array_equal(crop, got) for crop in crops)
        turned = any(np.array_equal(crop[:, ::-1], got) for crop in crops)
        assert straight or (flip and turned)
        mirrored += turned and not straight
    assert (mirrored > 3) == flip


def test_shifts_cover_the_whole_range_evenly():
    recipe, source = Recipe(crop_pad=1, flip=False), batches()
    single = torch.zeros(4000, dtype=torch.int64)
    out = augmented(source.images, single, recipe, torch.Generator().manual_seed(0))
    counts = torch.unique(out.flatten(1), dim=0, return_counts=True)[1]
    assert len(counts) == 9
    assert counts.min() > 350


def test_normalisation_is_that_of_each_channel():
    x, y = next(batches().in_order(7))
    expected = (IMAGES[:7] / 255 - MEAN) / STD
    np.testing.assert_allclose(x.permute(0, 2, 3, 1), expected, atol=1e-5)
    assert y.tolist() == LABELS[:7].tolist()
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_shows_every_image_at_most_once_in_an_order_of_its_own():
    recipe = Recipe(batch_size=5, crop_pad=0, flip=False)
    first, again, later = ([y.tolist() for _, y in shuffled(batches(), recipe, 0, epoch)] for epoch in (0, 0, 1))
    assert first == again != later
    assert len(first) == 4


def test_workers_share_a_part_without_gap_or_overlap():
    seen = [y for rank in range(3) for _, y in batches().in_order(4, rank, 3)]
    assert sorted(torch.cat(seen).tolist()) == sorted(LABELS.tolist())


def test_repeated_augmentation_shows_fewer_images_more_often():
    recipe = Recipe(batch_size=6, crop_pad=0, flip=False, repeated=3)
    labels = torch.cat([pixels.flatten(1)[:, :8] for pixels, _ in shuffled(batches(), recipe, 0, 0)])
    assert torch.unique(labels, dim=0, return_counts=True)[1].tolist() == [3] * 6


def test_the_middle_is_what_is_tested():
    x, _ = next(batches().in_order(7, side=4))
    expected = (IMAGES[:7, 1:5, 2:6] / 255 - MEAN) / STD
    np.testing.assert_allclose(x.permute(0, 2, 3, 1), expected, atol=1e-5)


def mapped_images(folder) -> np.ndarray:
    np.save(folder / "images.npy", IMAGES)
    return np.load(folder / "images.npy", mmap_mode="r")


def test_mapped_files_give_the_same_batches_and_a_part_of_a_set_is_named_by_its_indices(tmp_path):
    mapped = mapped_images(tmp_path)
    indices = np.array([3, 4, 7, 9, 11, 12, 20, 22])
    labels, device = LABELS.astype(np.int64), torch.device("cpu")
    whole = Batches(IMAGES[indices], labels[indices], MEAN, STD, device)
    recipe = Recipe(batch_size=3, crop_pad=2)
    for images in (IMAGES, mapped):
        part = Batches(images, labels, MEAN, STD, device, indices)
        assert part.fetched == (images is mapped)
        assert len(part) == 8
        for one, other in zip(shuffled(part, recipe, 0, 1), shuffled(whole, recipe, 0, 1), strict=True):
            assert all(map(torch.equal, one, other))
        for rank in range(2):
            for one, other in zip(part.in_order(2, rank, 2, 4), whole.in_order(2, rank, 2, 4), strict=True):
                assert all(map(torch.equal, one, other))


def test_leaving_an_epoch_in_the_middle_ends_its_reader(tmp_path):
    mapped = mapped_images(tmp_path)
    part = Batches(mapped, LABELS.astype(np.int64), MEAN, STD, torch.device("cpu"))
    batches = shuffled(part, Recipe(batch_size=2), 0, 0)
    next(batches)
    before = threading.active_count()
    batches.close()
    assert threading.active_count() == before - 1
