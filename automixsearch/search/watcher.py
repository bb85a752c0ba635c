"""What a search tells while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.search.task import Task


class Watcher:
    """Hears what happens in a search; this one ignores it all. `automixsearch.commands.watch` has one that shows it."""

    def begin(self, space: SearchSpace, done: list[dict[str, Any]]) -> None:
        """The search starts, with the rows of the trials that earlier runs finished."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def heard(self, event: str, task: Task, values: dict[str, Any]) -> None:
        """A trial had a `start`, an `epoch` (its metrics) or an `end` (its row)."""

    def end(self) -> None:
        """The search is over."""
