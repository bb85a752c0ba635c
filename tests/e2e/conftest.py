"""One Ray cluster for all end-to-end tests, in a process of its own; searches are real command lines."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NODES = """
import json, os, sys
from automixsearch.cluster.switches import set_switches
set_switches("nodes")  # with a token where there is one: searches will have it
# A node that is killed refuses connections and is missed after 2 seconds; one that is only slow has longer.
os.environ |= {"RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500",
               "RAY_health_check_timeout_ms": "10000", "RAY_health_check_failure_threshold": "4",
               "RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000",
               "RAY_prestart_worker_first_driver": "0",  # Tune's actors do not use workers that are started early
               "RAY_worker_niceness": "0"}  # or trials starve while other tests compute
from ray.cluster_utils import Cluster
cpus, memory, dashboard, more = map(int, sys.argv[1:])
# The port of Ray's agent, which starts jobs, is the same for all clusters of a machine unless it may be any.
size = {"num_cpus": cpus, "memory": memory, "object_store_memory": 100 * 2**20, "dashboard_agent_listen_port": None}
head = {"include_dashboard": bool(dashboard), "dashboard_port": 0}
cluster = Cluster(initialize_head=True, head_node_args=size | head)
for _ in range(more):
    cluster.add_node(**size)
print(cluster.address, cluster.head_node.webui_url, flush=True)
for line in sys.stdin:
    before = dict(os.environ)
    os.environ |= json.loads(line)
    cluster.add_node(**size)
    os.environ.clear()
    os.environ |= before
    print("added", flush=True)
"""


FREE = """
import sys
from automixsearch.cluster.switches import set_switches
set_switches(sys.argv[1])
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print(ray.available_resources().get("CPU", 0.0))
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

    def free_cpus(self) -> float:
        """What nothing holds, asked by a process of its own."""
        done = subprocess.run([sys.executable, "-c", FREE, self.address], capture_output=True, text=True, check=True)
        return float(done.stdout)


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
    """A head and `more` nodes of so many CPUs and bytes of memory each, in processes below one of ours."""

    def __init__(self, cpus: int = 2, memory: int = 19 * 10**8, dashboard: bool = True, more: int = 1) -> None:
        pipe, words = subprocess.PIPE, [str(int(number)) for number in (cpus, memory, dashboard, more)]
        for _ in range(3):  # a machine with much else to do can miss Ray's deadlines
            self.place = tempfile.mkdtemp(prefix="ray-")  # a short path: sockets lie in it
            self.process = subprocess.Popen(
                [sys.executable, "-c", NODES, *words],
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                text=True,
                # Ray's job server looks there for its own cluster before it takes any that runs on the machine.
                env={**os.environ, "RAY_TMPDIR": self.place},
            )
            address, _, dashboard_at = self._line().partition(" ")
            if address:
                break
            self.end()
        assert address, "the nodes did not start"
        self.cluster = Cluster(address, f"http://{dashboard_at}", self.process.pid)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> bool:
        """Kill the second node as a machine without power; whether there was one."""
        raylets = [pid for pid in self.cluster.workers("raylet/raylet") if "--head" not in command_line(pid)]
        for pid in raylets:
            os.kill(pid, signal.SIGKILL)
        return bool(raylets)

    def add(self, **environment: str) -> None:
        """Start another node, with more in its environment."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(environment) + "\n")
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
        shutil.rmtree(self.place, ignore_errors=True)


@contextmanager
def own_token() -> Iterator[None]:
    """Let clusters that are started inside want a token of theirs, which all commands find where Ray looks for it."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        token = Path(place) / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        yield


@pytest.fixture(scope="session")
def token():
    with own_token():
        yield


@pytest.fixture(scope="session")
def cluster(token):
    """A cluster of one node of 2 CPUs that wants a token."""
    made = Nodes(memory=8 * 10**9, more=0)
    yield made.cluster
    made.end()


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
