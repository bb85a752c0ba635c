"""Points of a space: suggested, written by people, published.

Neither ray nor optuna is imported here: `suggest` talks to anything that has optuna's three suggest methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from automixsearch.config.dimensions import Dimension, scaled
from automixsearch.config.knobs import Scalar, published_for
from automixsearch.config.policy import methods_of
from automixsearch.config.space import SearchSpace
from automixsearch.errors import SpecError, brief_repr, shortened, unknown


class Suggester(Protocol):
    """The part of an optuna trial that `suggest` uses."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int: ...
    def suggest_categorical(self, name: str, choices: tuple[Scalar, ...]) -> Scalar: ...


def suggest(space: SearchSpace, trial: Suggester) -> dict[str, Scalar]:
    """Ask `trial` for every active knob that is not fixed, and return all given and chosen values by full name."""
    values: dict[str, Scalar] = {}
    for dimension in space.dimensions:
        if dimension.name not in ("method", "loss") and not dimension.active(values):
            continue
        if dimension.name == "loss" and not space.catalogue.mixes(values["method"]):
            values["loss"] = "mce"
        elif dimension.choices is not None and dimension.fixed:
            values[dimension.name] = dimension.choices[0]
        elif dimension.choices is not None:
            values[dimension.name] = trial.suggest_categorical(dimension.name, dimension.choices)
        elif dimension.entry.knob.kind is int:
            low, high = int(dimension.low), int(dimension.high)
            values[dimension.name] = trial.suggest_int(dimension.name, low, high, log=dimension.log)
        else:
            low, high = dimension.low, dimension.high
            values[dimension.name] = trial.suggest_float(dimension.name, low, high, log=dimension.log)
    return values


def check_point(space: SearchSpace, point: Mapping[str, object], where: str) -> dict[str, Scalar]:
    """Check a (partial) config against a space and return the part that is searched, by full name.

    Raises:
        SpecError: a name is unknown or inactive, or a value lies outside the space.
    """
    by_name = {dimension.name: dimension for dimension in space.dimensions}
    values: dict[str, Scalar] = {}
    for name in ("method", "loss"):
        choices = by_name[name].choices or ()
        values[name] = by_name[name].entry.knob.check(point.get(name, next(iter(choices))), f"{where}: {name}")
        if values[name] not in choices:
            raise SpecError(f"{where}: {unknown('value', values[name], choices)}")
    if not space.catalogue.mixes(values["method"]):
        values["loss"] = "mce"
    taken: dict[str, Scalar] = {}
    for name, value in point.items():
        full = _full_name(name, values, by_name, where)
        dimension = by_name[full]
        if not dimension.holds(value):
            raise SpecError(
                f"{where}: {name} = {brief_repr(value)} lies outside the space ({shortened(str(dimension))})"
            )
        if not dimension.fixed and (full != "loss" or space.catalogue.mixes(values["method"])):
            taken[full] = dimension.entry.knob.check(value, f"{where}: {name}")
    space.catalogue.complete({**values, **taken}, where)
    return taken


def _full_name(name: str, values: Mapping[str, Scalar], by_name: Mapping[str, Dimension], where: str) -> str:
    for full in (name, f"{values['method']}.{name}", f"{values['loss']}.{name}"):
        if full in by_name:
            return full
    raise SpecError(f"{where}: {unknown('knob of this space', name, by_name)}")


def whole(space: SearchSpace, knobs: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The knobs of a config of the space at the full schedule, whatever the length of the one it was trained on."""
    if knobs["epochs"] == space.budget.epochs:
        return dict(knobs)
    found = scaled(knobs, space.budget.epochs)
    for dimension in space.dimensions:
        if dimension.name == "warmup_epochs" and dimension.active(found):  # what rounding has moved goes back
            warm = float(found["warmup_epochs"])
            if dimension.choices is not None:
                found["warmup_epochs"] = min(dimension.choices, key=lambda choice: abs(float(choice) - warm))
            else:
                found["warmup_epochs"] = min(max(warm, dimension.low), dimension.high)
    return found


def published_points(space: SearchSpace) -> Iterator[tuple[dict[str, Scalar], str]]:
    """The published settings for the family of the space, and for its backbone where it has one: of each chosen method
    with the plain loss, then with the chosen losses that have settings of their own.

    Yields:
        (point, problem): the searched part of the setting, and why part of it had to be left to the sampler
        (empty where nothing was).
    """
    by_name = {dimension.name: dimension for dimension in space.dimensions}
    methods, losses = by_name["method"].choices or (), by_name["loss"].choices or ()
    backbone = backbone_of(space)
    plain = "mce" if "mce" in losses else next(iter(losses))
    for method in methods:
        names = methods_of(method)
        settings = {name: published_for(space.catalogue.published(name), space.family, backbone) for name in names}
        values = {f"{name}.{knob}": value for name in names for knob, value in settings[name].items()}
        yield _searched(
            by_name, {"method": method, **({"loss": plain} if space.catalogue.mixes(method) else {})}, values
        )
    for loss in losses:
        for method, setting in published_for(space.catalogue.published(str(loss)), space.family, backbone).items():
            if method in methods:
                own = space.catalogue.losses[str(loss)]
                values = {f"{loss if knob in own else method}.{knob}": value for knob, value in setting.items()}
                yield _searched(by_name, {"method": method, "loss": loss}, values)


def backbone_of(space: SearchSpace) -> str:
    """The backbone of all trials; empty where it is searched."""
    dimension = next((one for one in space.dimensions if one.name == "backbone"), None)
    if dimension is None:
        return str(space.catalogue["backbone"].knob.default)
    return str(dimension.choices[0]) if dimension.fixed and dimension.choices else ""


def _searched(
    by_name: Mapping[str, Dimension], chosen: dict[str, Scalar], values: Mapping[str, Scalar]
) -> tuple[dict[str, Scalar], str]:
    """The part of a setting that the space searches, and what of it lies outside."""
    point = {name: value for name, value in chosen.items() if not by_name[name].fixed}
    problems = []
    for name, value in values.items():
        dimension = by_name.get(name)
        if dimension is None or dimension.fixed:
            continue
        if dimension.holds(value):
            point[name] = value
        else:
            problems.append(f"published {name} = {value} lies outside {dimension}")
    return point, "; ".join(problems)
