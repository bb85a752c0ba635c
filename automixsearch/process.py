"""Which process this is, and whether another one still lives.

A pid alone says little: it is used again after a while, and means something else on each machine and in each container.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process for others to find.

    host: the machine's name, for people. boot: the kernel's id since it started, "" where it has none. namespace: in
    which the pid counts. start: of the process, in ticks of that kernel.
    """

    pid: int
    host: str = ""
    boot: str = ""
    namespace: int = 0
    start: int = 0

    @classmethod
    def here(cls) -> Process:
        """This one."""
        return cls(os.getpid(), socket.gethostname(), boot_id(), _namespace(), _start(os.getpid()) or 0)

    def lives(self) -> bool | None:
        """Whether it runs; None where that cannot be seen from here."""
        if not self.start or not self.boot or (self.boot, self.namespace) != (boot_id(), _namespace()):
            return None
        return _start(self.pid) == self.start


@cache
def boot_id() -> str:
    """The id of the running kernel, which is another after each start of the machine; "" where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _start(pid: int) -> int | None:
    """When a process started; None where there is none, or only what its parent has not yet asked for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
