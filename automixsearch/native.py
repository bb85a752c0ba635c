"""Functions that Numba compiles to machine code, and the memory of the C library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, wraps
from typing import Any


def compiled(signature: str, **options: Any) -> Callable[[Callable], Any]:
    """Compile at import, or load what an earlier process left in the cache; without a writable folder there is none.

    Processes that start together each compile; a cache file is replaced whole, so that none reads half of one.
    """

    from numba import njit  # loaded where it is needed only

    def compile_(function: Callable) -> Any:
        chosen = {"nogil": True, "error_model": "numpy", **options}
        try:
            return njit(signature, cache=True, **chosen)(function)
        except (OSError, RuntimeError):  # no folder to cache in, or a full one
            return njit(signature, **chosen)(function)

    return compile_


def compiled_late(signature: str) -> Callable[[Callable], Any]:
    """The same at the first call, for functions that few who import their module need."""

    def late(function: Callable) -> Any:
        machine = cache(lambda: compiled(signature)(function))
        return wraps(function)(lambda *arguments: machine()(*arguments))

    return late


def give_memory_back() -> None:
    """Give what is free back to the system where the C library is GNU's: when a run has ended, others need it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
