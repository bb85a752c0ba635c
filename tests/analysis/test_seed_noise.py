"""What seeds and splits do to scores is told apart from what configs do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from automixsearch.analysis import intervals
from automixsearch.analysis.seed_noise import scores_of

COLUMNS = ["config_key", "seed", "split_seed", "score"]


def test_splits_are_no_noise_and_shared_seeds_are_but_not_between_configs() -> None:
    g, rest, noise, spread, held = np.random.default_rng(0), [], [], [], np.zeros(2)
    for _ in range(40):
        worth, split = g.normal(size=32), 2 * g.normal(size=4)
        rows = [(i, 10 * i + s, (i + s) % 4, worth[i] + split[(i + s) % 4] + 0.3 * g.normal())
                for i in range(32) for s in range(3 if i < 12 else 1)]  # fmt: skip
        own = pd.DataFrame([row for row in rows if row[1] % 10 == 0], columns=COLUMNS)
        again = pd.DataFrame([row for row in rows if row[1] % 10], columns=COLUMNS)
        rest.append(scores_of(own, again, own.iloc[:0], 1).noise.value)

        seeds = 0.4 * g.normal(size=3)
        rows = [(i, s, 0, worth[i] + seeds[s] + 0.3 * g.normal()) for i in range(32) for s in range(3)]
        own = pd.DataFrame(rows, columns=COLUMNS)
        found = scores_of(own, own.iloc[:0], own.iloc[:0], -1)
        noise.append((found.rest.value, found.noise.value))
        spread.append(intervals.spread(found.values, found.rest, found.runs, found.lost).value ** 2)
        mean = intervals.t_interval(-found.values).widened(found.level)
        held += mean.low <= 0 <= mean.high, found.noise.low <= 0.25 <= found.noise.high
    assert np.mean(rest) == pytest.approx(0.09, rel=0.1)
    assert np.mean(noise, axis=0) == pytest.approx([0.09, 0.25], rel=0.25)
    assert np.mean(spread) == pytest.approx(1, rel=0.1)
    assert (held >= 35).all(), held


def test_one_seed_for_all_configs_is_said_to_be_in_no_interval() -> None:
    own = pd.DataFrame([(i, 7, 0, float(i)) for i in range(12)], columns=COLUMNS)
    found = scores_of(own, own.iloc[:0], own.iloc[:0], 1)
    assert found.note == "all configs share one seed: what it does to all of them is in no interval"
    assert found.level == 0
    assert np.isnan(found.noise.value)


def test_noise_with_long_tails_has_a_wider_interval() -> None:
    g, inside = np.random.default_rng(0), np.zeros(2)
    for _ in range(200):
        for place, groups in enumerate((g.normal(size=(12, 3)), g.exponential(size=(12, 3)))):
            found = intervals.noise_interval(list(groups))[0]
            inside[place] += found.low <= 1 <= found.high
    assert 0.9 <= inside[0] / 200 <= 0.99
    assert inside[1] / 200 >= 0.86  # chi-square's holds 78 %


def test_the_best_and_the_worst_are_freed_of_the_noise_that_they_have_themselves() -> None:
    """Bad configs scatter four times as far as good ones: freed of the noise of all, the best look too bad, and where
    it is the other way round, the worst too good."""
    g, bias = np.random.default_rng(0), []

    def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        worth = g.normal(size=count)
        scatter = np.clip(0.4 - 0.25 * worth, 0.2, 0.8)
        return worth, scatter, worth + scatter * g.normal(size=count)

    worth, _, y = (part.reshape(-1, 8) for part in draw(400_000))
    truth = np.take_along_axis(worth, y.argmax(1)[:, None], 1).mean(), -np.sort(worth, None)[-80_000:].mean()
    for _ in range(40):
        worth, scatter, y = draw(64)
        places, best = (np.argsort(np.argsort(y)) + 0.5) / 64, np.argsort(-y)[:3]
        groups = [np.append(y[i], worth[i] + scatter[i] * g.normal(size=2)) for i in range(12)]
        fresh = [worth[i] + scatter[i] * g.normal(size=5) for i in best]
        noise, freedom = intervals.noise_interval(groups)
        again = list(zip([*places[:12], *places[best]], [*groups, *fresh], strict=True))
        both = [intervals.Clean.of(y, noise, freedom, scatter=known) for known in (again, [])]
        turned = ([(1 - place, group) for place, group in known] for known in (again, []))
        tails = [
            intervals.tail_interval(intervals.Clean.of(-y, noise, freedom, scatter=known)).value for known in turned
        ]
        found = [[intervals.worth_interval(one, 8).value, tail] for one, tail in zip(both, tails, strict=True)]
        bias.append(np.array(found) - truth)
        top, error = intervals.top_of(fresh, noise, freedom)
        assert top.high - top.low > 4 * error > 0
    (best, worst), (best_by_all, worst_by_all) = np.mean(bias, axis=0)
    assert abs(best) < 0.13 < 0.18 < -best_by_all
    assert abs(worst) < 0.08 < 0.11 < worst_by_all


def test_the_best_has_the_error_of_its_fresh_runs() -> None:
    fresh = [np.array([0.0, 2.0, 4.0, 1.0, 3.0]) + i for i in range(3)]
    known, _ = intervals.noise_interval([np.array([0.0, 0.1])] * 12)
    assert intervals.top_of(fresh, known, 12)[1] == pytest.approx((2.5 / 5) ** 0.5)
    few = intervals.top_of([group[:2] for group in fresh], known, 12)[1]
    assert few == pytest.approx(((3 * 2.0 + 12 * 0.005) / 15 / 2) ** 0.5)


def test_many_configs_are_grouped_and_the_figures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    values, noise = -np.random.default_rng(0).gamma(2.0, size=2400), intervals.Estimate(0.1, 0.08, 0.12)
    found = []
    for many in (5000, 600):
        monkeypatch.setattr(intervals, "MANY", many)
        clean = intervals.Clean.of(values, noise, 24)
        cards = (
            intervals.tail_interval(clean),
            intervals.best_interval(values, 16),
            intervals.worth_interval(clean, 8),
        )
        found.append([(card.value, card.low, card.high) for card in cards])
    assert found[1] == [pytest.approx(one, abs=0.02) for one in found[0]]


def test_bad_configs_have_no_say_in_the_share_that_is_near_the_best() -> None:
    good, noise = np.random.default_rng(0).normal(0, 0.7, 60), intervals.Estimate(0.09, 0.05, 0.2)
    shares = []
    for bad in (-3.0, -60.0):
        clean = intervals.Clean.of(np.append(good, np.full(8, bad)), noise, 24)
        shares.append(intervals.share_interval(clean, intervals.Estimate(1.2, 0.9, 1.5), 0.13, 0.5))
    assert shares[0].value == pytest.approx(shares[1].value, abs=0.01)
    assert (shares[0].low, shares[0].high) == pytest.approx((shares[1].low, shares[1].high), abs=0.01)
