"""Intervals hold the truth as often as they say. Few repeats here; `make simulations` has the whole table."""

from __future__ import annotations

import numpy as np
import pytest
import simulate
from scipy import stats

from automixsearch.analysis import intervals
from automixsearch.analysis.estimate import Estimate


def test_intervals_cover_a_normal_truth() -> None:
    g, inside = np.random.default_rng(0), {"mean": 0, "CVaR20": 0, "S_hp": 0, "E_8": 0}
    total = simulate.SPREAD**2 + simulate.SIGMA**2
    tail = -simulate.SPREAD * stats.norm.pdf(stats.norm.ppf(0.2)) / 0.2
    best = total**0.5 * stats.norm.expect(lambda x: 8 * x * stats.norm.cdf(x) ** 7)
    truth = {"mean": 0.0, "CVaR20": tail, "S_hp": simulate.SPREAD, "E_8": best}
    for _ in range(100):
        for name, found in simulate.estimates(simulate.simulate("normal", g), g):
            if name in truth:
                inside[name] += found.low <= truth[name] <= found.high
    assert all(88 <= count <= 99 for count in inside.values()), inside


def test_equal_methods_are_rarely_called_different_and_planted_effects_found() -> None:
    assert simulate.verdicts(0.0, 5, 3, 100)["any"] <= 0.1
    effect = simulate.detectable(simulate.SIGMA * 2**0.5, 10)
    assert 0.7 <= simulate.verdicts(effect, 10, 2, 150)["better"] <= 0.9
    assert simulate.verdicts(0.0, 64, 2, 50)["equivalent"] >= 0.9


def test_equal_spreads_are_rarely_called_different() -> None:
    assert simulate.called_less_sensitive("normal", "normal", 1.0, 100) <= 0.07
    assert simulate.called_less_sensitive("normal", "normal", 2.5, 30) >= 0.8


def test_the_best_of_n_is_the_mean_over_all_subsets() -> None:
    from itertools import combinations

    y = np.random.default_rng(0).normal(size=9)
    for n in (1, 3, 9):
        assert intervals.best_of(y, n) == pytest.approx(np.mean([max(part) for part in combinations(y, n)]))
    assert np.isnan(intervals.best_of(y, 10))


def test_the_band_of_the_tuning_curve_holds_everywhere_at_once() -> None:
    """Exact over the whole distribution, of which a tuning curve shows the upper half."""
    g, held, whole = np.random.default_rng(0), 0, 0
    low, high = intervals._band_levels(24, 0.95)
    for _ in range(300):
        u = g.random(24)
        rows = intervals.band(stats.norm.ppf(u), 16)
        held += all(start <= stats.norm.ppf(0.5 ** (1 / n)) <= end for n, _, start, end in rows)
        whole += bool(((np.sort(u) >= low) & (np.sort(u) <= high)).all())
    assert held >= whole
    assert 270 <= whole <= 297


def test_differences_of_intervals_are_those_of_independent_estimates() -> None:
    found = intervals.difference(Estimate(3.0, 2.0, 5.0), Estimate(1.0, 0.5, 2.0))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - 2**0.5, 2 + 4.25**0.5))


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(simulate.SHAPES))
def test_intervals_cover_every_shape(shape) -> None:
    for name, found in simulate.coverage(shape, 500).items():
        most = 1.0 if name in ("median_8", "W", "worth_8") else 0.985  # which may be wider than they need be
        assert 0.915 <= found.inside <= most, f"{name}: {found}"
