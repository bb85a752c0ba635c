"""Studies whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ledgers import write_study

SIGMA = 0.3


def sobol_rows(
    truth: Callable[[str, float, float], float],
    methods: tuple[str, ...] = ("mixup", "cutmix"),
    configs: int = 64,
    block: int = 6,
    top: int = 3,
    fresh: int = 5,
    splits: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The default study: configs that methods share, a replicate block, and the best again on fresh seeds.

    truth: of method and the places of alpha and lr in their ranges, from 0 to 1.
    """
    rng = np.random.default_rng(seed)
    places = rng.random((configs, 2))

    def run(method: str, i: int, **more: Any) -> dict[str, Any]:
        a, b = places[i]
        knobs = {"method": method, f"{method}.alpha": float(0.1 * 80**a), "lr": float(0.02 * 15**b)}
        return {"knobs": knobs, "score": truth(method, a, b) + SIGMA * rng.normal(), "split_seed": i % splits, **more}

    rows = [run(method, i, seed=i) for i in range(configs) for method in methods]
    scores = {(row["knobs"]["method"], row["seed"]): row["score"] for row in rows}
    for method in methods:
        for i in range(block):
            rows += [run(method, i, seed=1000 + s, purpose="replicate") for s in range(2)]
        order = sorted(range(configs), key=lambda i, m=method: -scores[m, i])
        for i in order[:top]:
            rows += [run(method, i, seed=2000 + s, purpose="confirm") for s in range(fresh)]
    return rows


def ablation_study(
    folder: Any,
    arms: Mapping[str, frozenset[str]],
    factors: Mapping[str, Any],
    truth: Callable[[frozenset[str]], float],
    name: str = "factorial",
    seeds: int = 3,
    sigma: float = SIGMA,
    seed: int = 0,
    **design: Any,
) -> Any:
    """A study of arms that share seeds, each with an effect of its own on every arm."""
    rng = np.random.default_rng(seed)
    rows, runs = [], []
    for s in range(seeds):
        shared = rng.normal()
        for arm, on in arms.items():
            levels = {factor: factor in on for factor in factors}
            runs.append({"number": len(rows), "purpose": "study", "arm": arm, "levels": levels, "stratum": "mixup",
                         "replicate": s, "seed": s, "split_seed": 0})  # fmt: skip
            knobs = {"method": "mixup", "mixup.alpha": 0.1 + 0.01 * list(arms).index(arm)}
            rows.append({"knobs": knobs, "score": truth(on) + shared + sigma * rng.normal(), "seed": s})
    declared = {factor: {"off": {}, "on": {}, "needs": needs} for factor, needs in factors.items()}
    return write_study(folder, "a", rows, {"name": name, "factors": declared, "runs": runs, **design})
