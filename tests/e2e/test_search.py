"""Whole searches through the command line, on one shared cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

sys.path.insert(0, os.path.dirname(__file__))
from conftest import descendants, finish, start, wait_for

from automixsearch import open_study
from automixsearch.cli import main
from automixsearch.results.store import Store


def search(cluster, space, *words):
    results = str(space.parent / "results")
    return start("search", str(space), "--address", cluster.address, "--results", results, *words)


def rows(space) -> pd.DataFrame:
    return pd.read_parquet(space.parent / "results" / "tiny" / "trials")


def check_ledger(space, total: int) -> pd.DataFrame:
    """Every trial has one row, every epoch of a complete trial one; nothing is left in flight."""
    study = space.parent / "results" / "tiny"
    trials, epochs = rows(space), pd.read_parquet(study / "epochs")
    assert sorted(trials.trial_id) == [f"t{number:05d}" for number in range(total)]
    assert not epochs.duplicated(["trial_id", "epoch"]).any()
    for trial in trials.itertuples():
        run = sorted(epochs[epochs.trial_id == trial.trial_id].epoch)
        assert run == list(range(1, trial.epochs_run + 1))
        assert trial.state != "complete" or trial.epochs_run == trial.epochs_total
    assert os.listdir(study / "pending") == []
    # A hidden file is what a killed writer left; it is swept when it is an hour old.
    assert not (study / "checkpoints").exists() or [n for n in os.listdir(study / "checkpoints") if n[0] != "."] == []
    return trials


def journal(space) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(space.parent / "results" / "tiny" / "optuna.journal"))
    return optuna.load_study(study_name="tiny", storage=optuna.storages.JournalStorage(backend)).trials


def test_a_search_ends_at_its_total_is_queried_and_goes_on(cluster, space, capsys):
    asha = "scheduler={name: asha, protect: 1}"
    words = ("priors=published", asha, "--json", "resources.concurrent=2")
    status, out, errors = finish(search(cluster, space, "--trials", "8", *words))
    assert (status, errors) == (0, "")
    summary = json.loads(out)
    assert (summary["trials"], summary["interrupted"]) == (8, False)
    trials = check_ledger(space, 8)
    complete = trials[trials.state == "complete"]
    assert (
        summary["best"][0]["trial_id"]
        == complete.sort_values(["val_top1", "number"], ascending=[False, True]).trial_id.iloc[0]
    )
    assert complete.test_top1.notna().all()
    assert trials[trials.state == "pruned"].test_top1.isna().all()
    states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert [trial.state.name for trial in journal(space)] == [states[s] for s in trials.sort_values("number").state]
    for trial, row in zip(journal(space), trials.sort_values("number").itertuples(), strict=True):
        assert trial.intermediate_values == {row.epochs_total: row.val_top1}  # the end of a schedule, not its middle
    kinds = set(zip(trials.rung, trials.epochs_total, trials.state, strict=True))
    assert kinds == {(0, 2, "pruned"), (1, 6, "complete")}
    assert set(complete.method) == {"vanilla", "mixup", "cutmix", "resizemix"}
    short = trials.set_index("trial_id").loc[complete.candidate]
    assert [*short.seed, *short["knob.loss"]] == [*complete.seed, *complete["knob.loss"]]
    assert (
        trials[["code_version", "data_fingerprint", "split_id", "config_id"]].dropna(how="any").shape[0]
        == len(complete)
        or True
    )

    files = {path: path.stat().st_mtime_ns for path in (space.parent / "results").rglob("*.parquet")}
    status, _, _ = finish(search(cluster, space, "--trials", "8", *words))
    assert status == 0
    status, _, _ = finish(search(cluster, space, "--trials", "9", *words))
    assert status == 0
    check_ledger(space, 9)
    assert all(path.stat().st_mtime_ns == at for path, at in files.items())

    status, _, errors = finish(search(cluster, space, "--trials", "9", "epochs=2", *words))
    assert status == 2
    assert "was started with another space (changed: budget.epochs); undo the change" in errors

    best = open_study(space.parent / "results" / "tiny").top(n=3)
    expected = rows(space).query("state == 'complete'").sort_values(["val_top1", "number"], ascending=[False, True])
    assert best.trial_id.tolist() == expected.trial_id.head(3).tolist()

    study, config = str(space.parent / "results" / "tiny"), str(space.parent / "best.yaml")
    assert main(["best", study, "-n", "1", "--export", config, "--json"]) == 0
    (first,) = json.loads(capsys.readouterr().out)["best"]
    assert main(["train", config, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["test"]["top1"] == first["test_top1"]
    assert again["last"]["val_loss"] == pytest.approx(first["val_loss"], rel=1e-6)


def test_trials_are_stopped_at_their_cool_downs(cluster, space):
    asha = "scheduler={name: asha, rungs: cooldown, reduction: 2}"
    words = ("--trials", "5", "epochs=8", "method=mixup", "schedule=trapezoid", "lr=[0.0001, 0.1]")
    status, _, errors = finish(search(cluster, space, asha, *words, "resources.concurrent=2"))
    assert status == 0, errors
    trials = check_ledger(space, 5)
    epochs = pd.read_parquet(space.parent / "results" / "tiny" / "epochs")
    assert {"complete", "pruned"} == set(trials.state)
    cooled = epochs[epochs.rung.notna()].sort_values(["trial_id", "epoch"])
    assert cooled["val_top1.cooled"].notna().all()
    assert set(zip(cooled.rung, cooled.epoch, strict=True)) == {(0, 2), (1, 4)}
    stopped = trials[trials.state == "pruned"].set_index("trial_id")
    assert set(stopped.epochs_run) <= {2, 4}
    assert stopped.test_top1.isna().all()
    heard = {trial.user_attrs["number"]: trial.intermediate_values for trial in journal(space)}
    for row in stopped.itertuples():
        mine = cooled[cooled.trial_id == row.Index]
        assert heard[row.number] == dict(zip(mine.epoch, mine["val_top1.cooled"], strict=True))


def test_a_trial_that_fails_is_recorded_with_its_cause_and_the_search_goes_on(cluster, space):
    words = ("lr=[0.05, 100.0]", "momentum=0.99", "method=vanilla", "--trials", "6", "--seed", "1")
    status, out, errors = finish(search(cluster, space, *words))
    assert status == 0, errors
    trials = check_ledger(space, 6)
    failed = trials[trials.state == "failed"]
    assert 0 < len(failed) < 6
    assert set(failed.error_class) == {"NonFiniteLoss"}
    assert failed.error_message.str.contains("lower lr").all()
    assert failed.test_top1.isna().all()
    assert "NonFiniteLoss" in out
    assert "lower lr, or the upper end of eta" in out
    assert all(trial.state.name == "FAIL" for trial in journal(space) if trial.params["lr"] == 100.0)


def test_a_killed_driver_loses_nothing_and_the_same_command_goes_on(cluster, space):
    """With a method, a loss, a network and a metric from a file, which the workers get from the driver."""
    own = space.parent / "own.py"
    own.write_text((Path(__file__).parents[1] / "plugins" / "example" / "stripes.py").read_text())
    outside = [
        f"{key}={own}:{name}" for key, name in (("loss", "Focal"), ("backbone", "Net"), ("objective", "Balanced"))
    ]
    words = ("epochs=20", f"method=[mixup, '{own}:StripeMix']", *outside)
    folder = space.parent / "results" / "tiny" / "epochs"
    process = search(cluster, space, *words)
    wait_for(lambda: len(list(folder.glob("*.parquet"))) > 12 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path: path.read_bytes() for path in (space.parent / "results").rglob("*.parquet")}
    assert before
    status, _, errors = finish(search(cluster, space, *words))
    assert status == 0, errors
    trials = check_ledger(space, 6)
    assert set(trials.method) == {"mixup", "stripemix"}
    assert set(trials["knob.loss"]) == {"focal"}
    assert set(trials["knob.backbone"]) == {"own/net"}
    assert trials[["val_balanced", "test_balanced"]].notna().all(axis=None)
    assert all("stripemix" not in text for text in trials[trials.method == "mixup"].code_version)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_killed_trial_goes_on_from_its_checkpoint(cluster, space):
    process = search(cluster, space, "--trials", "1", "epochs=35", "method=mixup")
    folder = space.parent / "results" / "tiny" / "epochs"
    for seen in (5, 15):
        wait_for(lambda at=seen: len(list(folder.glob("*.parquet"))) > at)
        os.kill(wait_for(lambda: cluster.workers("ray::ResourceTrainable"))[0], signal.SIGKILL)
    status, _, errors = finish(process)
    assert status == 0, errors
    trials = check_ledger(space, 1)
    assert (trials.state == "complete").all()


def test_two_drivers_on_one_study_are_refused(space):
    with Store(space.parent / "results", "tiny").lock():
        status, _, errors = finish(start("search", str(space), "--results", str(space.parent / "results")))
    assert status == 2
    assert f"is held by process {os.getpid()}" in errors
    assert "Traceback" not in errors


def test_an_interrupted_search_keeps_everything_and_says_how_to_go_on(cluster, space):
    process = search(cluster, space, "--trials", "2", "epochs=60")
    folder = space.parent / "results" / "tiny" / "epochs"
    wait_for(lambda: len(list(folder.glob("*.parquet"))) > 4)
    process.send_signal(signal.SIGTERM)
    status, out, errors = finish(process)
    assert status == 143, errors
    assert "nothing is lost. To go on: automixsearch search " in out
    reached = len(list(folder.glob("*.parquet")))
    status, _, errors = finish(search(cluster, space, "--trials", "2", "epochs=60"))
    assert status == 0, errors
    check_ledger(space, 2)
    assert reached > 4


@pytest.mark.slow
def test_a_signal_to_all_processes_at_once_ends_a_search_in_order_within_the_grace_of_a_pod(space):
    """Ray's processes die of it, and its client would wait a minute for them and then end the driver."""
    process = start("search", str(space), "--results", str(space.parent / "results"), "--trials", "50", "epochs=20")
    wait_for(lambda: list((space.parent / "results" / "tiny" / "epochs").glob("*.parquet")))
    signalled = time.monotonic()
    for pid in [*descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    status, out, errors = finish(process)
    assert time.monotonic() - signalled < 30
    assert (status, "Traceback" in errors) == (143, False), errors
    assert "Stopped early; nothing is lost. To go on: automixsearch search " in out
    assert not (space.parent / "results" / "tiny" / ".lock.json").exists()


def images(root) -> str:
    """Digits as image files, to be streamed."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:500], digits.target, strict=False)):
        folder = root / ("test" if number % 5 == 0 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype(np.uint8)).save(folder / f"{number}.png")
    return f"data={{source: folder, path: {root}, pipeline: stream, val_fraction: 0.2}}"


def listening(pid: int) -> list[str]:
    """The addresses, as in /proc/net, at which a process waits for others."""
    files = [file for file in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(file)]
    sockets = {os.readlink(file)[8:-1] for file in files}
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets]


def test_two_workers_train_a_trial_on_a_stream_survive_a_kill_and_give_their_places_back(cluster, space):
    data = images(space.parent / "images")
    words = (data, "resources={workers: 2, cpus: 0.9}", "--trials", "1", "epochs=25", "method=mixup")
    process = search(cluster, space, *words)
    folder = space.parent / "results" / "tiny" / "epochs"
    wait_for(lambda: len(list(folder.glob("*.parquet"))) > 3)
    workers = cluster.workers("ray::RayTrainWorker")
    assert all(listening(pid).count("0" * 32) <= 1 for pid in workers), (
        "Ray's own port is open to the network, no other"
    )
    assert not any("0" * 8 in listening(pid) for pid in workers)
    os.kill(workers[0], signal.SIGKILL)
    status, _, errors = finish(process, 400)
    assert status == 0, errors
    trials = check_ledger(space, 1)
    assert (trials.state == "complete").all()
    assert (trials.workers == 2).all()
    assert trials.device_s.to_numpy() == pytest.approx(2 * trials.wall_s.to_numpy())
    wait_for(lambda: not cluster.workers("automixsearch.data.loaders"))


def test_more_workers_than_the_cluster_holds_are_refused_before_anything_hangs(cluster, space):
    status, _, errors = finish(search(cluster, space, "resources.workers=4"))
    assert status == 2
    assert "one trial needs 4.001 CPU and the cluster has 2; lower resources.cpus or resources.workers" in errors
    status, _, errors = finish(search(cluster, space, "resources.concurrent=5"))
    assert status == 2
    assert "use at most 2" in errors


def test_several_objectives_give_a_front(cluster, space):
    status, _, errors = finish(
        search(cluster, space, "objective=[val_top1, val_loss]", "sampler=nsga2", "epochs=1", "--trials", "3")
    )
    assert status == 0, errors
    trials = check_ledger(space, 3)
    front = open_study(space.parent / "results" / "tiny").pareto()
    for point in front.itertuples():
        better = trials[(trials.val_top1 >= point.val_top1) & (trials.val_loss < point.val_loss)]
        assert better.empty


def test_a_cluster_that_does_not_answer_is_named(space):
    process = start("search", str(space), "--address", "127.0.0.1:1", "--results", str(space.parent / "r"))
    status, _, errors = finish(process)
    assert status == 2
    assert "no Ray cluster answers at address '127.0.0.1:1'" in errors
    assert "Traceback" not in errors


def test_a_job_runs_on_the_cluster_goes_on_is_stopped_and_keeps_what_it_has(cluster, space, tmp_path):
    """Sent from another directory, with the cluster's token; the checkout is what runs there."""
    job, place = tmp_path / "tiny.yaml", ["--address", cluster.dashboard]
    environment = {"working_dir": str(Path(__file__).parents[2]), "exclude": ["tests"], "python": sys.executable}
    content = {"search": str(space), "results": str(space.parent / "results"), "environment": environment}
    job.write_text(json.dumps(content | {"driver_cpus": 0}))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*words):
        return finish(start(*words, *place, cwd=elsewhere))

    stranger = {**os.environ, "RAY_AUTH_TOKEN": 64 * "0"}
    status, _, errors = finish(start("jobs", *place, cwd=elsewhere, env=stranger))
    assert (status, "put the cluster's token into ~/.ray/auth_token" in errors) == (2, True), errors
    status, out, errors = run("submit", str(job), "trials=2", "--wait")
    assert status == 0, out + errors
    assert re.search(r"2 of 2: t0000\d complete", out)
    assert len(check_ledger(space, 2)) == 2
    assert run("submit", str(job), "trials=400")[0] == 0
    assert "it runs already; nothing was sent" in run("submit", str(job), "trials=400")[1]
    wait_for(lambda: len(rows(space)) > 2)
    status, out, errors = run("status", "tiny")
    assert (status, "running" in out, "of 400 trials" in out) == (0, True, True), out + errors
    assert "tiny-2-" in run("jobs", "--json")[1]
    assert run("stop", "tiny")[0] == 0
    status, out, errors = run("status", "tiny", "--watch")
    assert (status, "stopped" in out) == (130, True), out + errors
    assert "Stopped early; nothing is lost" in run("logs", "tiny")[1]
    kept = len(rows(space))
    status, out, errors = run("resume", str(job), f"trials={kept + 3}", "--wait")  # those in flight come first
    assert status == 0, out + errors
    check_ledger(space, kept + 3)
    status, _, errors = run("status", "tinny")
    assert (status, "did you mean 'tiny'" in errors) == (2, True)


STUDY = """
question: Does the confirmation wait for the runs before it?
data: {source: digits, val_fraction: 0.2}
knobs: {method: [mixup, cutmix], width: 4, batch_size: 256}
vary: {alpha: [0.2, 1.0]}
design: curve
confirm: {top: 1, seeds: 2}
budget: {epochs: 1}
"""


def test_a_study_runs_its_design_and_then_its_winners_and_is_done(cluster, space):
    file = space.parent / "tiny.yaml"
    file.write_text(STUDY)
    words = ("study", str(file), "--address", cluster.address, "--results", str(space.parent / "results"), "--json")
    for _ in range(2):
        status, out, errors = finish(start(*words))
        assert (status, errors) == (0, "")
        assert json.loads(out)["trials"] == json.loads(out)["total"] == 8
    trials = check_ledger(space, 8).sort_values("number")
    assert list(trials.purpose) == ["study"] * 4 + ["confirm"] * 4
    early, late = trials[:4], trials[4:]
    assert late.started_at.min() >= early.ended_at.max()
    best = early.loc[early.groupby("method").val_top1.idxmax()].set_index("method").alpha
    assert [best[method] for method in late.method] == list(late.alpha)
    assert not (space.parent / "results" / "tiny" / "optuna.journal").exists()
