"""What others may have written is never executed, and secrets are kept nowhere."""

from __future__ import annotations

import json
import logging
import os
import pickle

import pytest

from automixsearch.cluster.jobs import load_job
from automixsearch.config.files import parse_space
from automixsearch.errors import SpecError, StudyError, TrainingError, redact
from automixsearch.results.store import Store
from automixsearch.results.study import open_study
from automixsearch.search.proposers.sampling import Sampling

WORD = "hunter2"
URI = f"s3://AKIAEXAMPLE:{WORD}%2Fx@bucket/runs"


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def evil(tmp_path):
    yield pickle.dumps({"config_id": "x", "weights": Evil(tmp_path / "executed")})
    assert not (tmp_path / "executed").exists()


def test_a_pickle_that_executes_would_be_noticed(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_a_pickle_is_no_checkpoint(evil):
    from automixsearch.training.run import TrainingRun

    run = TrainingRun.__new__(TrainingRun)
    run.device = "cpu"
    with pytest.raises(TrainingError, match="the checkpoint cannot be read"):
        run.load(evil)


def test_a_pickle_is_no_weights(tmp_path, evil):
    from automixsearch.models.weights import _read

    (tmp_path / "weights.pt").write_bytes(evil)
    with pytest.raises(SpecError, match=r"weights\.pt: cannot be read"):
        _read(str(tmp_path / "weights.pt"))


def test_a_pickle_is_no_study_and_no_row(tmp_path, evil):
    from automixsearch.search.driver import run_search

    store = Store(tmp_path, "s")
    store.write_trial({"trial_id": "t00000", "number": 0, "state": "complete"})
    (tmp_path / "s" / "trials" / "t00001.parquet").write_bytes(evil)
    assert store.finished() == {"t00000"}
    store.put("study.json", evil)
    with pytest.raises(StudyError, match=r"study\.json: is not UTF-8 text"):
        open_study(tmp_path / "s").summary()
    with pytest.raises(StudyError, match=r"study\.json: is not UTF-8 text"):
        run_search(parse_space({"name": "s", "knobs": {}}, "test"), tmp_path)


def test_a_pickle_is_no_journal(tmp_path, evil):

    store = Store(tmp_path, "s")
    store.put("optuna.journal", evil)
    Sampling(parse_space({"name": "s", "knobs": {}}, "test"), store, "f")
    lines = (tmp_path / "s" / "optuna.journal").read_bytes().splitlines()
    assert lines
    assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize("uri", [URI, f"s3://b/r?secret_key={WORD}", f"s3://b/r?region=x&access_key=AK&secret={WORD}"])
def test_a_place_with_a_secret_is_refused_and_not_repeated(tmp_path, uri):
    with pytest.raises(StudyError, match=r"holds a secret.*AWS_SECRET_ACCESS_KEY") as refused:
        Store(uri, "s")
    (tmp_path / "job.yaml").write_text(json.dumps({"search": "quickstart", "results": uri}))
    with pytest.raises(SpecError, match=r"job\.yaml: results = .*holds a secret") as refused_job:
        load_job(tmp_path / "job.yaml")
    assert "hunter2" not in f"{refused.value}{refused_job.value}"


def test_places_without_secrets_are_taken_as_they_are():
    for uri in (
        "s3://bucket/runs?endpoint_override=http://127.0.0.1:1&region=r",
        "s3://bucket/a:b@c",
        "gs://tokens/x=1",
    ):
        assert Store(uri, "s").results == uri


def test_rows_and_logs_hold_no_secrets(tmp_path):
    from automixsearch.cluster.session import log_to

    store = Store(tmp_path, "s")
    message = f"cannot open {URI} with token=abcdef"
    store.write_trial({"trial_id": "t0", "number": 0, "state": "failed", "error_message": message})
    assert (
        store.trial_rows()[0]["error_message"] == "cannot open s3://***@bucket/runs with token=***" == redact(message)
    )
    log_to(tmp_path / "driver.log", "a_library")
    logging.getLogger("a_library").warning("at %s", URI)
    logging.getLogger("a_library").handlers[0].close()
    assert "at s3://***@bucket/runs" in (tmp_path / "driver.log").read_text()
