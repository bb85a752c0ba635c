"""Whether a study may go on as this space and design, and what `study.json` says of it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from automixsearch import __version__
from automixsearch.config.identity import ELSEWHERE, PASSING, hash_json
from automixsearch.config.space import SearchSpace
from automixsearch.config.upgrade import SCHEMA_VERSION
from automixsearch.errors import AutoMixError, StudyError
from automixsearch.results.schema import TABLES
from automixsearch.search.plugins import keep_texts
from automixsearch.search.provenance import ENTRY
from automixsearch.search.task import Task
from automixsearch.versions import versions

if TYPE_CHECKING:
    from automixsearch.results.store import Store
    from automixsearch.studies.design import Design


def refuse_other_space(store: Store, space: SearchSpace, design: Design | None) -> None:
    """Refuse to continue a study that was started with another space or design."""
    old = store.info()
    if not old:
        return
    here, there = old.get("design"), design.content if design else None
    same = space.space_id in (old.get("space_id"), _space_id(old))
    if same and not _is_other_design(here, there):
        return
    if is_free(store):
        return
    if (here is None) != (there is None) or same:
        _refuse_other_design(space.name, store.uri, here, there)
    changed = ", ".join(_differences(old.get("space") or {}, space.model_dump(mode="json"))) or "the code's defaults"
    raise StudyError(
        f"study {space.name!r} in {store.uri} was started with another space (changed: {changed}); "
        "undo the change, or give this search a name of its own with --name"
    )


def _space_id(study: Mapping[str, Any]) -> str | None:
    """The id of a study's space as this version makes it; None where it cannot be read."""
    try:
        return SearchSpace.model_validate(study.get("space")).space_id
    except (ValueError, AutoMixError):
        return None


def is_free(store: Store) -> bool:
    """Whether nothing was ever trained under this name; what a search left that never began is removed."""
    if any(store.live(table) for table in TABLES):
        return False
    for name in ["study.json", "optuna.journal", *(f"pending/{trial_id}.json" for trial_id in Task.in_flight(store))]:
        store.delete(name)
    return True


def claim(store: Store, space: SearchSpace, design: Design | None, data: dict[str, Any]) -> None:
    """Write down what the study is about, and on which data."""
    before = store.info()
    content = {
        "schema_version": SCHEMA_VERSION,
        "name": space.name,
        "space_id": space.space_id,
        "objective": list(space.objective),
        "total_trials": space.budget.trials,
        "space": space.model_dump(mode="json"),
        ENTRY: data,
        "environments": _environments(before.get("environments") or [], space),
    }
    former = dict.fromkeys([*before.get("former_names", ()), *filter(None, [before.get("name")])])
    if former := [name for name in former if name != space.name]:
        content["former_names"] = former
    if design is not None:
        content["design"] = _with_winners(design.content, before.get("design"))
    store.put_document("study.json", content)
    keep_texts(store, space.plugins)


def _environments(before: list[dict[str, Any]], space: SearchSpace) -> list[dict[str, Any]]:
    """The versions of Python, of the packages that decide results and of plug-ins, of every driver that the study
    had."""
    content: dict[str, Any] = {
        "automixsearch": __version__,
        "python": platform.python_version(),
        "packages": versions(),
        **({"plugins": [plugin.origin for plugin in space.plugins]} if space.plugins else {}),
    }
    digest = hash_json(content)
    return before if any(old["hash"] == digest for old in before) else [*before, {"hash": digest, **content}]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        here, there = old.get(key), new.get(key)
        elsewhere = (f"data.{name}" for name in ELSEWHERE)
        if prefix + key in (*PASSING, "budget.trials", *elsewhere):
            continue
        if isinstance(here, dict) and isinstance(there, dict):
            yield from _differences(here, there, f"{prefix}{key}.")
        elif here != there:
            yield prefix + key


def _with_winners(design: dict[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The `design` of `study.json` as a driver that starts writes it: with the winners that were decided `before`."""
    settled = {row["number"]: row for row in (before or {}).get("runs", []) if row.get("of") is not None}
    return {**design, "runs": [settled.get(row["number"], row) for row in design["runs"]]}


def _is_other_design(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Whether a study cannot go on as `new`: it is no design or another one. More runs at the end are the same one."""
    if old is None or new is None:
        return old is not new
    here, there = ([_identity(row) for row in design["runs"]] for design in (old, new))
    return old["name"] != new["name"] or here != there[: len(here)]


def _refuse_other_design(name: str, place: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> None:
    """Refuse to go on with a study as another design, or with a search as a design; say what differs.

    Raises:
        StudyError: they differ.
    """
    if not _is_other_design(old, new):
        return
    remedy, study = "give this one a name of its own with --name", f"study {name!r} in {place}"
    if old is None or new is None:
        was, now = ("a search", "a design") if old is None else ("a design", "a search")
        raise StudyError(f"{study} was started as {was} and cannot go on as {now}; {remedy}")
    if old["name"] != new["name"]:
        raise StudyError(f"{study} has design {old['name']}, not {new['name']}; {remedy}")
    here, there = ([_identity(row) for row in design["runs"]] for design in (old, new))
    first = next((number for number, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), None)
    why = f"it has {len(here)} runs, not {len(there)}" if first is None else f"its run {first} would be another"
    raise StudyError(
        f"{study} cannot go on with this design: {why}. Runs may only be added after the last one (more replicates, "
        f"where there is neither a replicate block nor a confirmation); undo the change, or {remedy}"
    )


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    ranked = row.get("rank") is not None
    names = ("number", "purpose", "replicate", "seed", "split_seed", "rank")
    return (*(row.get(name) for name in names), *(() if ranked else (row["arm"], row["stratum"], row["levels"])))
