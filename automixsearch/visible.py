"""Stored text on its way to people: what a terminal or a spreadsheet would act upon is shown instead."""

from __future__ import annotations

import re

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
"""What a text cannot begin with in a CSV file: spreadsheets take it for a formula, or drop it."""


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def visible(what: object, lines: bool = False) -> str:
    r"""A text, or a path, with escapes (`\x1b`, `\u202e`) for whatever is not printed: control characters, marks that
    turn the direction, line breaks. With `lines`, line breaks and tabs stay."""
    text = str(what)
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode()
        for letter in text
    )


def without_colours(text: str) -> str:
    """The lines of a log, which may be coloured, without colours and with escapes for the rest."""
    return visible(_COLOUR.sub("", text).replace("\r\n", "\n"), lines=True)


def csv_text(text: str) -> str:
    """A text as a cell of a CSV file: with a `'` in front where it begins with one of `FORMULA` and is no number."""
    if not text.startswith(FORMULA) or _is_number(text):
        return text
    return f"'{text}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip() == text
