"""One trial as a document: all that a worker needs to run it and to describe it in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from automixsearch.config.trial import TrialConfig
from automixsearch.config.upgrade import SCHEMA_VERSION
from automixsearch.errors import DamagedError
from automixsearch.results.documents import STRICT, Name, stored_config
from automixsearch.results.names import is_name
from automixsearch.results.schema import config_row
from automixsearch.search.checkpoints import drop_checkpoints
from automixsearch.search.failures import Attempt, Failure
from automixsearch.versions import code_version

if TYPE_CHECKING:
    from automixsearch.results.store import Store


def trial_id_of(number: int) -> str:
    """`t00007` for trial number 7."""
    return f"t{number:05d}"


@dataclass(frozen=True)
class Task:
    """A trial to run. `started_at` is when it was first proposed (UTC, ISO 8601).

    rung, candidate: see the columns of these names. stop_reason: of a trial below the full schedule, which
    is never tested. branches: the epochs after which a cool-down branches off. failures: those so far. cleared: the
    last of the branches after which it was not stopped.
    """

    __pydantic_config__: ClassVar = STRICT
    remedy: ClassVar = "restore it from a copy, or remove it: the trial is then proposed anew"

    trial_id: Name
    number: Annotated[int, Field(ge=0)]
    study: Name
    study_seed: int
    space_id: str
    purpose: str
    workers: Annotated[int, Field(ge=1)]
    config: TrialConfig
    rung: int | None = None
    candidate: str | None = None
    stop_reason: str | None = None
    branches: tuple[int, ...] = ()
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    failures: tuple[Failure, ...] = ()
    cleared: int = 0
    schema_version: int = SCHEMA_VERSION

    def save(self, store: Store) -> None:
        """Put the document beside the results, where the worker finds it."""
        store.put_document(_name(self.trial_id), self)

    @classmethod
    def load(cls, store: Store, trial_id: str) -> Task | None:
        """The document of a trial in flight; None where there is none."""
        task = store.document(_name(trial_id), cls)
        if task is not None and task.trial_id != trial_id:
            raise DamagedError(f"{store.uri}/{_name(trial_id)}: is of trial {task.trial_id}; {cls.remedy}")
        return task

    @classmethod
    def of_row(cls, row: Mapping[str, Any], branches: tuple[int, ...] = ()) -> Task:
        """The trial behind a row of the ledger, with what it has failed of."""
        names = ("trial_id", "number", "study", "study_seed", "space_id", "purpose", "rung", "candidate", "stop_reason")
        own: dict[str, Any] = {name: row.get(name) for name in names} | {"branches": branches}
        config = stored_config(row["config"], f"study {row['study']}, trial {row['trial_id']}")
        failed = Failure(row["error_class"] or "unknown", row["error_message"] or "", row["epochs_run"] or 0)
        failures = (failed,) * (row["attempts"] or 1 if row["state"] == "failed" else 0)
        started_at = row["started_at"].isoformat()
        return cls(**own, workers=row["workers"], config=config, started_at=started_at, failures=failures)

    @staticmethod
    def in_flight(store: Store) -> list[str]:
        """The trials that have a document."""
        names = [name for name in store.names("pending") if name.endswith(".json") and is_name(name)]
        return sorted(name.removesuffix(".json") for name in names)

    def close(self, store: Store) -> None:
        """Drop the document and the checkpoints of a trial that has its row."""
        store.delete(_name(self.trial_id))
        drop_checkpoints(store, self.trial_id)
        Attempt.close(store, self.trial_id)

    def row(self, state: str, **values: Any) -> dict[str, Any]:
        """The ledger row of this trial in its final `state`, with `values` for what only the run knows."""
        return {
            **config_row(self.config),
            "study": self.study,
            "trial_id": self.trial_id,
            "number": self.number,
            "state": state,
            "purpose": self.purpose,
            "space_id": self.space_id,
            "rung": self.rung,
            "candidate": self.candidate,
            "stop_reason": self.stop_reason,
            "code_version": " ".join([code_version(), *(plugin.origin for plugin in self.config.plugins)]),
            "study_seed": self.study_seed,
            "workers": self.workers,
            "started_at": datetime.fromisoformat(self.started_at),
            "ended_at": datetime.now(UTC),
            **values,
        }


def _name(trial_id: str) -> str:
    return f"pending/{trial_id}.json"
