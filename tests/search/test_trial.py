"""One trial in this process, with what can go wrong around it."""

from __future__ import annotations

import pytest
import torch

from automixsearch.errors import StorageError
from automixsearch.reading import parse_space
from automixsearch.results.store import Store
from automixsearch.search.failures import Attempt
from automixsearch.search.proposer import Proposer
from automixsearch.search.trial import run_trial
from automixsearch.training.world import World

EPOCHS = 3


@pytest.fixture
def trial(tmp_path):
    store = Store(tmp_path, "s")
    content = {"name": "s", "knobs": {"method": "mixup", "width": 2}, "budget": {"trials": 1, "epochs": EPOCHS}}
    data = {"source": "digits", "val_fraction": 0.2}
    return store, Proposer(parse_space({**content, "data": data, "sampler": "random"}, "test"), store, None).next()


def run(trial, epochs=EPOCHS) -> list[dict]:
    epochs_of = run_trial(*trial, torch.device("cpu"), World())
    found = [next(epochs_of) for _ in range(epochs)]
    epochs_of.close()
    return found


def losses(store) -> list[float]:
    assert [row["epoch"] for row in store.epoch_rows()] == list(range(1, EPOCHS + 1))
    return [row["val_loss"] for row in store.epoch_rows()]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
def test_a_damaged_checkpoint_costs_the_epochs_behind_it_and_nothing_else(trial, damage):
    store, task = trial
    run(trial, 1)
    saved = store.get(task.checkpoint)
    store.put(task.checkpoint, damage(saved))
    again = run(trial)
    assert again[0]["note"].startswith("t00000 starts anew: the checkpoint cannot be read")
    assert "note" not in again[1]
    assert [metrics["epoch"] for metrics in again] == [1, 2, 3]
    assert store.trial_row("t00000")["state"] == "complete"
    assert losses(store) == [metrics["val_loss"] for metrics in again]


def test_a_trial_whose_results_cannot_be_written_fails_and_goes_on_from_its_checkpoint(trial, monkeypatch):
    store, write = trial[0], Store.write_epoch

    def broken(self, row):
        if row["epoch"] == 3:
            raise StorageError("s3://bucket: cannot be written: network is down")
        return write(self, row)

    monkeypatch.setattr(Store, "write_epoch", broken)
    with pytest.raises(StorageError, match="network is down"):
        run(trial)
    attempt = Attempt.load(store, "t00000")
    assert attempt.cause == "StorageError"
    assert store.trial_rows() == []
    monkeypatch.setattr(Store, "write_epoch", write)
    again = [metrics["epoch"] for metrics in run_trial(*trial, torch.device("cpu"), World())]
    assert again in ([2, 3], [3]), "the first epoch is always saved, later ones when it is cheap enough"
    assert store.trial_row("t00000")["epochs_run"] == 3
    losses(store)
