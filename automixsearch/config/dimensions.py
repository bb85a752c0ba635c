"""From knobs as people write them to checked ranges and choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from automixsearch.config.catalogue import Catalogue, Entry, catalogue
from automixsearch.config.knobs import Knob, Scalar, normal
from automixsearch.config.policy import methods_of
from automixsearch.errors import SpecError, brief_repr, unknown

When = tuple[tuple[str, tuple[Scalar, ...]], ...]


@dataclass(frozen=True)
class Dimension:
    """One knob of a space: a range (low, high), a list of choices, or a single value.

    `when` lists further conditions: knob name and the values under which this dimension is active.
    """

    name: str
    entry: Entry
    choices: tuple[Scalar, ...] | None = None
    low: float = 0
    high: float = 0
    log: bool = False
    when: When = ()

    @property
    def fixed(self) -> bool:
        return self.choices is not None and len(self.choices) == 1

    def active(self, values: Mapping[str, Scalar]) -> bool:
        """Whether the dimension matters, given the values chosen before it."""
        return self.entry.active(values) and all(values.get(name) in allowed for name, allowed in self.when)

    def holds(self, value: object) -> bool:
        """Whether `value` can come out of this dimension."""
        try:
            value = self.entry.knob.check(value, self.name)
        except SpecError:
            return False
        return value in self.choices if self.choices is not None else self.low <= float(value) <= self.high

    def at(self, unit: float) -> Scalar:
        """The value at a place from 0 to 1 in the dimension, every choice and whole number having an equal part."""
        if self.choices is not None:
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        whole = self.entry.knob.kind is int
        low, high = self.low, self.high + (1 if whole else 0)
        value = low * (high / low) ** unit if self.log else low + (high - low) * unit
        return min(int(value), int(self.high)) if whole else min(value, self.high)

    def __str__(self) -> str:
        if self.choices is not None:
            return ", ".join(str(choice) for choice in self.choices)
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


def dimensions(knobs: Mapping[str, Any], epochs: int, known: Catalogue | None = None) -> tuple[Dimension, ...]:
    """Turn the `knobs` of a space into checked dimensions, method and loss first, conditional ones last.

    A short name such as `alpha` stands for that knob of every chosen method and loss that has it; a full name
    such as `cutmix.alpha` wins over it. Knobs that are not mentioned keep their default.

    Raises:
        SpecError: with key, rule, value and remedy.
    """
    known = known or catalogue()
    if "epochs" in knobs:
        raise SpecError("knobs.epochs is the budget, not a knob to search; use budget.epochs")
    found: dict[str, Dimension] = {}
    for name in ("method", "loss"):
        written = knobs.get(name, "vanilla" if name == "method" else "mce")
        found[name] = _dimension(name, known, written)
        if found[name].when:
            raise SpecError(f"{name}.when: method and loss have no conditions; drop it")
    chosen = {name: found[name].choices or () for name in found}
    joined = [methods_of(method) for method in chosen["method"]]
    chosen["method"] = tuple(dict.fromkeys(name for names in joined for name in names))
    several = {name for names in joined if len(names) > 1 for name in names}
    chosen["algorithm"] = tuple(dict.fromkeys(known.methods[str(name)].algorithm for name in chosen["method"]))
    if "algorithm" in known and "algorithm" in knobs:
        chosen["algorithm"] += _dimension("algorithm", known, knobs["algorithm"]).choices or ()
    used = set()
    for name, entry in known.items():
        short = name.rpartition(".")[2]
        owners = (("method", entry.method), ("loss", entry.loss), ("algorithm", entry.algorithm))
        owner_chosen = all(owner in (None, *chosen[kind]) for kind, owner in owners)
        owner_chosen &= entry.method in several if entry.joint else True
        key = name if name in knobs else short if short in knobs else None
        if key is None or name in found:
            continue
        if owner_chosen:
            used.add(key)
            found[name] = _dimension(name, known, knobs[key], key)
    for key in knobs:
        if key not in found and key not in used:
            beside = [name for name in found if name.rpartition(".")[2] == key]
            if beside:
                are = "are" if beside[1:] else "is"
                raise SpecError(
                    f"{key} changes nothing beside {', '.join(beside)}, which {are} set by full name; set that, or "
                    "drop one of them"
                )
            _refuse(key, known, chosen)
    found["epochs"] = Dimension("epochs", known["epochs"], (known["epochs"].knob.check(epochs, "budget.epochs"),))
    _check_conditions(found)
    _check_backbones(found, known)
    if "warmup_epochs" in found:
        longest = max(map(float, found["warmup_epochs"].choices or (found["warmup_epochs"].high,)))
        if longest >= epochs:
            raise SpecError(f"warmup_epochs = {longest:g} must be below budget.epochs = {epochs}; lower it")
    return tuple(sorted(found.values(), key=lambda d: (d.name != "method", d.name != "loss", bool(d.when))))


def _refuse(key: str, known: Mapping[str, Entry], chosen: Mapping[str, tuple[Scalar, ...]]) -> None:
    shorts = {name.rpartition(".")[2] for name in known}
    if key in known or key in shorts:
        entries = [entry for name, entry in known.items() if key in (name, name.rpartition(".")[2])]
        kind = next(kind for kind in chosen if any(getattr(entry, kind) for entry in entries))
        owners = " or ".join(str(getattr(entry, kind)) for entry in entries if getattr(entry, kind))
        raise SpecError(
            f"{key} belongs to {kind} {owners}, which knobs.{kind} = {', '.join(map(str, chosen[kind]))} does not "
            f"include; add it there or drop {key}"
        )
    raise SpecError(unknown("knob", key, set(known) | shorts))


def _dimension(name: str, known: Catalogue, written: object, key: str | None = None) -> Dimension:
    key, entry = key or name, known[name]
    knob = entry.knob
    if written == "all" and knob.choices is not None and "all" not in knob.choices:
        every = (*(knob.search or ()), *(one.name for one in known.plugins if one.kind == "mixers"))
        return Dimension(name, entry, every if name == "method" else knob.choices)
    if written == "auto" and "auto" not in (knob.choices or ()):
        if knob.search is None:
            raise SpecError(f"{key}: auto stands for a declared search range, and {name} has none; give a value")
        if knob.choices is not None:
            return Dimension(name, entry, knob.search)
        low, high = knob.search
        return Dimension(name, entry, None, float(low), float(high), knob.log)
    if isinstance(written, list):
        return Dimension(name, entry, _choices(knob, written, key))
    if isinstance(written, dict):
        return _mapping(name, known, written, key)
    return Dimension(name, entry, (knob.check(written, key),))


def _choices(knob: Knob, written: list[Any], key: str) -> tuple[Scalar, ...]:
    if not written:
        raise SpecError(f"{key} = [] must list at least one value ({knob.legal})")
    values = tuple(knob.check(value, f"{key}[{i}]") for i, value in enumerate(written))
    if len(set(values)) < len(values):
        raise SpecError(f"{key} = {brief_repr(written)} holds a value twice; keep one of each")
    return values


def _mapping(name: str, known: Catalogue, written: dict[str, Any], key: str) -> Dimension:
    entry, rest = known[name], dict(written)
    knob, when = entry.knob, _when(rest.pop("when", {}), key, known)
    if "value" in rest or "choices" in rest:
        inner = "value" if "value" in rest else "choices"
        given = rest.pop(inner)
        if rest:
            raise SpecError(f"{key}.{min(rest)} does not go with {key}.{inner}; keep one of them")
        if inner == "choices" and not isinstance(given, list):
            raise SpecError(f"{key}.choices = {brief_repr(given)} must be a list")
        made = _dimension(name, known, given, f"{key}.{inner}")
        return Dimension(name, entry, made.choices, made.low, made.high, made.log, when)
    for inner in rest:
        if inner not in ("low", "high", "log"):
            raise SpecError(unknown(f"key in {key}", inner, ("low", "high", "log", "choices", "value", "when")))
    if not rest and when:
        made = _dimension(name, known, "auto", key)
        return Dimension(name, entry, made.choices, made.low, made.high, made.log, when)
    if knob.choices is not None:
        raise SpecError(f"{key} takes no range: list its values instead ({knob.legal})")
    for inner in ("low", "high"):
        if inner not in rest:
            raise SpecError(f"{key}.{inner} is missing; a range needs low and high ({knob.legal})")
    log = normal(rest.get("log", False), bool)
    if not isinstance(log, bool):
        raise SpecError(f"{key}.log = {brief_repr(log)} must be true or false")
    low = normal(rest["low"], float)
    if log and isinstance(low, float) and low <= 0:
        raise SpecError(f"{key}.low = {low:g} must be > 0 when log: true; use 0.01 or drop log")
    low, high = knob.check(rest["low"], f"{key}.low"), knob.check(rest["high"], f"{key}.high")
    if float(low) >= float(high):
        raise SpecError(f"{key}.low = {low} must be below {key}.high = {high}; swap them or give a single value")
    return Dimension(name, entry, None, float(low), float(high), log, when)


def _when(written: object, key: str, known: Catalogue) -> When:
    """Conditions as written, in the types of the knobs that they name."""
    if not isinstance(written, dict):
        raise SpecError(f"{key}.when = {brief_repr(written)} must be a mapping such as {{loss: decoupled}}")
    found = []
    for name, values in written.items():
        values = values if isinstance(values, list) else [values]
        if name in known:  # one that is unknown is refused when all dimensions are there
            values = [known[name].knob.check(value, f"{key}.when.{name}") for value in values]
        found.append((name, tuple(values)))
    return tuple(found)


def _check_conditions(found: Mapping[str, Dimension]) -> None:
    for dimension in found.values():
        for name, allowed in dimension.when:
            where = f"{dimension.name}.when.{name}"
            if name not in found:
                raise SpecError(f"{where}: {unknown('knob of this space', name, found)}")
            other = found[name]
            if other.when or name == dimension.name:
                raise SpecError(f"{where}: a condition must name another knob without `when`")
            if other.choices is None:
                raise SpecError(f"{where}: {name} is a range; conditions need a knob with listed values")
            for value in allowed:
                if not other.holds(value):
                    raise SpecError(f"{where}: {unknown('value', value, other.choices)}")


def _check_backbones(found: Mapping[str, Dimension], known: Catalogue) -> None:
    """Refuse a space in which a backbone can meet a knob that it cannot follow."""
    checked = [
        d
        for name, d in found.items()
        if name in ("method", "width", "stem", "drop_path") or name.endswith((".stages", ".layer"))
    ]
    backbones = found["backbone"].choices if "backbone" in found else (known["backbone"].knob.default,)
    for backbone, dimension in product(backbones or (), checked):
        if all(backbone in allowed for name, allowed in dimension.when if name == "backbone"):
            low, high, kind = dimension.low, dimension.high, dimension.entry.knob.kind
            for value in dimension.choices or (kind(low), kind(min(low + 1, high))):
                known.check_backbone({"backbone": backbone, dimension.name: value}, "knobs")


def scaled(knobs: Mapping[str, Scalar], epochs: int) -> dict[str, Scalar]:
    """The knobs of a config on a schedule of another length; what is counted in epochs keeps its share."""
    share = epochs / int(knobs["epochs"])
    return {**knobs, "epochs": epochs, "warmup_epochs": float(knobs["warmup_epochs"]) * share}
