"""What a column of the ledger is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of the ledger; `needed` ones may not be null."""

    name: str
    kind: type
    note: str
    needed: bool = False
