"""How answers are worded: cells of tables, names, lists of them, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite, nan
from typing import Any, TypeVar

from automixsearch.analysis.estimate import Estimate
from automixsearch.errors import StudyError
from automixsearch.report import charts
from automixsearch.report.parts import Column
from automixsearch.results.schema import in_percent
from automixsearch.show import brief

T = TypeVar("T")
MOST_NAMED = 6
"""Methods or knobs that one sentence names."""


def ask(question: Callable[[], T]) -> tuple[T | None, str]:
    """The answer, or why there is none and what would be needed."""
    try:
        return question(), ""
    except StudyError as error:
        text = str(error)
        start, colon, rest = text.partition(": ")
        text = rest if colon and start.startswith("study ") else text
        return None, text[:1].upper() + text[1:] + "."


def listed(words: Iterable[str]) -> str:
    """`a, b and c`; long lists are cut."""
    names = list(words)
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def short(knob: str) -> str:
    """A knob's name without what the ledger's column says before it."""
    return knob.removeprefix("knob.")


def unit(name: str) -> str:
    """A metric with its unit."""
    return f"{name} %" if in_percent(name) else name


def file_name(name: str) -> str:
    """A name as files can have it."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in str(name))[:60]


def plain(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A getter of a value's text."""
    return lambda row: brief(row.get(name))


def text_of(name: str) -> Any:
    """A getter of a column's value, in words."""
    return lambda row: brief(row.get(name)) if isinstance(row.get(name), float) else str(row.get(name, ""))


def points(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A getter of a difference's text, with the digits of an estimate."""
    return lambda row: str(Estimate(number(row.get(name))))


def p_text(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A getter of a p-value's text."""

    def text(row: Mapping[str, Any]) -> str:
        value = number(row.get(name))
        return "-" if not isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"

    return text


def estimate(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A getter of an estimate's text from the three columns of a row."""
    return lambda row: str(Estimate(*_ends(row, name)))


def marked(name: str, rows: Sequence[Mapping[str, Any]], inks: Mapping[str, charts.Ink], label: str) -> Column:
    """A column of an estimate with its drawing, all on one scale."""
    span = charts.limits(value for row in rows for value in _ends(row, name))
    text = estimate(name)

    def draw(row: Mapping[str, Any]) -> str:
        what = f"{row['method']}, {label}: {text(row)}"
        return charts.interval_mark(*_ends(row, name), span, inks[row["method"]], what)

    return Column(label, text, True, draw)


def _ends(row: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    """Value and interval of an estimate in a row."""
    return number(row.get(name)), number(row.get(f"{name}_low")), number(row.get(f"{name}_high"))


def number(value: Any) -> float:
    """A value of a row; NaN for none."""
    return nan if value is None else float(value)
