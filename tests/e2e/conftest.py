"""One Ray cluster for all end-to-end tests, in a process of its own; searches are real command lines."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

CLUSTER = """
import pathlib, sys
from automixsearch.search.environment import set_switches
set_switches(None)
import ray
context = ray.init(address="local", num_cpus=2, include_dashboard=True, object_store_memory=128 * 2**20,
                   _temp_dir=sys.argv[1])
# Ray's job server looks here for its own cluster before it takes any that runs on the machine.
pathlib.Path(sys.argv[1], "ray_current_cluster").write_text(context.address_info["gcs_address"])
print(context.address_info["gcs_address"], context.dashboard_url, flush=True)
sys.stdin.read()
"""


NODES = """
import os, sys
from automixsearch.search.environment import set_switches
set_switches("nodes")  # with a token where there is one: searches will have it
# A node that is killed refuses connections and is missed after 2 seconds; one that is only slow has longer.
os.environ |= {"RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500",
               "RAY_health_check_timeout_ms": "10000", "RAY_health_check_failure_threshold": "4",
               "RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000"}
from ray.cluster_utils import Cluster
size = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "memory": 19 * 10**8}
cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": True, "dashboard_port": 0})
cluster.add_node(**size)
print(cluster.address, cluster.head_node.webui_url, flush=True)
for line in sys.stdin:
    cluster.add_node(**size)
    print("added", flush=True)
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


def finish(process: subprocess.Popen, timeout: float = 600) -> tuple[int, str, str]:
    """Wait for a command: (exit status, output, errors)."""
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        pytest.fail(f"no end after {timeout} s\n{out}\n{errors}")
    return process.returncode, out, errors


def wait_for(condition: Callable[[], object], timeout: float = 400) -> object:
    """Wait until `condition` gives something true, and return that."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    return pytest.fail(f"did not happen within {timeout} s")


class Nodes:
    """Two nodes of 2 CPUs and 1.9 GB each, in processes below one of ours; the first is the head."""

    def __init__(self) -> None:
        for _ in range(3):  # a machine with much else to do can miss Ray's deadlines
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                [sys.executable, "-c", NODES], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            )
            address, _, dashboard = self._line().partition(" ")
            if address:
                break
            self.end()
        assert address, "the nodes did not start"
        self.cluster = Cluster(address, f"http://{dashboard}", self.process.pid)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> bool:
        """Kill the second node as a machine without power; whether there was one."""
        raylets = [pid for pid in self.cluster.workers("raylet/raylet") if "--head" not in command_line(pid)]
        for pid in raylets:
            os.kill(pid, signal.SIGKILL)
        return bool(raylets)

    def add(self) -> None:
        """Start another second node."""
        assert self.process.stdin is not None
        self.process.stdin.write("add\n")
        self.process.stdin.flush()
        assert self._line() == "added"

    def end(self) -> None:
        """Kill everything."""
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.communicate()


@pytest.fixture(scope="session")
def cluster():
    place = tempfile.mkdtemp(prefix="ray-")  # a short path: sockets lie in it
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, place],
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
    shutil.rmtree(place, ignore_errors=True)


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
