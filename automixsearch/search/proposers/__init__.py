"""Who says which trial runs next: a sampler of Optuna, one with halving on top of it, or a design."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from automixsearch.cluster.session import log_to
from automixsearch.search.proposers.designs import DesignRuns

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.results.store import Store
    from automixsearch.search.task import Task
    from automixsearch.studies.design import Design


class Proposer(Protocol):
    """Hands out the trials of one study and hears how they end; those that an earlier driver left come first.

    notes: what a user should know before the search starts.
    """

    space: SearchSpace
    store: Store
    notes: list[str]

    @property
    def problem(self) -> str | None:
        """Why the rest of the study cannot be run, where that turned out on the way."""

    @property
    def waiting(self) -> bool:
        """Whether trials will follow that cannot be named before others have ended."""
        ...

    def next(self) -> Task | None:
        """The next trial to run; None where there is none, or (see `waiting`) none yet."""

    def again(self, task: Task) -> None:
        """Hand out a trial once more, before any other; its document has been saved."""

    def report(self, number: int, epoch: int, value: float | None) -> None:
        """The first objective of a trial after an epoch."""

    def finish(self, task: Task) -> dict[str, Any] | None:
        """The ledger row of a trial that has ended, which is then closed; None where there is no row."""


def make_proposer(
    space: SearchSpace, store: Store, fingerprint: str, design: Design | None, note: Callable[[str], None], log: Path
) -> Proposer:
    """The proposer of a study; `note` is told what its halving decides, the file `log` what Optuna does."""
    if design is not None:
        return DesignRuns(space, store, fingerprint, design)
    from automixsearch.search.proposers.halving import Halving
    from automixsearch.search.proposers.sampling import Sampling

    log_to(log, "optuna")  # after its import, which makes handlers of its own
    if space.scheduler.name == "asha":
        return Halving(space, store, fingerprint, note)
    return Sampling(space, store, fingerprint)
