"""Functions that Numba compiles to machine code, the threads that run them, and the memory of the C library."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch


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


def in_threads(count: int, function: Callable[[int], object]) -> None:
    """Call `function(0)`, ... `function(count - 1)` side by side, each of which has to let go of the interpreter.

    torch's own threads do it where they can be had: after each of its operations they wait for the next one for some
    milliseconds without rest, and would keep the cores from any others.
    """
    turns, failed = itertools.count(), []

    def take_turns(_: object) -> None:
        try:
            for turn in turns:
                if turn >= count:
                    return
                function(turn)
        except BaseException as error:  # which must not pass through the threads' own code
            failed.append(error)

    team = _torch_team()
    if team is None:
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(take_turns, range(count)))
    else:
        team(_IN_TEAM(take_turns), None, count, 0)
    if failed:
        raise failed[0]


_IN_TEAM = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _torch_team() -> Callable[..., None] | None:
    """GNU OpenMP's `GOMP_parallel` of the library whose threads torch runs in, where torch is built with it."""
    for path in Path(torch.__file__).parent.joinpath("lib").glob("libtorch_cpu.so"):
        team = getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)
        if team is not None:
            team.argtypes, team.restype = [_IN_TEAM, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
            return team
    return None


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let this process keep what is freed, for what is allocated next, where the C library is GNU's.

    A step of training on a CPU frees what the next one allocates. Given back in between, it comes as fresh pages, each
    with an interrupt and zeros: a tenth of a second of a step of AutoMix on two cores.
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
