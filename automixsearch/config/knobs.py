"""One hyperparameter, declared once: its default, legal range, searched range and meaning.

Every table, check and column that mentions a hyperparameter is derived from these declarations.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from automixsearch.errors import SpecError, brief_repr, shortened, unknown

__all__ = ["Knobbed", "knob"]

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
    packages: tuple[str, ...] = ()
    """The value is one of `choices`, or PACKAGE/NAME with one of these; what names there are is not known here."""

    @property
    def legal(self) -> str:
        """The legal values in words, e.g. `> 0`, `0 to 1`, `one of zero, reflect`."""
        if self.choices is not None:
            number = "one or more (joined by +) of " if self.several else "one of "
            named = (str(choice).lower() for choice in self.choices)
            return number + ", ".join([*named, *(f"{package}/NAME" for package in self.packages)])
        if self.kind is str:
            return "any text" if self.word is None else f"a path{', ' * bool(self.word)}{self.word} or nothing"
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
        arrived, value = value, normal(value, self.kind)
        if self.several and isinstance(value, str):
            return self._in_order(value.split("+"), where)
        if self.choices is not None:
            for choice in self.choices:
                if type(value) is type(choice) and value == choice:
                    return choice
            if isinstance(value, str) and self._in_package(value):
                return value
            raise SpecError(f"{where}: {unknown('value', value, self.choices)}")
        if self.kind is str:
            return self._text(value, where)
        if isinstance(value, str) and _is_number(value):
            raise SpecError(
                f"{where} = {brief_repr(arrived)} is text and must be a {_WORDS[self.kind]}; drop the quotes"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise SpecError(f"{where} = {brief_repr(arrived)} must be a finite {_WORDS[self.kind]} ({self.legal})")
        if not isinstance(value, self.kind):
            raise SpecError(f"{where} = {brief_repr(arrived)} must be a whole number ({self.legal})")
        below = self.low is not None and (value <= self.low if self.open_low else value < self.low)
        if below or (self.high is not None and value > self.high):
            raise SpecError(f"{where} = {brief_repr(arrived)} must be {self.legal}; default: {self.default!r}")
        return value

    def _in_package(self, value: str) -> bool:
        package, _, name = value.partition("/")
        return package in self.packages and re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII) is not None

    def _text(self, value: object, where: str) -> str:
        """Any text; a path is made absolute, as workers and exported configs are read in other directories."""
        if not isinstance(value, str):
            raise SpecError(f"{where} = {brief_repr(value)} must be {self.legal}; put it in quotes")
        if self.word is None or value in ("", self.word):
            return value
        if not {"/", ".", os.sep} & set(value):
            here = f"./{shortened(value)}"
            raise SpecError(
                f"{where} = {brief_repr(value)} must be {self.legal}; for a file of this directory use {here}"
            )
        return os.path.abspath(os.path.expanduser(value))

    def _in_order(self, parts: list[str], where: str) -> str:
        """The parts joined by +, in the order of the choices, so that every set has one spelling."""
        choices = [str(choice) for choice in self.choices or ()]
        for part in parts:
            if part not in choices:
                raise SpecError(f"{where}: {unknown('value', part, choices)}")
        if len(set(parts)) < len(parts):
            raise SpecError(f"{where} = {brief_repr('+'.join(parts))} names a value twice; keep one of each")
        return "+".join(choice for choice in choices if choice in parts)


_WORDS = {float: "number", int: "whole number"}
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""The words for true and false, which are text wherever else they stand."""


def normal(value: object, kind: type) -> object:
    """`value` as the `kind` that is asked for where it says just that, else as it is.

    A whole number is an int or a float as asked, -0.0 is 0.0, a NumPy scalar is a number of Python, and yes, no, on
    and off are what is true or false; `object` asks for none of these kinds, also inside lists and mappings. This is
    the only place that says so: what is compared, hashed or stored has passed it.
    """
    if isinstance(value, dict):
        return {name: normal(inner, object) for name, inner in value.items()}
    if isinstance(value, list):
        return [normal(inner, object) for inner in value]
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined] - a NumPy scalar, or an array of one
    if kind is bool:
        return TRUTH.get(value.lower(), value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int):
        try:
            value = float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value + 0.0 if isinstance(value, float) else value


def whole_number(text: str) -> int | None:
    """The number from 0 on that `text` says in plain decimal digits, none too many and none of another script; else
    None.

    `010`, `1_0` and digits of other scripts are read by some and not, or otherwise, by others.
    """
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,18}", text) else None


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # a whole number can be too large for the latter


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
    packages: tuple[str, ...] = (),
) -> Any:
    """Declare a dataclass field as a hyperparameter; see `Knob` for the arguments.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Mine(Knobbed):
        ...     alpha: float = knob(1.0, "of the Beta of the share", low=0, open_low=True, search=(0.1, 4.0), log=True)
        >>> Mine(alpha=0)
        Traceback (most recent call last):
        automixsearch.errors.SpecError: Mine.alpha = 0 must be > 0; default: 1.0
    """
    if isinstance(default, bool):
        choices = (False, True)
    if search is None and choices is not None and len(choices) > 1 and isinstance(default, bool):
        search = choices
    made = Knob("", type(default), default, note, low, high, open_low, choices, search, log, several, word, packages)
    return dataclasses.field(default=default, metadata={"knob": made})


def redeclared(owner: type, name: str, default: Scalar) -> Any:
    """The knob `name` of the dataclass `owner` with another default, for a class derived from it."""
    made = dataclasses.replace(knobs_of(owner)[name], name="", default=default)
    return dataclasses.field(default=default, metadata={"knob": made})


def knobs_of(owner: type) -> dict[str, Knob]:
    """The knobs that the dataclass `owner` declares, by name, in the order of declaration."""
    return dict(_declared(owner))


@cache
def _declared(owner: type) -> Mapping[str, Knob]:
    """The same; a config asks a hundred times for what never changes."""
    return {
        field.name: dataclasses.replace(field.metadata["knob"], name=field.name)
        for field in dataclasses.fields(owner)
        if "knob" in field.metadata
    }


def published_for(table: Mapping[str, Mapping[str, T]], family: str, backbone: object = "") -> dict[str, T]:
    """What a `published` has for a family of data sets, and over it what it has for one backbone there."""
    return {**table.get(family, {}), **table.get(f"{family}/{backbone}", {})}


class Knobbed:
    """Base of the frozen dataclasses whose fields are knobs: construction checks every value by name.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Mine(Knobbed):
        ...     blur: bool = knob(False, "whether edges are blurred")
        >>> Mine(blur="on")
        Mine(blur=True)
    """

    def __post_init__(self) -> None:
        for name, declared in knobs_of(type(self)).items():
            where = f"{type(self).__name__}.{name}"
            object.__setattr__(self, name, declared.check(getattr(self, name), where))
