"""Answers agree with a plain reading of the files by pandas."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import write_study

from automixsearch.cli import main
from automixsearch.commands.report import EXAMPLE
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import StudyError
from automixsearch.results.schema import config_row, encode, schema, to_arrow
from automixsearch.results.store import Store
from automixsearch.results.study import Study, list_studies, open_study

CONFIG = TrialConfig(data=Data(), knobs={"method": "mixup", "mixup.alpha": 0.5})
WHEN = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)


def trial(number: int, **columns: Any) -> dict[str, Any]:
    return {"trial_id": f"t{number:05d}", "number": number, "state": "complete"} | columns


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Eight trials: two methods, a tie, a null, a pruned and a failed one."""
    store = Store(tmp_path, "s")
    store.put("study.json", json.dumps({"schema_version": 1, "objective": ["val_top1"], "total_trials": 9}).encode())
    scores = [50.0, 70.0, 60.0, 70.0, float("nan"), 80.0, None, 55.0]
    states = ["complete"] * 5 + ["pruned", "failed", "complete"]
    for number, (score, state) in enumerate(zip(scores, states, strict=True)):
        loss = None if score is None else 100 - score
        row = trial(number, state=state, val_top1=score, val_loss=loss, started_at=WHEN, ended_at=WHEN)
        store.write_trial(config_row(CONFIG) | row | {"method": "mixup" if number % 2 else "vanilla"})
        store.write_epoch({"trial_id": f"t{number:05d}", "epoch": 1, "ended_at": WHEN})
    return open_study(tmp_path / "s")


def by_pandas(folder: Path, n: int, per: str | None, metric: str, ascending: bool) -> list[str]:
    frame = pd.read_parquet(folder)
    frame = frame[frame["state"] == "complete"].dropna(subset=[metric])
    frame = frame.sort_values([metric, "number"], ascending=[ascending, True])
    return (frame.head(n) if per is None else frame.groupby(per, sort=False).head(n))["trial_id"].tolist()


def test_best_leaves_out_trials_that_are_not_complete_or_have_no_score(study: Study) -> None:
    assert study.top(10)["number"].tolist() == [1, 3, 2, 7, 0]


def test_best_per_method_gives_the_best_of_each(study: Study) -> None:
    assert study.top(1, per="method")[["method", "number"]].values.tolist() == [["mixup", 1], ["vanilla", 2]]


def test_best_by_another_metric_knows_its_direction(study: Study) -> None:
    assert study.top(2, metric="val_loss")["number"].tolist() == [1, 3]
    assert study.top(2, metric="test_top1").empty
    assert study.top(0).empty


def test_best_refuses_unknown_metrics_and_columns(study: Study) -> None:
    with pytest.raises(StudyError, match="unknown metric 'val_top_1'; did you mean 'val_top1'"):
        study.top(metric="val_top_1")
    with pytest.raises(StudyError, match="study s: unknown column 'metod'; did you mean 'method'"):
        study.top(per="metod")
    with pytest.raises(StudyError, match="unknown column"):
        study.top(per='method" IS NULL; DROP VIEW trials; --')


def test_frames_have_the_types_that_pandas_reads(study: Study, tmp_path: Path) -> None:
    plain = pd.read_parquet(tmp_path / "s" / "trials").sort_values("number", ignore_index=True)
    pd.testing.assert_frame_equal(study.trials(), plain)
    pd.testing.assert_frame_equal(study.top(1), plain.iloc[[1]].reset_index(drop=True), check_dtype=False)
    assert study.top(1).dtypes["ended_at"] == plain.dtypes["ended_at"]
    assert study.top_rows(1)[0]["ended_at"] == WHEN
    assert len(study.epochs()) == 8


@settings(max_examples=20, deadline=None)
@given(
    scores=st.lists(
        st.tuples(
            st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5]), st.floats(0, 100)),
            st.sampled_from(["complete", "complete", "pruned", "failed"]),
            st.sampled_from([None, "mixup", "cutmix", 'it\'s "odd"']),
        ),
        min_size=1,
        max_size=30,
    ),
    n=st.integers(1, 6),
    per=st.sampled_from([None, "method", "state", "val_loss"]),
    metric=st.sampled_from(["val_top1", "val_loss", "test_loss"]),
)
def test_best_agrees_with_pandas(scores: list[tuple[Any, str, Any]], n: int, per: str | None, metric: str) -> None:
    with tempfile.TemporaryDirectory() as results:
        folder = Path(results) / "s" / "trials"
        folder.mkdir(parents=True)
        rows = [
            trial(number, schema_version=1, study="s", state=state, method=method)
            | dict.fromkeys(("val_top1", "val_loss", "test_loss"), score)
            for number, (score, state, method) in enumerate(scores)
        ]
        for position, part in enumerate((rows[::2], rows[1::2])):
            (folder / f"merged-{position}.parquet").write_bytes(encode(to_arrow("trials", part)))
        found = [row["trial_id"] for row in open_study(f"{results}/s").top_rows(n, per, metric)]
        assert found == by_pandas(folder, n, per, metric, ascending=metric != "val_top1")


def test_best_and_query_survive_a_damaged_file_and_report_it(study: Study, tmp_path: Path) -> None:
    torn = tmp_path / "s" / "trials" / "t00001.parquet"
    content = torn.read_bytes()
    for broken in (content[:1000], content[:4] + b"\xff" * 196 + content[200:]):
        torn.write_bytes(broken)
        again = open_study(tmp_path / "s")
        assert [row["number"] for row in again.top_rows(2)] == [3, 2]
        assert [line.partition(":")[0] for line in again.corrupt] == ["s/trials/t00001.parquet"]
        assert again.query("SELECT max(number) AS n FROM trials WHERE alpha > 0")["n"].tolist() == [7]


def test_a_folder_whose_name_looks_like_a_pattern_is_taken_as_it_is(tmp_path: Path) -> None:
    for name, score in (("r[1]", 1.0), ("r1", 2.0)):
        Store(tmp_path / name, "s").write_trial(trial(1, val_top1=score))
    assert [row["val_top1"] for row in open_study(tmp_path / "r[1]" / "s").top_rows()] == [1.0]
    odd = Store(tmp_path / "it's a=b; DROP VIEW trials --", "s")
    odd.write_trial(trial(3, val_top1=1.0))
    assert [row["number"] for row in open_study(f"{odd.results}/s").top_rows()] == [3]
    assert list(open_study(f"{odd.results}/s").top_rows()[0]) == schema("trials").names  # no column of a=b


def test_an_empty_study_has_no_best(tmp_path: Path) -> None:
    Store(tmp_path, "s").put("study.json", b"{}")
    study = open_study(tmp_path / "s")
    assert study.top_rows() == study.pareto_rows() == []
    assert study.top().empty
    assert "val_top1" in study.top().columns
    assert study.summary() == {
        "study": "s", "total": None, "ended": 0, "complete": 0, "pruned": 0, "failed": 0,
        "objective": ["val_top1"], "best": None, "best_trial": None, "best_method": None, "note": "",
    }  # fmt: skip


def test_query_answers_sql_over_both_tables(study: Study) -> None:
    frame = study.query("SELECT trials.method, max(trials.val_top1) AS top FROM trials JOIN epochs USING (trial_id) "
                        "WHERE state = 'complete' AND epoch = 1 GROUP BY trials.method ORDER BY 1")  # fmt: skip
    assert frame.values.tolist() == [["mixup", 70.0], ["vanilla", 60.0]]
    assert study.query("SELECT ended_at FROM epochs LIMIT 1").iloc[0, 0] == WHEN


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nope FROM trials", r"nope.* not found"),
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM runs", "runs does not exist"),
        ("COPY trials TO '{out}'", "disabled by configuration"),
        ("ATTACH '{out}'", "disabled by configuration"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SET enable_external_access = true", "has been locked"),
    ],
)
def test_query_refuses_what_is_wrong_or_not_reading(study: Study, tmp_path: Path, sql: str, message: str) -> None:
    with pytest.raises(StudyError, match=f"(?s)study s: .*{message}"):
        study.query(sql.format(out=tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("name", [7, "7", "t7", "t00007"])
def test_a_trial_is_found_by_number_or_id(study: Study, name: str | int) -> None:
    shown = study.show(name)
    assert shown["row"]["val_top1"] == 55.0
    assert [row["epoch"] for row in shown["epochs"]] == [1]
    assert shown["config"]["knobs"]["mixup.alpha"] == 0.5


def test_the_config_of_a_trial_comes_back(study: Study) -> None:
    assert study.config(3) == CONFIG


def test_an_unknown_trial_is_refused_with_the_nearest(study: Study) -> None:
    with pytest.raises(StudyError, match=r"unknown trial 't00008'; did you mean 't00007'\? \(choices: t00000"):
        study.show("t00008")
    for number in range(100, 120):
        study.store.write_trial(trial(number))
    with pytest.raises(StudyError, match="unknown trial '9'; it has 28 ended trials, t00000 to t00119"):
        study.show(9)


def test_a_running_trial_shows_its_epochs(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.store.write_epoch({"trial_id": "t00009", "epoch": 1, "val_top1": 3.0})
    shown = study.show(9)
    assert (shown["row"]["state"], shown["epochs"][0]["val_top1"], shown["config"]) == ("running", 3.0, None)
    with pytest.raises(StudyError, match=r"trial t00009: has no config \(running\); wait"):
        study.config(9)
    assert main(["show", f"{study.store.results}/s", "9"]) == 0
    assert "t00009: running" in capsys.readouterr().out


def test_trials_are_found_in_a_copy_that_left_the_hidden_files_behind(study: Study, tmp_path: Path) -> None:
    study.store.compact()
    shutil.copytree(tmp_path / "s", tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    for file in (tmp_path / "copy" / "study.json", tmp_path / "copy" / "trials"):
        assert file.exists()
    assert open_study(tmp_path / "copy").show(3)["row"]["val_top1"] == 70.0
    assert open_study(EXAMPLE).show(3)["row"]["method"] == "manifoldmix"


def test_the_summary_counts_by_state(study: Study) -> None:
    summary = study.summary()
    assert [summary[key] for key in ("total", "ended", "complete", "pruned", "failed")] == [9, 8, 6, 1, 1]
    assert (summary["best"], summary["best_trial"], summary["best_method"]) == (70.0, "t00001", "mixup")


def test_the_pareto_front_holds_what_nothing_beats(tmp_path: Path) -> None:
    store = Store(tmp_path, "s")
    store.put("study.json", json.dumps({"objective": ["val_top1", "wall_s"]}).encode())
    points = [(70, 10), (80, 20), (75, 20), (80, 25), (60, 5), (80, 20), (None, 1), (50, 7)]
    for number, (top, wall) in enumerate(points):
        store.write_trial(trial(number, val_top1=top, wall_s=wall))
    store.write_trial(trial(99, state="pruned", val_top1=100, wall_s=0))
    assert open_study(tmp_path / "s").pareto()["number"].tolist() == [1, 5, 0, 4]


def test_best_prints_the_front_of_the_metrics_that_are_named(tmp_path, capsys) -> None:
    scores = [(70, 0.3), (80, 0.4), (75, 0.2), (79, 0.5)]
    rows = [{"knobs": {"method": "mixup", "mixup.alpha": 0.2}, "score": top, "val_ece": ece} for top, ece in scores]
    ask = ["best", write_study(tmp_path, "s", rows).store.uri, "--pareto"]
    assert main([*ask, "val_top1,val_ece", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pareto"], [row["number"] for row in found["front"]]) == (["val_top1", "val_ece"], [1, 2])
    assert main([*ask, "val_top1,val_ece"]) == 0
    assert "mixup" in capsys.readouterr().out
    for words, message in (
        ([], "--pareto takes several metrics, e.g. --pareto val_top1,val_ece; got val_top1"),
        (["test_top1,val_ece"], "test scores choose nothing; use val_top1"),
        (["val_ec,val_top1"], "unknown metric 'val_ec'; did you mean 'val_ece'?"),
        (["val_top1,val_ece", "--per", "method"], "--pareto lists trials"),
    ):
        assert main([*ask, *words]) != 0
        assert message in capsys.readouterr().err


def test_a_missing_study_is_refused_with_those_that_are_there(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"unknown study 'x' \(choices: s\)"):
        open_study(tmp_path / "x")
    with pytest.raises(StudyError, match="is a directory of studies; open one of them: s"):
        open_study(tmp_path)
    with pytest.raises(StudyError, match="no study 'x' there, nor any other"):
        open_study(tmp_path / "empty" / "x")


def test_a_study_is_found_by_name_under_results(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_study("s", results=tmp_path).name == "s"
    Store("results", "digits").put("study.json", b"{}")
    with pytest.raises(StudyError, match=r"results: unknown study 'digit'; did you mean 'digits'"):
        open_study("digit")
    assert open_study("digits").summary()["ended"] == 0


def test_studies_are_listed_and_broken_ones_named(study: Study, tmp_path: Path) -> None:
    Store(tmp_path, "a").put("study.json", b"not json")
    (tmp_path / "b" / "study.json").mkdir(parents=True)
    (tmp_path / "no study").mkdir()
    found = list_studies(tmp_path)
    assert [row["study"] for row in found] == ["a", "b", "s"]
    assert "is no JSON" in found[0]["error"]
    assert "cannot be read" in found[1]["error"]
    assert found[2] == study.summary()


def test_a_study_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, "s").put("study.json", b'{"schema_version": 99}')
    with pytest.raises(StudyError, match=r"study\.json: has schema version 99, .*upgrade AutoMixSearch"):
        open_study(tmp_path / "s").top()


def test_best_rows_load_neither_pandas_nor_pyarrow(study: Study, tmp_path: Path) -> None:
    script = (
        "import sys, automixsearch; study = automixsearch.open_study(sys.argv[1]); assert 'duckdb' not in sys.modules;"
        "assert len(study.top_rows()) == 5; print(*{'pandas', 'pyarrow', 'numpy', 'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
