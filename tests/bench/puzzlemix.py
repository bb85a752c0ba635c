"""Time Puzzle Mix on this machine, saliency given, for every grid it draws.

    python tests/bench/puzzlemix.py --threads 2

The images are smooth noise, the saliency is the input gradient of a small random network, lam is uniform. A timed call
is the whole of `apply`: mask, transport, mixing. The best of several rounds is kept for every batch, since the machine
is shared (with two threads, a busy second core makes every call wait); the mean is over batches, since some masks are
harder to find than others.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import torch
from torch import Tensor, nn

from automixsearch.mixers.puzzlemix import GRIDS, PuzzleMix, PuzzleMixDraw

STD = torch.tensor([0.2023, 0.1994, 0.2010])
SETTINGS = {  # shape, knobs, the authors' mean ms over the four grids (2 cores, 2 threads, another run)
    "32 px": ((32, 3, 32, 32), {}, 148),
    "224 px": ((8, 3, 224, 224), {"t_size": 0}, 736),
    "224 px, moving 4 px blocks": ((8, 3, 224, 224), {}, None),
}


def begin(about: str | None, batches: int) -> argparse.Namespace:
    """The options `threads`, `batches` and `rounds`; the threads are set, the machine is printed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=batches)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.threads} torch threads,")
    print(f"load {load:.1f} at the start, Python {platform.python_version()}, torch {torch.__version__}")
    return options


def images(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Smooth noise plus noise, normalised: [B, C, H, W]."""
    coarse = torch.randn(*shape[:2], 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, shape[2:], mode="bicubic")
    return smooth + 0.3 * torch.randn(shape, generator=generator)


def saliency_of(x: Tensor) -> Tensor:
    """sqrt(mean over channels of (d CE / d x)^2) for a small random network: [B, H, W]."""
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(512, 10))
    x = x.clone().requires_grad_()
    nn.functional.cross_entropy(network(x), torch.arange(len(x)) % 10).backward()
    assert x.grad is not None
    return x.grad.square().mean(1).sqrt()


def measure(shape: tuple[int, int, int, int], blocks: int, mixer: PuzzleMix, batches: int, rounds: int) -> list[float]:
    """Milliseconds for each of `batches`, all with their own partners and lam: the best of `rounds` calls."""
    generator, calls = torch.Generator().manual_seed(0), []
    for _ in range(batches):
        x = images(shape, generator)
        lam = torch.rand((), generator=generator).item()
        calls.append((x, PuzzleMixDraw(torch.randperm(shape[0], generator=generator), lam, blocks), saliency_of(x)))
    best = [float("inf")] * batches
    for _ in range(rounds):
        for number, (x, draw, saliency) in enumerate(calls):
            began = time.perf_counter()
            mixer.apply(x, draw, saliency=saliency, std=STD)
            best[number] = min(best[number], 1000 * (time.perf_counter() - began))
    return best


def main() -> None:
    options = begin(__doc__, batches=8)
    torch.manual_seed(0)
    for name, (shape, knobs, authors) in SETTINGS.items():
        means = []
        for blocks in GRIDS:
            taken = measure(shape, blocks, PuzzleMix(**knobs), options.batches, options.rounds)
            means.append(statistics.mean(taken))
            print(f"{name}, batch {shape[0]}, {blocks:2} x {blocks:<2}: mean {means[-1]:6.2f} ms", end="")
            print(f", batches from {min(taken):.2f} to {max(taken):.2f}")
        mean = statistics.mean(means)
        compared = f"; the authors' code {authors} ms: {authors / mean:.0f} times" if authors else ""
        print(f"{name}: mean over the grids {mean:.2f} ms{compared}")


if __name__ == "__main__":
    main()
