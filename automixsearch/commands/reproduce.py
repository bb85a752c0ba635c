"""The command `reproduce`: lists the published tables, runs their cells, shows published beside measured."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from automixsearch.reproduce.registry import Cell, Table


def add(commands: Any) -> None:
    """Declare the command."""
    text = "Measure figures of published tables again: list them, run their cells, show both side by side."
    sub = commands.add_parser("reproduce", help=text, description=text)
    sub.set_defaults(run=reproduce_command)
    sub.add_argument(
        "table",
        metavar="TABLE[:CELLS]",
        nargs="?",
        help="e.g. automix_small_scale:CIFAR-100/ResNet-18/MixUp,AutoMix, or dm_toy:#3-5",
    )
    sub.add_argument("--list", action="store_true", help="the tables, or the cells of one; nothing is run")
    sub.add_argument("--json", action="store_true", help="print everything as JSON")


def reproduce_command(args: argparse.Namespace) -> int:
    from automixsearch.cli import console, dump_json
    from automixsearch.reproduce.registry import TABLES, select

    if args.table is None:
        rows = [table_row(table) for table in TABLES.values()]
        print(dump_json(rows)) if args.json else _print_tables(console(), rows)
        return 0
    cells = select(args.table)
    rows = [cell_row(cell) for cell in cells]
    print(dump_json(rows)) if args.json else _print_cells(console(), cells, rows)
    return 0


def table_row(table: Table) -> dict[str, Any]:
    """What `--list` says of a table: its cells, how many of them can be measured, what the others lack."""
    from automixsearch.reproduce.settings import missing

    lacking: dict[str, int] = {}
    for cell in table.cells:
        if not cell.derived and (reason := missing(cell)):
            kind = reason.partition(":")[0]
            lacking[kind] = lacking.get(kind, 0) + 1
    ranges: dict[str, list[float]] = {}
    for cell in table.cells:
        if cell.value is not None:
            ranges.setdefault(cell.metric, []).append(cell.value)
    return {
        "table": table.name,
        "title": table.title,
        "paper": table.paper,
        "measured": table.measured,
        "datasets": list(dict.fromkeys(cell.dataset for cell in table.cells)),
        "cells": len(table.cells),
        "runnable": sum(not missing(cell) for cell in table.cells),
        "missing": lacking,
        "published": {metric: [min(values), max(values)] for metric, values in ranges.items()},
    }


def cell_row(cell: Cell) -> dict[str, Any]:
    """What `--list TABLE` says of a cell."""
    from automixsearch.reproduce.settings import missing

    return {
        "number": cell.number,
        "cell": cell.name,
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "epochs": cell.epochs,
        "setting": cell.setting,
        "method": cell.method,
        "loss": cell.loss,
        "metric": cell.metric,
        "published": cell.value,
        "std": cell.std,
        "alpha": cell.alpha,
        "certainty": cell.certainty,
        "note": cell.note,
        "conflicts": list(cell.conflicts),
        "missing": missing(cell),
    }


def _print_tables(out: Console, rows: Sequence[dict[str, Any]]) -> None:
    from automixsearch.show import make_table

    table = make_table(
        "Published tables", ("table", "what", "cells", "can be measured", "published", "what is missing")
    )
    for row in rows:
        low, high = next(iter(row["published"].values()))
        lacking = "; ".join(f"{count} x {reason}" for reason, count in row["missing"].items())
        metric = next(iter(row["published"]))
        table.add_row(
            row["table"],
            row["title"],
            str(row["cells"]),
            str(row["runnable"]),
            f"{metric} {low:.2f} to {high:.2f}",
            lacking or "-",
        )
    out.print(table)
    total, runnable = sum(row["cells"] for row in rows), sum(row["runnable"] for row in rows)
    out.print(f"{total} figures, {runnable} of which can be measured here. The cells of one: --list TABLE")


def _print_cells(out: Console, cells: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> None:
    from automixsearch.reproduce.registry import find_table
    from automixsearch.show import make_table

    of = find_table(cells[0].table)
    notes = [cell.note.split("; ") for cell in cells]
    shared = [note for note in notes[0] if note and all(note in each for each in notes)]
    table = make_table(f"{of.name}: {of.title}", ("#", "cell", "published", "alpha", "certainty", "remarks"))
    for cell, row, noted in zip(cells, rows, notes, strict=True):
        lacking = [f"missing: {row['missing']}"] if row["missing"] else []
        spread = f" ±{cell.std:g}" if cell.std is not None else ""
        remarks = [*lacking, *cell.conflicts, *(note for note in noted if note and note not in shared)]
        table.add_row(
            str(cell.number),
            cell.name,
            (cell.printed or "-") + spread,
            cell.alpha or "-",
            cell.certainty,
            "; ".join(remarks) or "-",
        )
    out.print(table)
    out.print(f"{of.paper}. Figures are {of.measured}.", highlight=False)
    if shared:
        out.print(f"All of these: {'; '.join(shared)}.", highlight=False)
