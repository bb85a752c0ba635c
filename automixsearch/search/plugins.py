"""What comes from outside, on its way from the driver to whoever trains, and into the study.

A worker never runs code because a file of the study says so: it runs what its driver hands out. The copies in the study
are for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from automixsearch import registry
from automixsearch.config.outside import Plugins, named_by
from automixsearch.registry import SOURCES, Plugin

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.results.store import Store
    from automixsearch.search.task import Task


def handed_out(space: SearchSpace) -> dict[str, Any]:
    """What workers are given, as plain data: what is known of each plug-in, and the texts of the files."""
    written = [plugin.model_dump(mode="json") for plugin in space.plugins]
    return {"written": written, "texts": registry.texts(space.plugins)}


def received(given: Mapping[str, Any]) -> tuple[Plugin, ...]:
    """What a worker was given, ready to be loaded."""
    registry.receive(given["texts"])
    return TypeAdapter(Plugins).validate_python(given["written"])


def renewed(task: Task, plugins: tuple[Plugin, ...]) -> Task:
    """The trial with the plug-ins that the driver has now: it may have begun with earlier versions of them.

    Raises:
        SpecError: a version of now lacks a knob that the trial has.
    """
    current = named_by(plugins, task.config.data, task.config.knobs)
    if current == task.config.plugins:
        return task
    values = {name: getattr(task.config, name) for name in type(task.config).model_fields}
    return replace(task, config=type(task.config)(**{**values, "plugins": current}))


def keep_texts(store: Store, plugins: tuple[Plugin, ...]) -> None:
    """Put copies of the files beside the results, by their digests: what was trained with can be looked at later."""
    for digest, text in registry.texts(plugins).items():
        if store.get(f"plugins/{digest}.py") is None:
            store.put(f"plugins/{digest}.py", text.encode())


def changes(before: tuple[Plugin, ...], now: tuple[Plugin, ...], place: str) -> list[str]:
    """What to tell of plug-ins that are not what a study was begun with, once for each file or package; `place`: of the
    study."""
    earlier = {(plugin.kind, plugin.name): plugin for plugin in before}
    changed: dict[tuple[str, str], list[tuple[Plugin, Plugin]]] = {}
    for plugin in now:
        old = earlier.get((plugin.kind, plugin.name))
        if old is not None and old.digest != plugin.digest:
            changed.setdefault((old.digest, plugin.digest), []).append((old, plugin))
    told = []
    for (there, here), pairs in changed.items():
        names = ", ".join(f"{SOURCES[plugin.kind].word} {plugin.name}" for _, plugin in pairs)
        old, new = pairs[0]
        copy = f"{place}/plugins/{there}.py has it" if old.file else f"it was {old.version or old.ref}"
        told.append(
            f"{new.ref.rpartition(':')[0]} has changed since the study was begun (source {there[:12]} then, "
            f"{here[:12]} now): trials from now on train with another version of {names} than those before, and "
            "code_version of each row says which; to compare them all, go back to the earlier source "
            f"({copy}), or give this search a name of its own with --name"
        )
    return told
