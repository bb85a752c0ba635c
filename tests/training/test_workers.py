"""Several workers train the network that one would have trained."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.errors import SpecError
from automixsearch.training.run import TrainingRun
from automixsearch.training.world import World


def config(**knobs) -> TrialConfig:
    base = {"method": "cutmix", "loss": "decoupled", "epochs": 2, "width": 4, "batch_size": 64, "lr": 0.02}
    return TrialConfig(data=Data(val_fraction=0.2), knobs={**base, "crop_pad": 1, "flip": False, **knobs})


def run(made: TrialConfig, world: World | None = None) -> tuple[list[float], float, float]:
    """Losses of every step, final validation loss, test ECE."""
    torch.set_num_threads(1)
    training = TrainingRun(made, load(made.data), "cpu", world)
    losses = []
    for metrics in training.epochs():
        losses += metrics.losses
        last = metrics
    return losses, last.val_loss, training.finish().test.ece


CASES = {
    "cutmix": {},
    "puzzlemix": {"method": "puzzlemix", "loss": "mce", "epochs": 1},
    "clean pass": {"method": "puzzlemix", "loss": "mce", "epochs": 1, "puzzlemix.clean_lam": 1.0, "repeats": 2},
    "manifoldmix in timm": {
        **{"method": "manifoldmix", "loss": "mce", "epochs": 1},
        **{"backbone": "timm/test_efficientnet", "width": 64},
    },
    "automix": {
        **{"method": "automix", "loss": "mce", "epochs": 1},
        **{"automix.mask_mean": "batch", "automix.mixblock_every": 2},
    },
}


def worker(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    for name, knobs in CASES.items():
        losses, val_loss, ece = run(config(**knobs), World(rank, size))
        np.savez(Path(folder, f"{name} {rank}.npz"), losses=losses, val_loss=val_loss, ece=ece)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together() -> dict[str, list[dict[str, np.ndarray]]]:
    """What each of two workers measured in each case; the two are started once, since that takes longest."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (2, folder), nprocs=2)
        return {name: [dict(np.load(Path(folder, f"{name} {rank}.npz"))) for rank in range(2)] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_two_workers_take_the_steps_of_one(together, name):
    """Equal up to the order of sums, which training amplifies: exact at first, close after two epochs."""
    alone, val_loss, ece = run(config(**CASES[name]))
    ranks = together[name]
    np.testing.assert_array_equal(ranks[0]["losses"], ranks[1]["losses"])
    assert ranks[0]["val_loss"] == ranks[1]["val_loss"]
    np.testing.assert_allclose(ranks[0]["losses"][:5], alone[:5], rtol=1e-5)
    np.testing.assert_allclose(ranks[0]["losses"], alone, rtol=5e-3)
    assert ranks[0]["val_loss"] == pytest.approx(val_loss, rel=1e-2)
    assert ranks[0]["ece"] == pytest.approx(ece, abs=0.02)


def test_a_batch_that_workers_cannot_share_equally_is_refused():
    with pytest.raises(SpecError, match="multiple of 3"):
        TrainingRun(config(), load(Data()), "cpu", World(0, 3))
