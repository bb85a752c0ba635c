"""Searches on two simulated nodes, of which one is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pandas as pd
import pytest

sys.path.insert(0, os.path.dirname(__file__))
from conftest import Nodes, finish, wait_for
from test_search import check_ledger, search


@pytest.fixture(scope="module")
def nodes():
    made = Nodes()
    yield made
    made.end()


def test_trials_are_packed_by_their_memory_and_a_killed_one_goes_on_at_another_node(nodes, space):
    """Each node has 2 CPUs, and memory for one trial with its margin."""
    process = search(
        nodes.cluster, space, "--lines", "--trials", "4", "epochs=8", "method=mixup", "resources.packing=auto"
    )
    attempts = space.parent / "results" / "tiny" / "attempts"
    place = lambda: {file.stem: json.loads(file.read_text())["place"]["node"] for file in attempts.glob("t*.json")}  # noqa: E731
    before = wait_for(place)
    trial, node = next(iter(before.items()))
    os.kill(wait_for(lambda: nodes.cluster.workers("ray::ResourceTrainable"))[0], signal.SIGKILL)
    status, _, errors = finish(process)
    assert status == 0, errors
    trials = check_ledger(space, 4)
    assert (trials.state == "complete").all()
    peak = re.search(r"memory of a trial of mixup: ([\d.]+) GiB", errors)
    assert peak, errors
    assert 1 < 1 / (float(peak[1]) * 1.2) < 2, "the test needs trials of half a GiB"
    assert re.search(r"t\d+ failed after epoch \d+ \(WorkerDied on .*\), tries again", errors)
    ends = trials.ended_at.sort_values().tolist()
    running = [((trials.started_at < at) & (trials.ended_at >= at)).sum() for at in ends]
    assert max(running) == 2
    assert (trial, node) != ("", "")


def test_a_trial_across_two_nodes_outlives_one_of_them(nodes, space):
    words = ("resources={workers: 2, cpus: 1.2}", "--trials", "1", "epochs=20", "method=mixup", "--lines")
    process = search(nodes.cluster, space, *words)
    folder = space.parent / "results" / "tiny" / "epochs"
    wait_for(lambda: len(list(folder.glob("*.parquet"))) > 3 or process.poll() is not None)
    assert nodes.kill()
    reached = pd.read_parquet(folder).epoch.max()
    assert reached < 20
    nodes.add()
    status, _, errors = finish(process, 400)
    assert status == 0, errors
    (trial,) = check_ledger(space, 1).itertuples()
    assert (trial.state, trial.workers) == ("complete", 2)
    wall = pd.read_parquet(folder).sort_values("epoch").wall_s
    assert wall.is_monotonic_increasing, "it went on from a checkpoint and did not start anew"


def test_distributed_trials_that_ask_for_more_than_there_is_all_end_and_stopped_ones_free_their_workers(nodes, space):
    """Four trials of two workers want 8 CPUs and the nodes have 4; what has cooled down badly is stopped."""
    halving = "scheduler={name: asha, rungs: cooldown, reduction: 4, protect: 0}"
    words = ("resources={workers: 2, cpus: 0.9}", "--trials", "4", "epochs=4", "method=mixup", "schedule=trapezoid")
    status, _, errors = finish(search(nodes.cluster, space, *words, halving, "--lines"), 400)
    assert status == 0, errors
    trials = check_ledger(space, 4)
    assert set(trials.state) == {"complete", "pruned"}
    free = "import ray; ray.init(address=%r, log_to_driver=False); print(ray.available_resources().get('CPU'))"
    ask = [sys.executable, "-c", free % nodes.cluster.address]
    wait_for(lambda: subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip() == "4.0", 60)
