"""One Ray cluster for all end-to-end tests, in a process of its own; searches are real command lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

CLUSTER = """
import sys
from automixsearch.search.environment import set_switches
set_switches(None)
import ray
context = ray.init(address="local", num_cpus=2, include_dashboard=True, object_store_memory=128 * 2**20)
print(context.address_info["gcs_address"], context.dashboard_url, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: where it and its dashboard answer, and the process that holds it."""

    address: str
    dashboard: str
    pid: int

    def workers(self, title: str) -> list[int]:
        """The processes of this cluster whose command line contains `title`, e.g. `InlineTrial`."""
        return [pid for pid in descendants(self.pid) if title in command_line(pid)]


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, front = [], [pid]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += front
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def start(*words: str, **more) -> subprocess.Popen:
    """Start `automixsearch WORDS` in its own process group, output piped."""
    command = [sys.executable, "-m", "automixsearch.cli", *words]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **more)
    STARTED.append(process)
    return process


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def no_leftovers():
    """End what a failed test left running, and close its pipes."""
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    STARTED.clear()


def finish(process: subprocess.Popen, timeout: float = 240) -> tuple[int, str, str]:
    """Wait for a command: (exit status, output, errors)."""
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        pytest.fail(f"no end after {timeout} s\n{out}\n{errors}")
    return process.returncode, out, errors


def wait_for(condition: Callable[[], object], timeout: float = 120) -> object:
    """Wait until `condition` gives something true, and return that."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    return pytest.fail(f"did not happen within {timeout} s")


@pytest.fixture(scope="session")
def cluster():
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    address, _, dashboard = process.stdout.readline().strip().partition(" ")
    assert address, "the cluster did not start"
    yield Cluster(address, f"http://{dashboard}", process.pid)
    process.communicate(timeout=60)


SPACE = """
about: tiny
data: {source: digits, val_fraction: 0.2}
budget: {trials: 6, epochs: 6}
sampler: {name: random}
knobs:
  method: [vanilla, mixup, cutmix, resizemix]
  alpha: {low: 0.1, high: 4.0, log: true}
  loss: [mce, decoupled]
  eta: {low: 0.01, high: 1.0, log: true}
  width: 4
  batch_size: 64
  crop_pad: 1
  flip: false
"""


@pytest.fixture
def space(tmp_path):
    """A search space that runs in seconds, in a directory with an awkward name."""
    folder = tmp_path / "a place with spaces"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(SPACE)
    return folder / "tiny.yaml"
