"""What a config is: one answer, the same in every version; and what older versions wrote goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from automixsearch.analysis.selection import config_key
from automixsearch.config import identity
from automixsearch.config.catalogue import catalogue
from automixsearch.config.data import Data
from automixsearch.config.files import load_config, load_space
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.config.upgrade import SCHEMA_VERSION, STEPS, NewerVersion, upgrade
from automixsearch.errors import SpecError, StudyError
from automixsearch.results.study import open_study
from automixsearch.search.driver import run_search, run_study
from automixsearch.search.watcher import Watcher
from automixsearch.studies.design import enumerate_runs, space_of
from automixsearch.studies.file import load_study_file
from automixsearch.training.run import train

ROOT = Path(__file__).parents[1]
OLD = Path(__file__).parent / "version_1"
IDS = json.loads((OLD / "ids.json").read_text())
OUTCOMES = json.loads((OLD / "outcomes.json").read_text())
SMALL = ["width=4", "channels_last=false"]


def config(data=None, **more):
    knobs = {"method": "mixup", **more.pop("knobs", {})}
    return TrialConfig(data=Data(**(data or {})), knobs=knobs, **more)


def key(one: TrialConfig) -> str:
    return config_key(one.model_dump_json())


# Ids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(IDS["configs"])))
def test_a_config_has_the_id_that_version_1_gave_it(number):
    case = IDS["configs"][number]
    assert TrialConfig.model_validate(case["config"]).config_id == case["config_id"]


@pytest.mark.parametrize("file", IDS["spaces"])
def test_a_space_has_the_id_that_version_1_gave_it(file):
    given = [] if file.endswith("quickstart.yaml") else ["data.path=/data"]
    try:
        assert space_id(file, given) == IDS["spaces"][file]
    except SpecError:  # the digits have no path
        assert space_id(file, []) == IDS["spaces"][file]


def space_id(file: str, given: list[str]) -> str:
    if file.startswith("search_spaces"):
        return load_space(ROOT / file, given).space_id
    study = load_study_file(ROOT / file, given)
    return space_of(study, enumerate_runs(study)).space_id


def test_where_data_lie_and_how_they_are_read_makes_no_other_config():
    folder = {"source": "folder", "path": "/a", "size": 64, "labels": "/lists/15.txt"}
    here = config(folder, data_fingerprint="f")
    there = config(folder | {"path": "/b", "labels": "/b/15.txt", "pipeline": "stream"}, data_fingerprint="f")
    assert here.config_id == there.config_id
    assert key(here) == key(there)
    other = config(folder | {"labels": "/lists/30.txt"}, data_fingerprint="f")
    assert len({here.config_id, other.config_id}) == len({key(here), key(other)}) == 2


def test_seeds_tell_replicates_apart_and_are_no_part_of_what_they_replicate():
    one, other = config(seed=1, split_seed=2), config(seed=2)
    assert one.config_id != other.config_id
    assert key(one) == key(other)


def test_other_images_make_another_config():
    one, other = config(data_fingerprint="a"), config(data_fingerprint="b")
    assert one.config_id != other.config_id
    assert key(one) != key(other)


def test_what_is_added_with_its_default_changes_no_id(monkeypatch):
    """A knob and a field that version 1 had are taken for later ones."""
    without = identity._version_1() | {"knobs": identity._version_1()["knobs"] - {"flip"}}
    fields = dict(without["fields"])
    fields["Data"] = [name for name in fields["Data"] if name != "trim"]
    fields["Scheduler"] = [name for name in fields["Scheduler"] if name != "protect"]
    monkeypatch.setattr(identity, "_version_1", lambda: without | {"fields": fields})
    plain, before = config(), json.loads(config().model_dump_json())
    del before["knobs"]["flip"], before["data"]["trim"]
    assert identity.hash_json(identity.config_identity(before)) == plain.config_id
    assert config(knobs={"flip": True}).config_id == plain.config_id
    assert config(knobs={"flip": False}).config_id != plain.config_id
    photos = {"source": "folder", "path": "/a", "size": 64}
    assert config(photos | {"trim": 1}).config_id != config(photos).config_id == config(photos | {"trim": 0}).config_id

    def space(**scheduler):
        return SearchSpace(knobs={}, scheduler={"name": "asha", **scheduler}).space_id

    assert space() == space(protect=0.5) != space(protect=0.1)
    assert "protect" not in identity.space_identity(SearchSpace(knobs={}))["scheduler"]


def test_the_default_of_what_came_after_version_1_stays_as_ids_know_it():
    """Ids leave it out, so another default would give two configs one id; add a line for what is new."""
    known = identity._version_1()
    later = {name: entry.knob.default for name, entry in catalogue().items() if name not in known["knobs"]}
    later |= {f"Data.{name}": field.default for name, field in Data.model_fields.items()
              if name not in known["fields"]["Data"]}  # fmt: skip
    assert later == json.loads((Path(__file__).parent / "golden" / "later_defaults.json").read_text())


# Versions ------------------------------------------------------------------------------------------------------


def test_there_is_a_step_and_a_fixture_for_every_older_version():
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))
    assert all((Path(__file__).parent / f"version_{version}").is_dir() for version in STEPS)


@pytest.mark.parametrize("file", ["search/study.json", "search/pending/t00007.json", "ablation/pending/t00001.json"])
def test_a_document_of_version_1_becomes_one_of_this_version(file):
    found = upgrade(json.loads((OLD / file).read_text()))
    assert found["schema_version"] == SCHEMA_VERSION
    assert upgrade(found) == found


@pytest.mark.parametrize("version", [0, -1, True, "1", None, 1.5])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        upgrade({"schema_version": version})


def test_what_a_later_version_wrote_is_refused_by_name(tmp_path):
    later = SCHEMA_VERSION + 1
    with pytest.raises(NewerVersion, match=f"has schema version {later}, and up to {SCHEMA_VERSION} is read; upgrade"):
        upgrade({"schema_version": later})
    (tmp_path / "best.yaml").write_text(
        (OLD / "best.yaml").read_text().replace("schema_version: 1", f"schema_version: {later}")
    )
    with pytest.raises(SpecError, match=rf"best\.yaml: has schema version {later}, .*upgrade AutoMixSearch"):
        load_config(tmp_path / "best.yaml")
    shutil.copytree(OLD / "search", tmp_path / "search")
    for name in ("study.json", "pending/t00007.json"):
        file = tmp_path / "search" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": later}))
        with pytest.raises(StudyError, match=rf"{name}: has schema version {later}, .*upgrade AutoMixSearch"):
            run_search(quickstart(), tmp_path, debug=True)
        shutil.copy(OLD / "search" / name, file)


# Going on ------------------------------------------------------------------------------------------------------


class Notes(Watcher):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def heard(self, event, task, values):
        if note := values.get("note"):
            self.notes.append(note)


def quickstart() -> SearchSpace:
    return load_space("quickstart", ["trials=8", "epochs=4", *SMALL, "name=search"])


def outcome(place: Path, name: str) -> tuple[list[list[str]], dict[str, float]]:
    """Ids and validation accuracies of the trials of a study, and what they were without an interruption."""
    rows = open_study(place / name).rows("SELECT trial_id, config_id, space_id, val_top1 FROM trials ORDER BY number")
    columns = ("trial_id", "config_id", "space_id")
    assert [[row[name] for name in columns] for row in rows] == [
        [row[name] for name in columns] for row in OUTCOMES[name]
    ]
    return [row["val_top1"] for row in rows], [row["val_top1"] for row in OUTCOMES[name]]


def test_a_search_that_version_1_left_unfinished_goes_on_from_its_checkpoint(tmp_path):
    shutil.copytree(OLD / "search", tmp_path / "search")
    watcher = Notes()
    result = run_search(quickstart(), tmp_path, watcher=watcher, debug=True)
    assert (result.finished, result.total) == (8, 8)
    assert watcher.notes == ["t00007 goes on from its checkpoint of epoch 2"]
    found, expected = outcome(tmp_path, "search")
    assert found[:7] == expected[:7]
    assert found[7] == pytest.approx(expected[7], abs=3)  # other CPUs round otherwise


def test_a_study_that_version_1_left_unfinished_goes_on_from_its_checkpoint(tmp_path):
    shutil.copytree(OLD / "ablation", tmp_path / "ablation")
    watcher = Notes()
    run_study(load_study_file(OLD / "ablation.yaml", [*SMALL, "name=ablation"]), tmp_path, watcher=watcher, debug=True)
    assert watcher.notes == ["t00001 goes on from its checkpoint of epoch 1"]
    found, expected = outcome(tmp_path, "ablation")
    assert found[0] == expected[0]
    assert found[1:] == pytest.approx(expected[1:], abs=5)


def test_a_config_that_version_1_exported_trains_to_the_same_scores():
    found = load_config(OLD / "best.yaml")
    assert found.config_id == OUTCOMES["best"]["config_id"]
    scores = train(found)
    assert scores.last.val_top1 == pytest.approx(OUTCOMES["best"]["val_top1"], abs=3)
    assert scores.test.top1 == pytest.approx(OUTCOMES["best"]["test_top1"], abs=3)


def test_the_example_of_version_1_is_read_with_its_ids():
    study = open_study(OLD / "example")
    rows = study.rows("SELECT config, config_id FROM trials")
    assert len(rows) == 312
    assert all(TrialConfig.model_validate_json(row["config"]).config_id == row["config_id"] for row in rows)
    assert SearchSpace.model_validate(study.info["space"]).space_id == study.info["space_id"]
