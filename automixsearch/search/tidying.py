"""Merge the ledger's small files while a search runs, so that ten thousand trials are not as many files to read."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from automixsearch.errors import StudyError
from automixsearch.results.store import TIDY_ROWS

if TYPE_CHECKING:
    from automixsearch.results.store import Store

EVERY = 3000
"""Files between two mergers."""

log = logging.getLogger("ray.automixsearch")  # goes where Ray's messages go, into the log of the study


class Tidying:
    """Counts the files that appear and, in a thread of its own, merges them now and then.

    Only the driver may do this, since it holds the study; writers and readers need not know.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.files = store, 0
        self._thread: threading.Thread | None = None

    def count(self) -> None:
        """A row was written."""
        self.files += 1
        if self.files >= EVERY and (self._thread is None or not self._thread.is_alive()):
            self.files = 0
            self._thread = threading.Thread(target=self._merge, name="tidying")
            self._thread.start()

    def _merge(self) -> None:
        try:
            self.store.compact(TIDY_ROWS)
        except StudyError as error:  # the next merger, or the next driver, finishes what this one began
            log.warning("the ledger was not merged: %s", error)

    def close(self) -> None:
        """Wait for the merger that runs."""
        if self._thread is not None:
            self._thread.join()
