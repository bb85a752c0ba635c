"""Which checkpoints stay: the last few of every trial under way, and the trained weights of the best trials.

    checkpoints/t00007-e000012.pt   a run after an epoch, for going on with it; gone when the trial has ended
    weights/t00007.pt               the network of one of the best trials (a state_dict), as `train --out` saves it

They lie beside the results, so this is the same on a local disk, a shared path and S3. A file appears whole, and older
ones go only after it, so a writer that is killed leaves one too many at worst.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automixsearch.results.names import is_name
from automixsearch.results.store import weights_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from automixsearch.config.space import SearchSpace
    from automixsearch.results.store import Store

_NAME = re.compile(r"(.+)-e(\d{6,})\.pt")


def checkpoints(store: Store, trial_id: str) -> list[tuple[int, str]]:
    """The checkpoints of a trial as (epoch, document), the newest first."""
    found = [_NAME.fullmatch(name) for name in store.names("checkpoints")]
    own = [(int(match[2]), f"checkpoints/{match[0]}") for match in found if match and match[1] == trial_id]
    return sorted(own, reverse=True)


def drop_checkpoints(store: Store, trial_id: str) -> None:
    """Let go of all checkpoints of a trial that has ended."""
    for _, name in checkpoints(store, trial_id):
        store.delete(name)


@dataclass(frozen=True)
class Retention:
    """Keeps the `last` checkpoints of each trial, and the weights of the `best` complete trials by a metric; of equal
    ones those that ended first."""

    best: int = 1
    last: int = 2
    metric: str = "val_top1"
    sign: int = 1
    """1 where the metric is to be large, -1 where small."""

    @classmethod
    def of(cls, space: SearchSpace) -> Retention:
        """As a space has it, by its first objective."""
        return cls(**space.resources.checkpoints.model_dump(), metric=space.objective[0], sign=space.sign)

    def save(self, store: Store, trial_id: str, epoch: int, state: bytes) -> None:
        """Add a checkpoint, and let go of those before the last."""
        store.put(f"checkpoints/{trial_id}-e{epoch:06d}.pt", state)
        for _, name in checkpoints(store, trial_id)[self.last :]:
            store.delete(name)

    def wants(self, store: Store, row: Mapping[str, Any]) -> bool:
        """Whether the weights of a trial that ends with these values are worth storing, as things are."""
        if not self.best or self._loss(row) == math.inf:
            return False
        others = [loss for loss, _, _ in self._stored(store) if loss <= self._loss(row)]
        return len(others) < self.best

    def prune(self, store: Store) -> None:
        """Let go of the weights of trials that are not among the best; those without a row are left alone."""
        if len(store.names("weights")) > self.best:
            for _, _, trial_id in sorted(self._stored(store))[self.best :]:
                store.delete(weights_of(trial_id))

    def _stored(self, store: Store) -> list[tuple[float, str, str]]:
        """The trials that have weights and a row: how bad they are, when they ended, their ids."""
        ids = [name.removesuffix(".pt") for name in store.names("weights") if name.endswith(".pt") and is_name(name)]
        rows = [store.trial_row(trial_id) for trial_id in ids]
        return [(self._loss(row), str(row["ended_at"]), row["trial_id"]) for row in rows if row is not None]

    def _loss(self, row: Mapping[str, Any]) -> float:
        value = row.get(self.metric)
        if value is None or math.isnan(value) or row.get("state", "complete") != "complete":
            return math.inf
        return -self.sign * value
