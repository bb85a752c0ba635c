"""How trials learned, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from automixsearch.report import charts
from automixsearch.report.parts import Figure, Section, Table
from automixsearch.report.wording import file_name, unit
from automixsearch.results.study import Study
from automixsearch.show import policy_of

GHOSTS = 24
"""Other trials of a method that stand faintly behind its best one."""


def section(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section:
    """How the best trial of each method learned, and faintly how others of it did."""
    metric = study.followed
    epochs = study.store.read("epochs", ["trial_id", "epoch", metric])
    curves: dict[str, list[tuple[int, float]]] = {}
    for trial_id, epoch, value in zip(
        *(epochs[name].to_pylist() for name in ("trial_id", "epoch", metric)), strict=True
    ):
        if value is not None:
            curves.setdefault(trial_id, []).append((epoch, value))
    title = "Learning curves"
    if not curves:
        return Section(
            "learning",
            title,
            missing=["No epochs: the ledger of this study holds none; a search or a study writes one row for each."],
        )
    sign = study.sign(metric)
    inks = charts.inks(row["method"] for row in rows)
    chosen: dict[str, tuple[Mapping[str, Any], list[Mapping[str, Any]]]] = {}
    for method in charts.in_order(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row["trial_id"] in curves]
        done = [row for row in own if row["state"] == "complete" and row.get(metric) is not None]
        if not done:
            continue
        done.sort(key=lambda row: -sign * row[metric])
        others = [row for row in own if row is not done[0]]
        others = others[:: max(1, math.ceil(len(others) / GHOSTS))]
        chosen[method] = (done[0], others)
    figures, numbers = [], []
    shown = [row["trial_id"] for first, others in chosen.values() for row in (first, *others)]
    reach = charts.limits(value for trial_id in shown for _, value in curves[trial_id])
    for method, (first, others) in chosen.items():
        drawn = [
            charts.Line(
                row["trial_id"],
                *_xy(curves[row["trial_id"]]),
                points=row is first,
                ghost=row is not first,
                ink=inks[method],
            )
            for row in (*others, first)
        ]
        longest = max(len(line.x) for line in drawn)
        drawn = [
            charts.Line(line.name, line.x, line.y, ink=line.ink, ghost=line.ghost, points=longest <= 30 and line.points)
            for line in drawn
        ]
        axis = charts.Axis(unit(metric), low=reach[0], high=reach[1])
        svg = charts.lines(f"Learning curves of {method}", charts.Axis("epoch", whole=True), axis, drawn)
        faint = f"; faint: {len(others)} other{'s' * (len(others) > 1)}" if others else ""
        figures.append(
            Figure(f"learning-{file_name(method)}", method, svg, f"{first['trial_id']}: {policy_of(first)}{faint}")
        )
        numbers += [
            {"method": method, "trial_id": line.name, "epoch": x, metric: y}
            for line in drawn
            for x, y in zip(line.x, line.y, strict=True)
        ]
    missing = [] if figures else ["No trial with epochs is complete yet: curves are drawn once one is."]
    return Section(
        "learning",
        title,
        about=f"{unit(metric)} after every epoch: in colour the best complete trial of each method, faintly others of "
        "the same method; all axes alike.",
        figures=figures,
        numbers=[Table("learning-curves", "", numbers)] if numbers else [],
        missing=missing,
    )


def _xy(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    points = sorted(points)
    return [float(x) for x, _ in points], [y for _, y in points]
