"""A copy of the ledger as a journal of Optuna, which `optuna-dashboard` opens while the search runs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace

log = logging.getLogger(__name__)


class Journal:
    """The file: what makes the study, then one line for each ended trial, in the order of their numbers.

    Nothing of a search depends on it. Only the one driver of a study, which holds its lock, may write it; a file that
    disagrees with the ledger, or is damaged, is written anew.
    """

    def __init__(self, path: Path, space: SearchSpace) -> None:
        self.path, self.space = path, space
        self._head = _head(space)
        self.held, self._waiting = 0, dict[int, FrozenTrial]()
        self._broken = False

    def holds(self, ends: Mapping[int, tuple[str | None, int]]) -> int | None:
        """How many trials the file holds; None where it is missing, damaged or does not fit the ledger.

        ends: config and Optuna's state of each ended trial of the ledger, by number.
        """
        lock = self.path.with_name(self.path.name + ".lock")  # of a driver that was killed
        try:
            lock.unlink(missing_ok=True)
            lines: list[Any] = list(JournalFileBackend(str(self.path)).read_logs(0)) if self.path.is_file() else []
            if not all(isinstance(line, dict) for line in lines):
                return None
            found = [(line["user_attrs"]["config_id"], line["state"]) for line in lines[len(self._head) :]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # damaged: it is made anew from the ledger
            return None
        if [_without_author(line) for line in lines[: len(self._head)]] != list(map(_without_author, self._head)):
            return None
        agrees = all(number not in ends or ends[number] == end for number, end in enumerate(found))
        self.held = len(found)
        return len(found) if agrees else None

    def trials(self) -> list[FrozenTrial]:
        """The trials in the file; none where it is damaged."""
        try:
            storage = JournalStorage(JournalFileBackend(str(self.path)))
            return optuna.load_study(study_name=self.space.name, storage=storage).get_trials(deepcopy=False)
        except Exception as error:  # Optuna replays the file, and raises whatever its lines lead to
            log.warning("%s is damaged: %s", self.path, error)
            return []

    def begin(self) -> None:
        """Write the file anew, without trials."""
        self.held = 0
        with self._given_up_if_it_fails():
            self.path.unlink(missing_ok=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            JournalFileBackend(str(self.path)).append_logs(self._head)

    def add(self, trials: Iterable[FrozenTrial]) -> None:
        """Add ended trials; one waits until all of smaller number have ended."""
        self._waiting.update({trial.user_attrs["number"]: trial for trial in trials})
        ready = []
        while (trial := self._waiting.pop(self.held, None)) is not None:
            ready.append(trial)
            self.held += 1
        if ready and not self._broken:
            with self._given_up_if_it_fails():
                JournalFileBackend(str(self.path)).append_logs(_lines(self.space.name, self._head, ready))

    @contextlib.contextmanager
    def _given_up_if_it_fails(self) -> Iterator[None]:
        """The ledger has all that this file has: where it cannot be written, the log says so, and that is all."""
        try:
            yield
        except OSError as error:
            self._broken = True
            log.warning("%s cannot be written: %s; the search goes on without it", self.path, error)


class _Memory(BaseJournalBackend):
    """Keeps what would be written."""

    def __init__(self, logs: list[dict[str, Any]]) -> None:
        self.logs = logs

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def _head(space: SearchSpace) -> list[dict[str, Any]]:
    """What Optuna writes to make the study."""
    memory = _Memory([])
    study = optuna.create_study(
        storage=JournalStorage(memory), study_name=space.name, directions=list(space.directions)
    )
    study.set_user_attr("space_id", space.space_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(space.objective))
    return memory.logs


def _lines(name: str, head: list[dict[str, Any]], trials: Iterable[FrozenTrial]) -> list[dict[str, Any]]:
    """What Optuna writes to add `trials` to the study; nothing of it stays in memory."""
    memory = _Memory(list(head))
    optuna.load_study(study_name=name, storage=JournalStorage(memory)).add_trials(trials)
    return memory.logs[len(head) :]


def _without_author(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "worker_id"}
