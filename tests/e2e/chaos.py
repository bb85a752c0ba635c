"""Kill searches at random moments, everything that can die in turn, until they are done; then count their rows.

COMMAND   python tests/e2e/chaos.py --kills 200 --seed 0
HARDWARE  any; on two CPU cores with nothing else going on, about 10 s for each kill
EXPECTED  found = expected, 0 duplicated, 0 changed or lost

Two searches on two simulated nodes: one of inline trials, of which the trial's process, the driver, the second node
(its raylet) and the head are killed, and one of trials on two workers (a share of the kills: they start slowly), of
which a training worker, Ray Train's controller and the trial's own process are killed. What the search does not
survive by itself is started again with the same command: the driver, the nodes. A study that is complete before the
last kill is given more trials. Only processes below our own are killed. With --minutes, no kill is begun later.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd

sys.path.insert(0, os.path.dirname(__file__))
from conftest import SPACE, Nodes, command_line

TITLES = {"trial": ("ray::ResourceTrainable", "ray::ImplicitFunc"), "worker": ("ray::RayTrainWorker",),
          "controller": ("ray::TrainController",)}  # fmt: skip
INLINE = {"trial": 12, "driver": 3, "node": 2, "head": 1}
DISTRIBUTED = {"worker": 2, "controller": 2, "trial": 1}
"""How often each kind is killed, relative to the others."""
STUCK_S = 600.0
EXIT_S = 60.0
"""A driver has so long to notice that its cluster is gone."""


class Campaign:
    """One search, its nodes, and what was killed of them."""

    def __init__(self, folder: Path, chance: random.Random, trials: int, words: list[str], kinds: dict[str, int]):
        self.folder, self.chance, self.kinds = folder, chance, kinds
        self.total, self.step, self.words = trials, trials, words
        self.killed: Counter[str] = Counter()
        self.seen: dict[Path, bytes] = {}
        self.changed = 0
        self.nodes = Nodes()
        self.process = self._start()

    def _start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "automixsearch.cli", "search", str(self.folder / "tiny.yaml")]
        command += ["--results", str(self.folder / "results"), "--trials", str(self.total), *self.words]
        command += ["--address", self.nodes.cluster.address, "--lines"]
        environment = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
        with open(self.folder / "log", "a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def run(self, kills: int, until: float) -> int:
        """Kill so often, then let the search end; its exit status."""
        while sum(self.killed.values()) < kills and time.monotonic() < until:
            if not self._progress(self.chance.randint(0, 8)):
                continue
            kind = self.chance.choices(list(self.kinds), list(self.kinds.values()))[0]
            if self._kill(kind):
                self.killed[kind] += 1
                print(f"{sum(self.killed.values())} of {kills}: {kind}", flush=True)
            self._remember()
        while (status := self.process.poll()) != 0 and not self._is_done():
            if status is None:
                time.sleep(0.2)
            else:
                self.process = self._start()
        self._remember()
        self.nodes.end()
        return self.process.wait()

    def _epochs(self) -> int:
        return len(list((self.folder / "results" / "tiny" / "epochs").glob("*.parquet")))

    def _is_done(self) -> bool:
        trials = self.folder / "results" / "tiny" / "trials"
        return trials.is_dir() and len(pd.read_parquet(trials, columns=["trial_id"])) >= self.total

    def _progress(self, epochs: int) -> bool:
        """Wait for so many further epochs; False where the driver has ended instead, and was started again."""
        goal, since = self._epochs() + epochs, time.monotonic()
        while self._epochs() < goal:
            if self.process.poll() is not None:
                if self._is_done():
                    self.total += self.step
                self.process = self._start()
                return False
            if time.monotonic() - since > STUCK_S:
                raise SystemExit(f"nothing has happened for {STUCK_S:.0f} s; the log is {self.folder / 'log'}")
            time.sleep(0.05)
        return True

    def _kill(self, kind: str) -> bool:
        """Kill one of a kind, whatever it is doing; whether there was one."""
        if kind == "driver":
            self._end_driver()
            return True
        if kind == "head":
            self.nodes.end()
            try:
                self.process.wait(EXIT_S)
            except subprocess.TimeoutExpired:
                self._end_driver()
            self.nodes = Nodes()
            return True
        if kind == "node":
            killed = self.nodes.kill()
            self.nodes.add()
            return killed
        found = [pid for title in TITLES[kind] for pid in self.nodes.cluster.workers(title)]
        found = [pid for pid in found if command_line(pid).startswith("ray::")]
        if found:
            os.kill(self.chance.choice(found), signal.SIGKILL)
        return bool(found)

    def _end_driver(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _remember(self) -> None:
        """Note every row file, and how many that were noted before have changed or gone."""
        results = self.folder / "results"
        if any(results.rglob("merged-*.parquet")):  # a large complete study is compacted at its end
            self.seen.clear()
        self.changed += sum(not path.exists() or path.read_bytes() != content for path, content in self.seen.items())
        self.seen.update(
            (path, path.read_bytes()) for path in results.rglob("[te]*/t*.parquet") if path not in self.seen
        )

    def report(self, status: int) -> bool:
        """Print what was killed and what was found; whether the ledger is whole."""
        study = self.folder / "results" / "tiny"
        trials, epochs = pd.read_parquet(study / "trials"), pd.read_parquet(study / "epochs")
        expected = int(trials.epochs_run.sum())
        twice = int(trials.duplicated("trial_id").sum() + epochs.duplicated(["trial_id", "epoch"]).sum())
        left = [path.name for kind in ("pending", "attempts", "checkpoints") for path in (study / kind).glob("*")]
        print(f"killed {sum(self.killed.values())}: {dict(self.killed)}; last status {status}")
        print(f"trials  expected {self.total}, found {len(trials)} ({dict(trials.state.value_counts())})")
        print(f"epochs  expected {expected}, found {len(epochs)}")
        print(f"rows duplicated {twice}, changed or lost {self.changed}; left in flight {len(left)}", flush=True)
        return (len(trials), len(epochs), twice, self.changed, left) == (self.total, expected, 0, 0, [])


def main() -> int:
    """Run the campaign; 0 when both ledgers are whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--distributed", type=float, default=0.1, help="share of the kills in trials of two workers")
    parser.add_argument("--minutes", type=float, default=1e6)
    args = parser.parse_args()
    chance, until, whole = random.Random(args.seed), time.monotonic() + 60 * args.minutes, True
    few = round(args.kills * args.distributed)
    plans = [(args.kills - few, args.trials, args.epochs, [], INLINE)]
    plans += [(few, 2, 20, ["resources={workers: 2, cpus: 0.9}"], DISTRIBUTED)]
    for kills, trials, epochs, words, kinds in plans:
        if not kills:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "tiny.yaml").write_text(SPACE)
            campaign = Campaign(folder, chance, trials, [f"epochs={epochs}", *words], kinds)
            try:
                whole &= campaign.report(campaign.run(kills, until))
            finally:
                campaign._end_driver()
                campaign.nodes.end()
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
