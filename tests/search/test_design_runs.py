"""Studies with a design, run in this process: the ledger says what is left, whatever happened before."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

from automixsearch.config.files import parse_space, read_yaml
from automixsearch.errors import StudyError
from automixsearch.results.store import Store
from automixsearch.results.study import open_study
from automixsearch.search.driver import run_search, run_study
from automixsearch.search.task import Task
from automixsearch.search.watcher import Watcher
from automixsearch.studies.design import enumerate_runs, space_of
from automixsearch.studies.file import StudyFile, parse_study_file

TINY = """
question: Does it go on?
name: tiny
data: {source: digits, val_fraction: 0.5}
knobs: {method: [mixup, cutmix], width: 1, batch_size: 256}
vary: {alpha: [0.2, 1.0]}
design: curve
splits: 2
replicates: 2
replicate_block: {configs: 2, seeds: 1}
confirm: {top: 1, seeds: 2}
budget: {epochs: 1}
"""


def study(**more) -> StudyFile:
    return parse_study_file(read_yaml(TINY, "test") | more, "tiny.yaml")


class Stopper(Watcher):
    """Presses Ctrl-C after so many ended runs."""

    def __init__(self, after: int) -> None:
        self.left, self.started = after, []

    def heard(self, event, task, values):
        if event == "start":
            self.started.append(task.trial_id)
        self.left -= event == "end"
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The ledger of a study that was stopped twice, once in its confirmation, and the runs of its second part."""
    results, second = tmp_path_factory.mktemp("results"), Stopper(6)
    first = run_study(study(), results, watcher=Stopper(5), debug=True)
    assert (first.finished, first.total, first.interrupted) == (5, 14, True)
    assert run_study(study(), results, watcher=second, debug=True).finished == 11
    last = run_study(study(), results, debug=True)
    assert (last.finished, last.interrupted) == (14, False)
    return results, second.started


def test_a_stopped_study_goes_on_with_the_runs_of_its_design(finished):
    results, second = finished
    design, rows = enumerate_runs(study()), Store(results, "tiny").trial_rows()
    assert second == [f"t{number:05d}" for number in range(5, 11)]
    assert [row["number"] for row in rows] == list(range(14))
    assert [row["purpose"] for row in rows] == [run.purpose for run in design.runs]
    assert [(row["seed"], row["split_seed"]) for row in rows] == [(run.seed, run.split_seed) for run in design.runs]
    for row, run in zip(rows, design.runs[:10], strict=False):
        knobs = json.loads(row["config"])["knobs"]
        assert knobs["method"] == run.stratum
        assert knobs[f"{run.stratum}.alpha"] == run.values[f"{run.stratum}.alpha"]


def test_the_confirmation_runs_the_best_config_of_each_method_with_seeds_of_its_own(finished):
    results, _ = finished
    frame = open_study(results / "tiny").trials()
    early, late = frame[frame.purpose != "confirm"], frame[frame.purpose == "confirm"]
    centred = early.val_top1 - early.groupby("split_seed").val_top1.transform("mean")
    for method, runs in late.groupby("method"):
        own = early[early.method == method].assign(centred=centred)
        best = own.groupby("alpha", sort=False).centred.mean().idxmax()
        assert set(runs.alpha) == {best}
        assert not set(runs.seed) & set(early.seed)
    runs = open_study(results / "tiny").info["design"]["runs"][10:]
    alphas = dict(zip(frame.number, frame.alpha, strict=True))
    assert all(alphas[run["of"]] == alphas[run["number"]] for run in runs)
    assert all(run["arm"] in ("incumbent", "alpha=0.2", "alpha=1") for run in runs)


def test_both_splits_are_recorded(finished):
    results, _ = finished
    store = Store(results, "tiny")
    assert {f"{row['split_id']}.json" for row in store.trial_rows()} == set(store.names("splits"))
    assert len(store.names("splits")) == 2


def test_a_lost_row_is_run_again_under_its_number_and_winners_stay(finished, tmp_path):
    import shutil

    results, _ = finished
    shutil.copytree(results / "tiny", tmp_path / "tiny")
    store = Store(tmp_path, "tiny")
    before = {row["trial_id"]: row["config_id"] for row in store.trial_rows()}
    store.drop(["t00003", "t00012"])
    assert run_study(study(), tmp_path, debug=True).finished == 14
    assert {row["trial_id"]: row["config_id"] for row in store.trial_rows()} == before
    (environment,) = open_study(tmp_path / "tiny").info["environments"]  # both drivers had the same
    assert environment["packages"]["numpy"] == importlib.metadata.version("numpy")


def test_a_study_goes_on_as_nothing_else(finished, tmp_path):
    import shutil

    results, _ = finished
    space = space_of(study(), enumerate_runs(study()))
    with pytest.raises(StudyError, match=r"was started as a design and cannot go on as a search; give .* --name"):
        run_search(space, results, debug=True)
    with pytest.raises(StudyError, match=r"has design curve, not grid"):
        run_study(study(design="grid"), results, debug=True)
    with pytest.raises(StudyError, match=r"its run 8 would be another. Runs may only be added after the last one"):
        run_study(study(replicates=3), results, debug=True)
    with pytest.raises(StudyError, match=r"was started with another space \(changed: knobs.cutmix.alpha"):
        run_study(study(vary={"alpha": [0.2, 2.0]}), results, debug=True)
    shutil.copytree(results / "tiny", tmp_path / "tiny")
    info = json.loads((tmp_path / "tiny" / "study.json").read_text())
    del info["design"], info["sha256"]
    (tmp_path / "tiny" / "study.json").write_text(json.dumps(info))
    with pytest.raises(StudyError, match=r"was started as a search and cannot go on as a design"):
        run_study(study(), tmp_path, debug=True)


def test_replicates_can_be_added_where_nothing_comes_after_them(tmp_path):
    short = {"replicate_block": None, "confirm": None, "replicates": 1, "knobs": {"method": "mixup", "width": 1}}
    assert run_study(study(**short), tmp_path, debug=True).total == 2
    more = run_study(study(**short | {"replicates": 2}), tmp_path, debug=True)
    assert (more.finished, more.total) == (4, 4)
    assert [run["replicate"] for run in open_study(tmp_path / "tiny").info["design"]["runs"]] == [0, 0, 1, 1]
    with pytest.raises(StudyError, match="it has 4 runs, not 2"):
        run_study(study(**short), tmp_path, debug=True)


def test_a_study_in_which_every_run_fails_has_nothing_to_confirm_and_says_so(tmp_path):
    broken = study(
        knobs={"method": "mixup", "width": 1, "lr": 90.0, "batch_size": 64}, replicates=1, budget={"epochs": 2}
    )
    with pytest.raises(
        StudyError, match=r"no run of mixup has ended with a val_top1, so there is nothing to confirm; see"
    ):
        run_study(broken, tmp_path, debug=True)
    rows = Store(tmp_path, "tiny").trial_rows()
    assert {row["state"] for row in rows} == {"failed"}
    assert not Task.in_flight(Store(tmp_path, "tiny"))


def test_a_space_is_not_taken_for_a_study():
    from automixsearch.errors import SpecError

    with pytest.raises(SpecError, match="unknown key 'question'"):
        parse_space(read_yaml(TINY, "test"), "tiny.yaml")
