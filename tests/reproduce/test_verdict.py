"""Verdicts on known numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from automixsearch.reproduce.verdict import Verdict, agreement, combined, judge, paired


def test_a_mean_within_the_margin_is_reproduced_by_two_one_sided_tests():
    values = [79.00, 79.10, 79.15, 79.20, 79.10]
    found = judge(values, 79.12, margin=0.3)
    assert found.verdict == Verdict.REPRODUCED
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.measured.low, found.measured.high) == pytest.approx((low, high))
    above = stats.ttest_1samp(values, 79.12 - 0.3, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 79.12 + 0.3, alternative="less").pvalue
    assert found.p_within == pytest.approx(max(above, below), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([78.0, 78.1, 78.2, 78.1], Verdict.DIFFERS),  # far below
        ([80.3, 80.4, 80.5], Verdict.DIFFERS),  # better than published is different too
        ([78.7, 78.8, 78.9], Verdict.UNRESOLVED),  # near the margin
        ([77.0, 79.0, 81.0], Verdict.UNRESOLVED),  # too noisy
        ([79.12], Verdict.UNRESOLVED),  # one run
        ([], Verdict.NOT_RUN),
        ([79.2, 79.2, 79.2], Verdict.REPRODUCED),  # no spread at all
        ([79.6, 79.6, 79.6], Verdict.DIFFERS),
    ],
)
def test_the_verdict_follows_from_mean_spread_and_number_of_runs(values, verdict):
    assert judge(values, 79.12, margin=0.3).verdict == verdict


def test_a_wider_margin_decides_what_a_narrow_one_leaves_open():
    values = [78.7, 78.8, 78.9]
    assert judge(values, 79.12, margin=0.3).verdict == Verdict.UNRESOLVED
    assert judge(values, 79.12, margin=1.0).verdict == Verdict.REPRODUCED
    assert judge(values, 79.12, margin=0.05).verdict == Verdict.DIFFERS


def test_a_published_deviation_makes_the_difference_less_certain():
    values = [79.0, 79.1, 79.2]
    plain, wide = judge(values, 79.12, margin=0.5), judge(values, 79.12, margin=0.5, std=0.6)
    assert plain.verdict == Verdict.REPRODUCED
    assert wide.verdict == Verdict.UNRESOLVED
    theirs = 79.12 + 0.6 * np.array([-1, 0, 1])  # three runs with that mean and deviation
    welch = stats.ttest_ind(values, theirs, equal_var=False).confidence_interval(0.95)
    assert (wide.difference.low, wide.difference.high) == pytest.approx((welch.low, welch.high))


def test_what_is_unresolved_says_how_many_seeds_would_resolve_it():
    noisy = judge([78.6, 79.6, 78.9, 79.4], 79.12, margin=0.3)
    assert noisy.verdict == Verdict.UNRESOLVED
    assert 10 < (noisy.runs_needed or 0) < 100
    assert judge([79.0, 79.1, 79.2], 79.12).runs_needed is None
    assert judge([79.12], 79.12).runs_needed is None


def test_tests_keep_their_level():
    rng = np.random.default_rng(0)
    runs = 1000
    at_margin = [judge(list(79.42 + 0.2 * rng.standard_normal(4)), 79.12, margin=0.3).verdict for _ in range(runs)]
    assert at_margin.count(Verdict.REPRODUCED) / runs < 0.065
    assert at_margin.count(Verdict.DIFFERS) / runs < 0.035
    equal = [judge(list(79.12 + 0.1 * rng.standard_normal(6)), 79.12, margin=0.3).verdict for _ in range(200)]
    assert equal.count(Verdict.REPRODUCED) / 200 > 0.95


def test_rows_are_compared_in_pairs_of_replicates():
    a, b = {0: 80.0, 1: 82.0, 2: 81.0}, {0: 79.0, 1: 81.1, 2: 79.9, 3: 10.0}
    gap = paired(a, b)
    assert gap.value == pytest.approx(1.0)
    assert gap.low > 0.5
    assert math.isnan(paired(a, {7: 1.0}).value)
    assert combined([(1.0, a), (-0.5, b)]) == pytest.approx({0: 40.5, 1: 41.45, 2: 41.05})


def test_the_order_of_rows_is_compared_with_the_published_one():
    up = [{0: 10.0, 1: 20.0}, {0: 11.0, 1: 21.1}, {0: 12.0, 1: 22.1}]
    same = agreement(up, [1.0, 2.0, 3.0])
    assert same is not None
    assert (same.tau, same.pairs, same.resolved, same.as_published) == (1.0, 3, 3, 3)
    turned = agreement(up, [3.0, 2.0, 1.0])
    assert turned is not None
    assert (turned.tau, turned.as_published) == (-1.0, 0)
    assert agreement(up[:1], [1.0]) is None
