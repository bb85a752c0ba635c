"""Kill searches at random moments, everything that can die in turn, until they are done; then count their rows.

COMMAND   python tests/e2e/chaos.py --kills 200 --seed 0
HARDWARE  any; on two CPU cores about 10 s for each kill, 20 to 60 s where much else goes on
EXPECTED  found = expected, 0 duplicated, 0 changed or lost; nearly every trial goes on from a checkpoint

Two searches on two simulated nodes: one of inline trials, of which the trial's process, the driver, the second node
(its raylet) and the head with everything are killed, and one of trials on two workers, a share of the kills since they
start slowly, of which a training worker, Ray Train's controller and the trial's own process are killed. What a search
does not survive by itself is started again with the same command: the driver, the nodes. A study that is complete
before the last kill is given more trials. Every row that was ever seen must be in the ledger at the end, as it was.
Only processes below our own are killed. With --minutes, no kill is begun later.

With --contending, two drivers without Ray want one study instead, as on two machines whose locks do not count for each
other: each is killed, suspended for longer than a takeover takes, or stopped at random, and starts again at once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, os.path.dirname(__file__))
from conftest import SPACE, Nodes, command_line, own_token

from automixsearch.results.store import Store

TITLES = {"trial": ("ray::ResourceTrainable", "ray::ImplicitFunc"), "worker": ("ray::RayTrainWorker",),
          "controller": ("ray::TrainController",)}  # fmt: skip
INLINE = {"trial": 12, "driver": 3, "node": 2, "head": 1}
DISTRIBUTED = {"worker": 2, "controller": 2, "trial": 1}
"""How often each kind is killed, relative to the others."""
STUCK_S = 600.0
EXIT_S = 60.0
"""A driver has so long to notice that its cluster is gone."""
KEYS = {"trials": ["trial_id"], "epochs": ["trial_id", "epoch"]}


class Campaign:
    """One search, its nodes, and what was killed of them."""

    def __init__(self, folder: Path, chance: random.Random, trials: int, words: list[str], kinds: dict[str, int]):
        self.folder, self.chance, self.kinds = folder, chance, kinds
        self.total, self.step, self.words = trials, trials, words
        self.killed: Counter[str] = Counter()
        self.began = self.moved = time.monotonic()
        self.study = folder / "results" / "tiny"
        self.seen: dict[tuple[str, str], bytes] = {}
        self.nodes = self._nodes()
        self.process = self._start()

    def _nodes(self) -> Nodes:
        # Where a trial of several workers dies, their places are freed through the dashboard.
        return Nodes(cpus=1, dashboard="controller" in self.kinds)

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
            if not self._progress(self.chance.randint(0, 6)):
                continue
            time.sleep(self.chance.uniform(0, 0.4))
            kind = self.chance.choices(list(self.kinds), list(self.kinds.values()))[0]
            if self._kill(kind):
                self.killed[kind] += 1
                count, at = sum(self.killed.values()), time.monotonic() - self.began
                print(f"{at:.0f} s: {count} of {kills}: {kind} ({len(self.seen)} rows)", flush=True)
        while (status := self.process.poll()) != 0:
            self._look()
            if status is not None:
                self.process = self._start()
            time.sleep(0.2)
        self.nodes.end()
        return status

    def _look(self) -> int:
        """Keep every row that is new as it is now; how many were ever seen."""
        before = len(self.seen)
        for table in KEYS:
            for path in (self.study / table).glob("t*.parquet"):
                if (table, path.name) not in self.seen:
                    try:
                        self.seen[table, path.name] = path.read_bytes()
                    except FileNotFoundError:  # just merged
                        continue
        if len(self.seen) > before:
            self.moved = time.monotonic()
        elif time.monotonic() - self.moved > STUCK_S:
            log = (self.folder / "log").read_text().splitlines()[-40:]
            raise SystemExit("\n".join([*log, f"no row has come for {STUCK_S:.0f} s"]))
        return len(self.seen)

    def _is_done(self) -> bool:
        return len(Store(self.folder / "results", "tiny").finished()) >= self.total

    def _progress(self, rows: int) -> bool:
        """Wait for so many further rows; False where the driver has ended instead, and was started again."""
        goal = self._look() + rows
        while self._look() < goal:
            if self.process.poll() is not None:
                if self._is_done():
                    self.total += self.step
                self.process = self._start()
                return False
            time.sleep(0.05)
        return True

    def _kill(self, kind: str) -> bool:
        """Kill one of a kind, whatever it is doing; whether there was one."""
        if kind == "driver":
            self.end_driver()
            return True
        if kind == "head":
            self.nodes.end()
            try:
                self.process.wait(EXIT_S)
            except subprocess.TimeoutExpired:
                self.end_driver()
            self.nodes = self._nodes()
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

    def end_driver(self) -> None:
        """Kill the driver, if it lives."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _changed(self, table: str, rows: pd.DataFrame) -> int:
        """The rows that were seen once and are not in the ledger as they were."""
        kept = [pq.read_table(io.BytesIO(content)) for (name, _), content in self.seen.items() if name == table]
        before = pa.concat_tables(kept, promote_options="permissive").to_pandas().set_index(KEYS[table])
        now = rows.drop_duplicates(KEYS[table]).set_index(KEYS[table]).reindex(before.index)
        now, before = now.astype(object), before.reindex(columns=now.columns).astype(object)
        return int((~((now == before) | (now.isna() & before.isna()))).any(axis=1).sum())

    def report(self, status: int) -> bool:
        """Print what was killed and what was found; whether the ledger is whole."""
        trials, epochs = pd.read_parquet(self.study / "trials"), pd.read_parquet(self.study / "epochs")
        expected = int(trials.epochs_run.sum())
        twice = int(trials.duplicated("trial_id").sum() + epochs.duplicated(["trial_id", "epoch"]).sum())
        changed = self._changed("trials", trials) + self._changed("epochs", epochs)
        left = [p.name for kind in ("pending", "attempts", "checkpoints") for p in (self.study / kind).glob("[!.]*")]
        log = (self.folder / "log").read_text()
        resumed = [int(epoch) for epoch in re.findall(r"note: t\d+ goes on from its checkpoint of epoch (\d+)", log)]
        states = trials.state.value_counts().to_dict()
        took = time.monotonic() - self.began
        print(f"killed {sum(self.killed.values())}: {dict(self.killed)} in {took:.0f} s; last status {status}")
        print(f"trials  expected {self.total}, found {len(trials)} ({states})")
        print(f"epochs  expected {expected}, found {len(epochs)}")
        print(f"rows duplicated {twice}, changed or lost {changed} of {len(self.seen)}; left in flight {len(left)}")
        anew = len(re.findall(r"note: t\d+ starts anew", log))
        print(f"trials went on {len(resumed)} times from a checkpoint, {anew} times from zero", flush=True)
        return (len(trials), len(epochs), twice, changed, left) == (self.total, expected, 0, 0, [])


CONTENDER = """
import json, sys
from automixsearch import process
from automixsearch.results import files, lease
from automixsearch.search import driver, trial
from automixsearch.cli import main
name, *words = json.loads(sys.stdin.readline())
files.fcntl.flock = lambda file, how: None
process.boot_id = lease.boot_id = lambda: name
lease.BEAT_S, lease.TAKEOVER_S, driver.COMPACT_FROM = 0.5, 3.0, 12
sys.exit(main(words))
"""
"""A driver on a machine of its own, in a hurry: it has imported everything before it is told what to do."""
WARM = 3
"""Drivers that wait for their turn."""


class Contest(Campaign):
    """Two drivers that want one study."""

    def __init__(self, folder: Path, chance: random.Random, trials: int, words: list[str]) -> None:
        self.drivers: dict[str, subprocess.Popen] = {}
        self.warm: list[subprocess.Popen] = []
        self.asleep: dict[str, float] = {}
        self.ends: Counter[str] = Counter()
        super().__init__(folder, chance, trials, words, {"kill": 5, "suspend": 4, "stop": 1})

    def _nodes(self) -> Nodes:
        return None  # type: ignore[return-value]

    def _start(self) -> subprocess.Popen:
        while len(self.warm) < WARM:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            with open(self.folder / "log", "a") as log:
                command = [sys.executable, "-c", CONTENDER]
                pipe = subprocess.PIPE
                started = subprocess.Popen(command, stdin=pipe, stdout=log, stderr=log, env=environment, text=True)
                self.warm.append(started)
        for name in ("a", "b"):
            if name not in self.drivers:
                words = [name, "search", str(self.folder / "tiny.yaml"), "--debug", "--trials", str(self.total)]
                words += ["--results", str(self.folder / "results"), *self.words]
                self.drivers[name] = process = self.warm.pop(0)
                assert process.stdin is not None
                if process.poll() is not None:
                    raise SystemExit(f"{(self.folder / 'log').read_text()[-3000:]}\na driver ended by {process.poll()}")
                print(json.dumps(words), file=process.stdin, flush=True)
        return self.drivers["a"]

    def _turn(self) -> None:
        """Look at the rows, wake who has slept, and start again whoever has ended."""
        self._look()
        for name, until in list(self.asleep.items()):
            if time.monotonic() > until:
                self.drivers[name].send_signal(signal.SIGCONT)
                del self.asleep[name]
        for name, process in list(self.drivers.items()):
            if process.poll() is not None:
                self.ends[str(process.returncode)] += 1
                self.asleep.pop(name, None)
                del self.drivers[name]
        if self._is_done():
            self.total += self.step
        self._start()
        time.sleep(0.05)

    def run(self, kills: int, until: float) -> int:
        """Kill so often, then let one of them end the study; its exit status."""
        while sum(self.killed.values()) < kills and time.monotonic() < until:
            pause = time.monotonic() + self.chance.uniform(0, 5)
            while time.monotonic() < pause:
                self._turn()
            name = self.chance.choice([name for name in self.drivers if name not in self.asleep] or [""])
            kind = self.chance.choices(list(self.kinds), list(self.kinds.values()))[0]
            if not name:
                continue
            number = {"kill": signal.SIGKILL, "suspend": signal.SIGSTOP, "stop": signal.SIGTERM}[kind]
            self.drivers[name].send_signal(number)
            if kind == "suspend":
                self.asleep[name] = time.monotonic() + self.chance.uniform(1, 15)
            self.killed[kind] += 1
        for name in list(self.asleep):
            self.drivers[name].send_signal(signal.SIGCONT)
        self.asleep.clear()
        while self.drivers["b"].poll() is None or self.drivers["a"].poll() is None:
            self._look()
            time.sleep(0.05)
        self.drivers.clear()
        status = self._start().wait()
        while status != 0:  # the other one has the study
            self.drivers["b"].wait()
            self.drivers.clear()
            status = self._start().wait()
        log = (self.folder / "log").read_text()
        taken, refused = log.count("this driver, which was suspended"), log.count("; wait until it ends, stop it there")
        print(f"ends by status {dict(self.ends)}; lost the study {taken} times, refused {refused} times")
        return status

    def end_driver(self) -> None:
        """Kill all that live."""
        for process in [*self.drivers.values(), *self.warm]:
            if process.poll() is None:
                process.kill()
            process.wait()


def main() -> int:
    """Run the campaign; 0 when both ledgers are whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--distributed", type=float, default=0.06, help="share of the kills in trials of two workers")
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--contending", action="store_true", help="two drivers that want one study, without Ray")
    args = parser.parse_args()
    chance, began, whole = random.Random(args.seed), time.monotonic(), True
    few = round(args.kills * args.distributed)
    plans = [(args.kills - few, args.trials, args.epochs, [], INLINE, 0.8)]
    plans += [(few, 2, 12, ["resources={workers: 2, cpus: 0.6}"], DISTRIBUTED, 1.0)]
    if args.contending:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "tiny.yaml").write_text(SPACE)
            contest = Contest(Path(place), chance, args.trials, [f"epochs={args.epochs}"])
            try:
                return 0 if contest.report(contest.run(args.kills, began + 60 * args.minutes)) else 1
            finally:
                contest.end_driver()
    for kills, trials, epochs, words, kinds, share in plans:
        if not kills:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "tiny.yaml").write_text(SPACE)
            campaign = Campaign(folder, chance, trials, [f"epochs={epochs}", *words], kinds)
            try:
                whole &= campaign.report(campaign.run(kills, began + 60 * args.minutes * share))
            finally:
                campaign.end_driver()
                campaign.nodes.end()
    return 0 if whole else 1


if __name__ == "__main__":
    with own_token():
        sys.exit(main())
