"""What a column of the ledger is."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of the ledger and the rules of its values; `needed` ones may not be null.

    Numbers are finite, within `low` and `high`, and no larger than that in the column `limit`; words match `pattern` as
    a whole; times lie in the years from 1970 on that have four digits.
    """

    name: str
    kind: type
    note: str
    needed: bool = False
    low: float = -math.inf
    high: float = math.inf
    limit: str = ""
    pattern: str = ""


def percent(name: str, note: str) -> Column:
    """An accuracy."""
    return Column(name, float, note, low=0, high=100)


def amount(name: str, note: str, kind: type = float, limit: str = "") -> Column:
    """A number that is never below 0: a count, a cost, a cross-entropy."""
    return Column(name, kind, note, low=0, limit=limit)


def share(name: str, note: str) -> Column:
    """A number from 0 to 1."""
    return Column(name, float, note, low=0, high=1)
