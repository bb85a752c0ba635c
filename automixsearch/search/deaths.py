"""By which signal a process of Ray's died.

Ray itself says only that it is gone. What the process has left is on its standard error, a file in the logs of its
node: Python's fault handler, which Ray switches on in all its processes, names what ended it, and glibc why. One that
was killed from outside has left nothing.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

TAIL = 2**16
PATIENCE_S = 30.0
"""How long a node is asked."""
FATAL = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Floating-point exception": signal.SIGFPE,
    "Floating point exception": signal.SIGFPE,
    "Illegal instruction": signal.SIGILL,
}
"""Python's words for signals; those of other versions too."""
_FATAL = re.compile(f"^Fatal Python error: ({'|'.join(FATAL)})", re.MULTILINE)
_TOLD = re.compile(r"receives a (SIG[A-Z]+)")
_PLACE = re.compile(r"\bpid: (\d+)\b.*?\bip: (\S+)", re.DOTALL)
_GLIBC = re.compile(
    r"^(?:\w+\(\): .+|corrupted .+|double free .+|malloc.*: .+|.*stack smashing.*|.*[Aa]ssert.*)$", re.MULTILINE
)


def death_of(message: str) -> tuple[str, str] | None:
    """The signal that ended a process and what is known of it, from what Ray says of its death; None: not known.

    Args:
        message: of the error that Ray raised, with the process's id and the address of its node.
    """
    told = _TOLD.search(message)
    if told:
        return told[1], "Ray saw the signal"
    place = _PLACE.search(message)
    if place is None or not ray.is_initialized():
        return None
    text = _asked(int(place[1]), place[2])
    return None if text is None else read(text)


def read(text: str) -> tuple[str, str]:
    """The signal, and why, from the end of a dead process's standard error."""
    fatal = list(_FATAL.finditer(text))
    if not fatal:
        return (
            "SIGKILL",
            "it left no word, so it was killed from outside, as the kernel does where memory runs out (dmesg tells)",
        )
    reasons = _GLIBC.findall(text[: fatal[-1].start()])
    return FATAL[fatal[-1][1]].name, (reasons[-1] if reasons else fatal[-1][1])[:200]


def _asked(pid: int, address: str) -> str | None:
    """The end of a process's standard error, from the node with this address; None where it cannot be had."""
    with suppress(Exception):  # of many types; then the death stays unexplained
        task: Any = ray.remote(num_cpus=0, max_retries=0, resources={f"node:{address}": 0.001})(standard_error)
        answer = task.remote(pid)
        ready, _ = ray.wait([answer], timeout=PATIENCE_S)
        if ready:
            return ray.get(answer)
        ray.cancel(answer, force=True)
    return None


def standard_error(pid: int) -> str | None:
    """The end of what a process of Ray's on this node has written to its standard error; None: no such file."""
    logs = Path(os.readlink("/proc/self/fd/2")).parent  # where that of this process lies, too
    for file in logs.glob(f"worker-*-{pid}.err"):
        time.sleep(0.2)  # a dying process may be writing yet
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL))
            return stream.read().decode(errors="replace")
    return None
