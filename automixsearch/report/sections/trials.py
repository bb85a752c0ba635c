"""Every ended trial, as a table that the page sorts and filters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from automixsearch.report.parts import Section
from automixsearch.report.wording import short, unit
from automixsearch.results.schema import in_percent
from automixsearch.results.study import Study
from automixsearch.show import brief, error_of, not_cleared, policy_of, varied
from automixsearch.visible import visible

CURVE_POINTS = 16
"""Epochs of a trial's small curve in the table of trials."""
MOST_CURVES = 20_000
"""Trials whose curves still fit into the page."""
MOST_KNOBS = 8
"""Columns of knobs in the table of trials."""


def section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """What stands over the table, which the page fills in from `payload`."""
    about = "Every ended trial. Click a head to sort; the filters act together; the CSV holds what they leave."
    failed: dict[str, int] = {}
    for row in rows:
        if row["state"] == "failed":
            failed[row["error_class"] or "unknown"] = failed.get(row["error_class"] or "unknown", 0) + 1
    says = [
        f"{sum(failed.values())} trials failed: " + ", ".join(f"{n} with {name}" for name, n in failed.items()) + "."
    ]
    return Section("trials", "Trials", says if failed else [], about)


def payload(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The trials as columns, for the page: words as codes, numbers rounded to what is read, a short curve of each."""
    metrics = list(dict.fromkeys([*study.objective, "val_top1", "test_top1"]))
    runs = {run["number"]: run for run in (study.info.get("design") or {}).get("runs", ())}
    columns: list[dict[str, Any]] = []

    def add(name: str, label: str, values: list[Any], kind: str = "text", **more: Any) -> None:
        if name in ("trial_id", *metrics[:1]) or any(value is not None for value in values):
            columns.append({"name": name, "label": label, "kind": kind, "values": values} | more)

    def words(name: str, label: str, values: list[Any], **more: Any) -> None:
        texts = [None if value is None else visible(str(value)) for value in values]
        listed = sorted({text for text in texts if text is not None})
        codes = {word: code for code, word in enumerate(listed)}
        coded = [-1 if text is None else codes[text] for text in texts]
        if listed:
            add(name, label, coded, words=listed, **more)

    def numbers(name: str, label: str, values: list[Any], digits: int, **more: Any) -> None:
        add(
            name,
            label,
            [None if v is None else round(float(v), digits + 2) for v in values],
            "number",
            digits=digits,
            **more,
        )

    def of(name: str) -> list[Any]:
        return [row.get(name) for row in rows]

    add("trial_id", "trial", [visible(trial_id) for trial_id in of("trial_id")])
    for name in metrics:
        way = {"sorted": "down" if study.sign(name) > 0 else "up"} if name == metrics[0] else {}
        numbers(name, unit(name), of(name), 2 if in_percent(name) else 4, **way)
        if name == metrics[0]:
            note = "95 % error of the number of validation images alone"
            numbers("error", "±", [error_of(row, name) for row in rows], 1, note=note)
            note = "share of the largest class, where the accuracy does not clear it"
            numbers("majority", "majority %", [not_cleared(row, "val_top1") for row in rows], 2, note=note)
    words("policy", "policy", [policy_of(row) for row in rows])
    for name in ("method", "state", "purpose"):
        words(name, name, of(name), filter=True, hidden=name == "method" or len(set(of(name))) == 1)
    if runs:
        words("arm", "arm", [runs.get(row["number"], {}).get("arm") for row in rows], filter=len(runs) < 2000)
        add("replicate", "replicate", [runs.get(row["number"], {}).get("replicate") for row in rows], "number")
    for name in varied(rows)[:MOST_KNOBS]:
        if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in of(name)):
            add(name, short(name), [None if v is None else float(f"{v:.4g}") for v in of(name)], "number")
        else:
            words(name, short(name), [None if value is None else brief(value) for value in of(name)])
    add("epochs_run", "epochs", of("epochs_run"), "number")
    numbers("device_s", "device s", of("device_s"), 1)
    if len(set(of("split_seed"))) > 1:
        add("split_seed", "split", [None if seed is None else str(seed) for seed in of("split_seed")])
    # Nineteen digits that nobody reads take the room of three columns; trials.csv has them.
    add("seed", "seed", [None if seed is None else str(seed) for seed in of("seed")], hidden=True)
    words("why", "why it ended", [_why(row) for row in rows], long=True)
    return {"count": len(rows), "columns": columns} | _curves(study, rows)


def _why(row: Mapping[str, Any]) -> str | None:
    if row["state"] == "failed":
        return f"{row['error_class'] or 'unknown'}: {(row['error_message'] or '').strip().partition(chr(10))[0][:300]}"
    return row["stop_reason"]


def _curves(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The course of each trial in a few points; nothing where there are no epochs, or too many trials for a page."""
    metric = study.followed
    epochs = study.store.read("epochs", ["trial_id", "epoch", metric]).sort_by("epoch")
    if not epochs.num_rows or len(rows) > MOST_CURVES:
        return {}
    found: dict[str, list[float]] = {}
    for trial_id, value in zip(epochs["trial_id"].to_pylist(), epochs[metric].to_pylist(), strict=True):
        if value is not None:
            found.setdefault(trial_id, []).append(value)
    longest = max(map(len, found.values()), default=1)
    step = max(1, math.ceil(longest / CURVE_POINTS))
    digits = 1 if in_percent(metric) else 3
    curves = [[round(value, digits) for value in found.get(row["trial_id"], [])[::step]] for row in rows]
    values = [value for curve in curves for value in curve]
    if not values:
        return {}
    return {
        "curves": curves,
        "curve_label": metric,
        "curve_range": [min(values), max(values)],
        "curve_points": max(2, max(map(len, curves))),
    }
