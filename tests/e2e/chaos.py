"""Kill a search at random moments until it is done, and count its rows.

COMMAND   python tests/e2e/chaos.py --kills 10 --seed 0 [--workers 2]
HARDWARE  any; on two CPU cores about 20 s for each kill
EXPECTED  found = expected, 0 duplicated, 0 changed

Only processes of the search that it started itself are killed: its driver, or a trial's process (with --workers, a
training worker's). A killed driver is started again with the same command.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, os.path.dirname(__file__))
from conftest import SPACE, command_line, descendants, start


def main() -> int:
    """Run the campaign; 0 when the ledger is whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        space, results = Path(folder, "tiny.yaml"), Path(folder, "results")
        space.write_text(SPACE)
        words = ["search", str(space), "--results", str(results), "--trials", str(args.trials)]
        words += [f"epochs={args.epochs}", f"resources.workers={args.workers}"]
        killed = {"driver": 0, "trial": 0}
        seen: dict[Path, bytes] = {}
        process, changed = start(*words), 0
        while process.poll() is None or sum(killed.values()) < args.kills:
            if process.poll() is not None:
                if len(list((results / "tiny" / "trials").glob("t*.parquet"))) >= args.trials:
                    break
                process = start(*words)
            if sum(killed.values()) < args.kills:
                killed[_kill_one(process, results, chance)] += 1
            time.sleep(0.2)
            changed += _remember(results, seen)
        status = process.wait()
        return _report(results / "tiny", args.trials, killed, changed, status)


def _kill_one(process, results: Path, chance: random.Random) -> str:
    """Wait for a random number of further epochs, then kill the driver or one trial process; which of the two."""
    folder = results / "tiny" / "epochs"
    reached = len(list(folder.glob("*.parquet"))) + chance.randint(1, 60)
    while process.poll() is None and len(list(folder.glob("*.parquet"))) < reached:
        time.sleep(0.02)
    titles = ("ray::ResourceTrainable", "ray::RayTrainWorker")
    trials = [pid for pid in descendants(process.pid) if command_line(pid).startswith(titles)]
    if trials and chance.random() < 0.5:
        os.kill(chance.choice(trials), signal.SIGKILL)
        return "trial"
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    return "driver"


def _remember(results: Path, seen: dict[Path, bytes]) -> int:
    """Note every row file; how many that were noted before have changed or gone."""
    if any(results.rglob("merged-*.parquet")):  # a large complete study is compacted at its end
        return 0
    changed = sum(not path.exists() or path.read_bytes() != content for path, content in seen.items())
    seen.update((path, path.read_bytes()) for path in results.rglob("[te]*/t*.parquet") if path not in seen)
    return changed


def _report(study: Path, total: int, killed: dict[str, int], changed: int, status: int) -> int:
    trials, epochs = pd.read_parquet(study / "trials"), pd.read_parquet(study / "epochs")
    expected = int(trials.epochs_run.sum())
    twice = int(trials.duplicated("trial_id").sum() + epochs.duplicated(["trial_id", "epoch"]).sum())
    print(f"killed: {killed['driver']} drivers, {killed['trial']} trial processes; last status {status}")
    print(f"trials  expected {total}, found {len(trials)} ({dict(trials.state.value_counts())})")
    print(f"epochs  expected {expected}, found {len(epochs)}")
    print(f"rows duplicated {twice}, changed or lost {changed}")
    return 0 if (len(trials), len(epochs), twice, changed) == (total, expected, 0, 0) else 1


if __name__ == "__main__":
    sys.exit(main())
