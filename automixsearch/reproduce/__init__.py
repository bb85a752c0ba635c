"""The published tables of AutoMix and Decoupled Mixup, and how to measure their figures again.

`registry` says what was published, `settings` how each figure is trained, `studies` runs it, `outcome` puts published
and measured side by side, `verdict` judges. Listing needs nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["TABLES", "Cell", "Table", "cells", "missing", "outcomes", "plan", "reproduce", "select"]

if TYPE_CHECKING:
    from automixsearch.reproduce.outcome import outcomes
    from automixsearch.reproduce.registry import TABLES, Cell, Table, cells, select
    from automixsearch.reproduce.settings import missing, plan
    from automixsearch.reproduce.studies import reproduce

_HOMES = {
    **dict.fromkeys(("TABLES", "Cell", "Table", "cells", "select"), "registry"),
    **dict.fromkeys(("missing", "plan"), "settings"),
    "outcomes": "outcome",
    "reproduce": "studies",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'automixsearch.reproduce' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"automixsearch.reproduce.{_HOMES[name]}"), name)
