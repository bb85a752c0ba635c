"""Whether the intervals hold what they promise: studies are simulated from known truths, and the truth is looked for.

    python tests/analysis/simulate.py [--repeats 2000] [--out FILE]     (`make simulations`)

writes the table of automixsearch/analysis/README.md. Each simulated study is the default one: 64 configs with one
run each, a replicate block of 12 configs with 2 further seeds, and 5 fresh runs of the best 3.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np

from automixsearch.analysis import intervals
from automixsearch.analysis.compare import adjusted, paired_difference
from automixsearch.analysis.estimate import Estimate
from automixsearch.analysis.power import detectable
from automixsearch.analysis.verdict import judge

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
        bias, half = float((value - true).mean()), float((high - low).mean() / 2)
        made[name] = Coverage(1 - above - below, above, below, bias, half)
    return made


# Tests --------------------------------------------------------------------------------------------------------


def called_less_sensitive(a: str, b: str, factor: float, repeats: int, seed: int = 0) -> float:
    """How often A is called less sensitive than B, whose spread is `factor` times that of A."""
    g, found = np.random.default_rng([seed, 77]), 0

    def spread(shape: str, scale: float) -> Estimate:
        f = scale * SHAPES[shape](g, CONFIGS)
        y = f + SIGMA * g.standard_normal(CONFIGS)
        groups = [np.append(y[i], f[i] + SIGMA * g.standard_normal(2)) for i in range(BLOCK)]
        return intervals.spread(y, intervals.noise_interval(groups)[0])

    for _ in range(repeats):
        found += intervals.difference(spread(a, 1.0), spread(b, factor)).high < 0
    return found / repeats


def verdicts(effect: float, n: int, methods: int, repeats: int, margin: float = 0.3, seed: int = 0) -> dict[str, float]:
    """Verdicts on the first of `methods` methods against the others, on n shared seeds, when it is better by `effect`.

    The shares of verdicts of a single comparison; `any` is the share of studies in which a comparison of two methods
    that are alike is called better or worse.
    """
    g = np.random.default_rng([seed, n, methods])
    counts: dict[str, float] = {}
    names = list(combinations(range(methods), 2))
    for _ in range(repeats):
        scores = g.standard_normal(n) + SIGMA * g.standard_normal((methods, n))
        scores[0] += effect
        tests = [paired_difference(scores[i] - scores[j], margin) for i, j in names]
        p, alike = adjusted([one[1] for one in tests]), adjusted([one[2] for one in tests])
        judged = [judge(test[0].value, *ps) for test, *ps in zip(tests, p, alike, strict=True)]
        counts[judged[0]] = counts.get(judged[0], 0) + 1 / repeats
        wrong = any(v in ("better", "worse") for v, (i, _) in zip(judged, names, strict=True) if i > 0 or not effect)
        counts["any"] = counts.get("any", 0) + wrong / repeats
    return counts


# The table ----------------------------------------------------------------------------------------------------


def coverage_table(repeats: int) -> str:
    """Coverage in percent of every number over every shape."""
    lines = ["| truth | " + " | ".join(NUMBERS) + " |", "| --- |" + " ---: |" * len(NUMBERS)]
    outside = []
    for shape in SHAPES:
        start, found = time.perf_counter(), coverage(shape, repeats)
        cells = []
        for name in NUMBERS:
            share = 100 * found[name].inside
            inside = 93 <= round(share, 1) <= 97
            cells.append(f"{share:.1f}" if inside else f"**{share:.1f}**")
            if not inside:
                outside.append(f"{name} of {shape} {share:.1f} %")
        lines.append(f"| {shape} | " + " | ".join(cells) + " |")
        print(lines[-1], f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    within = len(SHAPES) * len(NUMBERS) - len(outside)
    summary = f"{within} of {len(SHAPES) * len(NUMBERS)} lie between 93 and 97 %"
    return "\n".join([*lines, "", summary + (f"; outside: {', '.join(outside)}." if outside else ".")])


def test_table(repeats: int) -> str:
    """Type-I errors and power."""
    lines = ["| what is planted | what is said | promised | measured |", "| --- | --- | ---: | ---: |"]

    def add(planted: str, said: str, promised: str, share: float) -> None:
        lines.append(f"| {planted} | {said} | {promised} | {100 * share:.1f} % |")
        print(lines[-1], file=sys.stderr, flush=True)

    for a, b in (("normal", "normal"), ("left-skewed", "left-skewed"), ("heavy-tailed", "heavy-tailed"),
                 ("normal", "right-skewed"), ("bimodal", "heavy-tailed")):  # fmt: skip
        wrong = called_less_sensitive(a, b, 1.0, repeats)
        add(f"A {a}, B {b}, equal S_hp", "A less sensitive than B", "at most 5 %", wrong)
    add(
        "S_hp of B twice that of A, normal",
        "A less sensitive than B",
        "-",
        called_less_sensitive("normal", "normal", 2.0, repeats),
    )
    for n in (3, 5, 10):
        effect = detectable(SIGMA * 2**0.5, n)
        found = verdicts(effect, n, 2, repeats)
        add(f"A better by the detectable {effect:.2f}, {n} pairs", "A better", "80 %", found.get("better", 0))
    for n, methods in ((5, 2), (10, 2), (10, 5), (64, 5)):
        found = verdicts(0.0, n, methods, repeats)
        add(f"{methods} equal methods, {n} pairs", "any better or worse", "at most 5 %", found.get("any", 0))
        alike = found.get("equivalent", 0)
        add(f"{methods} equal methods, {n} pairs", "the first two equivalent within 0.3", "-", alike)
    edge = verdicts(0.3, 64, 2, repeats)
    add("A better by just the margin 0.3, 64 pairs", "equivalent", "at most 5 %", edge.get("equivalent", 0))
    return "\n".join(lines)


def main() -> None:
    """Simulate, and write the table."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--repeats", type=int, default=2000, help="studies of each shape (2000)")
    ask.add_argument("--out", type=Path, default=README, help="file with the marks <!-- simulations -->")
    args = ask.parse_args()
    start = time.perf_counter()
    parts = [coverage_table(args.repeats), test_table(args.repeats)]
    command = f"python tests/analysis/simulate.py --repeats {args.repeats}"
    error = 100 * (0.95 * 0.05 / args.repeats) ** 0.5
    head = (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {(time.perf_counter() - start) / 60:.0f} minutes of one CPU core. "
        f"Every figure is from {args.repeats:,} studies; a coverage of 95 % has a standard error of {error:.1f} points."
    )
    text = args.out.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- simulations -->\n")
    after = rest.partition("<!-- /simulations -->")[2]
    made = "\n\n".join([head, *parts])
    args.out.write_text(f"{before}<!-- simulations -->\n{made}\n<!-- /simulations -->{after}")


if __name__ == "__main__":
    main()
