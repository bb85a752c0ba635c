"""Job files: what is read, what is sent, what is refused, and running one here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from automixsearch.cli import main
from automixsearch.cluster import jobs
from automixsearch.commands.report import EXAMPLE
from automixsearch.config.files import load_space
from automixsearch.errors import ResourceError, SpecError
from automixsearch.results.study import open_study
from automixsearch.versions import PINNED

SHIPPED = sorted((Path(__file__).parents[1] / "jobs" / "search").glob("*.yaml"))
TINY = ["trials=2", "epochs=2", "width=4", "scheduler=fifo"]


@pytest.fixture
def folder(tmp_path):
    """A working directory with what goes, what does not, and a job file in a folder of it."""
    root = tmp_path / "work"
    files = ["code.py", "pkg/results/store.py", "notes.md", ".env", "results/a.parquet", "weights.pt", ".gitignore",
             "pkg/__pycache__/x.pyc", "data/big.bin", ".ssh/id_rsa", "keys/me.pem"]  # fmt: skip
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("x" * 100)
    (root / "outside").symlink_to("/etc/hostname")
    (root / "inside").symlink_to(".env")
    (root / "jobs").mkdir()
    git(root, "init", "-q")
    git(root, "add", "-f", "code.py", "pkg", "notes.md", "outside", "inside", ".gitignore")
    return root


def git(folder, *words):
    subprocess.run(["git", "-C", str(folder), *words], check=True)


def job_file(folder, **content):
    path = folder / "jobs" / "mine.yaml"
    path.write_text(yaml.safe_dump({"search": "quickstart", "environment": {"working_dir": ".."}} | content))
    return path


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_jobs_are_whole(file):
    job = jobs.prepare(file, ["results=/mnt/results"], "http://head:8265")
    text = file.read_text()
    assert all(f"# {word} " in text for word in ("COMMAND", "HARDWARE", "TIME", "EXPECTED"))
    assert f"search/{file.name}" in (file.parents[1] / "README.md").read_text()
    names = {str(name) for name in job.files}
    assert {"automixsearch/results/store.py", "search_spaces/quickstart.yaml", "pyproject.toml"} <= names
    assert not any(name.startswith("tests/") for name in names)
    assert job.size < 4e6


def sent(folder, files=None, exclude=(), named=()):
    return [str(file) for file in jobs.files_to_send(folder, files, exclude, named)[0]]


def test_what_git_does_not_track_stays_here_and_so_do_links_to_it(folder):
    (folder / ".gitignore").write_text("data/\n.*\n")
    assert sent(folder) == ["code.py", "notes.md", "pkg/results/store.py"]
    assert sent(folder, exclude=["pkg/"]) == ["code.py", "notes.md"]
    untracked = [str(file) for file in jobs.files_to_send(folder, None, ["results"])[1]]
    assert untracked == ["keys/me.pem", "weights.pt"]


def test_what_the_job_file_lists_is_sent_instead(folder):
    assert sent(folder, ["*.py", "data", "pkg/**/*.py"]) == ["code.py", "data/big.bin", "pkg/results/store.py"]
    assert "weights.pt" in sent(folder, ["."], exclude=["*.pem"])
    assert not any(".git/" in name for name in sent(folder, ["."]))
    for pattern in ("*.rs", "../work", "/etc/hostname"):
        with pytest.raises(SpecError, match=r"environment\.files: .* is nothing below"):
            sent(folder, [pattern])


def test_outside_a_checkout_what_the_job_names_is_sent(folder):
    shutil.rmtree(folder / ".git")
    assert sent(folder, named=[folder / "jobs/../notes.md", Path("/etc/hostname")]) == ["notes.md"]


def test_a_checkout_that_git_cannot_read_is_not_sent_whole(folder):
    (folder / ".git" / "HEAD").unlink()
    with pytest.raises(SpecError, match=r"git cannot list the files that it tracks: .*environment\.files"):
        sent(folder)


def test_a_secret_that_git_tracks_is_refused_by_name_and_can_be_left_out(folder):
    git(folder, "add", "-f", ".env")
    (folder / "notes.md").write_text("see https://me:" + "hunter2@host")
    with pytest.raises(SpecError, match="2 of the files seem to hold secrets") as refused:
        jobs.prepare(job_file(folder), ["results=/r"], "http://head:8265")
    assert re.search(r"\.env: .*by its name\n.*notes\.md: a password in a URI, in line 1", str(refused.value))
    assert "hunter2" not in str(refused.value)
    file = job_file(folder, environment={"working_dir": "..", "exclude": ["notes.md", ".env"]})
    assert jobs.prepare(file, ["results=/r"], "http://head:8265").files == (
        Path("code.py"),
        Path("pkg/results/store.py"),
    )


TOKEN = "hf" + "_Zk3qT9vXb7Lm2Rw8Yc5Nd4Hs6Jf1Gp0Ka"


@pytest.mark.parametrize("content", [
    {"environment": {"env_vars": {"MODEL": TOKEN}}},
    {"environment": {"env_vars": {"PROXY": "http://me:" + "hunter2@proxy"}}},
    {"environment": {"env_vars": {"X": "Zk3qT9vXb7Lm2Rw8Yc5N"}}},
    {"environment": {"env_vars": {"DB_PASS": "x"}}},
    {"environment": {"pip": ["x", f"--extra-index-url https://{TOKEN}@host/simple"]}},
    {"environment": {"pip": [f"x @ git+https://{TOKEN}@github.com/o/r"]}},
    {"environment": {"pip": ["--index-url https://dXNlcjpw" + "YXNz@host/simple"]}},
    {"environment": {"pip": ["--extra-index-url https://pypi.example.com/Zk3qT9vXb7Lm2Rw8Yc5N/simple"]}},
    {"overrides": {"data.path": f"https://host/x?si{'g='}abc"}},
    {"about": f"with {TOKEN}"},
])  # fmt: skip
def test_a_secret_among_the_values_of_a_job_is_refused_and_not_repeated(folder, content):
    with pytest.raises(SpecError, match=r"secret|holds") as refused:
        jobs.prepare(job_file(folder, **content), ["results=/r"], "http://head:8265")
    assert not re.search("hunter2|Zk3q|dXNl|abc", str(refused.value))


def test_usual_environments_are_no_secrets(folder):
    environment = {
        "env_vars": {"TOKENIZERS_PARALLELISM": "false", "LD_LIBRARY_PATH": "/usr/Lib64/Foo1Bar2Baz3Qux4/x:/y",
                     "GIT_COMMIT": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
                     "MODEL": "microsoft/Phi-3.5-mini-instruct"},
        "pip": ["torch==2.14", "x @ git+https://git@github.com/o/r@9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"],
    }  # fmt: skip
    assert jobs.prepare(job_file(folder, environment=environment), ["results=/r"], "http://head:8265").files == ()


def test_the_packed_space_is_the_space(folder):
    file = job_file(folder, overrides={"trials": 5, "lr": {"low": 0.01, "high": 0.1}, "recipe": "cifar"})
    job = jobs.prepare(file, ["width=4", "results=/mnt/r"], "http://head:8265")
    assert (job.name, job.space.budget.trials, job.space.knobs["width"]) == ("mine", 5, 4)
    with jobs.packed(job) as place:
        assert (place / "pkg/results/store.py").read_text() == "x" * 100
        sent = load_space(place / jobs.SENT / "search.yaml")
        assert sent.space_id == job.space.space_id
        assert (sent.name, sent.budget) == (job.space.name, job.space.budget)
        runtime = job.runtime_env(place)
    assert not place.exists()
    assert runtime["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert job.command(here=False)[:4] == ["python", "-m", "automixsearch", "search"]
    assert "token" not in str(runtime).lower() + str(job.metadata).lower()


def test_pinned_means_the_versions_that_are_installed(folder):
    job = jobs.prepare(job_file(folder, environment={"pip": "pinned"}), ["results=/r"], "http://head:8265")
    assert {"torch", "ray", "optuna"} <= {word.partition("==")[0] for word in job.runtime_env(folder)["pip"]}
    assert job.files == ()


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ({}, [], "results = 'results' would lie in the job's temporary folder"),
        ({"environment": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "x"}}}, ["results=/r"], "looks like a secret"),
        ({"environment": {"working_dir": "../nowhere"}}, ["results=/r"], "there is no directory"),
        ({"environment": {"working_dir": "..", "limit_mb": 0.0001}}, ["results=/r"], "MB would be sent"),
        ({"name": "../../etc"}, ["results=/r"], "name = '../../etc'"),
        ({"serach": 1}, ["results=/r"], "did you mean 'search'"),
        ({"search": "quickstrat"}, ["results=/r"], "did you mean 'quickstart'"),
        ({"overrides": {"mixup.alhpa": 1}}, ["results=/r"], "mine.yaml: override mixup.alhpa=1"),
        ({}, ["results=/r", "lr=-1"], "lr"),
    ],
)
def test_what_cannot_be_sent_is_refused(folder, content, overrides, message):
    with pytest.raises(SpecError) as error:
        jobs.prepare(job_file(folder, **content), overrides, "http://head:8265")
    assert message in str(error.value)


def test_a_space_is_no_job(tmp_path):
    (tmp_path / "space.yaml").write_text("knobs: {method: mixup}\n")
    with pytest.raises(SpecError, match="this is a search space: use automixsearch search"):
        jobs.load_job(tmp_path / "space.yaml")


def test_a_study_is_sent_as_it_is_by_a_job_or_by_its_own_name(folder):
    from automixsearch.studies.file import load_study_file

    (folder / "parts.yaml").write_text(
        "question: What do they do?\nknobs: {method: automix}\ndesign: factorial\nreplicates: 2\n"
        "factors: {teacher: {off: {ema: false}, on: {ema: true}}, clean: {off: {clean_lam: 0}, on: {clean_lam: 1}}}\n"
    )
    (folder / "job.yaml").write_text("study: parts.yaml\nresults: /r\noverrides: {epochs: 3}\n")
    for file, name, epochs in (("job.yaml", "job", 3), ("parts.yaml", "parts", 200)):
        job = jobs.prepare(folder / file, ["results=/r"], "http://head:8265")
        assert (job.name, job.what.budget.epochs, job.metadata["trials"]) == (name, epochs, "8")
        assert job.command(here=False)[3:5] == ["study", "automixsearch-job/study.yaml"]
        with jobs.packed(job) as place:
            assert load_study_file(place / jobs.SENT / "study.yaml") == job.what
    (folder / "job.yaml").write_text("study: parts.yaml\nsearch: quickstart\n")
    with pytest.raises(SpecError, match="name what is run: either `search`, a search space, or `study`, a study file"):
        jobs.load_job(folder / "job.yaml")


def test_no_address_and_a_dead_one_say_what_to_do(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ResourceError, match="give --address"):
        jobs.connect(None)
    with pytest.raises(ResourceError, match="check the address"):
        jobs.connect("http://127.0.0.1:9")


class YoungCluster:
    """A cluster whose agents come up after some refusals; `refusal` says with which words."""

    def __init__(self, refusal, times):
        self.refusal, self.times, self.sent = refusal, times, []

    def list_jobs(self):
        return []

    def submit_job(self, **job):
        if self.times:
            self.times -= 1
            raise RuntimeError(self.refusal)
        self.sent.append(job)


def test_a_cluster_whose_agent_is_not_up_yet_is_asked_again(folder, monkeypatch):
    monkeypatch.setattr(jobs.time, "sleep", lambda _: None)
    job = jobs.prepare(job_file(folder), ["results=/r"], "http://head:8265")
    young = YoungCluster("status code 500: No available agent to submit job, please try again later..", 3)
    submission, new = jobs.submit(young, job)
    assert new
    assert [sent["submission_id"] for sent in young.sent] == [submission]
    with pytest.raises(ResourceError, match="refused job mine: no such package"):
        jobs.submit(YoungCluster("no such package", 1), job)
    monkeypatch.setattr(jobs, "AGENT_S", 0)
    with pytest.raises(ResourceError, match=r"No available agent.* holds its port, 52365; start the head with"):
        jobs.submit(YoungCluster(young.refusal, 1), job)


class Cluster:
    """Lists one submission of the example study, whose results are read from `results`."""

    def __init__(self, results, status="RUNNING", message=""):
        about = {"automixsearch": "0", "job": "example", "trials": "400", "results": str(results)}
        state = SimpleNamespace(value=status, is_terminal=lambda: status != "RUNNING")
        self.job = SimpleNamespace(
            metadata=about, status=state, message=message, submission_id="example-1", start_time=1, driver_exit_code=1
        )

    def list_jobs(self):
        return [self.job]


def test_the_status_of_a_job_says_how_far_its_study_is(capsys, monkeypatch, tmp_path):
    def asked(cluster, *words):
        monkeypatch.setattr(jobs, "connect", lambda _: cluster)
        return main(["status", "example", *words]), capsys.readouterr().out

    status, line = asked(Cluster(EXAMPLE.parent))
    assert status == 0
    assert line == "example-1: running; 312 of 400 trials (312 complete), 22:43 min of device time\n"
    found = json.loads(asked(Cluster(EXAMPLE.parent), "--json")[1])
    assert (found["state"], found["trials"], found["total"]) == ("running", 312, 400)
    assert found["states"] == {"complete": 312, "pruned": 0, "failed": 0}
    assert found["device_s"] == pytest.approx(1363.5, abs=0.1)
    assert found["energy_j"] is None
    assert "; no results of example in " in asked(Cluster(tmp_path))[1]
    (tmp_path / "example" / "study.json").mkdir(parents=True)
    assert re.search(r"cannot be read from here \(.*study\.json", asked(Cluster(tmp_path))[1])
    status, line = asked(Cluster(EXAMPLE.parent, "FAILED", "driver died"), "--watch")
    assert status == 1
    assert line.endswith("of device time\ndriver died\n")


def test_a_dry_run_sends_nothing(folder, capsys):
    file = job_file(folder, results="/mnt/r")
    assert main(["submit", str(file), "--address", "http://head:8265", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "code.py" in out
    assert "search automixsearch-job/search.yaml --results /mnt/r --lines --address auto" in out


def test_debug_runs_a_job_here_and_retry_runs_its_failed_trials_again(folder, tmp_path, capsys, monkeypatch):
    from automixsearch.training import run

    file = job_file(folder, results=str(tmp_path / "results"))
    whole = run.TrainingRun.step

    def breaks(self, batch, number, generator):
        if self.config.method != "vanilla":
            raise ValueError("a bug")
        return whole(self, batch, number, generator)

    monkeypatch.setattr(run.TrainingRun, "step", breaks)
    assert main(["submit", str(file), "--debug", *TINY]) == 0
    study = open_study(tmp_path / "results" / "mine")
    before = study.query("SELECT trial_id, state, config_id FROM trials ORDER BY 1")
    assert before["state"].tolist() == ["complete", "failed"]
    monkeypatch.setattr(run.TrainingRun, "step", whole)
    assert main(["retry", "--failed", str(file), "--debug", *TINY]) == 0
    after = open_study(tmp_path / "results" / "mine").query("SELECT trial_id, state, config_id FROM trials ORDER BY 1")
    assert after["state"].tolist() == ["complete", "complete"]
    assert after["config_id"].tolist() == before["config_id"].tolist()
    assert len(list((tmp_path / "results" / "mine" / "retried").iterdir())) == 1
    said = capsys.readouterr()
    assert "failed trials that run again: 1" in said.err


def test_an_interrupted_debug_run_names_the_command_that_goes_on(folder, tmp_path, capsys, monkeypatch):
    from automixsearch.training import run

    def stopped(self, batch, number, generator):
        raise KeyboardInterrupt

    file = job_file(folder, results=str(tmp_path / "results"))
    monkeypatch.setattr(run.TrainingRun, "step", stopped)
    assert main(["submit", str(file), "--debug", *TINY]) == 130
    again = capsys.readouterr().out.partition("To go on: ")[2].split()
    monkeypatch.undo()
    assert again[1:3] == ["submit", str(file)]
    assert main(again[1:]) == 0


def test_a_search_ends_well_in_a_folder_that_is_gone(folder, tmp_path, monkeypatch):
    """As the folder of a job on a cluster can be."""
    from automixsearch import cli

    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    file = job_file(folder, results=str(tmp_path / "results"))
    assert cli.main(["submit", str(file), "--debug", *TINY]) == 0


def test_the_pinned_packages_are_the_dependencies():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[><=]", dependency)[0] for dependency in project["dependencies"]}
    assert set(PINNED) == names
