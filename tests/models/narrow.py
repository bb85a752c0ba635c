"""Narrow networks on small images, each trained in a process of its own under glibc's checking allocator.

    python tests/models/narrow.py             # all of the grid, half an hour on two cores; ends with 1 where one died

What a kernel writes past the end of its memory ends a process by a signal, here or anywhere later. glibc's tests of its
heap find it when the memory is freed. `ONEDNN_MAX_CPU_ISA=AVX2` chooses the kernels of processors without AVX-512.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

INSTRUCTIONS = ("", "AVX2")
"""As many as there are, and those of processors without AVX-512."""
SIDES = (8, 9, 12, 16, 17, 24, 32, 40, 48, 64)
DEEP = ("resnet34", "resnet101", "resnext101", "wrn28_8")
"""More of what the others consist of, hence tried with the narrowest on the smallest only."""
LIMIT_S = 300


@dataclass(frozen=True)
class Case:
    """One network, its images and what trains it."""

    backbone: str = "resnet18"
    stem: str = "cifar"
    width: int = 4
    side: int = 12
    channels: int = 3
    batch: int = 30
    channels_last: bool = True
    method: str = "vanilla"
    threads: int = 1


def grid() -> Iterator[Case]:
    """Widths x sides x backbones x layouts x threads; batches, channels and methods are drawn, always the same."""
    from automixsearch.models.registry import BACKBONES

    rng = random.Random(0)
    networks = [(name, stem) for name, one in BACKBONES.items() for stem in ("cifar", "imagenet")[: 1 + one.stem]]
    for (backbone, stem), width, side in itertools.product(networks, range(1, 17), SIDES):
        unit = BACKBONES[backbone]
        more = backbone in DEEP and (width > 4 or side > 16)
        if width % unit.width or side % unit.side or more:
            continue
        for channels_last, threads in itertools.product((True, False), (1, 2)):
            batch = rng.choice([batch for batch in (2, 7, 8, 16, 30, 64, 256) if batch * side**2 <= 30_000])
            channels, method = rng.choice((1, 3)), rng.choice(("vanilla", "automix", "puzzlemix"))
            yield Case(backbone, stem, width, side, channels, batch, channels_last, method, threads)


def train(case: Case) -> None:
    """An epoch of two steps, with all that a search does around them."""
    import numpy as np
    import torch

    from automixsearch.config.data import Data
    from automixsearch.config.trial import TrialConfig
    from automixsearch.data.base import ImageSet, Part
    from automixsearch.training.run import TrainingRun

    torch.set_num_threads(case.threads)
    rng, count = np.random.default_rng(0), 4 * case.batch
    pixels = rng.integers(0, 256, (count, case.side, case.side, case.channels)).astype(np.uint8)
    part = Part(pixels, (np.arange(count) % 2).astype(np.int64))
    names = ("backbone", "stem", "width", "channels_last", "method")
    knobs = {name: getattr(case, name) for name in names} | {"batch_size": case.batch, "epochs": 1, "lr": 0.01}
    if case.method == "automix":
        knobs["automix.layer"] = "l3"
    config = TrialConfig(data=Data(val_fraction=0.5), knobs=knobs)
    run = TrainingRun(config, ImageSet("noise", part, part, ("a", "b")), "cpu")
    assert [metrics.epoch for metrics in run.epochs()] == [1]
    run.finish()
    del run
    gc.collect()  # a heap is looked at when its blocks are freed


def serve() -> None:
    """Train each case of standard input in a fork, and print how it ended: 0, an error's 1, or minus a signal.

    What is loaded here is loaded once; no operation of torch's may run here, whose threads a fork would not have.
    """
    import sklearn.metrics  # with the first score of two classes  # noqa: F401
    import torch._dynamo  # with the first optimiser  # noqa: F401

    import automixsearch.algorithms.automix
    import automixsearch.mixers.puzzlemix
    import automixsearch.training.run  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_S)
            status = 1
            try:
                train(Case(**json.loads(line)))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def endings(cases: Iterable[Case], instructions: str) -> Iterator[tuple[Case, str]]:
    """How each case ends: "" well, the name of a signal, or `error`, which is on standard error."""
    checks = {"GLIBC_TUNABLES": "glibc.malloc.check=3", "MALLOC_PERTURB_": "165"}
    # From glibc 2.34 on the checks are a library of their own; where there is none the loader goes on without.
    environment = os.environ | checks | {"LD_PRELOAD": "libc_malloc_debug.so.0", "OMP_WAIT_POLICY": "passive"}
    if instructions:
        environment["ONEDNN_MAX_CPU_ISA"] = instructions
    command = [sys.executable, str(Path(__file__)), "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for case in cases:
            print(json.dumps(asdict(case)), file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            yield case, signal.Signals(-status).name if status < 0 else "error" if status else ""


def main() -> None:
    """Print each case that does not end well, and how many there were."""
    dead = count = 0
    for instructions in INSTRUCTIONS:
        for case, ending in endings(grid(), instructions):
            count += 1
            if ending:
                dead += 1
                print(ending, instructions or "all", case, flush=True)
    print(f"{dead} of {count} died")
    sys.exit(dead > 0)


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
