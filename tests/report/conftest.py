"""Simulated studies of every kind, for reports."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import write_study

from automixsearch.results.study import Study

METHODS = ("vanilla", "mixup", "cutmix", "fmix", "trivialmix")
HOSTILE = "<script>window.hacked = 1</script>\nline two, with \"quotes\" & 'others' | pipes"
EPOCHS = 4


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


def search_rows(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trials of a search and their epochs: complete, pruned and failed ones, one with a hostile error."""
    rng = np.random.default_rng(0)
    rows, epochs = [], []
    for number in range(count):
        method = METHODS[number % len(METHODS)]
        knobs: dict[str, Any] = {"method": method, "epochs": EPOCHS, "lr": round(float(rng.uniform(0.01, 0.3)), 4)}
        if method not in ("vanilla", "trivialmix"):
            knobs[f"{method}.alpha"] = round(float(rng.uniform(0.1, 4)), 3)
        state = ("complete", "complete", "pruned", "complete", "failed", "complete")[number % 6]
        score = 60 + METHODS.index(method) + float(rng.normal(0, 1))
        row = {"knobs": knobs, "state": state, "purpose": "search", "score": None if state == "failed" else score}
        run = EPOCHS if state == "complete" else 2
        row |= {"epochs_run": run, "device_s": 10.0 + number % 7, "split_id": "5ab1e0"}
        if state == "complete":
            row |= {"test_top1": score - 1, "test_images": 1000, "val_loss": 1 - score / 100}
        if state == "failed":
            row |= {"error_class": "NonFiniteLoss", "error_message": HOSTILE}
        if state == "pruned":
            row |= {"stop_reason": "asha: <b>below</b> its rung"}
        rows.append(row)
        epochs += [
            {"number": number, "method": method, "epoch": epoch, "val_top1": score * epoch / run, "val_loss": 1 / epoch}
            for epoch in range(1, run + 1)
        ]
    return rows, epochs


SPACE = {"about": "Which policy, on <b>simulated</b> images?", "sampler": {"name": "tpe"}}


@pytest.fixture(scope="session")
def search(folder: Path) -> Study:
    """60 trials that a sampler chose by earlier scores."""
    rows, epochs = search_rows(60)
    return write_study(folder, "search", rows, space=SPACE, epochs=epochs)


@pytest.fixture(scope="session")
def large(folder: Path) -> Study:
    """5,000 trials."""
    rows, epochs = search_rows(5000)
    return write_study(folder, "large", rows, space=SPACE, epochs=epochs)


@pytest.fixture(scope="session")
def sobol(folder: Path) -> Study:
    """Two methods at 32 shared points, with replicates and confirmation; the second is better by 1.5 points."""
    rng = np.random.default_rng(1)
    points = rng.random((32, 2))
    rows: list[dict[str, Any]] = []

    def add(method: str, point: int, seed: int, purpose: str) -> None:
        alpha, lr = 0.1 * 40 ** points[point, 0], 0.01 * 30 ** points[point, 1]
        score = 70 + 1.5 * (method == "cutmix") - 2 * (points[point, 0] - 0.5) ** 2 + float(rng.normal(0, 0.2))
        knobs = {"method": method, f"{method}.alpha": float(alpha), "lr": float(lr), "epochs": EPOCHS}
        rows.append({"knobs": knobs, "score": score, "seed": seed, "split_seed": point % 4, "purpose": purpose})

    for method, point in product(("mixup", "cutmix"), range(32)):
        add(method, point, 100 + point, "study")
    for method, point, seed in product(("mixup", "cutmix"), range(6), range(2)):
        add(method, point, 1000 + 10 * point + seed, "replicate")
    for method, point, seed in product(("mixup", "cutmix"), (3, 8, 21), range(5)):
        add(method, point, 2000 + seed, "confirm")
    design = {
        "name": "sobol",
        "question": "How sensitive are mixup and cutmix to alpha and lr?",
        "about": "Simulated.",
        "metric": "val_top1",
        "margin": 0.3,
        "vary": ["mixup.alpha", "cutmix.alpha", "lr"],
        "methods": ["mixup", "cutmix"],
        "factors": {},
        "runs": [
            {"number": number, "purpose": row["purpose"], "arm": f"p{number}", "levels": {}, "replicate": 0}
            | {"seed": row["seed"], "split_seed": row["split_seed"], "stratum": row["knobs"]["method"]}
            for number, row in enumerate(rows)
        ],
    }
    return write_study(folder, "sobol", rows, design=design)


FACTORS = {
    "attention": {"off": {"automix.attention": False}, "on": {"automix.attention": True}, "needs": []},
    "ema": {"off": {"automix.ema": False}, "on": {"automix.ema": True}, "needs": []},
}


@pytest.fixture(scope="session")
def factorial(folder: Path) -> Study:
    """A 2^2 of the Mix Block, four seeds: attention helps by one point, ema does nothing."""
    rng = np.random.default_rng(2)
    rows, runs = [], []
    for attention, ema, seed in product((False, True), (False, True), range(4)):
        knobs = {"method": "automix", "automix.attention": attention, "automix.ema": ema, "epochs": EPOCHS}
        levels = {"attention": attention, "ema": ema}
        arm = " ".join(f"{name}={'on' if on else 'off'}" for name, on in levels.items())
        runs.append(
            {
                "number": len(rows),
                "purpose": "study",
                "arm": arm,
                "levels": levels,
                "stratum": "automix",
                "replicate": seed,
                "seed": seed,
                "split_seed": 0,
            }
        )
        rows.append({"knobs": knobs, "score": 64 + attention + float(rng.normal(0, 0.1)), "seed": seed})
    design = {
        "name": "factorial",
        "question": "Which parts of the Mix Block matter?",
        "metric": "val_top1",
        "margin": 0.3,
        "vary": [],
        "methods": ["automix"],
        "factors": FACTORS,
        "order": ["attention", "ema"],
        "runs": runs,
    }
    return write_study(folder, "factorial", rows, design=design)
