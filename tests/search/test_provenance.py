"""A study keeps to its data; scores of several data sets are not set beside each other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ledgers import write_study
from PIL import Image

from automixsearch.cli import main
from automixsearch.config.space import SearchSpace
from automixsearch.errors import StudyError
from automixsearch.results.store import Store
from automixsearch.results.study import list_studies, open_study
from automixsearch.search.driver import run_search


def images(root: Path, count: int, seed: int = 0) -> Path:
    """A folder of two classes: `count` images each in train/, 4 in test/."""
    rng = np.random.default_rng(seed)
    for part, n in (("train", count), ("test", 4)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:02d}.png")
    return root


def space(path: Path, trials: int = 1, **more) -> SearchSpace:
    knobs = {"method": "mixup", "width": 1, "batch_size": 4, "warmup_epochs": 0}
    data = {"source": "folder", "path": str(path)}
    return SearchSpace(name="s", knobs=knobs, data=data, budget={"trials": trials, "epochs": 1}, **more)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A study of one trial, and its images."""
    root = tmp_path_factory.mktemp("begun")
    run_search(space(images(root / "images", 10)), root, debug=True)
    return root


def fingerprint(results: Path) -> str:
    return open_study(results / "s").info["data"]["fingerprint"]


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("driver.log", ".lock")
    }


def test_study_json_says_which_data_it_was_made_on(begun):
    data = open_study(begun / "s").info["data"]
    (row,) = Store(begun, "s").trial_rows()
    assert (data["fingerprint"], data["splits"]) == (row["data_fingerprint"], {"0": row["split_id"]})
    assert (data["train"], data["val"], data["test"], data["classes"]) == (20, row["val_images"], 8, 2)
    assert data["path"] == str(begun / "images")


@pytest.mark.parametrize(
    ("count", "seed", "known", "what"),
    [
        (20, 0, True, "20 training images then and 40 now, 2 validation images then and 4 now, path .*images then"),
        (10, 1, True, "as many images and classes, but other pixels, labels or another order, path"),
        (20, 0, False, "2 validation images then and 4 now"),  # begun before study.json said so
    ],
)
@pytest.mark.parametrize("more", [{}, {"retry_failed": True, "force": True}])
def test_a_study_does_not_go_on_with_other_images(begun, tmp_path, count, seed, known, what, more):
    shutil.copytree(begun / "s", tmp_path / "s")
    if not known:
        info = json.loads((tmp_path / "s" / "study.json").read_text())
        del info["data"], info["sha256"]
        (tmp_path / "s" / "study.json").write_text(json.dumps(info))
    before = files(tmp_path)
    other = images(tmp_path.with_name(f"{tmp_path.name}-other"), count, seed)
    message = (
        rf"data with fingerprint {fingerprint(begun)}, and now they have [0-9a-f]{{16}}: {what}.*; restore the data"
    )
    with pytest.raises(StudyError, match=message):
        run_search(space(other, trials=2), tmp_path, debug=True, **more)
    assert files(tmp_path) == before
    moved = shutil.copytree(begun / "images", tmp_path / "elsewhere")
    assert run_search(space(moved, trials=2), tmp_path, debug=True).finished == 2
    assert open_study(tmp_path / "s").info["data"]["path"] == str(moved)


def test_a_split_that_is_drawn_otherwise_is_another_one(begun, tmp_path, monkeypatch):
    from automixsearch.data import base

    shutil.copytree(begun / "s", tmp_path / "s")
    drawn = base.stratified
    monkeypatch.setattr(base, "stratified", lambda a, b, c, seed, where: drawn(a, b, c, seed + 1, where))
    with pytest.raises(StudyError, match="go on with the version that began it"):
        run_search(space(begun / "images", trials=2), tmp_path, debug=True)


def test_a_study_without_a_row_may_change_its_data(begun, tmp_path):
    (tmp_path / "s").mkdir()
    shutil.copy(begun / "s" / "study.json", tmp_path / "s")
    other = images(tmp_path / "other", 12)
    assert run_search(space(other), tmp_path, debug=True).finished == 1
    assert fingerprint(tmp_path) != fingerprint(begun)


@pytest.fixture
def mixed(tmp_path):
    """A ledger of two data sets, from before they were kept apart."""
    rows = [
        {
            "knobs": {"method": method}, "score": 60.0 + i + 20 * (i >= 6), "seed": i,
            "data_fingerprint": ("a" if i < 6 else "b") * 16, "val_images": 112 if i < 6 else 56,
        }
        for i in range(12) for method in ("mixup", "vanilla")
    ]  # fmt: skip
    return write_study(tmp_path, "mixed", rows, objective="val_top1")


COMMANDS = (
    "best", "robustness", "compare", "sensitivity --knob lr", "importance", "fidelity", "report",
    "export --optuna o.log",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_sets_scores_of_several_data_sets_beside_each_other(mixed, command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = [*command.split()[:1], mixed.store.uri, *command.split()[1:]]
    assert main(words) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"12 trials of {'a' * 16}, 112 validation images; 12 trials of {'b' * 16}, 56 validation images" in told
    assert "choose some with query, by data_fingerprint" in told


def test_trials_on_several_data_sets_can_be_asked_for_in_sql(mixed):
    of_one = mixed.query(f"SELECT * FROM trials WHERE data_fingerprint = '{'a' * 16}'")
    assert (len(of_one), len(mixed.trials())) == (12, 24)
    (summary,) = list_studies(mixed.store.results)
    assert (summary["best"], summary["ended"]) == (None, 24)
    assert "scored on different data" in summary["note"]


def test_validation_splits_of_several_sizes_are_refused_though_the_data_are_one(tmp_path):
    rows = [{"knobs": {"method": "mixup"}, "score": 60.0, "val_images": images} for images in (112, 56)]
    study = write_study(tmp_path, "s", rows)
    with pytest.raises(StudyError, match=r"1 trials of simulated, 56 validation images\); choose some with query"):
        study.top_rows()
