"""Time a training step of AutoMix beside a vanilla step in the same run, at every layer and with its options.

    python tests/bench/automix.py
    python tests/bench/automix.py --shapes 224 --layers l1,l3

The limit counts passes, a forward pass of the whole network as 1 and a vanilla step as 3: the teacher to the stage of
the layer, the teacher on the images of the Mix Block and back to them (2), the student twice (6). The share of the peak
compares the products of a step, as torch counts them, with the fastest
of some large matrix products of the step's type (bfloat16 on a GPU, else float32; a CPU's convolutions may use wider
units than its matrix products do, and exceed them).
"""

from __future__ import annotations

import platform
import time

import torch
from mixers import Timed, begin, calm, images, options
from torch.utils.flop_counter import FlopCounterMode

LIMITS = {"l1": 2.75, "l2": 2.83, "l3": 2.92, "l4": 3.0}
OPTIONS = {"mixblock_every=2": {"automix.mixblock_every": 2}, "shared_forward": {"automix.shared_forward": True}}


def main() -> None:
    parser = options(__doc__, rounds=6)
    parser.add_argument("--layers", default="l1,l2,l3,l4")
    args = parser.parse_args()
    device, settings = begin(args.threads)
    layers = args.layers.split(",")
    variants = {f"automix {layer}": {"automix.layer": layer} for layer in layers}
    variants |= {f"automix l3 {name}": {"automix.layer": "l3", **more} for name, more in OPTIONS.items()}
    peak = matmul_peak(device)
    print(f"matrix products: {peak / 1e9:,.0f} GFLOP/s at best")
    for shape in args.shapes.split(",") if args.shapes else settings:
        (batch, side), stem = settings[shape]
        source = images(max(2 * batch, 40) * 2, side)
        timed = {"vanilla": Timed("vanilla", batch, source, stem, args.width, device)}
        for name, more in variants.items():
            timed[name] = Timed("automix", batch, source, stem, args.width, device, **more)
        for one in timed.values():
            one.warm_up()
        for _ in range(args.rounds):
            for one in timed.values():
                one.round()
        vanilla = calm(timed["vanilla"].step_ms)
        print(f"\n{batch} x 3 x {side} x {side}, ResNet-18 of width {args.width}, {stem} stem; "
              f"{platform.machine()} {device}, {args.threads} threads, {args.rounds} rounds")  # fmt: skip
        print(f"{'step':<30}{'mask ms':>9}{'step ms':>10}{'ratio':>8}{'limit':>8}{'peak MiB':>10}"
              f"{'images/s':>10}{'of peak':>9}")  # fmt: skip
        for name, one in timed.items():
            every = int(one.run.config.knobs.get("automix.mixblock_every", 1))
            step = sum(calm(one.step_ms[place::every]) for place in range(every)) / every  # steps with and without
            limit = LIMITS.get(name.removeprefix("automix "), "")
            row = f"{name:<30}{calm(one.mix_ms):>9.1f}{step:>10.1f}{step / vanilla:>8.2f}"
            with FlopCounterMode(display=False) as counter:
                for _ in range(every):
                    one.step()
            share = counter.get_total_flops() / every / (step / 1000) / peak
            print(
                f"{row}{limit!s:>8}{one.peak_mib:>10.0f}{1000 * batch / step:>10.1f}{100 * share:>7.0f} %", flush=True
            )


def matmul_peak(device: str) -> float:
    """FLOP/s of the fastest of some large matrix products."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    one = torch.randn(side, side, dtype=dtype, device=device)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        one @ one
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


if __name__ == "__main__":
    main()
