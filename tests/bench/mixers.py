"""Time every mixing method on this machine: mixing alone, and whole training steps beside a vanilla step.

    python tests/bench/mixers.py                         # both shapes, on the CPU (or the GPU, where there is one)
    python tests/bench/mixers.py --shapes 32 --methods mixup,puzzlemix

A step is the training loop's own: normalisation, saliency where a method needs it, mixing, ResNet-18 forward and
backward, SGD. Methods take turns and a vanilla step is timed in every round, so that a busy machine slows all alike;
the medians of the faster half of the rounds are compared. Memory is what a step takes at its peak beyond what it
starts with, of the device, or of the process on a CPU.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from automixsearch.algorithms.automix import AutoMixTraining
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data.base import ImageSet, Part
from automixsearch.mixers import MIXERS
from automixsearch.training.run import TrainingRun

CLASSES = 10
CPU = {"32": ((32, 32), "cifar"), "224": ((8, 224), "imagenet")}
"""Batch and side of the images, stem of the network."""
GPU = {"32": ((100, 32), "cifar"), "32 x 256": ((256, 32), "cifar"), "224": ((100, 224), "imagenet"),
       "224 x 256": ((256, 224), "imagenet")}  # fmt: skip


def images(count: int, side: int) -> ImageSet:
    """Smooth random images with noise, as an image set."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    noisy = smooth + 0.3 * torch.randn(count, 3, side, side, generator=generator)
    pixels = (noisy * 50 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    part = Part(pixels, np.arange(count) % CLASSES)
    return ImageSet("random", part, part, tuple(str(label) for label in range(CLASSES)))


class Timed:
    """One method with everything that a step needs."""

    def __init__(
        self, method: str, batch: int, source: ImageSet, stem: str, width: int, device: str, **more: Any
    ) -> None:
        knobs = {"method": method, "batch_size": batch, "stem": stem, "width": width, "epochs": 1, **more}
        self.run = TrainingRun(TrialConfig(data=Data(val_fraction=0.2), knobs=knobs), source, device)
        self.generator = torch.Generator().manual_seed(0)
        self.batch = next(self.run.batches(0))
        self.x, self.number = self.run.normalised(self.batch.views[0]), 0
        self.algorithm: Any = self.run.algorithm
        if isinstance(self.algorithm, AutoMixTraining):
            self.features = self.algorithm.features(self.x)
            shape: Any = self.x.shape
            self.draw = self.algorithm.mixer.draw(shape, self.generator)
        else:
            gradient = self.algorithm.gradient(self.x, self.batch.y)
            self.supply = {"gradient": gradient, "saliency": gradient.square().mean(1).sqrt()}
            self.supply |= {"pixels": self.batch.views[0], "mean": self.run.train.mean, "std": self.run.train.std}
        self.mix_ms: list[float] = []
        self.step_ms: list[float] = []
        self.peak_mib = 0.0

    def warm_up(self) -> None:
        """Let the first calls compile, allocate and choose algorithms, and measure the memory of a step."""
        self.algorithm.train()
        self.mix()
        self.step()
        before = forget_peak(self.run.device)
        self.step()
        self.peak_mib = peak_mib(self.run.device) - before

    def round(self) -> None:
        self.mix_ms.append(self._milliseconds(self.mix))
        self.step_ms.append(self._milliseconds(self.step))

    def mix(self) -> None:
        """Mix a batch, everything given that is computed elsewhere; of a learned mask: make it, without training it."""
        if isinstance(self.algorithm, AutoMixTraining):
            self.algorithm.mixed(self.x, self.features, self.draw)
        else:
            self.algorithm.mixer(self.x, self.generator, **self.supply)

    def step(self) -> None:
        self.run.step(self.batch, self.number, self.generator)
        self.number += 1

    def _milliseconds(self, call: Callable[[], object]) -> float:
        cuda = self.run.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began)


def forget_peak(device: torch.device) -> float:
    """Start to measure peak memory anew; returns what is in use, MiB."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return peak_mib(device)
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_mib(device)


def peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def calm(values: list[float]) -> float:
    """The median of the faster half."""
    return statistics.median(sorted(values)[: (len(values) + 1) // 2])


def table(
    name: str, batch: int, side: int, stem: str, methods: list[str], rounds: int, width: int, device: str
) -> None:
    source = images(max(2 * batch, 40) * 2, side)
    timed = {method: Timed(method, batch, source, stem, width, device) for method in ["vanilla", *methods]}
    for one in timed.values():
        one.warm_up()
    for _ in range(rounds):
        for one in timed.values():
            one.round()
    vanilla = calm(timed["vanilla"].step_ms)
    print(f"\n{batch} x 3 x {side} x {side}, ResNet-18 of width {width}, {stem} stem; {name}, {rounds} rounds")
    print(f"{'method':<14}{'mix ms':>9}{'of a step':>11}{'step ms':>10}{'ratio':>8}{'images/s':>10}{'peak MiB':>10}")
    for method, one in timed.items():
        mix, step = calm(one.mix_ms), calm(one.step_ms)
        print(f"{method:<14}{mix:>9.2f}{100 * mix / vanilla:>9.2f} %{step:>10.1f}{step / vanilla:>8.2f}"
              f"{1000 * batch / step:>10.1f}{one.peak_mib:>10.0f}", flush=True)  # fmt: skip


def options(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of benchmarks of whole steps."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of torch (all)")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--shapes", help="comma-separated (all)")
    return parser


def begin(threads: int) -> tuple[str, dict[str, tuple[tuple[int, int], str]]]:
    """The device, and the shapes that are timed there; on a CPU so many threads work."""
    torch.set_num_threads(threads)
    return ("cuda", GPU) if torch.cuda.is_available() else ("cpu", CPU)


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--methods", help="comma-separated (all)")
    args = parser.parse_args()
    device, settings = begin(args.threads)
    methods = args.methods.split(",") if args.methods else [name for name in MIXERS if name != "vanilla"]
    place = torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"
    for shape in args.shapes.split(",") if args.shapes else settings:
        (batch, side), stem = settings[shape]
        table(f"{place}, {args.threads} threads", batch, side, stem, methods, args.rounds, args.width, device)


if __name__ == "__main__":
    main()
