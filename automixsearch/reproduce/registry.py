"""Every figure of the tables in the AutoMix and Decoupled Mixup slides, as cells with all that is known of them.

`cells.csv` beside this file is the truth: one row for each printed figure, and `tables.csv` for each table. What can be
derived from it (which cells a gain is the difference of, where sources contradict each other) is computed here, not
written down twice.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from automixsearch.errors import SpecError, unknown

CELLS = Path(__file__).with_name("cells.csv")

CERTAINTY = {
    "printed": "printed, and so is what it was measured on",
    "inferred": "something is not printed, but follows from equal figures elsewhere",
    "assumed": "something is not printed, and is a guess",
    "uncertain": "labels of its row or column are lost",
    "suspect": "printed, but an error of the authors is likely",
    "lost": "the figure itself is lost",
}
"""How much of a cell is known."""

SAME = 0.005
"""Figures are printed with two digits: closer ones are equal."""


@dataclass(frozen=True)
class Table:
    """A published table. paper: where it is from. measured: what its figures are, in words."""

    name: str
    title: str
    paper: str
    measured: str

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Its cells, in the order of the registry."""
        return tuple(cell for cell in cells() if cell.table == self.name)


@dataclass(frozen=True)
class Cell:
    """One published figure.

    number: place in its table, from 1. epochs: of the training; None where there is no such thing. printed: the figure
    as text, with its digits; empty where it is lost. std: printed deviation over runs. alpha: of the method, as
    OpenMixup has it for this data set and network. certainty: a key of CERTAINTY. elsewhere: what OpenMixup's
    tables have for the same cell, by document.
    """

    table: str
    number: int
    dataset: str
    backbone: str
    epochs: int | None
    setting: str
    method: str
    loss: str
    metric: str
    printed: str
    std: float | None
    alpha: str
    certainty: str
    note: str
    elsewhere: Mapping[str, float] = field(hash=False)

    @property
    def value(self) -> float | None:
        """The published figure, in the unit of its metric (accuracies in percent)."""
        return float(self.printed) if self.printed else None

    @property
    def column(self) -> tuple[str, str, int | None, str]:
        """What it shares with the cells that it is compared with: data set, network, epochs, number of labels."""
        return self.dataset, self.backbone, self.epochs, self.setting if "labels" in self.setting else ""

    @property
    def row(self) -> str:
        """What tells it from the other measured cells of its column: method, loss, and a row without a label."""
        loss = self.loss if self.loss not in ("", "MCE") and self.table.startswith("dm_") else ""
        return " ".join(part for part in (self.setting if "row" in self.setting else "", self.method, loss) if part)

    @property
    def name(self) -> str:
        """Data set, network and method, with what else tells it from its neighbours."""
        epochs = str(self.epochs) if self.table == "automix_imagenet" else ""
        metric = "" if self.metric == "top1" else self.metric
        return "/".join(
            part for part in (self.dataset, self.backbone, epochs, self.column[3], self.row, metric) if part
        )

    def content(self) -> dict[str, Any]:
        """Its plain values by name, for JSON."""
        names = ["dataset", "backbone", "epochs", "setting", "method", "loss", "metric", "certainty", "note"]
        values = {name: getattr(self, name) for name in names}
        return {**values, "published": self.value, "conflicts": list(self.conflicts)}

    @property
    def derived(self) -> bool:
        """Whether it is computed from other cells: a gain."""
        return "gain" in self.metric

    @cached_property
    def terms(self) -> tuple[tuple[float, Cell], ...]:
        """The cells that it is the weighted sum of; itself, where it was measured."""
        return _terms(self) if self.derived else ((1.0, self),)

    @property
    def arithmetic(self) -> float | None:
        """What a derived cell should be by the figures that it is derived from."""
        values = [(weight, cell.value) for weight, cell in self.terms]
        if not self.derived or any(value is None for _, value in values):
            return None
        return sum(weight * value for weight, value in values if value is not None)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Where this figure is contradicted: by OpenMixup's tables, by its own table's arithmetic, by another table."""
        if self.value is None:
            return ()
        others: dict[float, list[str]] = {}
        for document, value in self.elsewhere.items():
            if abs(value - self.value) > SAME:
                others.setdefault(value, []).append(document)
        found = [f"OpenMixup has {value:.2f} ({', '.join(documents)})" for value, documents in others.items()]
        computed = self.arithmetic
        if computed is not None and abs(computed - self.value) > 3 * SAME:
            found.append(f"the rows give {computed:.2f}")
        for cell in _twins().get(_key(self), ()):
            if cell.table != self.table and cell.value is not None and abs(cell.value - self.value) > SAME:
                found.append(f"{cell.table} has {cell.printed}")
        return tuple(found)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", newline="") as content:
        yield from csv.DictReader(content)


TABLES = {row["name"]: Table(**row) for row in _rows(Path(__file__).with_name("tables.csv"))}
"""Every table of the slides, by name."""


@cache
def cells() -> tuple[Cell, ...]:
    """Every published figure, table by table."""
    numbers: dict[str, int] = {}
    found = []
    for row in _rows(CELLS):
        number = numbers[row["table"]] = numbers.get(row["table"], 0) + 1
        elsewhere = (part.partition("=") for part in row.pop("openmixup").split())
        values = {
            "number": number,
            "epochs": int(row.pop("epochs") or 0) or None,
            "printed": row.pop("value"),
            "std": float(std) if (std := row.pop("std")) else None,
            "elsewhere": {document: float(value) for document, _, value in elsewhere},
        }
        found.append(Cell(**values, **row))
    return tuple(found)


def find_table(name: str) -> Table:
    """A table by its name.

    Raises:
        SpecError: there is none; names the nearest.
    """
    if name not in TABLES:
        raise SpecError(unknown("table", name, TABLES))
    return TABLES[name]


def select(target: str) -> tuple[Cell, ...]:
    """The cells that `TABLE[:CELLS]` names, in the order of the table.

    CELLS is a path such as `CIFAR-100/ResNet-18/MixUp,AutoMix`. Every part lists what a cell may have: a data set, a
    network, a method (all its losses), a loss, a number of epochs, a setting, a metric, a kind, or numbers of cells
    (`#3`, `#10-14`). A cell is chosen where every part names it. Case, dashes and spaces do not matter.

    Raises:
        SpecError: a name is unknown (names the nearest), or no cell has all of them.
    """
    name, _, path = target.partition(":")
    table = find_table(name.strip())
    chosen = list(table.cells)
    for part in path.split("/"):
        names = [word.strip() for word in part.split(",") if word.strip()]
        if names:
            allowed = {cell.number for word in names for cell in _named(table, word)}
            chosen = [cell for cell in chosen if cell.number in allowed]
    if not chosen:
        raise SpecError(
            f"{target}: no cell has all of these; automixsearch reproduce --list {table.name} lists the cells"
        )
    return tuple(chosen)


def _named(table: Table, word: str) -> list[Cell]:
    """The cells of a table that a word names."""
    numbers = re.fullmatch(r"#?(\d+)(?:-#?(\d+))?", word) if word.startswith("#") else None
    if numbers:
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not 1 <= first <= last <= len(table.cells):
            raise SpecError(f"{table.name}: {word} must lie within #1 to #{len(table.cells)}")
        return list(table.cells[first - 1 : last])
    by_name: dict[str, list[Cell]] = {}
    shown: dict[str, str] = {}
    for cell in table.cells:
        for known in _names(cell):
            by_name.setdefault(_plain(known), []).append(cell)
            shown.setdefault(_plain(known), known)
    if _plain(word) not in by_name:
        raise SpecError(f"{table.name}: {unknown('cell', word, shown.values())}")
    return by_name[_plain(word)]


def _names(cell: Cell) -> set[str]:
    """All that may name a cell."""
    names = {cell.dataset, cell.backbone, cell.setting, cell.metric, str(cell.epochs or "")}
    if cell.metric != "gain_top1":  # AutoMix names what was measured, not what it gained
        names |= {cell.method, cell.loss, f"{cell.method} {cell.loss}" if cell.loss else "", cell.row}
    if cell.backbone.startswith("Res"):
        kind = "RX-" if cell.backbone.startswith("ResNeXt") else "R-"
        names |= {cell.backbone.removesuffix("-32x4d"), kind + cell.backbone.split("-")[1]}
    return names - {""}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


# Gains ---------------------------------------------------------------------------------------------------------


def _terms(cell: Cell) -> tuple[tuple[float, Cell], ...]:
    """A gain as a weighted sum of the cells of its column."""
    rows = [other for other in find_table(cell.table).cells if other.column == cell.column and other.metric == "top1"]
    by_row = {(row.method, row.loss): row for row in rows}
    if cell.metric == "gain_top1":
        own = by_row[cell.method, cell.loss]
        return (1.0, own), (-1.0, max((row for row in rows if row is not own), key=lambda row: row.value or 0.0))
    if cell.loss:  # over methods, of one loss against the other
        pairs = [(row, by_row[row.method, "MCE"]) for row in rows if row.loss == "DM(CE)"]
    else:
        plain = {row.method: row for row in rows}
        against = {"Self-Tuning+DM": "Self-Tuning+Mixup"}
        pairs = [
            (row, plain[against.get(row.method, row.method.removesuffix("+DM"))])
            for row in rows
            if row.method.endswith("+DM")
        ]
        if cell.method.startswith("Avg. of MixMatch"):
            pairs = [pair for pair in pairs if pair[0].method in ("MixMatch+DM", "FixMatch+DM")]
    share = 1 / len(pairs)
    return tuple(term for new, old in pairs for term in ((share, new), (-share, old)))


def _key(cell: Cell) -> tuple[object, ...]:
    """Equal for cells of different tables that were measured on the same thing."""
    loss = cell.loss if cell.loss not in ("MCE",) else ""
    setting = cell.setting if re.search(r"row|labels", cell.setting) else ""
    return cell.dataset, cell.backbone, cell.epochs, setting, cell.method, loss, cell.metric


@cache
def _twins() -> dict[tuple[object, ...], list[Cell]]:
    found: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells():
        if not cell.derived:
            found.setdefault(_key(cell), []).append(cell)
    return {key: same for key, same in found.items() if len(same) > 1}
