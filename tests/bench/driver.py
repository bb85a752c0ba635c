"""Time the driver alone: searches whose trials do not train, through the real Tune, sampler, scheduler and ledger.

    python tests/bench/driver.py --trials 100,1000
    python tests/bench/driver.py --trials 10000 --sampler random

A trial writes the rows of two made-up epochs and of its end as a real one does, and takes no time otherwise. What is
left is what the driver, the sampler and the ledger cost: seconds for each trial, milliseconds for each proposal (the
median, and the 95th of 100), and the memory of the driver's process, all in blocks of trials, so that growth is seen.
CPU is the time that the driver's process computed, apart from what it waited for while other work went on.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import tempfile
import time
from typing import Any

from automixsearch.cluster.switches import set_switches

set_switches(None)  # before ray is imported, as the driver does

from automixsearch.config.files import parse_space  # noqa: E402
from automixsearch.search import driver, executors  # noqa: E402
from automixsearch.search.proposers.sampling import Sampling  # noqa: E402

EPOCHS = 2
SETTLED = 2000
"""Trials after which the memory of the driver should not grow."""


class Idle(executors.InlineTrial):
    """A trial that measures nothing: its scores come from its config, so that the sampler has something to model."""

    def step(self) -> dict[str, Any]:
        from datetime import UTC, datetime

        from automixsearch.search.trial import epoch_row
        from automixsearch.training.run import EpochMetrics

        store, task = executors._open(self._trial_config)
        epoch = getattr(self, "_epoch", 0) + 1
        knobs = task.config.knobs
        score = 50 + 10 * epoch - 40 * abs(float(knobs["lr"]) - 0.1) + random.Random(task.number).random()
        metrics = EpochMetrics(epoch, 0.1, 1.0, score, 90.0, 1.0, 0.1, epoch * 1.0, epoch * 1.0, 1000.0)
        store.write_epoch(epoch_row(task, metrics))
        self._epoch = epoch % EPOCHS
        if epoch == EPOCHS:
            store.write_trial(task.row("complete", val_top1=score, epochs_run=EPOCHS, ended_at=datetime.now(UTC)))
        return {**metrics.row(), "done": epoch == EPOCHS}

    def cleanup(self) -> None:
        self._epoch = 0


class Meter(driver.Watcher):
    """When each trial ended, and how much memory the driver had then."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float, float]] = []

    def heard(self, event: str, task: Any, values: dict[str, Any]) -> None:
        if event == "end":
            with open("/proc/self/status") as file:
                mib = next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024
            self.ends.append((time.perf_counter(), time.process_time(), mib))


def run(trials: int, sampler: str, scheduler: str) -> None:
    space = parse_space(
        {
            "name": f"idle{trials}",
            "data": {"source": "digits", "val_fraction": 0.2},
            "budget": {"trials": trials, "epochs": EPOCHS},
            "sampler": sampler,
            "scheduler": scheduler,
            "knobs": {"method": ["vanilla", "mixup", "cutmix", "resizemix"], "alpha": {"low": 0.1, "high": 4.0},
                      "loss": ["mce", "decoupled"], "eta": "auto", "lr": "auto", "width": 4},
        },
        "bench",
    )  # fmt: skip
    proposals: list[tuple[float, float]] = []
    whole = Sampling.next

    def timed(self: Any) -> Any:
        began, cpu = time.perf_counter(), time.process_time()
        task = whole(self)
        proposals.append((1000 * (time.perf_counter() - began), 1000 * (time.process_time() - cpu)))
        return task

    Sampling.next = timed  # type: ignore[method-assign]
    executors.InlineTrial = Idle  # type: ignore[misc]
    meter = Meter()
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        result = driver.run_search(space, place, watcher=meter)
        took = time.perf_counter() - began
    print(f"\n{trials} trials, {sampler}, {scheduler}: {result.finished} ended in {took:.1f} s")
    head = {"trials": 12, "s each": 10, "CPU s": 10, "proposal ms": 14, "95 %": 8, "CPU ms": 10, " 95 %": 8}
    print("".join(f"{name:>{width}}" for name, width in head.items()) + "  driver MiB")
    marks = sorted({0, *(n for n in (100, 300, *range(1000, trials, 1000)) if n < trials), trials})
    for start, stop in itertools.pairwise(marks):
        ends = meter.ends[start:stop]
        wall, cpu = ((ends[-1][i] - ends[0][i]) / (len(ends) - 1) for i in (0, 1))
        walls, cpus = zip(*proposals[start:stop], strict=True)
        worst, most = (statistics.quantiles(times, n=20)[-1] for times in (walls, cpus))
        proposal = f"{statistics.median(walls):>14.1f}{worst:>8.1f}{statistics.median(cpus):>10.1f}{most:>8.1f}"
        print(f"{start:>6}-{stop - 1:<5}{wall:>10.3f}{cpu:>10.3f}{proposal}{ends[-1][2]:>12.0f}", flush=True)
    if trials >= 4 * SETTLED:
        late = [mib for _, _, mib in meter.ends[SETTLED:]]
        growth = statistics.linear_regression([n / 1000 for n in range(len(late))], late).slope
        print(f"from trial {SETTLED} on the driver grows by {growth:.1f} MiB for every 1000 trials", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="100,1000", help="comma-separated")
    parser.add_argument("--sampler", default="tpe", choices=("tpe", "random", "sobol", "gp", "nsga2"))
    parser.add_argument("--scheduler", default="fifo", choices=("fifo", "asha"))
    args = parser.parse_args()
    for trials in args.trials.split(","):
        run(int(trials), args.sampler, args.scheduler)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
