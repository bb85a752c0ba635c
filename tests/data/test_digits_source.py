"""The digits: pinned content, fixed test part."""

import numpy as np
import pytest

from automixsearch.config.data import Data
from automixsearch.data import load, sink
from automixsearch.errors import DataError


def test_digits_keep_their_content_and_their_test_part() -> None:
    digits = load(Data())
    assert digits.train.images.shape == (1438, 8, 8, 1)
    assert digits.test.images.shape == (359, 8, 8, 1)
    assert digits.classes == tuple("0123456789")
    assert digits.notes == ("test part: a fixed stratified 20 %",)
    assert digits.fingerprint == "a189f8b21b5dd007"


def test_digits_use_all_grey_levels_from_black_to_white() -> None:
    images = load(Data()).train.images
    assert np.unique(images).tolist() == [round(level * 255 / 16) for level in range(17)]


def test_the_test_part_of_digits_is_stratified() -> None:
    digits = load(Data())
    both = np.bincount(digits.train.labels) + np.bincount(digits.test.labels)
    assert (np.abs(np.bincount(digits.test.labels) - 0.2 * both) < 1).all()


def test_digits_can_be_resized_and_stay_gray() -> None:
    large, plain = load(Data(size=16)), load(Data())
    assert large.train.images.shape == (1438, 16, 16, 1)
    assert np.array_equal(large.train.labels, plain.train.labels)
    shrunk = large.train.images.reshape(-1, 8, 2, 8, 2).mean((2, 4))
    assert np.abs(shrunk - plain.train.images[..., 0]).mean() < 20


def test_a_size_that_does_not_fit_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMIXSEARCH_CACHE", "off")
    monkeypatch.setattr(sink, "available_bytes", lambda: 4 * 10**9)
    with pytest.raises(DataError, match=r"1797 images of 1024x1024 pixels take 5\.7 GB decoded, more than half"):
        load(Data(size=1024))
