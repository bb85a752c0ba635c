"""Threads for compiled code: torch's own where they can be had, else others."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading

import pytest

from automixsearch import native


@pytest.fixture(params=["own", "torch"])
def threads(request, monkeypatch):
    if request.param == "own":
        monkeypatch.setattr(native, "_torch_team", lambda: None)
    elif native._torch_team() is None:
        pytest.skip("this torch is not built with GNU OpenMP")
    return native.in_threads


def test_every_turn_is_taken_once(threads):
    for count in (1, 2, 3, 8):
        taken = []
        threads(count, taken.append)
        assert sorted(taken) == list(range(count))


def test_turns_are_taken_side_by_side(threads):
    both = threading.Barrier(2, timeout=30)
    threads(2, lambda _: both.wait())


def test_an_error_in_a_thread_is_raised(threads):
    def fail(turn):
        if turn == 1:
            raise ValueError("turn 1")

    with pytest.raises(ValueError, match="turn 1"):
        threads(2, fail)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is what torch has on Linux")
def test_on_linux_they_are_torchs_own():
    assert native._torch_team() is not None


FAULTS = """
import resource, sys
import torch
from automixsearch.native import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for turn in range(24):
    if turn == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than GNU's")
def test_freed_memory_is_kept_for_what_comes_next():
    faults = {}
    for how in ("kept", "as it is"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["as it is"] > 20 * faults["kept"]
