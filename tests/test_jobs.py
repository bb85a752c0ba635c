"""The job files: their rows are what is run, and every row trains at tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from automixsearch.data import load
from automixsearch.reading import load_space
from automixsearch.space import check_point
from automixsearch.spec import Data, TrialConfig
from automixsearch.training.loop import TrainingRun

JOBS = Path(__file__).parents[1] / "jobs"
FILES = sorted(JOBS.glob("ablation/*.yaml"))
TINY = ["recipe=digits", "epochs=1", "width=4", "data={source: digits, val_fraction: 0.2}"]


@pytest.fixture(scope="module")
def digits():
    return load(Data())


def rows():
    for file in FILES:
        for row in range(load_space(file).budget.trials):
            yield pytest.param(file, row, id=f"{file.stem}-{row}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_job_runs_its_rows_and_nothing_else_and_says_what_was_published(file):
    space, text = load_space(file), file.read_text()
    assert isinstance(space.priors, list)
    assert space.budget.trials == len(space.priors)
    points = [check_point(space, point, "row") for point in space.priors]
    assert len({str(sorted(point.items())) for point in points}) == len(points)
    assert all(text.count(f"# {word} ") == 1 for word in ("COMMAND", "HARDWARE", "EXPECTED"))
    assert f"`{file.parent.name}/{file.name}`" in (JOBS / "README.md").read_text()


@pytest.mark.parametrize(("file", "row"), list(rows()))
def test_every_row_trains_at_tiny_size(digits, file, row):
    space = load_space(file, TINY)
    assert isinstance(space.priors, list)
    point = check_point(space, space.priors[row], "row")
    values = {d.name: d.choices[0] for d in space.dimensions if d.fixed and d.choices} | point
    knobs = {
        d.name: values[d.name] for d in space.dimensions if d.name in values and d.active({"loss": "mce", **values})
    }
    run = TrainingRun(TrialConfig(data=space.data, knobs=knobs | {"method": values["method"]}), digits, "cpu")
    assert next(run.epochs()).train_loss > 0
