"""The version of everything that is stored, and how what older versions wrote is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SCHEMA_VERSION = 2
"""Of configs, studies, tasks and ledgers alike; of documents that name none it is 1."""


def _from_1(document: dict[str, Any]) -> dict[str, Any]:
    """Tasks name their version, and studies their data. What a document of version 1 lacks has its default."""
    return document


class NewerVersion(ValueError):
    """A document is of a later version than this code reads."""


STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""How a document of a version becomes one of the next."""


def upgrade(document: Mapping[str, Any]) -> dict[str, Any]:
    """A config, study or task of any version as one of this version.

    Raises:
        NewerVersion: it is of a later version. ValueError: its version is none.
    """
    content = dict(document)
    version = content.get("schema_version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"schema_version = {version!r} must be a whole number from 1 to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise NewerVersion(f"has schema version {version}, and up to {SCHEMA_VERSION} is read; upgrade AutoMixSearch")
    for step in range(version, SCHEMA_VERSION):
        content = STEPS[step](content) | {"schema_version": step + 1}
    return content
