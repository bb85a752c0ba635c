"""Intervals hold the truth as often as they say. Few repeats here; `make simulations` has the whole table."""

from __future__ import annotations

import numpy as np
import pytest
import simulate
from scipy import stats

from automixsearch.analysis import intervals
from automixsearch.analysis.compare import difference_p
from automixsearch.analysis.cross_task import price, price_interval
from automixsearch.analysis.estimate import Estimate
from automixsearch.analysis.fidelity import rank_correlation


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
        found = intervals.band(stats.norm.ppf(u), range(1, 17))
        held += not any(
            e.low > stats.norm.ppf(0.5 ** (1 / n)) or e.high < stats.norm.ppf(0.5 ** (1 / n)) for n, e in found.items()
        )
        whole += bool(((np.sort(u) >= low) & (np.sort(u) <= high)).all())
    assert held >= whole
    assert 270 <= whole <= 297


def test_differences_of_intervals_are_those_of_independent_estimates() -> None:
    found = intervals.difference(Estimate(3.0, 2.0, 5.0), Estimate(1.0, 0.5, 2.0))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - 2**0.5, 2 + 4.25**0.5))


def test_the_median_best_has_an_end_only_where_the_sample_reaches_so_far() -> None:
    g, missed = np.random.default_rng(0), np.zeros(2)
    for _ in range(400):
        found = intervals.median_best(g.exponential(size=64), 8)
        truth = stats.expon.ppf(0.5 ** (1 / 8))
        missed += found.low > truth, found.high < truth
    assert ((missed / 400 >= 0.005) & (missed / 400 <= 0.05)).all(), missed
    few = intervals.median_best(g.exponential(size=16), 8)
    assert np.isnan(few.high)
    assert few.note == "too few configs for both ends"
    assert np.isnan(intervals.band(np.arange(16.0), [8])[8].high)


def test_the_gain_of_a_chosen_winner_is_not_overstated() -> None:
    g = np.random.default_rng(0)
    for shape in ("insensitive", "ceiling-bounded"):
        above = [simulate.gate_miss(shape, g, seeds=5)[0] for _ in range(80)]
        assert np.mean(above) <= 0.08, shape


def test_effects_of_an_ablation_hold_where_one_arm_scatters_more() -> None:
    g = np.random.default_rng(0)
    for noise, most in (("normal", 0.09), ("one arm 5 times", 0.11)):
        for design in ("one_out, 5 arms x 3", "factorial 2^3 x 3"):
            missed = [simulate.ablation_misses(design, noise, g) for _ in range(60)]
            for kind in missed[0]:
                share = np.mean([one[kind] for one in missed])
                assert 0.005 <= share <= most, (design, noise, kind)


def test_phi_holds_where_tasks_are_skewed_and_may_be_nothing_where_configs_are_alike() -> None:
    g = np.random.default_rng(0)
    for shape in ("right-skewed", "left-skewed"):
        assert sum(simulate.phi_holds(shape, 3, 64, 0.5, g) for _ in range(30)) >= 26, shape
    alike = price_interval(0.3 * g.normal(size=(40, 3)), [0.09] * 3, [24] * 3, g)
    assert (alike.low, alike.note[:29]) == (0, "on some task the configs cann")
    assert alike.high > 0.3


def test_phi_is_nothing_where_one_config_is_best_everywhere() -> None:
    assert price(np.arange(12.0)[:, None] * [1, 2, 3]) == 0
    assert price(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])) == pytest.approx(1 - 1 / 3)


def test_rank_correlations_of_a_few_anchors_are_no_more_certain_than_they_can_be() -> None:
    agree = rank_correlation(np.arange(6.0), np.arange(6.0) ** 3)
    assert (agree.value, agree.high) == (pytest.approx(1), 1)
    assert 0.6 < agree.low < 0.9  # 720 orders: the one that agrees is no proof
    assert 0.9 <= simulate.rank_coverage("normal", 0.95, 8, 200) <= 0.99
    assert 0.9 <= simulate.rank_coverage("normal", 0.4, 12, 200) <= 0.99
    large = rank_correlation(np.arange(150.0), np.arange(150.0) + 40 * np.random.default_rng(0).normal(size=150))
    assert large.low < large.value < large.high


def test_a_difference_is_as_significant_as_its_interval_says() -> None:
    assert difference_p(Estimate(-2.0, -4.0, 0.0)) == pytest.approx(0.05)
    assert difference_p(Estimate(2.0, 1.0, 9.0)) == pytest.approx(2 * stats.norm.sf(2 * 1.959964), rel=1e-4)
    assert np.isnan(difference_p(Estimate(1.0)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(simulate.SHAPES))
def test_intervals_cover_every_shape(shape) -> None:
    for name, found in simulate.coverage(shape, 1000).items():
        most = 1.0 if name in ("W", "worth_8") or shape == "insensitive" else 0.985  # wider than they need be
        assert 0.92 <= found.inside <= most, f"{name}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize("how", list(simulate.SCATTERS))
def test_scorecards_hold_however_runs_scatter(how) -> None:
    found = simulate.scattered_coverage(simulate.SCATTERS[how], 400)
    assert min(found.values()) >= 0.85, found


@pytest.mark.slow
@pytest.mark.parametrize("how", list(simulate.GATES))
def test_the_gain_over_trivialmix_is_covered(how) -> None:
    for shape in simulate.SHAPES:
        g = np.random.default_rng(1)
        missed = np.mean([any(simulate.gate_miss(shape, g, **simulate.GATES[how])) for _ in range(300)])
        assert missed <= 0.1, shape


@pytest.mark.slow
@pytest.mark.parametrize("design", list(simulate.ABLATIONS))
def test_effects_of_ablations_are_covered(design) -> None:
    for noise in simulate.NOISES:
        g = np.random.default_rng(1)
        missed = [simulate.ablation_misses(design, noise, g) for _ in range(300)]
        for kind in missed[0]:
            share = np.mean([one[kind] for one in missed], axis=0)
            assert (share <= 0.11).all(), f"{noise}, {kind}: {share}"


@pytest.mark.slow
def test_a_knob_without_effect_is_rarely_above_chance() -> None:
    assert simulate.knobs_above_chance(0.0, 100)[1] <= 0.12
    right, wrong = simulate.knobs_above_chance(4.0, 50)
    assert right >= 0.8
    assert wrong <= 0.14


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(simulate.SHAPES))
def test_phi_is_covered(shape) -> None:
    g = np.random.default_rng(1)
    assert sum(simulate.phi_holds(shape, 3, 64, 0.5, g) for _ in range(200)) >= 178
