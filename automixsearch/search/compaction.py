"""Merge the ledger's small files while a search runs, so that ten thousand trials are not as many files to read.

A process of its own does it: Arrow keeps the memory that a merger takes, and the driver runs for days.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from automixsearch.errors import AutoMixError
from automixsearch.results.store import TIDY_ROWS, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

EVERY = 3000
"""Files between two mergers."""
STOP_S = 10.0
"""Seconds that the merger has to end by itself when the search ends."""
GO_ON = b"go on"
"""What the driver says before it lets go of a merger; silence means that it was killed, and holds the study no more."""

log = logging.getLogger("ray.automixsearch")  # goes where Ray's messages go, into the log of the study


class Compaction:
    """Counts the files that appear and now and then starts a process that merges them.

    Only the driver may do this, since it holds the study; writers and readers need not know.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.files = store, 0
        self._process: subprocess.Popen[bytes] | None = None

    def count(self) -> None:
        """A row was written."""
        self.files += 1
        if self.files >= EVERY and not self._runs():
            self.files = 0
            command = [sys.executable, "-m", __name__, self.store.results, self.store.study, self.store.token]
            paths = os.pathsep.join(path for path in sys.path if path)
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": paths},
                    start_new_session=True,  # an interrupt of the search is no reason to stop halfway
                )
            except OSError as error:
                log.warning("the ledger was not merged: %s", error)

    def _runs(self) -> bool:
        if self._process is None or self._process.poll() is None:
            return self._process is not None
        self._end()
        return False

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            _, errors = process.communicate(GO_ON, timeout=STOP_S)
        except subprocess.TimeoutExpired:  # the next driver finishes what it began
            process.kill()
            _, errors = process.communicate()
        if process.returncode:
            log.warning("the ledger was not merged: %s", errors.decode(errors="replace").strip()[-2000:])

    def close(self) -> None:
        """Wait for the merger that runs."""
        self._end()


def main(words: Sequence[str]) -> int:
    """Merge the files of one study that the process which started this one holds; end at once when that one dies."""

    def watch() -> None:
        if sys.stdin.buffer.read() != GO_ON:  # it ends when the other process does
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    results, study, token = words
    try:
        Store(results, study, token=token).compact(TIDY_ROWS)
    except AutoMixError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # an orderly exit would wait for the thread that listens
