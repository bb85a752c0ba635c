"""The validation split: stratified, deterministic, recorded."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automixsearch.data import ImageSet, Part, Split, split
from automixsearch.data.base import stratified
from automixsearch.errors import DataError


def image_set(labels: np.ndarray, classes: int) -> ImageSet:
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    whole = Part(images, labels.astype(np.int64))
    return ImageSet("toy", whole, whole, tuple(map(str, range(classes))))


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    counts = draw(st.lists(st.integers(2, 40), min_size=2, max_size=12))
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(draw(st.integers(0, 9))).permutation(labels), len(counts)


fractions, seeds = st.floats(0.01, 0.5), st.integers(0, 2**63 - 1)


@settings(deadline=None, max_examples=150)
@given(labelled(), fractions, seeds)
def test_a_split_is_a_sorted_partition(case: tuple[np.ndarray, int], fraction: float, seed: int) -> None:
    labels, classes = case
    made = split(image_set(labels, classes), fraction, seed)
    assert made.train.dtype == made.val.dtype == np.int64
    assert np.array_equal(np.sort(np.concatenate([made.train, made.val])), np.arange(len(labels)))
    assert (np.diff(made.train) > 0).all()
    assert (np.diff(made.val) > 0).all()


@settings(deadline=None, max_examples=150)
@given(labelled(), fractions, seeds)
def test_a_split_is_stratified(case: tuple[np.ndarray, int], fraction: float, seed: int) -> None:
    labels, classes = case
    made = split(image_set(labels, classes), fraction, seed)
    all_of, val_of = np.bincount(labels), np.bincount(labels[made.val], minlength=classes)
    assert (val_of >= 1).all()
    assert (val_of < all_of).all()
    total = round(fraction * len(labels))
    assert len(made.val) == min(max(total, classes), len(labels) - classes)
    if (np.floor(fraction * all_of) >= 1).all():  # the minimum binds nobody: plain largest remainders
        assert (np.abs(val_of - fraction * all_of) < 1 + 1e-9).all()


@settings(deadline=None, max_examples=50)
@given(labelled(), fractions, seeds)
def test_the_seed_decides_the_split(case: tuple[np.ndarray, int], fraction: float, seed: int) -> None:
    data = image_set(*case)
    first, second = split(data, fraction, seed), split(data, fraction, seed)
    assert first.split_id == second.split_id
    assert np.array_equal(first.val, second.val)


@settings(deadline=None, max_examples=50)
@given(labelled(), fractions, seeds)
def test_a_recorded_split_reads_back(case: tuple[np.ndarray, int], fraction: float, seed: int) -> None:
    made = split(image_set(*case), fraction, seed)
    again = Split.from_json(made.to_json())
    assert np.array_equal(again.train, made.train)
    assert np.array_equal(again.val, made.val)
    assert again.split_id == made.split_id


def test_the_split_of_a_seed_is_pinned() -> None:
    made = split(image_set(np.arange(30) % 3, 3), 0.3, 7)
    assert made.val.tolist() == [0, 7, 13, 14, 20, 21, 23, 24, 25]
    assert made.split_id == "818c3e19d5ff8424"


def test_different_seeds_and_data_give_different_splits() -> None:
    labels = np.arange(100) % 4
    data = image_set(labels, 4)
    ids = {split(data, 0.2, seed).split_id for seed in range(20)}
    assert len(ids) == 20
    assert split(image_set(labels, 5 - 1), 0.2, 0).split_id in ids
    other = Split(split(data, 0.2, 0).train, split(data, 0.2, 0).val, "another data set")
    assert other.split_id not in ids


def test_largest_remainders_go_to_the_classes_that_are_owed_most() -> None:
    labels = np.repeat([0, 1, 2], [16, 18, 14])  # a quarter: 4, 4.5, 3.5, in total 12
    _, held = stratified(labels, "abc", 0.25, 0, "toy")
    assert np.bincount(labels[held]).tolist() == [4, 5, 3]


def test_small_classes_raise_the_total_above_the_fraction() -> None:
    labels = np.repeat([0, 1, 2], [2, 2, 6])
    _, held = stratified(labels, "abc", 0.1, 0, "toy")
    assert np.bincount(labels[held]).tolist() == [1, 1, 1]


def test_a_minimum_of_small_classes_is_taken_from_the_large_ones() -> None:
    labels = np.repeat([0, 1, 2], [2, 2, 96])  # 10 % of 100 are 10, of which the small ones need 2
    _, held = stratified(labels, "abc", 0.1, 0, "toy")
    assert np.bincount(labels[held]).tolist() == [1, 1, 8]


@pytest.mark.parametrize(("labels", "message"), [
    ([0, 0, 0, 1], r"toy \(training part\): class '1' has 1 image\(s\); a split needs 2 or more of each"),
    ([0, 0, 0, 0], r"class '1' has 0 image\(s\)"),
])  # fmt: skip
def test_a_class_with_fewer_than_two_images_is_refused_by_name(labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(image_set(np.array(labels), 2), 0.5, 0)


def test_a_split_that_was_changed_is_refused() -> None:
    made = split(image_set(np.arange(20) % 2, 2), 0.2, 0)
    content = json.loads(made.to_json())
    content["val"][0] = next(i for i in range(20) if i not in content["val"])
    with pytest.raises(DataError, match=f"recorded split {made.split_id} has the content of .* it was changed"):
        Split.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 3, "val": [7], "fingerprint": "", "split_id": ""}'])
def test_text_that_is_no_split_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"not a recorded split"):
        Split.from_json(text)
