"""Other tools read what the ledger holds: CSV, Optuna, Optuna's dashboard."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import optuna
import pandas as pd
from sqlalchemy.pool import NullPool

from automixsearch.cli import main
from automixsearch.commands.report import dashboard_storage
from automixsearch.results.exports import optuna_study


def test_csv_files_hold_every_row_and_column(search, tmp_path, capsys):
    assert main(["export", f"{search.store.results}/search", "--csv", str(tmp_path / "all")]) == 0
    trials = pd.read_csv(tmp_path / "all" / "trials.csv", parse_dates=["started_at", "ended_at"], low_memory=False)
    frame = search.trials()
    assert trials.columns.tolist() == frame.columns.tolist()
    for name in ("trial_id", "state", "method", "alpha", "knob.lr", "val_top1", "error_message", "ended_at"):
        pd.testing.assert_series_equal(trials[name], frame[name], check_dtype=False)
    assert len(pd.read_csv(tmp_path / "all" / "epochs.csv")) == len(search.epochs())
    assert main(["export", f"{search.store.results}/search", "--csv", str(tmp_path / "one.csv")]) == 0
    assert "one.csv" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "one.csv", low_memory=False)) == len(frame)


def test_an_exported_optuna_study_holds_the_trials(sobol, tmp_path):
    journal = tmp_path / "study.journal"
    assert main(["export", f"{sobol.store.results}/sobol", "--optuna", str(journal)]) == 0
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    loaded = optuna.load_study(study_name="sobol", storage=storage)
    frame = sobol.trials()
    assert [trial.value for trial in loaded.trials] == frame["val_top1"].tolist()
    first = loaded.trials[0]
    assert first.params.keys() == {"method", "mixup.alpha", "lr"}
    assert first.params["lr"] == frame["knob.lr"][0]
    assert first.distributions["lr"].log
    assert first.user_attrs["trial_id"] == "t00000"
    assert loaded.user_attrs["question"].startswith("How sensitive")


def test_a_file_that_ends_in_db_is_sqlite(factorial, tmp_path):
    optuna_study(factorial, tmp_path / "study.db")
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}", engine_kwargs={"poolclass": NullPool})
    loaded = optuna.load_study(study_name=None, storage=storage)
    assert [trial.value for trial in loaded.trials] == factorial.trials()["val_top1"].tolist()


def test_states_intermediate_values_and_times_are_kept(search):
    made = optuna_study(search)
    states = {trial.user_attrs["trial_id"]: trial.state.name.lower() for trial in made.trials}
    rows = search.trials().set_index("trial_id")
    names = {"complete": "complete", "pruned": "pruned", "fail": "failed"}
    assert {trial_id: names[state] for trial_id, state in states.items()} == rows["state"].to_dict()
    epochs = search.epochs().query("trial_id == 't00002'")
    assert made.trials[2].intermediate_values == dict(zip(epochs["epoch"], epochs["val_top1"], strict=True))
    assert made.trials[0].duration.total_seconds() == 60
    assert made.best_trial.user_attrs["trial_id"] == search.top_rows(1)[0]["trial_id"]


def test_a_complete_trial_without_a_score_is_a_failed_one(tmp_path):
    from ledgers import write_study

    scores = [(None, "complete"), (50.0, "complete"), (None, "pruned")]
    rows = [{"knobs": {"method": "mixup"}, "score": score, "state": state} for score, state in scores]
    epochs = [{"number": 2, "epoch": 1, "val_top1": None}]
    made = optuna_study(write_study(tmp_path, "s", rows, epochs=epochs))
    assert [trial.state.name for trial in made.trials] == ["FAIL", "COMPLETE", "PRUNED"]
    assert [trial.value for trial in made.trials] == [None, 50.0, None]


def test_of_halved_configs_the_rungs_are_intermediate_values(tmp_path):
    from ledgers import write_study

    short, full = {"epochs": 3, "warmup_epochs": 0.0}, {"epochs": 12, "warmup_epochs": 0.0}
    rows = [
        {"knobs": {"method": "mixup", **knobs}, "score": score, "state": state, "rung": rung, "candidate": first}
        for knobs, score, state, rung, first in (
            (short, 50.0, "pruned", 0, "t00000"),
            (short, 40.0, "pruned", 0, "t00001"),
            (full, 70.0, "complete", 1, "t00000"),
            (short, None, "failed", 0, "t00003"),
        )
    ]
    epochs = [{"number": 2, "method": "mixup", "epoch": epoch, "val_top1": 5.0 * epoch} for epoch in range(1, 13)]
    study = write_study(tmp_path, "halved", rows, epochs=epochs)
    optuna_study(study, tmp_path / "halved.journal")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "halved.journal"))
    )
    trials = optuna.load_study(study_name="halved", storage=storage).trials
    assert [trial.intermediate_values for trial in trials] == [{3: 50.0}, {3: 40.0}, {3: 50.0, 12: 70.0}, {}]
    assert [trial.value for trial in trials] == [50.0, 40.0, 70.0, None]
    assert trials[2].user_attrs["candidate"] == "t00000"


def test_of_cool_downs_their_scores_are_intermediate_values(tmp_path):
    from ledgers import write_study

    rows = [
        {"knobs": {"method": "mixup", "epochs": 8}, "score": 70.0},
        {"knobs": {"method": "mixup", "epochs": 8}, "score": 31.0, "state": "pruned", "epochs_run": 2},
    ]
    epochs = [
        {"number": 0, "method": "mixup", "epoch": 1, "val_top1": 20.0},
        {"number": 0, "method": "mixup", "epoch": 2, "val_top1": 30.0, "rung": 0, "val_top1.cooled": 55.0},
        {"number": 0, "method": "mixup", "epoch": 8, "val_top1": 70.0},
        {"number": 1, "method": "mixup", "epoch": 2, "val_top1": 31.0, "rung": 0, "val_top1.cooled": 45.0},
    ]
    keys = dict.fromkeys(("rung", "val_top1.cooled"))
    study = write_study(tmp_path, "cooled", rows, epochs=[keys | row for row in epochs])
    whole, stopped = optuna_study(study).trials
    assert (whole.intermediate_values, whole.value) == ({2: 55.0, 8: 70.0}, 70.0)
    assert (stopped.intermediate_values, stopped.value) == ({2: 45.0}, 45.0)


def test_a_search_keeps_the_ranges_of_its_space(tmp_path):
    from ledgers import write_study

    from automixsearch.config.files import load_space

    space = load_space("quickstart", [])
    row = {
        "knobs": dict(method="mixup", loss="mce", width=8, **{"mixup.alpha": 0.5}),
        "score": 50.0,
        "purpose": "search",
    }
    study = write_study(tmp_path, "q", [row], space=space.model_dump(mode="json"))
    trial = optuna_study(study).trials[0]
    assert trial.params == {"method": "mixup", "loss": "mce", "mixup.alpha": 0.5}
    assert (trial.distributions["mixup.alpha"].low, trial.distributions["mixup.alpha"].high) == (0.1, 4.0)


def test_an_export_is_not_written_over(search, tmp_path, capsys):
    (tmp_path / "there.journal").write_text("")
    assert main(["export", f"{search.store.results}/search", "--optuna", str(tmp_path / "there.journal")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", f"{search.store.results}/search"]) == 2
    assert "give --csv FILE_OR_DIR" in capsys.readouterr().err


def test_the_dashboard_reads_a_searchs_own_journal(tmp_path):
    from ledgers import write_study

    study = write_study(tmp_path, "s", [{"knobs": {"method": "mixup"}, "score": 50.0}])
    journal = tmp_path / "s" / "optuna.journal"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    optuna.create_study(storage=storage, study_name="of the journal")
    found, where = dashboard_storage(study)
    assert optuna.get_all_study_names(found) == ["of the journal"]
    assert "optuna.journal" in where


def test_the_dashboard_shows_a_study_without_a_journal_on_this_machine_alone(sobol):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "automixsearch", "dashboard", f"{sobol.store.results}/sobol", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(2)]
        assert "118 trials of the ledger" in lines[0]
        assert f"http://127.0.0.1:{port}/ (for this machine only" in lines[1]
        content = _get(f"http://127.0.0.1:{port}/api/studies")
        assert [found["study_name"] for found in json.loads(content)["study_summaries"]] == ["sobol"]
        url = f"http://127.0.0.1:{port}/api/studies"
        asking = [threading.Thread(target=_ask_till_the_end, args=(url,)) for _ in range(4)]
        for one in asking:
            one.start()
        server.terminate()
        assert server.wait(timeout=30) == 128 + signal.SIGTERM, "an answer under way swallows no signal"
        for one in asking:
            one.join()
    finally:
        server.kill()
        server.communicate()


def _ask_till_the_end(url: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        while True:
            with urllib.request.urlopen(url) as answer:
                answer.read()


def _get(url: str) -> bytes:
    for attempt in range(100):
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.read()
        except urllib.error.URLError:
            if attempt == 99:
                raise
            time.sleep(0.1)
    raise AssertionError
