"""What evaluations found: a document for each trial and question, which a repeated question reads instead of asking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from automixsearch.config.identity import hash_json
from automixsearch.config.upgrade import SCHEMA_VERSION
from automixsearch.errors import DamagedError
from automixsearch.results.documents import Document, Name

if TYPE_CHECKING:
    from automixsearch.results.store import Store

FOLDER = "evaluations"
COLUMNS = ("trial_id", "suite", "name", "setting", "value", "images", "seed", "code", "settings")
"""The columns of the table of all scores."""


class ScoreEntry(Document):
    """A figure; value: None where it has none. See `evaluation.Score`."""

    name: str
    value: float | None
    images: int = Field(ge=0)
    setting: str = ""


class EvaluationDocument(Document):
    """`evaluations/TRIAL.SUITE.HASH.json`; the hash is that of suite and settings.

    code: version and hash of the code that was asked, and of a suite from outside the hash of its source.
    """

    remedy: ClassVar[str] = "remove it, and ask again: automixsearch evaluate"
    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)
    trial_id: Name
    suite: Name
    settings: dict[str, Any]
    seed: int = Field(ge=0)
    code: str
    scores: list[ScoreEntry]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each score, of `COLUMNS`."""
        own = {name: getattr(self, name) for name in ("trial_id", "suite", "seed", "code")}
        own["settings"] = " ".join(f"{name}={value}" for name, value in self.settings.items())
        return [{name: (own | score.model_dump())[name] for name in COLUMNS} for score in self.scores]


def place_of(trial_id: str, suite: str, settings: dict[str, Any]) -> str:
    """The document that answers a question about a trial."""
    return f"{FOLDER}/{trial_id}.{suite}.{hash_json({'suite': suite, 'settings': settings})[:8]}.json"


def evaluations(store: Store, trials: Iterable[str] | None = None) -> Iterator[EvaluationDocument]:
    """All that can be read, by name of the document, of some trials or all; damaged ones are noted in `store`."""
    wanted = None if trials is None else set(trials)
    for name in store.names(FOLDER):
        if not name.endswith(".json") or (wanted is not None and name.partition(".")[0] not in wanted):
            continue
        try:
            found = store.document(f"{FOLDER}/{name}", EvaluationDocument)
        except DamagedError as error:
            place = f"{store.study}/{FOLDER}/{name}"
            store.corrupt[place] = str(error).removeprefix(f"{store.files.place(place)}: ")
            continue
        if found is not None:
            yield found
