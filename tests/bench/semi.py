"""Time a step of each semi-supervised algorithm, views included, beside the bare passes that it makes, in the same run.

    python tests/bench/semi.py
    python tests/bench/semi.py --algorithms fixmatch,remixmatch --ratio 7 --width 16

The bare passes are those that a step was seen to make, on batches of the same sizes: forward, and backward where it has
a gradient, of the network alone, and the optimiser's step. What is above 1 is views, mixing, losses and averages.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from automixsearch.config.trial import TrialConfig
from automixsearch.data.base import ImageSet, Part
from automixsearch.training.run import TrainingRun, pick_device

NAMES = ("pseudo_label", "mixmatch", "remixmatch", "uda", "fixmatch", "flexmatch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", default=",".join(NAMES))
    parser.add_argument("--backbone", default="wrn28_2_released")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--ratio", type=int, help="unlabelled images for each labelled one; default: the algorithm's")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.backbone} of width {args.width}, {args.batch} labelled images of 3 x 32 x 32, {args.threads} threads")
    print(f"{'algorithm':<30}{'step ms':>10}{'passes ms':>11}{'ratio':>8}{'views ms':>10}")
    for name in args.algorithms.split(","):
        for more in ({"method": "vanilla"}, {"method": "mixup", "loss": "decoupled"}):
            run = made(name, args, more)
            sizes = passes(run)
            step_s, pass_s, view_s = [], [], []
            for number in range(args.rounds + 4):
                begun = time.perf_counter()
                batch = next(run.batches(number))
                seen = time.perf_counter()
                run.step(batch, number, torch.Generator().manual_seed(number))
                ended = time.perf_counter()
                bare(run, sizes)
                if number >= 4:  # the first ones warm up
                    step_s.append(ended - begun)
                    view_s.append(seen - begun)
                    pass_s.append(time.perf_counter() - ended)
            ratio = statistics.median(a / b for a, b in zip(step_s, pass_s, strict=True))
            step, plain, views = (1000 * statistics.median(values) for values in (step_s, pass_s, view_s))
            label = name if more["method"] == "vanilla" else f"{name} + {more['method']}, {more['loss']}"
            print(f"{label:<30}{step:>10.0f}{plain:>11.0f}{ratio:>8.2f}{views:>10.1f}")


def made(name: str, args: argparse.Namespace, more: dict[str, str]) -> TrainingRun:
    """A run on made-up images of two classes."""
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(2048, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(2048) % 2
    data = ImageSet("noise", Part(images, labels), Part(images[:64], labels[:64]), ("a", "b"))
    knobs = {"algorithm": name, "backbone": args.backbone, "width": args.width, "batch_size": args.batch,
             "steps_per_epoch": 1, "epochs": 100, "nesterov": True, "pad_mode": "reflect", **more}  # fmt: skip
    if args.ratio:
        knobs[f"{name}.ratio"] = args.ratio
    return TrainingRun(TrialConfig(data={"source": "digits"}, knobs=knobs), data, pick_device())


def passes(run: TrainingRun) -> list[tuple[int, bool]]:
    """How many images each pass of a step holds, and whether it has a gradient."""
    found: list[tuple[int, bool]] = []
    first = next(iter(run.algorithm.network.children()))
    hook = first.register_forward_hook(lambda _, x, out: found.append((len(x[0]), out.requires_grad)))
    for number in range(3):
        found.clear()
        run.step(next(run.batches(number)), number, torch.Generator().manual_seed(number))
    hook.remove()
    return list(found)


def bare(run: TrainingRun, sizes: list[tuple[int, bool]]) -> None:
    """The same passes and nothing else."""
    network = run.algorithm.network
    run.optimizer.zero_grad(set_to_none=True)
    for count, learns in sizes:
        x = torch.zeros(count, 3, 32, 32, device=run.device).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(learns), run.algorithm.autocast():
            out = network(x)
        if learns:
            out.float().square().sum().backward()
    run.optimizer.step()


if __name__ == "__main__":
    main()
