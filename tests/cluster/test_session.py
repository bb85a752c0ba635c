"""The session with Ray: where a cluster of our own listens, who is let in, and what is said where none answers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray
import ray.util.state

from automixsearch.cluster import session, switches
from automixsearch.cluster.scratch import scratch
from automixsearch.cluster.session import connect
from automixsearch.config.resources import Resources
from automixsearch.errors import ResourceError
from automixsearch.search.executors import _name_the_cluster

STARTED = """
import os, re, subprocess, sys
from pathlib import Path
from automixsearch.cluster.session import connect
from automixsearch.config.resources import Resources
connect(Resources(workers=2), None, Path(sys.argv[1], "ray.log"), Path(sys.argv[2]))
import ray
address = ray.get_runtime_context().gcs_address
parents = {int(p.name): int((p / "stat").read_text().rpartition(")")[2].split()[1])
           for p in Path("/proc").iterdir() if p.name.isdigit() and (p / "stat").exists()}
def ours(pid):
    return pid == os.getpid() or (pid in parents and ours(parents[pid]))
sockets = {os.readlink(fd)[8:-1] for pid in parents if ours(pid) for fd in Path(f"/proc/{pid}/fd").glob("*")
           if os.path.lexists(fd) and os.readlink(fd).startswith("socket:[")}
rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
print(address, *{row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets})
code = f"import ray; ray.init(address={address!r}, logging_level=50); print(ray.cluster_resources())"
bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
bare |= {"HOME": sys.argv[1], "RAY_NUM_REDIS_GET_RETRIES": "1"}
done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
print("let in" if done.returncode == 0 else "turned away")
"""


def test_a_cluster_of_our_own_listens_to_this_machine_and_wants_a_token(tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with scratch() as folder:
        command = [sys.executable, "-c", STARTED, str(tmp_path), str(folder)]
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    listening, access = done.stdout.splitlines()[-2:]
    address, *places = listening.split()
    assert address.startswith("127.0.0.1:")
    assert set(places) == {"0100007F", "0000000000000000FFFF00000100007F"}, "127.0.0.1 in /proc/net/tcp and tcp6"
    assert access == "turned away"
    assert not (tmp_path / ".ray").exists(), "the token is in no file"


def test_without_authentication_nothing_starts_unless_it_is_asked_for(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("ray.init", lambda **settings: started.append(settings))
    monkeypatch.setattr(session, "is_authenticated", lambda: False)
    monkeypatch.setattr(session, "set_switches", lambda address: None)  # or it would stay set for what is tested next
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ResourceError, match=r"asks for no token here.*set RAY_AUTH_MODE=disabled to allow that"):
        session.connect(Resources(), None, tmp_path / "ray.log", tmp_path)
    assert not started
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert session.connect(Resources(), None, tmp_path / "ray.log", tmp_path)


def test_a_token_that_others_can_read_is_refused(tmp_path, monkeypatch):

    file = tmp_path / "auth_token"
    file.write_text("x")
    file.chmod(0o640)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with pytest.raises(ResourceError, match=f"others can read it; chmod 600 {file}"):
        switches._has_token()
    file.chmod(0o600)
    assert switches._has_token()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            Exception("The node timed out during startup.\nTraceback"),
            "during startup; the machine may be too busy: try",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; allow more open files"),
        (
            ValueError("Can't find a `node_ip`"),
            r"node_ip`; automixsearch doctor says more; --debug runs trials without",
        ),
        (AssertionError(), "AssertionError; automixsearch doctor"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_where_ray_does_not_start_its_cause_says_what_to_do(tmp_path, monkeypatch, error, told):
    def fail(**_):
        raise error

    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(ResourceError, match=f"Ray does not start on this machine: .*{told}"):
        connect(Resources(), None, tmp_path / "driver.log", tmp_path)


def test_ray_in_a_folder_that_is_gone_is_not_said_to_be_busy(tmp_path, monkeypatch):
    def fail(**_):
        os.getcwd()

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(ResourceError, match="the working directory is gone: cd to one that exists"):
        connect(Resources(), None, tmp_path / "driver.log", tmp_path)


@pytest.fixture
def connected(monkeypatch):
    """A process that thinks it is connected to a cluster at 10.0.0.1:6379."""
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setattr(session, "DASHBOARD_S", 0.0)


def test_the_dashboard_of_our_own_cluster_is_asked_whatever_else_runs(connected, monkeypatch):
    asked = []
    monkeypatch.setattr(ray.util.state, "list_placement_groups", lambda address, limit: asked.append(address))
    session.check_dashboard(Resources(workers=2), True, pytest.fail)
    assert asked == ["10.0.0.1:6379"]


def test_without_a_dashboard_stops_of_several_workers_are_refused_and_deaths_are_warned_of(connected, monkeypatch):
    def silent(address, limit):
        raise ConnectionError("refused")

    monkeypatch.setattr(ray.util.state, "list_placement_groups", silent)
    with pytest.raises(ResourceError, match=r"it does not answer \(ConnectionError\); start the head with"):
        session.check_dashboard(Resources(workers=2), True, pytest.fail)
    notes = []
    session.check_dashboard(Resources(workers=2), False, notes.append)
    assert "if the process of a trial dies, its workers' places stay taken" in notes[0]


def test_the_processes_of_a_trial_of_several_workers_are_told_which_cluster_is_theirs(connected):
    from ray.train.v2._internal.constants import get_env_vars_to_propagate

    _name_the_cluster()
    assert get_env_vars_to_propagate()["RAY_ADDRESS"] == "10.0.0.1:6379"
