"""What makes a config, or a space, the same one as another: the only place that says so.

An id is a hash of what was asked for. All that configs and spaces had in version 1 enters it, whatever its value; what
came later enters only where it differs from its default. So what is added with its default changes no id, and ids that
any version wrote stay what they are. In return such a default is never changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch.config.catalogue import catalogue
from automixsearch.config.data import Data

if TYPE_CHECKING:
    from pydantic import BaseModel

    from automixsearch.config.space import SearchSpace

ELSEWHERE = ("path", "download", "pipeline")
"""What of `data` may differ from machine to machine: where they lie and how they are read, not what they are."""
PASSING = ("about", "evaluate", "name", "plugins", "recipe", "resources")
"""What of a space may change while its study goes on, beside the number of trials."""
LAYOUT = ("on_bad_image", "image_column", "label_column")
"""What of `data` tells how a copy of a published set is stored."""
SEEDS = ("seed", "split_seed")


def hash_json(content: object) -> str:
    """16 hexadecimal digits of the SHA-256 of the canonical JSON of `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_identity(
    config: Mapping[str, Any], *, seeds: bool = True, data: bool = True, without: Collection[str] = ()
) -> dict[str, Any]:
    """What a config is, of the config as plain data, as any version of it was written.

    Args:
        seeds: with the seeds of training and split, which tell replicates apart.
        data: with the data.
        without: knobs that do not count.
    """
    from automixsearch.config.trial import TrialConfig

    content = _asked(TrialConfig, config)
    content["schema_version"] = 1  # of identities, which no other version changes
    content["data"] = data_identity(config.get("data") or {})
    content["knobs"] = {
        name: value
        for name, value in config["knobs"].items()
        if name not in without and (name in _version_1()["knobs"] or value != _default(name))
    }
    for name in ("plugins", *(() if seeds else SEEDS), *(() if data else ("data", "data_fingerprint"))):
        content.pop(name, None)
    return content


def data_identity(data: Mapping[str, Any]) -> dict[str, Any]:
    """What data are, wherever they lie; a list of labels and a folder of unlabelled images go by their names."""
    content = {name: value for name, value in data.items() if name not in ELSEWHERE}
    for name in ("labels", "unlabelled"):
        if isinstance(content.get(name), str):
            content[name] = os.path.basename(content[name])
    return _asked(Data, content)


def data_measured(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of data changes what a published table measures, where the set itself is the published one."""
    return {name: value for name, value in data_identity(data).items() if name not in LAYOUT}


def space_identity(space: SearchSpace) -> dict[str, Any]:
    """What must not change while a study goes on."""
    content = _asked_of(space)
    for name in PASSING:
        content.pop(name, None)
    del content["budget"]["trials"]
    content["data"] = data_identity(content["data"])
    content["knobs"] = sorted(repr((d.name, d.choices, d.low, d.high, d.log, d.when)) for d in space.dimensions)
    return content


def _asked(model: type[BaseModel], content: Mapping[str, Any]) -> dict[str, Any]:
    """Of the plain content of a model what enters an id."""
    known = _version_1()["fields"].get(model.__name__, ())
    fields = model.model_fields
    return {
        name: value
        for name, value in content.items()
        if name in known or name not in fields or value != fields[name].get_default(call_default_factory=True)
    }


def _asked_of(model: BaseModel) -> dict[str, Any]:
    """The same of a model with the models in it."""
    values = {name: getattr(model, name) for name in type(model).model_fields}
    plain = model.model_dump(mode="json")
    return {
        name: _asked_of(value) if hasattr(value, "model_dump") else plain[name]
        for name, value in _asked(type(model), values).items()
    }


def _default(name: str) -> object:
    entry = catalogue().get(name)
    return _Unknown if entry is None else entry.knob.default


class _Unknown:
    """The default of a knob that this installation lacks."""


@cache
def _version_1() -> dict[str, Any]:
    content = json.loads(Path(__file__).with_name("version_1.json").read_text(encoding="utf-8"))
    return {"fields": content["fields"], "knobs": frozenset(content["knobs"])}
