"""One hyperparameter, declared once: its default, legal range, searched range and meaning.

Every table, check and column that mentions a hyperparameter is derived from these declarations.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from automixsearch.errors import SpecError, unknown

Scalar = bool | int | float | str
T = TypeVar("T")


@dataclass(frozen=True)
class Knob:
    """A declared hyperparameter.

    `low` and `high` bound what is legal (inclusive; `open_low` excludes the lower end). `search` is what a space
    gets that says `auto`: a (low, high) pair, or a list of choices; None where the knob is not worth searching.
    """

    name: str
    kind: type
    default: Scalar
    note: str
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    choices: tuple[Scalar, ...] | None = None
    search: tuple[Scalar, ...] | None = None
    log: bool = False
    several: bool = False
    """The value is one of `choices` or several of them joined by +."""
    word: str | None = None
    """The value is a path, this word or nothing."""

    @property
    def legal(self) -> str:
        """The legal values in words, e.g. `> 0`, `0 to 1`, `one of zero, reflect`."""
        if self.choices is not None:
            number = "one or more (joined by +) of " if self.several else "one of "
            return number + ", ".join(str(choice).lower() for choice in self.choices)
        if self.kind is str:
            return "any text" if self.word is None else f"a path, {self.word} or nothing"
        if self.low is not None and self.high is not None:
            return f"{'> ' if self.open_low else ''}{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{'>' if self.open_low else '>='} {self.low:g}"
        return f"<= {self.high:g}" if self.high is not None else f"any {self.kind.__name__}"

    @property
    def searched(self) -> str:
        """The range that `auto` stands for, in words; empty where there is none."""
        if self.search is None:
            return ""
        if self.choices is not None:
            return ", ".join(str(choice).lower() for choice in self.search)
        low, high = self.search
        return f"{low:g} to {high:g}{' (log)' if self.log else ''}"

    def check(self, value: object, where: str) -> Scalar:
        """Return `value` in the knob's type.

        Raises:
            SpecError: the value has the wrong type or lies outside the legal range; `where` names the place.
        """
        if self.several and isinstance(value, str):
            return self._in_order(value.split("+"), where)
        if self.choices is not None:
            for choice in self.choices:
                if type(value) is type(choice) and value == choice:
                    return choice
            raise SpecError(f"{where}: {unknown('value', value, self.choices)}")
        if self.kind is str:
            return self._text(value, where)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SpecError(f"{where} = {value!r} must be a finite {_WORDS[self.kind]} ({self.legal})")
        if self.kind is int and value != int(value):
            raise SpecError(f"{where} = {value!r} must be a whole number ({self.legal})")
        below = self.low is not None and (value <= self.low if self.open_low else value < self.low)
        if below or (self.high is not None and value > self.high):
            raise SpecError(f"{where} = {value!r} must be {self.legal}; default: {self.default!r}")
        return self.kind(value)

    def _text(self, value: object, where: str) -> str:
        """Any text; a path is made absolute, as workers and exported configs are read in other directories."""
        if not isinstance(value, str):
            raise SpecError(f"{where} = {value!r} must be {self.legal}; put it in quotes")
        if self.word is None or value in ("", self.word):
            return value
        if not {"/", ".", os.sep} & set(value):
            raise SpecError(f"{where} = {value!r} must be {self.legal}; for a file of this directory use ./{value}")
        return os.path.abspath(os.path.expanduser(value))

    def _in_order(self, parts: list[str], where: str) -> str:
        """The parts joined by +, in the order of the choices, so that every set has one spelling."""
        choices = [str(choice) for choice in self.choices or ()]
        for part in parts:
            if part not in choices:
                raise SpecError(f"{where}: {unknown('value', part, choices)}")
        if len(set(parts)) < len(parts):
            raise SpecError(f"{where} = {'+'.join(parts)!r} names a value twice; keep one of each")
        return "+".join(choice for choice in choices if choice in parts)


_WORDS = {float: "number", int: "whole number"}


def knob(
    default: Scalar,
    note: str,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    choices: tuple[Scalar, ...] | None = None,
    search: tuple[Scalar, ...] | None = None,
    log: bool = False,
    several: bool = False,
    word: str | None = None,
) -> Any:
    """Declare a dataclass field as a hyperparameter; see `Knob` for the arguments."""
    if isinstance(default, bool):
        choices = (False, True)
    if search is None and choices is not None and len(choices) > 1 and isinstance(default, bool):
        search = choices
    made = Knob("", type(default), default, note, low, high, open_low, choices, search, log, several, word)
    return dataclasses.field(default=default, metadata={"knob": made})


def knobs_of(owner: type) -> dict[str, Knob]:
    """The knobs that the dataclass `owner` declares, by name, in the order of declaration."""
    return {
        field.name: dataclasses.replace(field.metadata["knob"], name=field.name)
        for field in dataclasses.fields(owner)
        if "knob" in field.metadata
    }


def published_for(table: Mapping[str, Mapping[str, T]], family: str, backbone: object = "") -> dict[str, T]:
    """What a `published` has for a family of data sets, and over it what it has for one backbone there."""
    return {**table.get(family, {}), **table.get(f"{family}/{backbone}", {})}


class Knobbed:
    """Base of the frozen dataclasses whose fields are knobs: construction checks every value by name."""

    def __post_init__(self) -> None:
        for name, declared in knobs_of(type(self)).items():
            where = f"{type(self).__name__}.{name}"
            object.__setattr__(self, name, declared.check(getattr(self, name), where))
