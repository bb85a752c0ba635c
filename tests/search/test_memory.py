"""Memory of trials: measured in processes of their own, and what happens when there is too little."""

from __future__ import annotations

import json
import subprocess
import sys

from automixsearch.config.files import parse_space
from automixsearch.results.store import Store
from automixsearch.search.failures import MEMORY, Attempt
from automixsearch.search.memory import heaviest
from automixsearch.search.proposers.sampling import Sampling

KNOBS = {
    "method": ["mixup", "automix"],
    "batch_size": [32, 128, 64],
    "width": [4, 8],
    "lr": {"low": 0.01, "high": 0.1},
}


def space(size=None, **knobs):
    content = {"name": "s", "knobs": {**KNOBS, **knobs}, "budget": {"trials": 1, "epochs": 4}, "sampler": "random"}
    return parse_space({**content, "data": {"source": "digits", "val_fraction": 0.2, "size": size}}, "test")


def test_the_heaviest_config_has_every_number_at_its_top_and_every_backbone_is_one():
    (config,) = heaviest(space(layer=["l1", "l3"]), "automix")
    assert (config.method, config.knobs["batch_size"], config.knobs["width"]) == ("automix", 128, 8)
    assert (config.knobs["automix.layer"], config.knobs["lr"]) == ("l1", 0.1)
    configs = heaviest(space(backbone=["resnet18", "resnet50"]), "mixup")
    assert [config.knobs["backbone"] for config in configs] == ["resnet18", "resnet50"]


def alone(code: str, **values) -> str:
    """What `code` prints in a process of its own; `values` are its variables."""
    head = "import json, sys; globals().update(json.loads(sys.argv[1]))\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code, json.dumps(values)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


MEASURE = """
import os
import torch._dynamo, automixsearch.training.run  # all that takes long to load, and nothing that starts a thread
from automixsearch.search.memory import _probe
for config in configs:
    if not os.fork():
        print(_probe(config, 1, {}).host, flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_probe_measures_the_peak_of_its_own_process():
    configs = [heaviest(space(method="mixup", width=w, batch_size=b), "mixup")[0] for w, b in ((32, 256), (4, 32))]
    said = alone(MEASURE, configs=[config.model_dump_json() for config in configs]).split()
    heavy, light = (float(peak) / 2**20 for peak in said)
    assert 100 < light < 1500
    assert heavy > light + 60


LACK = """
import resource, torch
import torch._dynamo  # which the optimiser would load, when there is no memory for modules any more
from automixsearch.results.store import Store
from automixsearch.search.task import Task
from automixsearch.search.trial import run_trial
from automixsearch.training.world import World
torch.set_num_threads(1)
store = Store(results, "s")
task = Task.load(store, "t00000")
from automixsearch.data import load
load(task.config.data)
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 300 * 2**20, -1))
try:
    list(run_trial(store, task, torch.device("cpu"), World()))
except Exception as error:
    print(type(error).__name__)
"""


def test_a_trial_that_runs_out_of_memory_says_so_and_gets_no_row(tmp_path):
    """Of tensors of 128 MiB one is the first that finds no room. With small ones it can be the code of a convolution,
    and oneDNN calls what it could not make: the process ends by a signal, of which only the driver can tell."""
    store = Store(tmp_path, "s")
    assert Sampling(space(size=32, method="mixup", width=64, batch_size=512), store, None).next() is not None
    assert alone(LACK, results=str(tmp_path)) == "RuntimeError"
    attempt = Attempt.load(store, "t00000")
    assert attempt is not None
    assert attempt.cause == MEMORY
    assert store.finished() == set()
