"""Arms that share seeds: variances of their own, and contrasts of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from automixsearch.analysis.contrasts import FLOOR, Arms, expected_freedom


def runs(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arm, replicate and score of each run of [replicates, arms]; NaN is a run that is missing."""
    block, place = np.indices(y.shape)
    there = np.isfinite(y)
    return place[there], block[there], y[there]


def test_variances_of_complete_replicates_are_those_of_grubbs() -> None:
    """With N instruments that read n items: (N - 1) variances of differences, less those among the others."""
    g = np.random.default_rng(0)
    y = g.normal(size=(6, 1)) + g.normal(size=(6, 4)) * [1.0, 1.5, 1.5, 2.0]
    found = Arms.of(*runs(y))
    gaps = np.array([[np.var(y[:, i] - y[:, j], ddof=1) for j in range(4)] for i in range(4)])
    expected = [(gaps[i].sum() - np.delete(np.delete(gaps, i, 0), i, 1).sum() / 2 / 2) / 3 for i in range(4)]
    pooled = float(found.residual @ found.residual) / found.freedom
    assert found.variances == pytest.approx(np.maximum(expected, FLOOR * pooled))
    assert found.means == pytest.approx(y.mean(0))


def test_two_arms_are_compared_by_their_pairs() -> None:
    y = np.random.default_rng(1).normal(size=(5, 2)) * [1, 4]
    value, error, freedom = Arms.of(*runs(y)).contrast(np.array([1.0, -1.0]))
    paired = stats.ttest_rel(y[:, 0], y[:, 1])
    assert (value / error, freedom) == (pytest.approx(paired.statistic), 4)


def test_the_arm_that_scatters_makes_its_own_differences_uncertain_and_no_others() -> None:
    g = np.random.default_rng(2)
    y = g.normal(size=(8, 1)) + g.normal(size=(8, 5)) * [6, 1, 1, 1, 1]
    y[0, 4] = np.nan  # one run has failed
    arms = Arms.of(*runs(y))
    wild, calm = arms.contrast(np.array([1.0, -1, 0, 0, 0])), arms.contrast(np.array([0, 1.0, -1, 0, 0]))
    assert wild[1] > 3 * calm[1]
    assert 7 <= wild[2] < 9 < calm[2] < 14.1
    assert arms.freedoms.tolist() == [7, 7, 7, 7, 6]


def test_with_two_replicates_all_arms_share_one_error() -> None:
    y = np.random.default_rng(3).normal(size=(2, 5)) * [5, 1, 1, 1, 1]
    arms = Arms.of(*runs(y))
    assert len(set(arms.variances)) == 1
    assert arms.contrast(np.array([1.0, -1, 0, 0, 0]))[2] == arms.freedom == expected_freedom(2, 5, 2) == 4


def test_what_a_plan_expects_lies_between_one_arm_and_all() -> None:
    assert expected_freedom(3, 2, 2) == 2
    assert 2 < expected_freedom(3, 5, 2) < 4
    assert 4 < expected_freedom(5, 5, 2) < 8
    assert 14 > expected_freedom(3, 8, 8) > expected_freedom(3, 8, 2)
