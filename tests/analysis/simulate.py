"""Whether the intervals hold what they promise: studies are simulated from known truths, and the truth is looked for.

    python tests/analysis/simulate.py [--repeats 2000] [--out FILE]     (`make simulations`)

writes the table of automixsearch/analysis/README.md. Each simulated study is the default one: 64 configs with one
run each, a replicate block of 12 configs with 2 further seeds, and 5 fresh runs of the best 3.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np

from automixsearch.analysis import intervals
from automixsearch.analysis.estimate import Estimate

Array = np.ndarray
README = Path(__file__).parents[2] / "automixsearch" / "analysis" / "README.md"
SPREAD, SIGMA, DELTA = 0.7, 0.3, 0.5
CONFIGS, BLOCK, TOP, FRESH = 64, 12, 3, 5
BIG = 2_000_000


def _scaled(draw: Callable[[np.random.Generator, int], Array]) -> Callable[[np.random.Generator, int], Array]:
    """The shape with mean 0 and standard deviation `SPREAD`."""
    sample = draw(np.random.default_rng(0), BIG)
    mean, sd = sample.mean(), sample.std()
    return lambda g, n: SPREAD * (draw(g, n) - mean) / sd


SHAPES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda g, n: SPREAD * g.standard_normal(n),
    "right-skewed": _scaled(lambda g, n: g.gamma(2.0, size=n)),
    "left-skewed": _scaled(lambda g, n: -g.gamma(2.0, size=n)),
    "bimodal": _scaled(lambda g, n: np.where(g.random(n) < 0.5, -1.0, 1.0) + 0.4 * g.standard_normal(n)),
    "heavy-tailed": _scaled(lambda g, n: g.standard_t(5, n)),
    "ceiling-bounded": _scaled(lambda g, n: -np.abs(g.standard_normal(n))),
    "uniform": _scaled(lambda g, n: g.random(n)),
    "outliers": _scaled(lambda g, n: 0.4 * g.standard_normal(n) - 2.0 * (g.random(n) < 0.1)),
    "insensitive": lambda g, n: 0.05 * g.standard_normal(n),
}
NUMBERS = ("mean", "CVaR20", "S_hp", "W", "E_4", "E_8", "E_16", "worth_8", "median_8", "best")


@dataclass(frozen=True)
class Truth:
    """The numbers of a shape that do not depend on the study."""

    values: dict[str, float]
    ordered: Array

    def above(self, limit: float) -> float:
        """The share of configs worth `limit` or more."""
        return 1 - float(np.searchsorted(self.ordered, limit)) / len(self.ordered)


@cache
def truth(shape: str) -> Truth:
    """By brute force, from two million configs."""
    g = np.random.default_rng(1)
    f = SHAPES[shape](g, BIG)
    y = f + SIGMA * g.standard_normal(BIG)
    ordered = np.sort(f)
    values = {"mean": f.mean(), "CVaR20": ordered[: BIG // 5].mean(), "S_hp": f.std()}
    for n in (4, 8, 16):
        groups, own = y[: BIG // n * n].reshape(-1, n), f[: BIG // n * n].reshape(-1, n)
        values[f"E_{n}"] = groups.max(1).mean()
        values[f"worth_{n}"] = own[np.arange(len(own)), groups.argmax(1)].mean()
        values[f"median_{n}"] = np.median(groups.max(1))
    return Truth({name: float(value) for name, value in values.items()}, ordered)


@dataclass(frozen=True)
class Simulated:
    """One study: observed scores, groups of repeated runs, fresh runs of the best, and the worth of those."""

    y: Array
    groups: list[Array]
    fresh: list[Array]
    top: float


def simulate(shape: str, g: np.random.Generator) -> Simulated:
    """Draw a study."""
    f = SHAPES[shape](g, CONFIGS)
    y = f + SIGMA * g.standard_normal(CONFIGS)
    groups = [np.append(y[i], f[i] + SIGMA * g.standard_normal(2)) for i in range(BLOCK)]
    best = np.argsort(-y)[:TOP]
    return Simulated(y, groups, [f[i] + SIGMA * g.standard_normal(FRESH) for i in best], float(f[best].max()))


def estimates(study: Simulated, g: np.random.Generator) -> Iterator[tuple[str, Estimate]]:
    """What the scorecard says of it."""
    noise, freedom = intervals.noise_interval(study.groups)
    clean = intervals.Clean.of(study.y, noise, freedom)
    yield "mean", intervals.mean_interval(study.y, g, 999)
    yield "CVaR20", intervals.tail_interval(clean)
    yield "S_hp", intervals.spread(study.y, noise)
    top = intervals.top_of(study.fresh, noise, freedom)
    yield "best", top
    yield "W", intervals.share_interval(clean, top, DELTA)
    for n in (4, 8, 16):
        yield f"E_{n}", intervals.best_interval(study.y, n)
    yield "worth_8", intervals.worth_interval(clean, 8)
    yield "median_8", intervals.median_best(study.y, 8)


@dataclass(frozen=True)
class Coverage:
    """Of one number over one shape: how often its interval holds the truth, misses it on either side, and more."""

    inside: float
    too_high: float
    too_low: float
    bias: float
    half: float


def coverage(shape: str, repeats: int, seed: int = 0) -> dict[str, Coverage]:
    """Simulate `repeats` studies of a shape."""
    g, known = np.random.default_rng([seed, len(shape)]), truth(shape)
    kept: dict[str, list[tuple[float, float, float, float]]] = {}
    for _ in range(repeats):
        study = simulate(shape, g)
        wanted = known.values | {"best": study.top, "W": known.above(study.top - DELTA)}
        for name, found in estimates(study, g):
            kept.setdefault(name, []).append((found.value, found.low, found.high, wanted[name]))
    made = {}
    for name, rows in kept.items():
        value, low, high, true = np.array(rows).T
        above, below = float((true < low - 1e-9).mean()), float((true > high + 1e-9).mean())
        made[name] = Coverage(1 - above - below, above, below, float((value - true).mean()), float((high - low).mean() / 2))
    return made


if __name__ == "__main__":
    import sys
    for shape in SHAPES:
        t = time.perf_counter()
        found = coverage(shape, int(sys.argv[1]))
        print(f"{shape:16s}", *(f"{n} {100*c.inside:.1f}({100*c.too_high:.1f},{100*c.too_low:.1f};b{c.bias:.3f};{c.half:.2f})" for n, c in found.items()), f"{time.perf_counter()-t:.0f}s", flush=True)
