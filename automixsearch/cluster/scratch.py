"""Folders for what dies with its process: Ray's session, Tune's files, what is sent with a job.

A process that is killed cleans nothing up. Each folder says whose it is, so the next one that makes a folder removes
those of dead processes, and ends what Ray left running in them.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from automixsearch.errors import DamagedError, ResourceError, remedy
from automixsearch.process import Process
from automixsearch.results.documents import decode_document, encode_document

PREFIX, MARK = "automixsearch-", "owner.json"
SOCKET = "/session_2026-01-01_00-00-00_000000_12345678/sockets/plasma_store.1"
"""The longest path of a socket that Ray makes in its folder."""
LONGEST = 107
"""Bytes of a path that a socket can have."""
SHORT = "/tmp"
DYING_S = 5.0
"""How long killed processes may take to be gone."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder in a place where Ray's sockets have room, removed afterwards.

    Raises:
        ResourceError: it cannot be made.
    """
    sweep()
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_place()))
        (folder / MARK).write_bytes(encode_document(Process.here()))
    except OSError as error:
        where = error.filename or _place()
        raise ResourceError(f"{where}: cannot be made: {error.strerror}; {remedy(error)}, or set TMPDIR") from None
    try:
        yield folder
    finally:
        _end_left(folder)
        _remove(folder)


def _place() -> str:
    """RAY_TMPDIR, TMPDIR or what the system has for it, where a socket's path is short enough in it."""
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    whole = f"{os.path.abspath(place)}/{PREFIX}12345678{SOCKET}"
    return place if len(os.fsencode(whole)) <= LONGEST else SHORT


def sweep() -> None:
    """Remove the folders of dead processes of this user and this machine; whatever is not seen to be that stays."""
    for place in {_place(), tempfile.gettempdir()}:
        for folder in Path(place).glob(f"{PREFIX}*"):
            with suppress(OSError, DamagedError):
                if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                    continue
                owner = decode_document((folder / MARK).read_bytes(), str(folder), Process)
                if owner.lives() is False:
                    _end_left(folder)
                    _remove(folder)


def _end_left(folder: Path) -> None:
    """Kill the processes that were started with an option that names the folder: Ray's, which outlive its driver."""
    until = time.monotonic() + DYING_S
    while (left := _started_for(folder)) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _started_for(folder: Path) -> list[int]:
    found, place = [], os.fsencode(folder)
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            values = [word.partition(b"=")[2] for word in words if word.startswith(b"--")]
            if entry.stat().st_uid == os.getuid() and any(v == place or v.startswith(place + b"/") for v in values):
                found.append(int(entry.name))
    return found


def _remove(folder: Path) -> None:
    """Remove a folder in which dying processes may still write; its mark goes last."""
    for _ in range(5):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name == MARK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()
        if [path.name for path in folder.glob("*")] in ([MARK], []):
            shutil.rmtree(folder, ignore_errors=True)
            return
        time.sleep(0.1)
