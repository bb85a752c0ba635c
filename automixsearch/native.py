"""Functions that Numba compiles to machine code, and the memory of the C library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
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


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let this process keep what is freed, for what is allocated next, where the C library is GNU's.

    It holds for all that a process allocates, so it is for processes that do nothing but train. A step of training on
    a CPU frees what the next one allocates. Given back in between, it comes as fresh pages, each with an interrupt and
    zeros: steps of ResNet-18 of width 64 on 32 images of 32 pixels take a quarter longer.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(TRIM_THRESHOLD, 2**31 - 1)
        tune(MMAP_THRESHOLD, 2**30)


def give_memory_back() -> None:
    """Let go of what `keep_freed_memory` kept: when a run has ended, others need it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
