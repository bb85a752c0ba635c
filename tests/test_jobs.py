"""The study files that come along: what they say is what is run, and every arm of the ablations trains at tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.studies.design import enumerate_runs
from automixsearch.studies.file import load_study_file
from automixsearch.training.run import TrainingRun

JOBS = Path(__file__).parents[1] / "jobs"
FILES = sorted([*JOBS.glob("ablation/*.yaml"), *JOBS.glob("sensitivity/*.yaml")])
TINY = ["recipe=digits", "data={source: digits, val_fraction: 0.4}"]
SHORT = ["epochs=1", "width=4", "batch_size=256"]


@pytest.fixture(scope="module")
def digits():
    return load(Data())


def configs(file: Path, words: list[str]) -> dict[str, TrialConfig]:
    """The config of every arm of every stratum."""
    study = load_study_file(file, words)
    runs = [run for run in enumerate_runs(study).runs if run.purpose == "study" and run.replicate == 0]
    return {f"{run.stratum} {run.arm}": TrialConfig(data=study.data, knobs=dict(run.values)) for run in runs}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_study_is_in_the_table_says_what_is_known_and_has_a_tiny_variant(file):
    text = file.read_text()
    assert all(text.count(f"# {word} ") == 1 for word in ("COMMAND", "HARDWARE", "EXPECTED"))
    assert f"`{file.parent.name}/{file.name}`" in (JOBS / "README.md").read_text()
    published, tiny = configs(file, []), configs(file, TINY)
    assert published.keys() == tiny.keys()
    assert {config.recipe.epochs for config in tiny.values()} == {6}


@pytest.mark.parametrize(("file", "arm"), [
    pytest.param(file, arm, id=f"{file.stem}: {arm}")
    for file in FILES if file.parent.name == "ablation" for arm in configs(file, [*TINY, *SHORT])
])  # fmt: skip
def test_every_arm_trains_at_tiny_size(digits, file, arm):
    run = TrainingRun(configs(file, [*TINY, *SHORT])[arm], digits, "cpu")
    assert next(run.epochs()).train_loss > 0
