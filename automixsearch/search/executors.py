"""The two executors of the one training loop: inline in a reused Tune actor, or Ray Train workers.

This module is imported by the driver, so it must not import torch; the loop arrives inside the actors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from automixsearch.errors import StudyError
from automixsearch.results.store import Store
from automixsearch.search.checkpoints import Retention
from automixsearch.search.failures import STORAGE_PATIENCE_S, Attempt, Place
from automixsearch.search.notes import leave_note
from automixsearch.search.plugins import received, renewed
from automixsearch.search.task import Task

if TYPE_CHECKING:
    from automixsearch.results.store import Store


def held(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial's own actor, as its config says."""
    avoid = elsewhere(config["avoid"])
    return tune.PlacementGroupFactory([config["held"]], bundle_label_selector=[avoid] if avoid else None)


def elsewhere(avoid: list[str]) -> dict[str, str] | None:
    """Ray's label selector of all nodes but these."""
    return {"ray.io/node-id": f"!in({','.join(avoid)})"} if avoid else None


class InlineTrial(tune.Trainable):
    """Runs trials one after another in its own process; a step is an epoch.

    The actor outlives its trials: torch, the data set and the CUDA context stay, the trial's memory does not.
    """

    _epochs: Iterator[dict[str, Any]] | None = None
    _trial = ("", "")

    def setup(self, config: dict[str, Any]) -> None:
        self._trial_config = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._trial_config = new_config
        return True

    def step(self) -> dict[str, Any]:
        if self._epochs is None:
            self._epochs = _start_inline(self._trial_config)
        metrics = next(self._epochs, None)
        if metrics is None:
            return {"done": True}
        return {**metrics, "done": metrics["epoch"] >= self._trial_config["epochs"]}

    def cleanup(self) -> None:
        if self._epochs is not None:
            self._epochs.close()  # type: ignore[attr-defined]
        self._epochs = None


def _start_inline(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    store, task = _open(config)
    Attempt(Place.here()).save(store, task.trial_id)  # before torch is imported, which a node can fail to do
    from automixsearch.search.trial import limit_threads, run_trial
    from automixsearch.training.run import pick_device
    from automixsearch.training.world import World

    limit_threads(config["cpus"])
    return iter(run_trial(store, task, pick_device(), World(), Retention(**config["retention"]), config["evaluate"]))


def _open(config: dict[str, Any]) -> tuple[Store, Task]:
    def note(text: str) -> None:
        leave_note(store, config["trial_id"], text)

    store = Store(config["results"], config["study"], STORAGE_PATIENCE_S, config["token"], note)
    task = Task.load(store, config["trial_id"])
    if task is None:
        raise StudyError(f"trial {config['trial_id']} has no document in {config['results']}/{config['study']}")
    store.plugins = received(config["plugins"])
    return store, renewed(task, store.plugins)


def distributed_trial(config: dict[str, Any]) -> None:
    """Tune function of a trial on several workers: starts a Ray Train run under the trial's own name.

    Train restarts its workers from our checkpoint when one dies; the run's name is the trial's id, so that a new
    driver or trial actor finds it again.
    """
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from automixsearch.search.rendezvous import Rendezvous

    _name_the_cluster()
    gpus = config["worker"].get("GPU", 0)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config,
        torch_config=Rendezvous(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config["workers"],
            use_gpu=gpus > 0,
            resources_per_worker=config["worker"],
            label_selector=elsewhere(config["avoid"]),
        ),
        run_config=ray.train.RunConfig(
            name=config["trial_id"],
            storage_path=config["scratch"],
            callbacks=[TuneReportCallback()],
            # A worker or two that die are replaced here, fast; what comes again is for the driver to judge.
            failure_config=ray.train.FailureConfig(max_failures=1, controller_failure_limit=2),
        ),
    )
    trainer.fit()


def _name_the_cluster() -> None:
    """Let Ray Train's processes know which cluster is theirs.

    The one that frees the places of a trial that has died asks the cluster's dashboard whether it has. Where several
    clusters run on a machine it would find none or another's, and take a living trial for dead.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    with suppress(ImportError):  # Ray Train has no public way to hand a variable on to its controller
        from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

        ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def train_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: its share of every batch, the same epochs as all others."""
    import ray.train
    from ray.train.torch import get_device

    store, task = _open(config)
    context = ray.train.get_context()
    if context.get_world_rank() == 0:
        Attempt(Place()).save(store, task.trial_id)  # which of several workers dies cannot be known beforehand
    from automixsearch.search.trial import limit_threads, run_trial
    from automixsearch.training.world import World

    limit_threads(config["cpus"])
    device = get_device() if config["worker"].get("GPU") else "cpu"
    import torch

    world = World(context.get_world_rank(), context.get_world_size())
    retention, evaluate = Retention(**config["retention"]), config["evaluate"]
    for metrics in run_trial(store, task, torch.device(device), world, retention, evaluate):
        ray.train.report(metrics)
