"""Ending Tune's loop from outside: it runs in a thread, so that the driver can end where Ray no longer answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from automixsearch.stopping import has_ended, in_background


class Interrupted(Exception):
    """Ends Tune's loop, which then ends its trials' processes."""


class Interruption(Callback):
    """Runs Tune until it ends by itself or the command is interrupted, whichever is first."""

    def __init__(self) -> None:
        self.asked = False

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune is about to hear of its trials and to start others."""
        if self.asked:
            raise Interrupted

    def run(self, fit: Callable[[], Any]) -> None:
        """Call `fit`. After an interrupt it has a while to end its trials; a second one is raised at once."""
        work = None
        try:
            work = in_background(fit)
            work.result()
        except KeyboardInterrupt:
            self.asked = True
            if work and has_ended(work) and not isinstance(error := work.exception(), Interrupted | None):
                raise error from None

    def __getstate__(self) -> dict[str, Any]:
        return {}
