"""The memory of the C library."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

RESIDENT = """
from pathlib import Path
from automixsearch.native import give_memory_back
def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])
blocks = [bytearray(2**16) for _ in range(3200)]
last = bytearray(2**16)  # above them, so that nothing goes back by itself
del blocks
before = pages()
give_memory_back()
print(before - pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than GNU's")
def test_what_is_free_is_given_back():
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 2**15, "pages of 4 KiB, of 200 MiB"
