"""The files that come along are found by name, from any folder."""

from __future__ import annotations

import pytest

from automixsearch.cli import main
from automixsearch.cluster.jobs import load_job
from automixsearch.config.files import load_space
from automixsearch.config.shipped import KINDS, find_file, shipped, shipped_root
from automixsearch.config.yaml import read_yaml
from automixsearch.errors import SpecError
from automixsearch.studies.file import load_study_file

FILES = [(kind, name) for kind in KINDS for name in shipped(kind)]


@pytest.mark.parametrize(("kind", "name"), FILES, ids=lambda part: part)
def test_a_file_is_found_by_its_name_by_folder_and_name_and_by_its_path_in_a_checkout(
    kind, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    file = shipped(kind)[name]
    inside = file.relative_to(shipped_root())
    for typed in (name, f"{name}.yaml", f"{file.parent.name}/{name}", str(inside), str(inside.with_suffix(""))):
        assert find_file(typed, kind) == file


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_files_of_a_kind_have_one_name(kind):
    assert len(shipped(kind)) == sum(len(list(shipped_root().glob(pattern))) for pattern in KINDS[kind])


def test_a_file_of_the_user_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpha").write_text("mine")
    assert find_file("alpha", "study file").read_text() == "mine"


@pytest.mark.parametrize(("name", "kind", "message"), [
    ("alhpa", "study file", r"alhpa: no such file; unknown study file 'alhpa'; did you mean 'alpha'"),
    ("ablation/alpha", "study file", r"ablation/alpha: no such file; the study file that comes along is named alpha$"),
    ("alpha.json", "study file", r"alpha.json: no such file; the study file that comes along is named alpha$"),
    ("", "search space", r": no such file; unknown search space ''"),
    (".", "job", r"\.: is a directory; give a job$"),
])  # fmt: skip
def test_what_is_not_there_is_refused_with_what_is(name, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=message):
        find_file(name, kind)


def test_loaders_take_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_space("quickstart").name == "quickstart"
    assert load_study_file("sensitivity/example", ["replicates=1"]).name == "example"
    assert load_job("search/quickstart")[1] == load_space("quickstart")
    assert load_job("alpha")[1] == load_study_file("alpha")
    (tmp_path / "mine.yaml").write_text("study: sensitivity/alpha\nname: alpha\n")
    assert load_job("mine.yaml")[1] == load_study_file("alpha")


def test_files_lists_what_comes_along_and_prints_one_to_start_from(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["files"]) == 0
    listed = capsys.readouterr().out
    for kind, name in FILES:
        assert f"{shipped(kind)[name].relative_to(shipped_root()).with_suffix('')} " in listed, name
    assert main(["files", "sensitivity/alpha"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert load_study_file("mine.yaml", ["name=alpha"]) == load_study_file("alpha")
    assert main(["files", "alhpa"]) == 2
    assert "did you mean 'alpha'" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "name"), FILES, ids=lambda part: part)
def test_every_file_says_what_it_is_for(kind, name):
    file = shipped(kind)[name]
    content = read_yaml(file.read_text(encoding="utf-8"), name)
    assert isinstance(content, dict)
    assert content.get("about") or content.get("question")
