"""Whether the intervals hold what they promise: studies are simulated from known truths, and the truth is looked for.

    python tests/analysis/simulate.py [TABLE ...] [--repeats 2000] [--out FILE]     (`make simulations`)

writes the tables, or those that are named, into automixsearch/analysis/coverage.md, several at the same time. Each
simulated study of configs is the default one: 64 configs with one run each, a replicate block of 12 configs with 2
further seeds, and 5 fresh runs of the best 3. Other noise, searches, ablations, fidelity: `SCATTERS`, `GATES`,
`ABLATIONS`, `rank_coverage`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from automixsearch.analysis import baseline_gate as gate
from automixsearch.analysis import importance, intervals
from automixsearch.analysis.ablation import Ablation, of_sample
from automixsearch.analysis.compare import adjusted, difference_p, student
from automixsearch.analysis.contrasts import expected_freedom
from automixsearch.analysis.cross_task import price, price_interval
from automixsearch.analysis.estimate import Estimate
from automixsearch.analysis.fidelity import rank_correlation
from automixsearch.analysis.power import detectable, detectable_at
from automixsearch.analysis.robustness import scorecards
from automixsearch.analysis.selection import Sample
from automixsearch.analysis.units import mean_of
from automixsearch.analysis.verdict import judge

Array = np.ndarray
COVERAGE = Path(__file__).parents[2] / "automixsearch" / "analysis" / "coverage.md"
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
NUMBERS = ("mean", "CVaR20", "S_hp", "ICC", "W", "E_4", "E_8", "E_16", "worth_8", "median_8", "best")


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
    values["ICC"] = f.var() / (f.var() + SIGMA**2)
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
    places = (stats.rankdata(study.y) - 0.5) / len(study.y)
    where = np.concatenate([places[:BLOCK], np.sort(places)[: -TOP - 1 : -1]])
    again = list(zip(where, [*study.groups, *study.fresh], strict=True))
    clean = intervals.Clean.of(study.y, noise, freedom, scatter=again)
    yield "mean", intervals.mean_interval(study.y, g, 999)
    yield "CVaR20", intervals.tail_interval(clean)
    yield "S_hp", intervals.spread(study.y, noise)
    yield "ICC", intervals.share_of_configs(study.y, noise)
    top, error = intervals.top_of(study.fresh, noise, freedom)
    yield "best", top
    yield "W", intervals.share_interval(clean, top, error, DELTA)
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


# Other noise --------------------------------------------------------------------------------------------------

FIGURES = ("mean", "cvar", "s_hp", "noise", "icc", "share", "best_of_8", "worth_8", "top")


@dataclass(frozen=True)
class Scatter:
    """How the runs of a study scatter: configs of mean 0 and `SPREAD`, as `draw` has them.

    own: of generator and worths, the deviations of as many runs. configs, seeds: how many, and seeds that all share.
    common: what a shared seed does to all configs, split: what one of 4 validation splits does, standard deviations.
    """

    own: Callable[[np.random.Generator, Array], Array]
    draw: str = "left-skewed"
    configs: int = CONFIGS
    seeds: int = 1
    common: float = 0.0
    split: float = 0.0


def _plain(g: np.random.Generator, worth: Array) -> Array:
    return SIGMA * g.standard_normal(worth.shape)


SCATTERS = {
    "good configs 4 times steadier": Scatter(
        lambda g, f: np.clip(0.3 - 0.3 * f, 0.15, 0.6) * g.standard_normal(f.shape)
    ),
    "bad configs 4 times steadier": Scatter(
        lambda g, f: np.clip(0.3 + 0.3 * f, 0.15, 0.6) * g.standard_normal(f.shape)
    ),
    "Student's t of 5": Scatter(lambda g, f: SIGMA * g.standard_t(5, f.shape) / (5 / 3) ** 0.5),
    "exponential": Scatter(lambda g, f: SIGMA * (1 - g.exponential(size=f.shape))),
    "seeds 0.6": Scatter(lambda g, f: 2 * _plain(g, f)),
    "4 splits, 0.4": Scatter(_plain, split=0.4),
    "32 configs": Scatter(_plain, configs=32),
    "3 shared seeds, 0.3": Scatter(_plain, configs=32, seeds=3, common=0.3),
}


@dataclass(frozen=True)
class Ledger:
    """What `scorecards` reads of a study."""

    frame: Any
    name: str = "simulated"
    objective: tuple[str, ...] = ("val_top1",)
    info: dict[str, object] = field(default_factory=dict)

    def trials(self) -> Any:
        """The rows."""
        return self.frame


def scattered(how: Scatter, g: np.random.Generator, method: str) -> tuple[list[dict[str, object]], float]:
    """The rows of a method in a study, and the worth of its best confirmed config."""
    rows: list[dict[str, object]] = []
    worth, places = SHAPES[how.draw](g, how.configs), g.permutation(how.configs) % 4
    splits, seeds = how.split * g.standard_normal(4), how.common * g.standard_normal(how.seeds + FRESH)
    splits -= splits.mean()

    def run(purpose: str, i: int, seed: int, split: int, common: float) -> float:
        score = worth[i] + how.own(g, worth[i : i + 1])[0] + splits[split] + common
        config = json.dumps({"knobs": {"method": method, "place": int(i)}})
        rows.append({"method": method, "purpose": purpose, "config": config, "seed": seed, "split_seed": split,
                     "val_top1": 90 + score})  # fmt: skip
        return score - splits[split]

    split = places if how.split else 0 * places
    if how.seeds > 1:
        scores = [np.mean([run("study", i, s, 0, seeds[s]) for s in range(how.seeds)]) for i in range(how.configs)]
    else:
        scores = [run("study", i, i, split[i], 0.0) for i in range(how.configs)]
        for i in range(BLOCK):
            for s in (1, 2):
                run("replicate", i, 1000 * s + i, (split[i] + s) % 4 if how.split else 0, 0.0)
    best = np.argsort(scores)[-TOP:]
    for i in best:
        for s in range(FRESH):
            run("confirm", i, 9000 + s, s % 4 if how.split else 0, seeds[how.seeds + s])
    return rows, float(worth[best].max())


def scattered_coverage(how: Scatter, repeats: int, seed: int = 0) -> dict[str, float]:
    """How often the figures of the scorecard hold the truth."""
    import pandas as pd

    g, big = np.random.default_rng([seed, 9]), BIG // 4
    worth = SHAPES[how.draw](g, big)
    runs = [how.own(g, worth) for _ in range(how.seeds)]
    groups, own = ((part[: big // 8 * 8]).reshape(-1, 8) for part in (worth + np.mean(runs, axis=0), worth))
    noise, ordered = float(np.var(runs)) + how.common**2, np.sort(worth)
    known = {"mean": worth.mean(), "cvar": ordered[: big // 5].mean(), "s_hp": worth.std(), "noise": noise**0.5,
             "icc": worth.var() / (worth.var() + noise), "best_of_8": groups.max(1).mean(),
             "worth_8": own[np.arange(len(own)), groups.argmax(1)].mean()}  # fmt: skip
    inside = dict.fromkeys(FIGURES, 0.0)
    for first in range(0, repeats, 100):
        made = {f"m{i}": scattered(how, g, f"m{i}") for i in range(first, min(first + 100, repeats))}
        frame = pd.DataFrame([row for rows, _ in made.values() for row in rows])
        frame = frame.assign(trial_id=frame.index.astype(str), number=frame.index, state="complete", epochs_total=1,
                             device_s=1.0, alpha=1.0)  # fmt: skip
        for card in scorecards(Ledger(frame)):  # type: ignore[arg-type]
            top = made[card.method][1]
            share = 1 - float(np.searchsorted(ordered, top - card.delta - 1e-9)) / big
            for name in FIGURES:
                found = getattr(card, name, None) or {"best_of_8": card.best_of, "worth_8": card.worth}[name][8]
                true = {"top": 90 + top, "share": share}.get(name, known.get(name, 0.0) + 90 * (name in _SCORES))
                inside[name] += (found.low - 1e-9 <= true <= found.high + 1e-9) / repeats
    return inside


_SCORES = ("mean", "cvar", "best_of_8", "worth_8")


# The gate -----------------------------------------------------------------------------------------------------

GATES: dict[str, dict[str, int]] = {
    "5 confirmation runs, TrivialMix 3 seeds": {"fresh": 5, "seeds": 3},
    "no run repeated": {"seeds": 1},
    "TrivialMix 8 settings x 2 seeds": {"settings": 8, "seeds": 2},
    "TrivialMix 5 seeds": {"seeds": 5},
    "TrivialMix 3 seeds": {"seeds": 3},
}
"""Searches of 4 methods with 10 configs each, by what was repeated."""


def gate_miss(
    shape: str, g: np.random.Generator, settings: int = 1, seeds: int = 1, fresh: int = 0
) -> tuple[bool, bool]:
    """One search: whether the interval of its gain over TrivialMix is above the true gain, and below it."""
    number = 0

    def run(method: str, key: str, worth: float, purpose: str = "search") -> gate.Row:
        nonlocal number
        number += 1
        row = {"trial_id": f"t{number}", "number": number, "method": method, "purpose": purpose, "key": key}
        row |= {"epochs_total": 100, "device_s": 60.0, "val_images": 5000, "first": False, "worth": worth}
        return row | {"score": 90 + worth + SIGMA * g.standard_normal()}

    methods = [[run(f"m{m}", f"{m}.{i}", f) for i, f in enumerate(SHAPES[shape](g, 10))] for m in range(4)]
    theirs = [run("trivialmix", f"b{i}", f) for i, f in enumerate(SHAPES[shape](g, settings)) for _ in range(seeds)]
    rows = [row for group in methods for row in group]
    winner = max(rows, key=lambda row: row["score"])
    winner["first"] = True
    rows += [run(winner["method"], winner["key"], winner["worth"], "confirm") for _ in range(fresh)]
    rivals = gate.Rivals.of([[row["score"] for row in group] for group in methods])
    found = gate._judged("val_top1", 1, winner, "winner", rows, theirs, rivals).difference
    first = gate._first(theirs, 1)
    true = winner["worth"] - next(row["worth"] for row in theirs if row["key"] == first)
    return found.low > true, found.high < true


# Ablations ----------------------------------------------------------------------------------------------------

NOISES: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "normal": lambda g, seeds, arms: g.standard_normal((seeds, arms)),
    "left-skewed": lambda g, seeds, arms: 1 - g.exponential(size=(seeds, arms)),
    "heavy-tailed": lambda g, seeds, arms: g.standard_t(3, (seeds, arms)) / 3**0.5,
    "arms 1 to 4 times": lambda g, seeds, arms: np.linspace(0.5, 2, arms) * g.standard_normal((seeds, arms)),
    "one arm 5 times": lambda g, seeds, arms: np.where(np.arange(arms) == 0, 5, 1) * g.standard_normal((seeds, arms)),
    "one arm a fifth": lambda g, seeds, arms: np.where(np.arange(arms) == 0, 0.2, 1) * g.standard_normal((seeds, arms)),
    "lognormal, heavy-tailed": lambda g, seeds, arms: (
        np.exp(0.4 * g.standard_normal(arms)) * g.standard_t(5, (seeds, arms)) * 0.6**0.5
    ),
}
"""What a run scatters by beside what its seed does to all arms, in units of SIGMA. Arm 0 is the one with all parts of
one_out, without any of the others; the last draws how far each arm scatters for every study."""
ABLATIONS = {
    "one_out, 5 arms x 3": ("one_out", 4, 3),
    "one_out, 5 arms x 5": ("one_out", 4, 5),
    "one_out, 3 arms x 3": ("one_out", 2, 3),
    "path, 5 arms x 3": ("path", 4, 3),
    "factorial 2^2 x 5": ("factorial", 2, 5),
    "factorial 2^3 x 3": ("factorial", 3, 3),
    "factorial 2^4 x 3": ("factorial", 4, 3),
}
"""Design, factors and replicates."""


def ablated(design: str, noise: str, g: np.random.Generator, worth: Callable[[frozenset[str]], float]) -> Ablation:
    """One ablation of parts f0, f1, ..., of which a set is worth what is said."""
    import pandas as pd

    name, count, seeds = ABLATIONS[design]
    factors = [f"f{i}" for i in range(count)]
    sets = [frozenset(part) for size in range(count + 1) for part in combinations(factors, size)]
    about: dict[str, object] = {"name": name, "factors": {name: {} for name in factors}}
    if name == "one_out":
        sets = [frozenset(factors), *(frozenset(factors) - {name} for name in factors)]
        about["against"] = {str(i): "0" for i in range(1, len(sets))}
    if name == "path":
        sets = [frozenset(factors[:i]) for i in range(count + 1)]
        about["against"] = {str(i): str(i - 1) for i in range(1, len(sets))}
    scores = np.array([worth(own) for own in sets]) + g.standard_normal((seeds, 1))
    scores = scores + SIGMA * NOISES[noise](g, seeds, len(sets))
    rows = [
        {"arm": str(i), "levels": {name: name in own for name in factors}, "stratum": "m", "seed": seed,
         "split_seed": 0, "score": scores[seed, i], "device_s": 1.0}
        for seed in range(seeds) for i, own in enumerate(sets)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    return of_sample(Sample("s", frame, "val_top1", 1, {}, frame.iloc[:0], False, 0.0), about, 0.3)


def ablation_misses(design: str, noise: str, g: np.random.Generator) -> dict[str, list[bool]]:
    """One ablation: of each of its effects, interactions and credits whether the interval leaves out the true one."""
    found = ablated(design, noise, g, lambda own: 0.5 * ("f0" in own) + 0.3 * (own >= {"f0", "f1"}))
    # What f0 and f1 add together is all of it to the last of them, and half of it on average.
    half = 0.5 if found.design == "factorial" else 1.0 if found.design == "one_out" else 0.0
    exact = {"f0": 0.5 + 0.3 * half, "f1": 0.3 * (half or 1.0), "f0:f1": 0.15}
    kinds = {"effects": found.effects, "interactions": found.interactions, "Shapley credit": found.shapley}
    return {
        kind: [not one.effect.low <= exact.get(one.name, 0.0) <= one.effect.high for one in effects]
        for kind, effects in kinds.items() if effects
    }  # fmt: skip


def parts_found(design: str, noise: str, effect: float, repeats: int, seed: int = 0) -> tuple[float, float]:
    """How often f0 is found to be worth something, alone, and any other part after Holm; f0 is worth `effect`."""
    g, right, wrong = np.random.default_rng([seed, 6]), 0, 0
    for _ in range(repeats):
        first, *others = ablated(design, noise, g, lambda own: effect * ("f0" in own)).effects
        right += first.p < 0.05 and first.effect.value > 0
        wrong += any(one.word in ("helps", "hurts") for one in ([] if effect else [first]) + others)
    return right / repeats, wrong / repeats


# Fidelity -----------------------------------------------------------------------------------------------------

COPULAS = ("normal", "heavy-tailed", "4 methods")
"""How scores at a rung and at the end depend: normal; t with 4 degrees of freedom; methods that differ by 1.5 standard
deviations, of each as many configs."""


def paired_scores(copula: str, rho: float, n: int, g: np.random.Generator) -> tuple[Array, Array]:
    """n configs at a rung and at the end, monotone transformations left out: ranks do not see them."""
    x = g.standard_normal(n)
    y = rho * x + (1 - rho**2) ** 0.5 * g.standard_normal(n)
    if copula == "heavy-tailed":
        scale = (g.chisquare(4, n) / 4) ** 0.5
        return x / scale, y / scale
    offset = 1.5 * (np.arange(n) % 4) if copula == "4 methods" else np.zeros(n)
    return x + offset, y + offset


@cache
def true_rank_correlation(copula: str, rho: float) -> float:
    """Spearman's, from two million configs."""
    return float(stats.spearmanr(*paired_scores(copula, rho, BIG, np.random.default_rng(2))).statistic)


def rank_coverage(copula: str, rho: float, n: int, repeats: int, seed: int = 0) -> float:
    """How often the interval of the rank correlation of n anchors holds it."""
    g, true = np.random.default_rng([seed, n]), true_rank_correlation(copula, rho)
    found = (rank_correlation(*paired_scores(copula, rho, n, g)) for _ in range(repeats))
    return sum(one.low <= true <= one.high for one in found) / repeats


# Tasks --------------------------------------------------------------------------------------------------------

TASKS = {
    "3 tasks, correlation 0.5": (3, 64, 0.5),
    "3 tasks, correlation 0.9": (3, 64, 0.9),
    "3 tasks, correlation 0": (3, 64, 0.0),
    "5 tasks, correlation 0.5": (5, 64, 0.5),
    "3 tasks, correlation 0.5, 24 configs": (3, 24, 0.5),
}
"""Tasks, configs, and how far what a config is worth on one task tells what it is worth on another."""


def phi_holds(shape: str, tasks: int, configs: int, alike: float, g: np.random.Generator) -> bool:
    """One study on several tasks: whether the interval of phi holds that of what the configs are worth."""
    shared, own = SHAPES[shape](g, configs)[:, None], SHAPES[shape](g, configs * tasks).reshape(configs, tasks)
    worth = alike**0.5 * shared + (1 - alike) ** 0.5 * own
    freedom = [2 * BLOCK] * tasks
    noise = [SIGMA**2 * g.chisquare(df) / df for df in freedom]
    found = price_interval(worth + SIGMA * g.standard_normal(worth.shape), noise, freedom, g)
    return found.low <= float(price(worth)) <= found.high


# Importance ---------------------------------------------------------------------------------------------------


def knobs_above_chance(effect: float, repeats: int, knobs: int = 5, seed: int = 0) -> tuple[float, float]:
    """How often the knob that matters is above chance, and how often any that does not; 64 configs.

    effect: of the first knob from one end of its range to the other, in standard deviations of the rest.
    """
    import pandas as pd

    g, right, wrong = np.random.default_rng([seed, 5]), 0, 0
    for _ in range(repeats):
        places = g.random((CONFIGS, knobs))
        columns = {f"k{i}": pd.Series(places[:, i]) for i in range(knobs)}
        values = importance._Evaluation(columns, g.random(CONFIGS), "ped_anova", False, 0)
        y = effect * places[:, 0] + g.standard_normal(CONFIGS)
        null = np.array([list(values(g.permutation(y)).values()) for _ in range(100)])
        above = {bar.knob for bar in importance._bars(values(y), null) if bar.distinguishable}
        right, wrong = right + ("k0" in above), wrong + bool(above - ({"k0"} if effect else set()))
    return right / repeats, wrong / repeats


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
        gap = intervals.difference(spread(a, 1.0), spread(b, factor))
        found += gap.value < 0 and difference_p(gap) < 0.05
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
        means = [mean_of(scores[i] - scores[j], np.arange(n), np.arange(n), True) for i, j in names]
        tested = [student(mean.value, mean.error, mean.freedom, margin) for mean in means]
        p, alike = adjusted([one[1] for one in tested]), adjusted([one[2] for one in tested])
        judged = [judge(test[0].value, *ps) for test, *ps in zip(tested, p, alike, strict=True)]
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
            cells.append(cell(found[name].inside))
            if "*" in cells[-1]:
                outside.append(f"{name} of {shape} {100 * found[name].inside:.1f} %")
        lines.append(f"| {shape} | " + " | ".join(cells) + " |")
        print(lines[-1], f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    within = len(SHAPES) * len(NUMBERS) - len(outside)
    summary = f"{within} of {len(SHAPES) * len(NUMBERS)} lie between 93 and 97 %"
    return "\n".join([*lines, "", summary + (f"; outside: {', '.join(outside)}." if outside else ".")])


def cell(share: float) -> str:
    """A coverage in percent, bold outside 93 to 97."""
    text = f"{100 * share:.1f}"
    return text if 93 <= float(text) <= 97 else f"**{text}**"


def _table(head: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    lines = [f"| {head} | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for name, cells in rows:
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def noise_table(repeats: int) -> str:
    """Coverage of scorecards, read from ledgers whose runs scatter in other ways."""
    made = ((name, scattered_coverage(how, repeats)) for name, how in SCATTERS.items())
    return _table("runs scatter", FIGURES, ((name, [cell(one[n]) for n in FIGURES]) for name, one in made))


def gate_table(repeats: int) -> str:
    """Coverage of the gain over TrivialMix."""

    def rows() -> Iterator[tuple[str, list[str]]]:
        for name, how in GATES.items():
            cells = []
            for shape in SHAPES:
                g = np.random.default_rng([3, len(name)])
                missed = np.array([gate_miss(shape, g, **how) for _ in range(repeats)])
                cells.append(cell(1 - float(missed.any(1).mean())))
            yield name, cells

    return _table("what was repeated", list(SHAPES), rows())


def ablation_table(repeats: int) -> str:
    """Coverage of effects, the lowest and the highest of a study's."""

    def rows() -> Iterator[tuple[str, list[str]]]:
        for design in ABLATIONS:
            cells: dict[str, list[str]] = {}
            for noise in NOISES:
                g = np.random.default_rng([4, len(design)])
                missed = [ablation_misses(design, noise, g) for _ in range(repeats)]
                for kind in missed[0]:
                    share = np.mean([one[kind] for one in missed], axis=0)
                    ends = cell(1 - float(share.max())), cell(1 - float(share.min()))
                    cells.setdefault(kind, []).append(ends[0] if len(share) == 1 else " to ".join(ends))
            yield from ((f"{design}, {kind}" if len(cells) > 1 else design, row) for kind, row in cells.items())

    return _table("runs scatter", list(NOISES), rows())


def rank_table(repeats: int) -> str:
    """Coverage of rank correlations."""
    sizes = (8, 12, 16, 32)
    return _table(
        "dependence, rank correlation", [f"{n} anchors" for n in sizes],
        ((f"{copula}, {abs(true_rank_correlation(copula, rho)):.2f}",
          [cell(rank_coverage(copula, rho, n, repeats)) for n in sizes])
         for copula in COPULAS for rho in (0.0, 0.4, 0.8, 0.95)),
    )  # fmt: skip


def phi_table(repeats: int) -> str:
    """Coverage of phi."""

    def rows() -> Iterator[tuple[str, list[str]]]:
        for name, how in TASKS.items():
            g = np.random.default_rng([8, len(name)])
            yield name, [cell(sum(phi_holds(shape, *how, g) for _ in range(repeats)) / repeats) for shape in SHAPES]

    return _table("what a config is worth", list(SHAPES), rows())


def test_table(repeats: int) -> str:
    """Type-I errors and power."""
    lines = ["| what is planted | what is said | promised | measured |", "| --- | --- | ---: | ---: |"]

    def add(planted: str, said: str, promised: str, share: float) -> None:
        lines.append(f"| {planted} | {said} | {promised} | {100 * share:.1f} % |")
        print(lines[-1], file=sys.stderr, flush=True)

    for a, b in (("normal", "normal"), ("left-skewed", "left-skewed"), ("heavy-tailed", "heavy-tailed"),
                 ("normal", "right-skewed"), ("bimodal", "heavy-tailed"), ("heavy-tailed", "normal"),
                 ("normal", "heavy-tailed"), ("outliers", "normal"), ("right-skewed", "left-skewed")):  # fmt: skip
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
    part = max(20, repeats // 8)
    for design, arms, used, runs in (("one_out, 5 arms x 3", 5, 2, 3), ("factorial 2^3 x 3", 8, 8, 12)):
        seeds = ABLATIONS[design][2]
        effect = detectable_at(SIGMA * (2 / runs) ** 0.5, expected_freedom(seeds, arms, used))
        found = parts_found(design, "normal", effect, part)[0]
        add(f"{design}, one part worth the detectable {effect:.2f} ({part} studies)", "it helps", "80 %", found)
        for noise in NOISES:
            wrong = parts_found(design, noise, 0.0, part)[1]
            nothing = f"{design}, no part worth anything, {noise} ({part} studies)"
            add(nothing, "any helps or hurts", "at most 5 %", wrong)
    few = max(20, repeats // 40)
    planted = f"5 knobs of no effect, 64 configs ({few} studies)"
    add(planted, "any above chance", "at most 5 %", knobs_above_chance(0.0, few)[1])
    right, wrong = knobs_above_chance(4.0, few)
    planted = f"one knob of 4 standard deviations, 4 of none ({few} studies)"
    add(planted, "the one above chance", "-", right)
    add(planted, "another above chance", "at most 5 %", wrong)
    return "\n".join(lines)


TABLES: dict[str, tuple[Callable[[int], str], int]] = {
    "scorecard": (coverage_table, 1),
    "noise": (noise_table, 2),
    "gate": (gate_table, 2),
    "ablation": (ablation_table, 8),
    "rank": (rank_table, 1),
    "phi": (phi_table, 20),
    "verdict": (test_table, 1),
}
"""Each table, and the part of the repeats that it takes; in coverage.md between marks of its name."""


def drawn(name: str, repeats: int) -> tuple[str, str, float]:
    """A table, its name, and the minutes of one core that it took."""
    table, part = TABLES[name]
    start = time.process_time()
    text = table(max(20, repeats // part))
    return name, text, (time.process_time() - start) / 60


def write(file: Path, name: str, made: str) -> None:
    """Put a table between its marks."""
    text = file.read_text(encoding="utf-8")
    before, first, rest = text.partition(f"<!-- {name} -->\n")
    _, last, after = rest.partition(f"<!-- /{name} -->")
    if not first or not last:
        raise SystemExit(f"{file}: no marks <!-- {name} --> and <!-- /{name} --> to write the table between")
    file.write_text(f"{before}{first}{made}\n{last}{after}", encoding="utf-8")


def main() -> None:
    """Simulate, and write each table as soon as it is made; one that was not reached is drawn by its name."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("tables", nargs="*", help=f"{', '.join(TABLES)} (all)")
    ask.add_argument("--repeats", type=int, default=2000, help="studies of each shape (2000)")
    ask.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="tables at the same time (one for each core)"
    )
    ask.add_argument("--out", type=Path, default=COVERAGE, help="file with marks <!-- TABLE --> and <!-- /TABLE -->")
    args = ask.parse_args()
    names = args.tables or list(TABLES)
    if wrong := set(names) - set(TABLES):
        ask.error(f"no table {', '.join(sorted(wrong))}; there are {', '.join(TABLES)}")
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(drawn, name, args.repeats) for name in names]):
            name, text, minutes = done.result()
            count = max(20, args.repeats // TABLES[name][1])
            error = 100 * (0.95 * 0.05 / count) ** 0.5
            head = (
                f"`simulate.py {name} --repeats {args.repeats}`: {count:,} studies each where nothing else is said, "
                f"{datetime.now(UTC):%Y-%m-%d}, {minutes:.1f} minutes of one core; a coverage of 95 % has a standard "
                f"error of {error:.1f} points."
            )
            write(args.out, name, f"{head}\n\n{text}")


if __name__ == "__main__":
    main()
