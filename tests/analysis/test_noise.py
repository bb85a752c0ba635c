"""What seeds and splits do to scores is told apart from what configs do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from automixsearch.analysis import intervals
from automixsearch.analysis.noise import scores_of

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
