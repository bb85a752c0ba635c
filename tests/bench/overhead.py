"""What a search costs beyond its trainings: eight one-epoch trials on digits, searched and in one plain process.

COMMAND   python tests/bench/overhead.py
HARDWARE  any; two CPU cores suffice, about a minute
EXPECTED  first epoch of the first trial within 25 s of the command, each further trial at most 2 s beyond its training
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from automixsearch import open_study

TRIALS = 8
PLAIN = """
import json, sys, time
import torch
from automixsearch.data import load
from automixsearch.config.files import load_config
from automixsearch.training.run import train
torch.set_num_threads(1)
seconds = []
for path in sys.argv[1:]:
    started = time.perf_counter()
    config = load_config(path)
    train(config, load(config.data), "cpu")
    seconds.append(time.perf_counter() - started)
print(json.dumps(seconds))
"""


def main() -> None:
    """Run both and print the comparison."""
    with tempfile.TemporaryDirectory() as folder:
        begun = datetime.now(UTC)
        clock = time.perf_counter()
        words = ["search", "quickstart", f"trials={TRIALS}", "epochs=1", "warmup_epochs=0", "scheduler=fifo"]
        words += ["resources.concurrent=1", "--results", folder]
        command = [sys.executable, "-m", "automixsearch.cli", *words]
        subprocess.run(command, check=True, capture_output=True)
        whole_s = time.perf_counter() - clock
        study = open_study(Path(folder, "quickstart"))
        ends = [row["ended_at"] for row in study.store.epoch_rows()]
        done = sorted(row["ended_at"] for row in study.store.trial_rows(["ended_at"]))
        configs = []
        for row in study.store.trial_rows(["trial_id"]):
            configs.append(Path(folder, f"{row['trial_id']}.yaml"))
            configs[-1].write_text(study.config(row["trial_id"]).to_yaml())
        plain = subprocess.run([sys.executable, "-c", PLAIN, *map(str, configs)], check=True, capture_output=True)
        trainings = json.loads(plain.stdout)
    each_s = (done[-1] - done[0]).total_seconds() / (TRIALS - 1)
    plain_s = sum(trainings[1:]) / (TRIALS - 1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"command to first epoch      {(min(ends) - begun).total_seconds():6.2f} s")
    print(f"plain training, each        {plain_s:6.2f} s   (mean of trials 2 to {TRIALS})")
    print(f"searched trial, each        {each_s:6.2f} s   (mean of trials 2 to {TRIALS}, one at a time)")
    print(f"overhead of a trial         {each_s - plain_s:6.2f} s   ({each_s / plain_s:.2f} x)")
    print(f"whole command               {whole_s:6.2f} s   (plain process: {sum(trainings):.2f} s of training)")


if __name__ == "__main__":
    main()
