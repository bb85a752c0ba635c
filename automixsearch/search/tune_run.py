"""One run of Ray Tune: the trials that a proposer names, until there is no more."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from automixsearch.search.checkpoints import Retention
from automixsearch.search.compaction import Compaction
from automixsearch.search.executors import InlineTrial, distributed_trial, held
from automixsearch.search.notes import Notes, take_notes
from automixsearch.search.plugins import handed_out
from automixsearch.search.proposers.halving import Halving
from automixsearch.search.tune_interruption import Interruption
from automixsearch.search.tune_memory import EndedTrialsCleared, NoProgressLines
from automixsearch.search.tune_scheduler import PerMethodASHA
from automixsearch.search.tune_searcher import Errors, StudySearcher

if TYPE_CHECKING:
    from automixsearch.cluster.room import Room
    from automixsearch.search.proposers import Proposer
    from automixsearch.search.task import Task
    from automixsearch.search.watcher import Watcher

MOST_AT_ONCE = 10_000
"""Trials that Tune may have in hand; how many run is decided by the room there is."""


def fit(proposer: Proposer, room: Room, watcher: Watcher, folder: Path) -> None:
    """Let Tune run what the proposer names until there is no more."""
    space, store, compaction = proposer.space, proposer.store, Compaction(proposer.store)
    scheduler = None
    if space.branches and isinstance(proposer, Halving):
        scheduler = PerMethodASHA(space, proposer.spares)
        scheduler.replay(store.epoch_rows())

    def heard(event: str, task: Task, values: dict[str, Any]) -> None:
        watcher.heard(event, task, values)
        if event != "start":
            compaction.count()

    searcher, interruption = StudySearcher(proposer, scheduler, room, heard, watcher.note), Interruption()
    distributed = space.resources.distributed
    trainable: Any = distributed_trial if distributed else InlineTrial
    tuner = tune.Tuner(
        tune.with_resources(trainable, held),
        param_space={
            "results": store.results,
            "study": store.study,
            "token": store.token,
            "plugins": handed_out(space),
            "workers": space.resources.workers,
            "retention": asdict(Retention.of(space)),
            "evaluate": space.evaluate,
            "scratch": str(store.local_path("ray") or f"{store.uri}/ray"),
        },
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=EndedTrialsCleared(scheduler),
            num_samples=-1,
            max_concurrent_trials=MOST_AT_ONCE,  # our searcher holds trials back until there is room
            reuse_actors=not distributed,
            trial_dirname_creator=trial_name,
            trial_name_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            callbacks=[interruption, Errors(searcher), Notes(store, watcher.note), NoProgressLines()],
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        interruption.run(tuner.fit)
    finally:
        compaction.close()
        take_notes(store)  # of trials that have ended by now
    if searcher.halt is not None:
        raise searcher.halt


def trial_name(trial: Any) -> str:
    """Name a Tune trial by our id."""
    return trial.config["trial_id"]
