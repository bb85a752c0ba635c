"""Published beside measured, as tables and sentences for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from automixsearch.reproduce.outcome import Column, Outcome
from automixsearch.reproduce.verdict import MOST_RUNS, Verdict
from automixsearch.show import make_table

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {Verdict.REPRODUCED: "green", Verdict.DIFFERS: "red", Verdict.UNRESOLVED: "yellow"}


def outcome_table(found: Sequence[Outcome], title: str) -> Table:
    """A row for each cell: published, measured with its interval, the difference, the verdict."""
    from rich.text import Text

    table = make_table(title)
    table.add_column("#", justify="right")
    table.add_column("cell", overflow="fold")
    for name in ("published", "measured [95 %]", "difference [95 %]", "seeds"):
        table.add_column(name, justify="right")
    table.add_column("verdict", overflow="fold")
    for each in found:
        cell, judgement = each.cell, each.judgement
        spread = f" ±{cell.std:g}" if cell.std is not None else ""
        measured, difference = str(judgement.measured), f"{judgement.difference}"
        if each.parameters is not None:
            measured, difference = f"{each.parameters:,}", "-"
        elif each.verdict == Verdict.OTHER_SCALE:
            difference = "-"
        table.add_row(
            str(cell.number),
            cell.name,
            (cell.printed or "-") + spread,
            measured,
            difference,
            str(len(each.scores) or "-") + (f" ({len(each.problems)} failed)" if each.problems else ""),
            Text(words(each), style=STYLES.get(each.verdict, "")),
        )
    return table


def words(each: Outcome) -> str:
    """The verdict, with what a reader would ask next."""
    needed = each.judgement.runs_needed
    if each.verdict == Verdict.MISSING:
        return f"missing: {each.lacking}"
    if each.verdict == Verdict.UNRESOLVED and len(each.scores) == 1:
        return "unresolved: one seed"
    if needed is not None:
        return f"unresolved: needs {'more than ' if needed >= MOST_RUNS else 'about '}{needed} seeds"
    return str(each.verdict)


def gap_table(column: Column) -> Table:
    """The rows of a column as differences from one of them, published and measured."""
    title = f"{column.name}: against {column.against.row}"
    table = make_table(title)
    table.add_column("row")
    table.add_column("published", justify="right")
    table.add_column("measured [95 %], paired", justify="right")
    for cell, published, measured in column.gaps:
        text = str(measured)
        table.add_row(cell.row, f"{published:+.2f}", text if text.startswith("-") else f"+{text}")
    return table


def order_sentence(column: Column) -> str:
    """How the order of the rows agrees with the published one."""
    agreed = column.agreement
    told = (
        f"resolved pairs: {agreed.resolved} of {agreed.pairs}, of which {agreed.as_published} as published"
        if agreed.resolved
        else f"resolved pairs: none of {agreed.pairs}"
    )
    rank = f"Kendall's tau {agreed.tau:.2f} (p {agreed.p:.2g}); " if agreed.rows > 2 else ""
    return f"{column.name}: order of {agreed.rows} rows against the published one: {rank}{told}."


def remarks(found: Sequence[Outcome], scale: str, margin: float) -> Iterator[str]:
    """What has to be known beside the figures."""
    judged = [each for each in found if each.verdict in STYLES]
    if judged and any(each.scores for each in judged):
        yield (
            f"reproduced: within {margin:g} points of the published figure by two one-sided tests at 5 %; differs: the "
            f"interval lies outside of them. Figures without ± are taken as printed, though each is a run itself."
        )
    for each in found:
        for problem in dict.fromkeys(each.problems):
            yield f"#{each.cell.number}: {each.problems.count(problem)} failed with {problem}"
        if each.cell.conflicts:
            yield f"#{each.cell.number}: {'; '.join(each.cell.conflicts)}."
        if each.scores and each.cell.certainty not in ("printed", "inferred"):
            yield f"#{each.cell.number}: {each.cell.certainty}: {each.cell.note}."
    if scale != "tiny":
        different: dict[str, list[int]] = {}
        for each in found:
            for text in each.differs:
                different.setdefault(text, []).append(each.cell.number)
        everywhere = {number for numbers in different.values() for number in numbers}
        for text, numbers in different.items():
            which = "" if set(numbers) == everywhere else " (" + ", ".join(f"#{n}" for n in numbers) + ")"
            yield f"Not as published: {text}{which}."
