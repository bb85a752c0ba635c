"""What a trial has to say while it cannot report: that it waits for its storage.

Ray Tune hears of a trial when an epoch has ended. In between, a note lies beside the results until the driver has told
it; notes are small, so they are written where a checkpoint is too large.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ray.tune import Callback

from automixsearch.errors import StudyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from automixsearch.results.store import Store

LOOK_S = 5.0
"""Seconds between two looks of the driver."""
LONGEST = 1000


def leave_note(store: Store, trial_id: str, text: str) -> None:
    """Say something to the driver; it is lost where nothing at all can be written, which the driver sees itself."""
    with suppress(StudyError):
        store.files.replace(f"{store.study}/notes/{trial_id}.txt", text.encode()[:LONGEST])


def take_notes(store: Store) -> list[str]:
    """All notes that lie there; they are removed."""
    notes = []
    with suppress(StudyError):
        for name in store.files.names(f"{store.study}/notes"):
            text = (store.files.read(f"{store.study}/notes/{name}") or b"")[:LONGEST].decode(errors="replace")
            store.files.delete(f"{store.study}/notes/{name}")
            notes.append(f"{name.removesuffix('.txt')}: {text}")
    return notes


class Notes(Callback):
    """Tells the notes of trials while Tune runs them."""

    def __init__(self, store: Store, note: Callable[[str], None]) -> None:
        self.store, self.note, self.looked = store, note, time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look now and then."""
        if time.monotonic() - self.looked >= LOOK_S:
            self.looked = time.monotonic()
            for text in take_notes(self.store):
                self.note(text)

    def __getstate__(self) -> dict[str, Any]:
        return {}
