"""The command `reproduce`: lists the published tables, runs their cells, shows published beside measured."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from automixsearch.commands.terminal import add_json, add_results, console, declare, dump_json, number, positive, say
from automixsearch.reproduce.settings import MARGIN, SCALES, SHARE, Changes, missing, read_changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from automixsearch.reproduce.registry import Cell, Table


def add(commands: Any) -> None:
    """Declare the command."""
    sub = declare(
        commands,
        reproduce_command,
        "Measure figures of published tables again: list them, run their cells, show both side by side.",
    )
    sub.add_argument(
        "table",
        metavar="TABLE[:CELLS]",
        nargs="?",
        help="e.g. automix_small_scale:CIFAR-100/ResNet-18/MixUp,AutoMix, or dm_toy:#3-5",
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.path=DIR automix.variant=paper")
    sub.add_argument("--list", action="store_true", help="the tables, or the cells of one; nothing is run")
    sub.add_argument("--show", action="store_true", help="what was measured so far; nothing is run")
    sub.add_argument("--dry-run", action="store_true", help="what would be run: studies, epochs, configs")
    scales = "; ".join(f"{name}: {what}" for name, what in SCALES.items())
    sub.add_argument("--scale", default="tiny", metavar="SCALE", help=f"{scales} (tiny)")
    sub.add_argument("--share", type=_share, default=SHARE, metavar="S", help=f"of the epochs, for short ({SHARE:g})")
    sub.add_argument("--seeds", type=positive, metavar="N", help="replicates of each cell (3; --show: all there are)")
    sub.add_argument(
        "--margin", type=_points, default=MARGIN, metavar="POINTS", help=f"that do not matter ({MARGIN:g})"
    )
    add_results(sub)
    sub.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster; auto: the one on this machine")
    sub.add_argument("--retry-failed", action="store_true", help="run the trials that failed again")
    sub.add_argument("--debug", action="store_true", help="in this process, without Ray: breakpoints work")
    sub.add_argument("--lines", action="store_true", help="a line for each trial that ends, instead of the live view")
    add_json(sub, "everything")


def _number(text: str, least: float, most: float, rule: str) -> float:
    try:
        value = number(text)
    except (ValueError, argparse.ArgumentTypeError):
        value = math.nan
    if not least < value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} must be {rule}")
    return value


def _share(text: str) -> float:
    return _number(text, 0, 1, "a number above 0, at most 1")


def _points(text: str) -> float:
    return _number(text, 0, 100, "a number above 0, at most 100")


def reproduce_command(args: argparse.Namespace) -> int:
    from automixsearch.errors import SpecError
    from automixsearch.reproduce.registry import TABLES, select

    overrides = list(args.overrides)
    if args.table is not None and "=" in args.table and args.table.partition(":")[0] not in TABLES:
        overrides.insert(0, args.table)
        args.table = None
    cells = select(args.table) if args.table is not None else ()
    if args.list:
        return _list(args, cells)
    if not cells:
        raise SpecError(f"which table? One of {', '.join(TABLES)}; automixsearch reproduce --list says more")
    changes = read_changes(overrides)
    if args.dry_run:
        return _dry_run(args, cells, changes)
    interrupted = False if args.show else _run(args, cells, changes)
    return _report(args, cells, changes, interrupted)


def _run(args: argparse.Namespace, cells: Sequence[Cell], changes: Changes) -> bool:
    """Run what is missing; whether the user stopped it."""
    from automixsearch.commands.watch import Watch
    from automixsearch.reproduce.studies import SEEDS, run

    def watch() -> Watch:
        return Watch(console(stderr=True), lines=args.lines or args.debug)

    ended = run(
        cells, args.scale, args.seeds or SEEDS, args.results, args.address, changes, share=args.share, watcher=watch,
        retry_failed=args.retry_failed, debug=args.debug,
    )  # fmt: skip
    return any(result.interrupted for result in ended)


def _dry_run(args: argparse.Namespace, cells: Sequence[Cell], changes: Changes) -> int:
    from automixsearch.reproduce.studies import SEEDS, studies
    from automixsearch.show import make_table

    seeds = args.seeds or SEEDS
    columns = studies(cells, args.scale, seeds, args.results, changes, args.share)
    rows = [
        {"study": column.name, "cells": [cell.name for cell in column.cells], "epochs": column.space.budget.epochs,
         "runs": column.wanted, "done": column.done,
         "configs": {arm: config.model_dump(mode="json") for arm, config in column.plans.items()}}
        for column in columns
    ]  # fmt: skip
    left_out = [{"cell": cell.name, "missing": reason} for cell in cells if (reason := missing(cell))]
    if args.json:
        print(dump_json({"scale": args.scale, "seeds": seeds, "studies": rows, "left_out": left_out}))
        return 0
    out = console()
    table = make_table(f"Would be run at scale {args.scale}", ("study", "cells", "runs", "done", "epochs of each"))
    for row in rows:
        table.add_row(row["study"], str(len(row["cells"])), str(row["runs"]), str(row["done"]), str(row["epochs"]))
    out.print(table)
    for column in columns:
        for arm, config in column.plans.items():
            say(f"# {column.name}: {arm}\n{config.to_yaml()}---")
    for row in left_out:
        out.print(f"left out: {row['cell']} ({row['missing']})", highlight=False)
    made = {config.recipe.weights for column in columns for config in column.plans.values()} - {"", "library"}
    if args.scale == "tiny" and made:
        say(f"made by the first run: {', '.join(sorted(made))}")
    runs, epochs = (sum(row["runs"] - row["done"] for row in rows),
                    sum((row["runs"] - row["done"]) * row["epochs"] for row in rows))  # fmt: skip
    out.print(f"{runs} runs, {epochs} epochs, in {len(rows)} studies. Each config trains by itself too: automixsearch "
              "train FILE", highlight=False)  # fmt: skip
    return 0


def _report(args: argparse.Namespace, cells: Sequence[Cell], changes: Changes, interrupted: bool) -> int:
    """Print published beside measured; the exit status is that of a search."""
    from automixsearch.config.identity import data_measured
    from automixsearch.reproduce.outcome import columns, outcomes
    from automixsearch.reproduce.tables import gap_table, order_sentence, outcome_table, remarks
    from automixsearch.reproduce.verdict import Verdict

    found = outcomes(
        cells, args.scale, args.results, changes=changes, share=args.share, margin=args.margin, seeds=args.seeds
    )
    compared = columns(found)
    nothing = all(each.verdict in (Verdict.NOT_RUN, Verdict.MISSING, Verdict.OTHER_MACHINE) for each in found)
    status = 130 if interrupted else 1 if nothing and not args.show else 0
    if args.json:
        print(dump_json({"cells": [each.row() for each in found], "columns": [each.row() for each in compared]}))
        return status
    out = console()
    out.print(outcome_table(found, f"{cells[0].table} at scale {args.scale}"))
    if args.scale != "paper":
        for column in compared:
            out.print(gap_table(column))
    for column in compared:
        out.print(order_sentence(column), highlight=False)
    for line in remarks(found, args.scale, args.margin):
        out.print(line, highlight=False)
    asked = {f"data.{key}": value for key, value in data_measured(changes.data).items()}
    if asked | dict(changes.knobs):
        changed = ", ".join(f"{name} = {value}" for name, value in (asked | dict(changes.knobs)).items())
        out.print(f"Changed by you: {changed}.", highlight=False)
    if interrupted:
        out.print("Stopped early; nothing is lost. The same command goes on.")
    return status


def _list(args: argparse.Namespace, cells: Sequence[Cell]) -> int:
    from automixsearch.reproduce.registry import TABLES

    if not cells:
        rows = [table_row(table) for table in TABLES.values()]
        print(dump_json(rows)) if args.json else _print_tables(console(), rows)
        return 0
    rows = [cell_row(cell) for cell in cells]
    print(dump_json(rows)) if args.json else _print_cells(console(), cells, rows)
    return 0


def table_row(table: Table) -> dict[str, Any]:
    """What `--list` says of a table: its cells, how many of them can be measured, what the others lack."""
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
    return {
        "number": cell.number,
        "cell": cell.name,
        **cell.content(),
        "std": cell.std,
        "alpha": cell.alpha,
        "missing": missing(cell),
    }


def _print_tables(out: Console, rows: Sequence[dict[str, Any]]) -> None:
    from automixsearch.show import make_table

    table = make_table("Published tables")
    table.add_column("table", no_wrap=True)  # to be copied
    table.add_column("what", overflow="fold")
    table.add_column("measurable", justify="right", no_wrap=True)
    table.add_column("missing", overflow="fold")
    for row in rows:
        lacking = "; ".join(f"{count} x {reason}" for reason, count in row["missing"].items())
        table.add_row(row["table"], row["title"], f"{row['runnable']} of {row['cells']}", lacking or "-")
    out.print(table)
    total, runnable = sum(row["cells"] for row in rows), sum(row["runnable"] for row in rows)
    out.print(f"{total} figures, {runnable} of which can be measured here. The cells of a table: --list TABLE")


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
