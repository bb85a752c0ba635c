"""From files and command lines to search spaces and trial configs.

YAML at the edge, frozen models inside; every refusal names the file, the key, the rule, what arrived and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from automixsearch.config.catalogue import METRICS, Catalogue, catalogue
from automixsearch.config.frozen import Frozen
from automixsearch.config.outside import KEYS, by_name, written_plugins
from automixsearch.config.points import check_point
from automixsearch.config.policy import methods_of
from automixsearch.config.shipped import find_file
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.config.yaml import read_value, read_yaml
from automixsearch.errors import SpecError, brief_repr, shortened, unknown
from automixsearch.registry import Plugin

LARGEST = 200_000
"""Bytes of a file that people write."""
MOST_LINES = 20
"""What is wrong with a file, told at once."""


def read_text(path: Path, kind: str) -> str:
    """Read a UTF-8 file.

    Raises:
        SpecError: it is missing, not a file, not text or larger than anybody writes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise SpecError(f"{path}: is larger than {LARGEST:,} bytes, which no {kind} needs; check the path")
        return data.decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such {kind}; check the path") from None
    except (OSError, ValueError) as error:  # a path that holds a null byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(f"{path}: cannot be read as a {kind}: {reason}") from None


def load_space(path: str | Path, overrides: Iterable[str] = ()) -> SearchSpace:
    """Read a search space from a YAML file, or by the name of one that comes with the package.

    Args:
        path: a file, or a name such as `quickstart`.
        overrides: `key=value` strings; keys are sections (`budget.trials`), `trials`, `epochs`, or knobs.

    Raises:
        SpecError: with file, key, rule, value and remedy.
    """
    where = str(path)
    content = read_content(find_file(where, "search space"), where, overrides, SearchSpace)
    if "design" in content:
        raise SpecError(f"{where}: has a design, so it is a study; use automixsearch study {where}")
    return parse_space(content, where)


def read_content(file: Path, where: str, overrides: Iterable[str], model: type[Frozen]) -> dict[str, Any]:
    """What a file of `model` says, with its recipe and the `key=value` overrides in it, as plain data.

    Raises:
        SpecError: with file, key, rule, value and remedy; `where` names the file.
    """
    kind = "search space" if model is SearchSpace else "study file"
    content = read_yaml(read_text(file, kind), where)
    if not isinstance(content, dict):
        raise SpecError(f"{where}: must be a mapping of keys to values, with at least `knobs`")
    if model is SearchSpace and isinstance(content.get("space"), dict) and "space_id" in content:
        content = {key: value for key, value in content["space"].items() if key != "recipe"}  # of a study, all in it
    content.setdefault("name", file.stem)
    written = [(key, set(part)) for key in ("knobs", "vary") if isinstance(part := content.get(key), dict)]
    content, named = _overridden(content, overrides, model, where, file.parent)
    if named & {"method", "loss"}:
        for key, keys in written:
            _narrow(content[key], keys - named, content)
    if content.get("recipe") is not None:
        _include(content, file.parent, named, where)
    return content


def _overridden(
    content: dict[str, Any], overrides: Iterable[str], model: type[Frozen], where: str, folder: Path
) -> tuple[dict[str, Any], set[str]]:
    """The content of a file with `key=value` overrides in it, all plug-ins by name; and the keys of the overrides."""
    naming, others = [], []
    for override in overrides:
        key = override.partition("=")[0].strip()
        (naming if key.rpartition(".")[2] in KEYS else others).append(override)
    try:
        content |= {"plugins": written} if (written := written_plugins(content, folder)) else {}
        named = {_override(content, override, model) for override in naming}
        content = by_name(content, folder)  # after which there may be more knobs
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    return content, named | {_override(content, override, model) for override in others}


def _catalogue(content: Mapping[str, Any]) -> Catalogue:
    """The knobs that the content of a file may name."""
    return catalogue(content.get("plugins", ()))


class RecipeFile(Frozen):
    """How networks are trained in a benchmark, as data: what a search space takes from its `recipe`.

    knobs: values, or ranges as in a space. A space's own entries win.
    """

    about: str = ""
    family: str | None = None
    epochs: int | None = None
    knobs: dict[str, Any]


def _include(content: dict[str, Any], folder: Path, named: set[str], where: str) -> None:
    """Put what the `recipe` of a space says under what the space itself says, or where the recipe is among the `named`
    overrides, over it and under the other overrides."""
    name = content["recipe"]
    if not isinstance(name, str):
        raise SpecError(f"{where}: recipe = {name!r} must be a file, or the name of one that comes with the package")
    try:
        path = find_file(name, "recipe", folder)
    except SpecError as error:
        raise SpecError(f"{where}: recipe: {error}") from None
    read = read_yaml(read_text(path, "recipe"), str(path))
    if not isinstance(read, dict):
        raise SpecError(f"{path}: must be a mapping of keys to values, with `knobs`")
    recipe = build(RecipeFile, read, str(path))
    knobs, budget = content.get("knobs", {}), content.setdefault("budget", {})
    if not isinstance(knobs, dict) or not isinstance(budget, dict):
        return  # refused with the rest of the file
    first = named if "recipe" in named else {*knobs, *content, *(f"budget.{key}" for key in budget)}
    taken = {key: value for key, value in recipe.knobs.items() if not {key, key.rpartition(".")[2]} & first}
    content["knobs"] = knobs | taken
    _narrow(content["knobs"], {*taken, *(knobs.keys() - named if "recipe" in named else ())}, content)
    if recipe.family is not None and "family" not in first:
        content["family"] = recipe.family
    if recipe.epochs is not None and "budget.epochs" not in first:
        budget["epochs"] = recipe.epochs


def _narrow(part: dict[str, Any], written: set[str], content: Mapping[str, Any]) -> None:
    """Drop the knobs of a `part` of a file, those `written` there, that belong to methods, losses or algorithms which
    its `content` does not choose."""
    places = [content.get("knobs", {}), content.get("vary", {})]
    known, factors = _catalogue(content), content.get("factors", {})
    factors = list(factors.values()) if isinstance(factors, dict) else []
    places += [level for factor in factors if isinstance(factor, dict) for level in factor.values()]

    def chosen(kind: str) -> list[Any]:
        default = content["knobs"].get(kind, known[kind].knob.default)
        values = [default, *(place[kind] for place in places[1:] if isinstance(place, dict) and kind in place)]
        if "all" in values or "auto" in values:
            return list(known[kind].knob.choices or ())
        return [one for value in values for one in (value, *_listed(value))]

    methods = [name for method in chosen("method") if isinstance(method, str) for name in methods_of(method)]
    losses, algorithms = chosen("loss"), chosen("algorithm") if "algorithm" in known else []
    algorithms += [known.methods[name].algorithm for name in methods if name in known.methods]
    for key in written:
        owners = [entry for name, entry in known.items() if key in (name, name.rpartition(".")[2])]
        if owners and not any(
            e.method in (None, *methods) and e.loss in (None, *losses) and e.algorithm in (None, *algorithms)
            for e in owners
        ):
            del part[key]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def parse_space(content: Mapping[str, Any], where: str) -> SearchSpace:
    """Build and check a search space from plain data; `where` names it in errors."""
    space = build(SearchSpace, content, where)
    try:
        _ = space.dimensions
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    if isinstance(space.priors, list):
        for position, point in enumerate(space.priors):
            check_point(space, point, f"{where}: priors[{position}]")
    return space


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> TrialConfig:
    """Read a trial config, such as `automixsearch best --export` writes.

    `overrides` are `key=value` strings: `seed`, `data.path`, or knobs.

    Raises:
        SpecError: with file, key, rule, value and remedy.
    """
    content = read_yaml(read_text(Path(path), "config"), str(path))
    if not isinstance(content, dict):
        raise SpecError(f"{path}: must be a mapping of keys to values, with `data` and `knobs`")
    if content.keys() & (SearchSpace.model_fields.keys() - TrialConfig.model_fields.keys()):
        raise SpecError(f"{path}: is a search space, not the config of one trial; use automixsearch search {path}")
    content, _ = _overridden(content, overrides, TrialConfig, str(path), Path(path).parent)
    return build(TrialConfig, content, str(path))


def parse_knobs(overrides: Iterable[str], plugins: tuple[Plugin, ...] = ()) -> dict[str, Any]:
    """Read `knob=value` strings: the values by full name, which can be a knob of one of `plugins`.

    Raises:
        SpecError: a word is no `key=value`, or no knob.
    """
    content: dict[str, Any] = {"knobs": {}, "plugins": plugins}
    for override in overrides:
        _override(content, override, TrialConfig)
    if len(content) > 2:
        raise SpecError(
            f"override {max(content.keys() - {'knobs', 'plugins'})} is no knob; only knobs can be given here"
        )
    return content["knobs"]


T = TypeVar("T", bound=Frozen)


def build(model: type[T], content: Mapping[str, Any], where: str) -> T:
    """Validate plain data against a model, in our words."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = [_explain(model, detail) for detail in details[:MOST_LINES]]
        lines += [f"and {len(details) - MOST_LINES} more like these"] if len(details) > MOST_LINES else []
        raise SpecError("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines))) from None


def _explain(model: type[Frozen], detail: Any) -> str:
    loc = [str(part) for part in detail["loc"]]
    key, arrived, kind = shortened(".".join(loc)), brief_repr(detail["input"]), detail["type"]
    if kind == "extra_forbidden":
        owner: Any = model
        for part in loc[:-1]:
            owner = (
                _model_in(owner.model_fields[part].annotation) if part in getattr(owner, "model_fields", {}) else owner
            )
        at = f" in {'.'.join(loc[:-1])}" if loc[:-1] else ""
        if loc[-1] in DIRECTIONS:
            return f"{key}: {DIRECTION}"
        return unknown(f"key{at}", loc[-1], getattr(owner, "model_fields", ()))
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
        return f"{key}: {message}" if key else message
    if kind == "literal_error":
        return f"{key} = {arrived} must be {detail['ctx']['expected'].replace(chr(39), '')}"
    rule = detail["msg"][0].lower() + detail["msg"][1:]
    rule = rule.replace("input should be", "must be").replace("string should", "must")
    if kind == "string_pattern_mismatch":
        rule = "must be 1 to 100 letters, digits, dots, - and _, the first a letter or digit; use --name"
    return f"{key} = {arrived} {rule}".replace(" dictionary", " mapping").partition(" or instance of")[0]


DIRECTIONS = ("direction", "directions", "mode", "goal")
"""What other tools call it."""
DIRECTION = (
    "the metric says it: "
    + "; ".join(
        f"{', '.join(name for name, way in METRICS.items() if way == end)} {said}"
        for end, said in (("max", "are maximised"), ("min", "are minimised"))
    )
    + "; drop it and name the metric, e.g. objective: val_loss"
)


def _model_in(annotation: Any) -> Any:
    """The model in an annotation such as `Confirm | None` or `dict[str, Factor]`."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def read_override(override: str, example: str) -> tuple[str, Any]:
    """The key and the value of a word `key=value`, which is YAML.

    Raises:
        SpecError: it is no such word.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise SpecError(f"override {brief_repr(override)} must read key=value, e.g. {example}")
    return key, read_value(key, text)


def _override(content: dict[str, Any], override: str, model: type[Frozen] = SearchSpace) -> str:
    """Put `key=value` into the content of a file; returns the key."""
    key, value = read_override(override, "trials=8 or mixup.alpha=0.5")
    override = shortened(override)
    if (key == "epochs" and "budget" in model.model_fields) or (key == "trials" and model is SearchSpace):
        key = f"budget.{key}"
    section, _, inner = key.partition(".")
    if section == "knobs" and inner:
        section, inner, key = "", "", inner
    if section not in model.model_fields:
        knobs = _catalogue(content)
        known = {
            *knobs,
            *(name.rpartition(".")[2] for name in knobs),
            *model.model_fields,
            *(("trials",) if model is SearchSpace else ()),
        }
        if key in DIRECTIONS:
            raise SpecError(f"override {override}: {DIRECTION}")
        if key not in known:
            raise SpecError(f"override {override}: {unknown('key or knob', key, known)}")
        knobs = content.setdefault("knobs", {})
        if not isinstance(knobs, dict):
            raise SpecError(f"override {override}: knobs must be a mapping of names to values")
        knobs[key] = value
    elif not inner:
        content[section] = value
    else:
        part = content.setdefault(section, {})
        if isinstance(part, str) and section in ("sampler", "scheduler", "design"):
            part = content[section] = {"name": part}
        if not isinstance(part, dict):
            raise SpecError(f"override {override}: {section} has no inner keys")
        part[inner] = value
    return key
