"""Searches on two simulated nodes, of which one is killed."""

from __future__ import annotations

import os
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
    wall = pd.read_parquet(folder).sort_values("epoch").wall_s
    assert wall.is_monotonic_increasing, "it went on from a checkpoint and did not start anew"
