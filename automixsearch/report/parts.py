"""What a report is made of: sections of sentences, tables and figures, written as HTML and as Markdown alike."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automixsearch.visible import csv_text

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table as people read it: its head, the text of a row's cell, and a drawing beside it (HTML)."""

    label: str
    text: Callable[[Row], str]
    numeric: bool = False
    mark: Callable[[Row], str] | None = None
    kind: str = ""
    """A class of the cell: verdict."""


@dataclass(frozen=True)
class Table:
    """Rows with all their values, and the columns that are shown; `name` is that of its CSV file."""

    name: str
    title: str
    rows: Sequence[Row]
    columns: Sequence[Column] = ()
    note: str = ""
    shown: int = 200
    """Rows on the page; all are in the CSV."""
    stacked: bool = False
    """Intervals stand below their values: for tables of many columns."""

    @property
    def csv(self) -> str:
        """All rows and values."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: plain(value) for name, value in row.items()} for row in self.rows)
        return out.getvalue()


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and what it shows."""

    name: str
    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Verdict:
    """A sentence and how it ends: better, worse, equivalent, unresolved, or what it is about: best, note."""

    kind: str
    sentence: str


@dataclass(frozen=True)
class Section:
    """One question and its answer. What cannot be answered stands in `missing`, with what would be needed."""

    key: str
    title: str
    says: Sequence[str] = ()
    """What it comes to, in sentences; the first part of the page."""
    about: str = ""
    """How to read it."""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    numbers: Sequence[Table] = ()
    """Tables behind the figures: CSV only."""
    missing: Sequence[str] = ()
    legend: str = ""
    """HTML."""
    verdicts: Sequence[Verdict] = ()
    """What of it stands at the top of the report."""

    @property
    def empty(self) -> bool:
        """Whether it holds nothing but why it cannot be answered."""
        return bool(self.missing) and not (self.says or self.figures or self.tables or self.numbers)


@dataclass(frozen=True)
class Report:
    """All of a report. `facts` are (label, value) pairs; `trials` is what the page's table of trials is made of."""

    study: str
    question: str
    about: str
    verdicts: Sequence[Verdict]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    trials: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answered(self) -> list[Section]:
        """The sections that say something."""
        return [section for section in self.sections if not section.empty]

    @property
    def unanswered(self) -> list[tuple[list[Section], str]]:
        """The others, those of one reason together, and what would be needed."""
        found: dict[str, list[Section]] = {}
        for section in self.sections:
            if section.empty:
                found.setdefault(" ".join(section.missing), []).append(section)
        return [(sections, reason) for reason, sections in found.items()]

    @property
    def tables(self) -> list[Table]:
        """Every table that has a CSV file."""
        return [table for section in self.sections for table in (*section.tables, *section.numbers)]


def plain(value: Any) -> Any:
    """A value as a CSV file holds it: nothing for None and NaN, true and false in lower case."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return csv_text(value) if isinstance(value, str) else value
