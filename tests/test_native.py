"""The memory of the C library."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
