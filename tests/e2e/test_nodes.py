"""Searches on two simulated nodes, of which one is killed, is too small, or is broken."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

import pandas as pd
import pytest

sys.path.insert(0, os.path.dirname(__file__))
from conftest import Nodes, finish, wait_for
from test_search import check_ledger, search


@pytest.fixture(scope="module")
def nodes(token):
    made = Nodes()
    yield made
    made.end()


@pytest.mark.slow
def test_trials_are_packed_by_their_memory_and_one_that_is_killed_tries_again(nodes, space):
    """Each node has 2 CPUs, and memory for one trial with its margin."""
    words = ("--trials", "4", "epochs=8", "method=mixup", "resources.packing=auto", "--lines")
    process = search(nodes.cluster, space, *words)
    epochs = space.parent / "results" / "tiny" / "epochs"
    wait_for(lambda: any(epochs.glob("*.parquet")) or process.poll() is not None)
    assert process.poll() is None, finish(process)
    training = lambda: nodes.cluster.workers("ray::ResourceTrainable")  # noqa: E731
    os.kill(wait_for(training)[0], signal.SIGKILL)
    at_once = set()
    while process.poll() is None:
        at_once.add(len(training()))
        time.sleep(0.1)
    status, _, errors = finish(process)
    assert status == 0, errors
    trials = check_ledger(space, 4)
    assert (trials.state == "complete").all()
    assert max(at_once) == 2
    peak = re.search(r"memory of a trial of mixup: ([\d.]+) GiB", errors)
    assert peak, errors
    assert 1 < 1.9e9 / 2**30 / (float(peak[1]) * 1.2) < 2, "the test needs trials of about 1 GiB"
    assert re.search(r"t\d+ failed after epoch \d+ \((SIGKILL|WorkerDied) on .*\), tries again", errors)


@pytest.mark.slow
def test_a_trial_across_two_nodes_outlives_one_of_them(nodes, space):
    words = ("resources={workers: 2, cpus: 1.2}", "--trials", "1", "epochs=20", "method=mixup", "--lines")
    process = search(nodes.cluster, space, *words)
    folder = space.parent / "results" / "tiny" / "epochs"
    wait_for(lambda: len(list(folder.glob("*.parquet"))) > 3 or process.poll() is not None)
    assert process.poll() is None, finish(process)
    assert nodes.kill()
    reached = pd.read_parquet(folder).epoch.max()
    assert reached < 20
    nodes.add()
    status, _, errors = finish(process)
    assert status == 0, errors
    (trial,) = check_ledger(space, 1).itertuples()
    assert (trial.state, trial.workers) == ("complete", 2)
    assert re.search(r"note: t00000 goes on from its checkpoint of epoch \d", errors), errors


@pytest.mark.slow
def test_distributed_trials_that_ask_for_more_than_there_is_all_end_and_stopped_ones_free_their_workers(nodes, space):
    """Four trials of two workers want 7.2 CPUs and the nodes have 4; what has cooled down badly is stopped."""
    halving = "scheduler={name: asha, rungs: cooldown, reduction: 4, protect: 0}"
    words = ("resources={workers: 2, cpus: 0.9}", "--trials", "4", "epochs=4", "method=mixup", "schedule=trapezoid")
    status, _, errors = finish(search(nodes.cluster, space, *words, halving, "--lines"))
    assert status == 0, errors
    trials = check_ledger(space, 4)
    assert set(trials.state) == {"complete", "pruned"}
    wait_for(lambda: nodes.cluster.free_cpus() == 4.0, 60)


@pytest.mark.slow
def test_a_node_that_cannot_run_trials_is_avoided_and_the_study_ends_complete(token, space, tmp_path):
    """On the second node torch cannot be imported, as where its CUDA libraries are missing."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    nodes = Nodes(cpus=1, dashboard=False, more=0)
    try:
        nodes.add(PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        status, _, errors = finish(search(nodes.cluster, space, "--trials", "8", "epochs=3", "--lines"))
    finally:
        nodes.end()
    assert status == 0, errors
    trials = check_ledger(space, 8)
    assert (trials.state == "complete").all(), errors
    lost = re.findall(r"note: (t\d+) failed after epoch 0 \(ImportError on .*?\): .*, tries again", errors)
    assert len(lost) == len(set(lost)) == 3, errors
    assert re.search(r"node .* has failed ImportError on three trials .* it gets no more of them", errors)
