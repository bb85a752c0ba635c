"""From places to names: what a space, a study file or a config names by `module:Name` or `file.py:Name`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from automixsearch.config.policy import methods_of
from automixsearch.errors import SpecError, unknown
from automixsearch.registry import KEYS, SOURCES, Kind, Plugin, installed, is_ref, listed, placed, resolve


def _sorted(plugins: object) -> object:
    """In one order, whatever the order in which they were named: values that are joined by + follow it."""
    if not isinstance(plugins, list | tuple):
        return plugins
    made = [plugin if isinstance(plugin, Plugin) else Plugin.model_validate(plugin) for plugin in plugins]
    return tuple(sorted(made, key=lambda plugin: (plugin.kind, plugin.name)))


Plugins = Annotated[tuple[Plugin, ...], BeforeValidator(_sorted)]


@cache
def _adapter() -> TypeAdapter[tuple[Plugin, ...]]:
    return TypeAdapter(Plugins)


def written_plugins(content: Mapping[str, Any], beside: Path | None = None) -> tuple[Plugin, ...]:
    """The plug-ins that a file of ours names in `plugins`; their files lie beside it where they have no absolute path.

    Raises:
        SpecError: they are none.
    """
    try:
        written = _adapter().validate_python(content.get("plugins") or ())
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise SpecError(
            f"plugins: {why}; it is written by automixsearch: name what is meant where it is used"
        ) from None
    if beside is not None:
        written = tuple(placed(plugin, beside) for plugin in written)
    return written


def by_name(content: Mapping[str, Any], beside: Path | None = None) -> dict[str, Any]:
    """The content of a space, a study file or a config with every place replaced by a name, and what stands behind the
    names in `plugins`.

    Args:
        beside: the folder of the file, in which files are looked for too.

    Raises:
        SpecError: see `registry.resolve`.
    """
    plugins = {(plugin.kind, plugin.name): plugin for plugin in written_plugins(content, beside)}

    @cache
    def offered(kind: Kind) -> Mapping[str, object]:
        return installed(kind)

    def name_of(kind: Kind, value: Any) -> Any:
        if isinstance(value, str) and kind == "mixers" and "+" in value:
            return "+".join(name_of(kind, part) for part in value.split("+"))
        if isinstance(value, list | tuple):
            return [name_of(kind, one) for one in value]
        if isinstance(value, dict) and kind == "evaluations":  # names with settings
            return {name_of(kind, key): one for key, one in value.items()}
        if isinstance(value, dict):
            return {
                key: name_of(kind, one) if key in ("value", "choices") else named(one) for key, one in value.items()
            }
        if not is_ref(value):
            if not isinstance(value, str) or value in listed(kind):
                return value
            name = value.removeprefix(SOURCES[kind].before)
            if (kind, name) in plugins:
                return plugins[kind, name].value
            if name not in offered(kind):
                return value  # refused, or not, where the value is checked
            value = name
        return add(resolve(kind, value, beside))

    def add(plugin: Plugin) -> str:
        plugins[plugin.kind, plugin.name] = plugin
        brought = plugin.facts.get("algorithm", "supervised")
        if plugin.kind == "mixers" and brought not in listed("algorithms"):
            add(_brought(plugin, brought, beside))
        return plugin.value

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: name_of(KEYS[key], one) if key in KEYS else named(one) for key, one in value.items()}
        return [named(one) for one in value] if isinstance(value, list) else value

    made = named({key: value for key, value in content.items() if key != "plugins"})
    _check_source(made.get("data"), [name for kind, name in plugins if kind == "data"])
    return made | ({"plugins": tuple(plugins.values())} if plugins else {})


def _brought(mixer: Plugin, algorithm: str, beside: Path | None) -> Plugin:
    """The way of training that a method from outside brings: an installed one, or one that lies beside its class."""
    if algorithm in installed("algorithms"):
        return resolve("algorithms", algorithm)
    place = mixer.ref.rpartition(":")[0]
    try:
        return resolve("algorithms", f"{place}:{algorithm}", beside)
    except SpecError as error:
        raise SpecError(f"{mixer.ref} trains with the algorithm {algorithm}: {error}") from None


def _check_source(data: Any, outside: Iterable[str]) -> None:
    """Refuse a data set that is neither ours nor `outside`."""
    source = _source_of(data)
    known = [*listed("data"), *outside]
    if source and source not in known:
        raise SpecError(f"data.source: {unknown('data set', source, [*known, *installed('data')])}")


def _source_of(data: Any) -> str:
    """The source of `Data`, or of the mapping that becomes one; empty where there is none yet."""
    source = data.get("source") if isinstance(data, dict) else getattr(data, "source", "")
    return source if isinstance(source, str) else ""


def named_by(plugins: Iterable[Plugin], data: Any, knobs: Mapping[str, Any]) -> tuple[Plugin, ...]:
    """Those of `plugins` that a config has: its data set, what its knobs name as a value or as the owner of a knob, and
    all metrics."""
    plugins = tuple(plugins)
    wanted: set[tuple[Kind, str]] = {("data", _source_of(data))}
    for key, kind in KEYS.items():
        wanted |= {(kind, name) for name in methods_of(knobs.get(key, ""))}
    for plugin in plugins:
        if (plugin.kind, plugin.value) in wanted and "algorithm" in plugin.facts:
            wanted.add(("algorithms", plugin.facts["algorithm"]))
    owners = {name.rpartition(".")[0] for name in knobs}
    return tuple(
        plugin
        for plugin in plugins
        if plugin.kind == "metrics" or (plugin.kind, plugin.value) in wanted or plugin.name in owners
    )
