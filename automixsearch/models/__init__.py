"""Backbones: their list, which needs no torch, and how they are built, which does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automixsearch.models.base import Backbone
    from automixsearch.models.build import build_model, count_parameters

__all__ = ["Backbone", "build_model", "count_parameters"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from automixsearch.models import build

    return getattr(build, name)
