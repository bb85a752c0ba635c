"""What semi-supervised trials made of the images without a label, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from automixsearch.report import charts
from automixsearch.report.parts import Figure, Section, Table
from automixsearch.results.study import Study
from automixsearch.show import policy_of

COLUMNS = ("val_top1", "used", "misled", "guess_top1", "threshold_min", "threshold_mean")
TOLD = (
    ("val_top1", "Validation accuracy", "val_top1 in %", 1.0),
    ("used", "Images used", "share of unlabelled images in %", 100.0),
    ("right", "Accuracy of what is used", "right guesses among them in %", 1.0),
    ("guess_top1", "Accuracy of all guesses", "right guesses in %", 1.0),
    ("threshold_mean", "Thresholds, mean of the classes", "confidence", 1.0),
)
"""What is drawn: name, title, axis, and what it is multiplied by."""


def section(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """The best complete trial of each semi-supervised algorithm; None where there is none."""
    metric, best = study.followed, dict[str, Mapping[str, Any]]()
    for row in rows:
        name = row.get("knob.algorithm")
        if name is None or row["state"] != "complete" or row.get(metric) is None:
            continue
        if name not in best or study.sign(metric) * (row[metric] - best[name][metric]) > 0:
            best[name] = row
    chosen = {row["trial_id"]: name for name, row in best.items()}
    epochs = study.store.read("epochs", ["trial_id", "epoch", *COLUMNS]).to_pylist()
    numbers = [
        {"algorithm": chosen[row["trial_id"]], **row, "right": _right(row)}
        for row in sorted(epochs, key=lambda row: (row["trial_id"], row["epoch"]))
        if row["trial_id"] in chosen and row["used"] is not None
    ]
    names = list(dict.fromkeys(str(row["algorithm"]) for row in numbers))
    if not names:
        return None
    inks = {name: charts.Ink(f"var(--c{position})") for position, name in enumerate(names)}
    figures = []
    for column, title, unit, scale in TOLD:
        drawn = []
        for name in names:
            own = [row for row in numbers if row["algorithm"] == name and row[column] is not None]
            if own:
                x, y = [float(row["epoch"]) for row in own], [scale * row[column] for row in own]
                drawn.append(charts.Line(name, x, y, ink=inks[name], points=len(x) <= 30))
        if drawn:
            axis = charts.Axis(unit)
            svg = charts.lines(title, charts.Axis("epoch", whole=True), axis, drawn)
            figures.append(Figure(f"guesses-{column}", title, svg))
    trials = "; ".join(f"{name}: {best[name]['trial_id']} ({policy_of(best[name])})" for name in names)
    return Section(
        "guesses",
        "Guessed labels",
        about=f"The best complete trial of each semi-supervised algorithm ({trials}): how many of the images without a "
        "label it trained on, and how often the guess was right, where the truth is known.",
        figures=figures,
        numbers=[Table("guesses", "", numbers)],
        legend=charts.legend(inks),
    )


def _right(row: Mapping[str, Any]) -> float | None:
    """Right guesses among those that count, in %."""
    if row["misled"] is None or not row["used"]:
        return None
    return 100 * (1 - min(row["misled"] / row["used"], 1)) if math.isfinite(row["used"]) else None
