"""One trial in this process, with what can go wrong around it."""

from __future__ import annotations

import errno
import io
import json
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch

import automixsearch.search.trial as trial_module
from automixsearch.cli import main
from automixsearch.config.files import parse_space
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.errors import DataError, SpecError, StorageError
from automixsearch.results.store import Store, weights_of
from automixsearch.results.study import open_study
from automixsearch.search.checkpoints import Retention, checkpoints, drop_checkpoints
from automixsearch.search.driver import run_search
from automixsearch.search.executors import _start_inline
from automixsearch.search.failures import Attempt
from automixsearch.search.proposers.sampling import Sampling
from automixsearch.search.task import Task
from automixsearch.search.trial import run_trial
from automixsearch.training.run import TrainingRun
from automixsearch.training.world import World

EPOCHS = 3
SMALL = {
    "name": "s",
    "data": {"source": "digits", "val_fraction": 0.2},
    "knobs": {"method": ["vanilla", "mixup"], "width": 2},
    "sampler": "random",
}


@pytest.fixture
def trial(tmp_path):
    store = Store(tmp_path, "s")
    content = {"name": "s", "knobs": {"method": "mixup", "width": 2}, "budget": {"trials": 1, "epochs": EPOCHS}}
    data = {"source": "digits", "val_fraction": 0.2}
    return store, Sampling(parse_space({**content, "data": data, "sampler": "random"}, "test"), store, None).next()


def run(trial, epochs=EPOCHS) -> list[dict]:
    epochs_of = run_trial(*trial, torch.device("cpu"), World())
    found = [next(epochs_of) for _ in range(epochs)]
    epochs_of.close()
    return found


def losses(store) -> list[float]:
    assert [row["epoch"] for row in store.epoch_rows()] == list(range(1, EPOCHS + 1))
    return [row["val_loss"] for row in store.epoch_rows()]


def flipped(data: bytes) -> bytes:
    """One bit of the weights is another."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        place = data.index(archive.read(largest), largest.header_offset)
    changed = bytearray(data)
    changed[place] ^= 64
    return bytes(changed)


DAMAGE = [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99, flipped]


def names(store) -> list[str]:
    return store.names("checkpoints")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_costs_the_epochs_behind_it_and_nothing_else(trial, damage):
    store, _ = trial
    run(trial, 1)
    (name,) = names(store)
    store.put(f"checkpoints/{name}", damage(store.get(f"checkpoints/{name}")))
    again = run(trial)
    assert again[0]["note"].startswith("t00000 starts anew: that of epoch 1 is damaged: the checkpoint cannot be read")
    assert "note" not in again[1]
    assert [metrics["epoch"] for metrics in again] == [1, 2, 3]
    assert store.trial_row("t00000")["state"] == "complete"
    assert losses(store) == [metrics["val_loss"] for metrics in again]


def test_a_checkpoint_of_another_config_is_not_called_damaged(trial):
    store, task = trial
    run(trial, 1)
    (name,) = names(store)
    store.put(f"checkpoints/{name}", other_state(task))
    again = run(trial)
    assert again[0]["note"].startswith("t00000 starts anew: that of epoch 1 is not its own: the checkpoint belongs to")
    assert store.trial_row("t00000")["state"] == "complete"


def other_state(task: Task) -> bytes:
    config = TrialConfig(**{**task.config.model_dump(), "seed": task.config.seed + 1})
    return TrainingRun(config, load(config.data), "cpu").state()


@pytest.fixture
def every_epoch(monkeypatch):
    """A checkpoint after every epoch, however long it takes."""
    monkeypatch.setattr(trial_module, "CHECKPOINT_SHARE", 0)


@pytest.mark.parametrize("damage", [DAMAGE[0], flipped])
def test_the_checkpoint_before_a_damaged_one_is_gone_on_from(trial, every_epoch, damage):
    store, task = trial
    run(trial, 2)
    expected = names(store)
    assert expected == ["t00000-e000001.pt", "t00000-e000002.pt"]
    store.put(f"checkpoints/{expected[1]}", damage(store.get(f"checkpoints/{expected[1]}")))
    again = run(trial, 2)
    assert [metrics["epoch"] for metrics in again] == [2, 3]
    assert again[0]["note"].startswith("t00000 goes on from its checkpoint of epoch 1: that of epoch 2 is damaged: the")
    assert losses(store)[1:] == [metrics["val_loss"] for metrics in again], "as if nothing had been"
    task.close(store)
    assert names(store) == []


@pytest.mark.parametrize("last", [1, 3])
def test_as_many_checkpoints_stay_as_are_asked_for_and_none_of_another_trial_goes(trial, every_epoch, last):
    store, task = trial
    for other in ("t00000-e000009.pt.x", "t00001-e000001.pt", "t000001-e000001.pt"):
        store.put(f"checkpoints/{other}", b"x")
    for metrics in run_trial(store, task, torch.device("cpu"), World(), Retention(last=last)):
        own = [name for name in names(store) if name.startswith("t00000-e") and name.endswith(".pt")]
        assert len(own) == min(last, metrics["epoch"])
        assert own[-1] == f"t00000-e{metrics['epoch']:06d}.pt"
    task.close(store)
    assert len(names(store)) == 3


WRITER = """
import os, sys
from automixsearch.results.files import LocalFiles
from automixsearch.results.store import Store
from automixsearch.search.checkpoints import Retention
store = Store(sys.argv[1], "s")
for epoch in (1, 2, 3):
    if epoch == 3:
        if sys.argv[2] == "before":
            os.replace = lambda *_: os.kill(os.getpid(), 9)
        else:
            LocalFiles.delete = lambda *_: os.kill(os.getpid(), 9)
    Retention(last=2).save(store, "t00000", epoch, bytes([epoch]) * 1000)
"""


@pytest.mark.parametrize(("moment", "there"), [("before", [2, 1]), ("after", [3, 2, 1])])
def test_a_writer_that_is_killed_leaves_whole_checkpoints_only(tmp_path, moment, there):
    done = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path), moment])
    assert done.returncode == -9
    store = Store(tmp_path, "s")
    found = checkpoints(store, "t00000")
    assert [epoch for epoch, _ in found] == there
    for epoch, name in found:
        assert store.get(name) == bytes([epoch]) * 1000
    Retention(last=2).save(store, "t00000", 4, b"next")
    assert [epoch for epoch, _ in checkpoints(store, "t00000")] == [4, there[0]], "what was too many goes"


def test_in_a_bucket_a_search_goes_on_and_a_truncated_checkpoint_costs_an_epoch(s3, every_epoch):
    content = {"name": "s", "knobs": {"method": "mixup", "width": 2}, "budget": {"trials": 1, "epochs": EPOCHS}}
    content |= {"data": {"source": "digits", "val_fraction": 0.2}, "sampler": "random"}
    store = Store(s3, "s")
    trial = store, Sampling(parse_space(content, "test"), store, None).next()
    run(trial, 2)
    store.put(f"checkpoints/{names(store)[-1]}", store.get(f"checkpoints/{names(store)[-1]}")[:1000])
    again = run(trial, 2)
    assert again[0]["note"].startswith("t00000 goes on from its checkpoint of epoch 1: that of epoch 2 is damaged")
    for trials in (1, 2):
        more = parse_space({**content, "budget": {"trials": trials, "epochs": EPOCHS}}, "test")
        result = run_search(more, s3, debug=True)
        assert (result.finished, result.interrupted) == (trials, False)
    assert [row["state"] for row in store.trial_rows()] == ["complete"] * 2
    assert len(store.epoch_rows()) == 2 * EPOCHS
    best = max(store.trial_rows(), key=lambda row: (row["val_top1"], -row["number"]))
    assert store.names("weights") == [f"{best['trial_id']}.pt"]
    assert (names(store), store.names("pending")) == ([], [])


# The best ------------------------------------------------------------------------------------------------------


def ended(store, number: int, retention: Retention, **values) -> None:
    """A trial that has ended, with weights if they are wanted."""
    row = {"trial_id": f"t{number:05d}", "number": number, "state": "complete", **values}
    if row["state"] == "complete" and retention.wants(store, row):
        store.put(weights_of(row["trial_id"]), b"weights")
    store.write_trial({**row, "ended_at": datetime(2026, 1, 1, 0, number, tzinfo=UTC)})
    retention.prune(store)


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_the_weights_of_the_best_trials_stay(place, tmp_path, request):
    store = Store(tmp_path if place == "disk" else request.getfixturevalue("s3"), "s")
    retention = Retention(best=2, metric="val_loss", sign=-1)
    for number, loss in enumerate([0.5, 0.9, None, 0.4, 0.5, 0.3, 0.7]):
        ended(store, number, retention, val_loss=loss)
        store.put("weights/t00009.pt", b"of a trial that has no row yet")
    ended(store, 7, retention, state="pruned", val_loss=0.0)
    assert store.names("weights") == ["t00003.pt", "t00005.pt", "t00009.pt"]


def test_nothing_is_kept_where_nothing_is_asked_for(tmp_path):
    store = Store(tmp_path, "s")
    for number in range(3):
        ended(store, number, Retention(best=0), val_top1=50.0 + number)
    assert store.names("weights") == []


def test_a_trial_leaves_its_weights_which_are_those_of_its_network(trial, tmp_path, capsys):
    store, task = trial
    run(trial)
    store.put("study.json", b'{"objective": ["val_top1"], "total_trials": 1}')
    (row,) = store.trial_rows()
    for part, images in (("val", row["val_images"]), ("test", row["test_images"])):
        assert sum(json.loads(row[f"{part}_class_accuracy"])) / 10 == pytest.approx(row[f"{part}_balanced_accuracy"])
        assert 10 < row[f"{part}_majority"] < 11
        assert row[f"{part}_rarest"] * 10 <= images
    assert row["val_auroc"] is None
    outcome = open_study(tmp_path / "s").outcomes()[row["trial_id"]]
    assert (outcome.split_id, outcome.images) == (row["split_id"], row["val_images"])
    assert 100 * outcome.right.mean() == pytest.approx(row["val_top1"])
    file = tmp_path / "best.pt"
    assert main(["best", "s", "--results", str(tmp_path), "--weights", str(file)]) == 0
    assert f"weights of t00000 written to {file}" in capsys.readouterr().out
    state = torch.load(file, weights_only=True)
    network = TrainingRun(task.config, load(task.config.data), "cpu").network
    network.load_state_dict(state)
    store.put(weights_of("t00000"), flipped(store.get(weights_of("t00000"))))
    assert main(["best", "s", "--results", str(tmp_path), "--weights", str(file)]) == 2
    assert "weights/t00000.pt: is damaged: its checksums do not fit" in capsys.readouterr().err
    assert torch.load(file, weights_only=True).keys() == state.keys(), "the file of before is left alone"
    store.delete(weights_of("t00000"))
    assert main(["best", "s", "--results", str(tmp_path), "--weights", str(file)]) == 2
    assert "t00000: its weights were not kept; resources.checkpoints.best" in capsys.readouterr().err


def test_a_space_says_what_is_kept():
    content = {"knobs": {"method": "mixup"}, "objective": ["val_loss", "wall_s"]}
    assert Retention.of(parse_space(content, "test")) == Retention(best=1, last=2, metric="val_loss", sign=-1)
    more = {**content, "resources": {"checkpoints": {"best": 5, "last": 1}}}
    assert Retention.of(parse_space(more, "test")) == Retention(best=5, last=1, metric="val_loss", sign=-1)
    assert parse_space(content, "test").space_id == parse_space(more, "test").space_id
    with pytest.raises(SpecError, match=r"resources\.checkpoints\.last = 0 .*greater than or equal to 1"):
        parse_space({**content, "resources": {"checkpoints": {"last": 0}}}, "test")


# Configs that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoilt", ["validation", "test"])
def test_a_trial_that_diverges_is_a_failure_of_its_config_and_is_told_so(trial, monkeypatch, spoilt):
    store, task = trial
    part, scores = {"validation": 0, "test": 1}[spoilt], TrainingRun._evaluate

    def spoil(run, images, *rest):
        if (run.val, run.test)[part] is images and run.epoch >= 2:
            with torch.no_grad():
                next(run.algorithm.parameters()).fill_(torch.inf)
        return scores(run, images, *rest)

    monkeypatch.setattr(TrainingRun, "_evaluate", spoil)
    reported = list(run_trial(store, task, torch.device("cpu"), World()))
    assert len(reported) == 2, "the third epoch has no scores, or the trial no end"
    row = store.trial_row("t00000")
    assert (row["state"], row["error_class"], row["attempts"]) == ("failed", "NonFiniteLoss", 1)
    assert row["error_message"].startswith("diverged: an output of the network was NaN or infinite; lower lr (now 0.1)")
    assert row["test_top1"] is None
    assert Attempt.load(store, "t00000") is None, "nothing that is tried again"


# Storage that fails --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("a row", StorageError("/r: cannot be written: No space left on device; free some space")),
        ("a checkpoint", StorageError("/r: cannot be written: Disk quota exceeded; free some space")),
        ("the images", DataError("/data: no such file or directory")),
        ("a step", OSError(errno.EIO, "Input/output error", "/data/7.png")),
        ("a step", RuntimeError("PytorchStreamWriter failed: No space left on device")),
    ],
)
def test_a_search_without_ray_stops_where_the_world_fails_and_the_same_command_goes_on(
    tmp_path, monkeypatch, capsys, kind, error
):
    def broken(*_args, **_kwargs):
        raise error

    owner, name = {
        "a row": (Store, "write_epoch"),
        "a checkpoint": (Retention, "save"),
        "the images": (trial_module, "load"),
        "a step": (TrainingRun, "_train_epoch"),
    }[kind]
    space = tmp_path / "s.yaml"
    space.write_text(json.dumps({**SMALL, "budget": {"trials": 1, "epochs": 1}}))
    command = ["search", str(space), "--results", str(tmp_path / "r"), "--debug"]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        assert main(command) == 2
    told = capsys.readouterr().err
    assert str(error) in told or str(error.strerror) in told
    assert "nothing is lost" in told or "free some space" in told
    assert Store(tmp_path / "r", "s").trial_rows() == []
    assert main(command) == 0
    assert [row["state"] for row in Store(tmp_path / "r", "s").trial_rows()] == ["complete"]


def test_a_trial_that_is_begun_again_says_whether_it_went_on_or_starts_anew(trial):
    store, task = trial
    assert "note" not in run(trial, 1)[0]
    assert run(trial, 1)[0]["note"] == "t00000 goes on from its checkpoint of epoch 1"
    drop_checkpoints(store, task.trial_id)
    assert run(trial)[0]["note"] == "t00000 starts anew: it had no checkpoint yet"
    losses(store)


def test_workers_go_on_after_a_cool_down_when_the_driver_lets_them(trial, monkeypatch):
    store, task = trial
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            replace(task, cleared=2).save(store)

    monkeypatch.setattr(time, "sleep", sleep)
    trial_module._await_verdict(store, task, 2)
    assert len(waits) == 3


def test_a_process_that_cannot_import_torch_has_said_where_it_runs(trial, monkeypatch):
    store, task = trial
    monkeypatch.setitem(sys.modules, "automixsearch.search.trial", None)
    config = {"results": store.results, "study": store.study, "token": "", "trial_id": task.trial_id, "cpus": 1}
    config["plugins"] = {"written": [], "texts": {}}
    with pytest.raises(ImportError, match=r"automixsearch\.search\.trial"):
        _start_inline(config)
    assert Attempt.load(store, task.trial_id).place.host == socket.gethostname()
