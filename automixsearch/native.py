"""Functions that Numba compiles to machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(signature: str, **options: Any) -> Callable[[Callable], Any]:
    """Compile at import, or load what an earlier process left in the cache; without a writable folder there is none.

    Processes that start together each compile; a cache file is replaced whole, so that none reads half of one.
    """

    def compile_(function: Callable) -> Any:
        chosen = {"nogil": True, "error_model": "numpy", **options}
        try:
            return njit(signature, cache=True, **chosen)(function)
        except (OSError, RuntimeError):  # no folder to cache in, or a full one
            return njit(signature, **chosen)(function)

    return compile_
