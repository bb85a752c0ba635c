"""Time Co-Mixup on this machine, saliency given, and compare what it minimises with the authors' results.

    python tests/bench/comixup.py --threads 2

The images are smooth noise; the saliency is the input gradient of a small random network times smooth bumps, so that
the blocks of an image differ as much as in the golden vectors (a flat saliency gives no mixing and is faster). A timed
call is the whole of `apply`. The best of several rounds is kept for every batch, since the machine is shared; the mean
is over batches.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from puzzlemix import begin, images, saliency_of
from torch import nn

from automixsearch.mixers.comixup import CoMixup

SETTINGS = {  # shape, knobs, the authors' mean ms (2 cores, 2 threads, another run)
    "32 px": ((32, 3, 32, 32), {}, 57.8),
    "224 px": ((8, 3, 224, 224), {}, 34.2),
    "32 px, batch 100": ((100, 3, 32, 32), {}, None),
    "32 px, 8 x 8 blocks": ((32, 3, 32, 32), {"blocks": 8}, None),
}


def measure(shape: tuple[int, int, int, int], mixer: CoMixup, batches: int, rounds: int) -> tuple[list[float], float]:
    """Milliseconds for each of `batches`: the best of `rounds` calls; and the mean number of inputs per output."""
    generator, calls, inputs = torch.Generator().manual_seed(0), [], []
    for _ in range(batches):
        x = images(shape, generator)
        bumps = nn.functional.interpolate(
            torch.randn(shape[0], 1, 8, 8, generator=generator), shape[2:], mode="bicubic"
        )
        saliency = saliency_of(x) * bumps[:, 0].mul(0.8).exp()
        calls.append((x, mixer.draw(shape, generator), saliency))
    best = [float("inf")] * batches
    for _ in range(rounds):
        for number, (x, draw, saliency) in enumerate(calls):
            began = time.perf_counter()
            mixed = mixer.apply(x, draw, saliency=saliency)
            best[number] = min(best[number], 1000 * (time.perf_counter() - began))
            inputs.append((mixed.shares > 0).sum(1).double().mean().item())
    return best, statistics.mean(inputs)


def compare(golden: Path) -> None:
    """Print the objective from the authors' start and from random ones beside theirs, for every golden case."""
    from automixsearch.mixers.supermodular import assign_inputs, objective

    arrays, rng = np.load(golden), np.random.default_rng(0)
    for number in range(4):
        case = {key[3:]: arrays[key] for key in arrays.files if key.startswith(f"c{number}_")}
        cost, excess = case["cost_with_prior"].astype(float), bool(case["thres_type"])
        weights = (float(case["beta_scaled"]), float(case["gamma_scaled"]), float(case["thres_scaled"]))
        found = []
        for start in [case["init_labels"], *rng.integers(0, len(cost), (39, *cost.shape))]:
            resolve, sweeps = bool(case["set_resolve"]), int(case["niter"])
            labels = assign_inputs(cost, case["A"], start, weights, excess=excess, resolve=resolve, sweeps=sweeps)
            inputs = np.mean([len(np.union1d(*output)) for output in zip(*labels, strict=True)])
            found.append((objective(cost, *labels, weights, excess=excess), inputs))
        theirs = [float(case["obj_thres_official"]), *case["obj_thres_official_other_inits"]]
        counts = [case["inputs_per_output"].mean(), *case["mean_inputs_per_output_other_inits"]]
        print(
            f"c{number}, {len(cost)} images, {cost.shape[1]} x {cost.shape[1]}: objective from the same start ", end=""
        )
        print(f"{found[0][0]:.2f} (authors {theirs[0]:.2f}); least, median, greatest ", end="")
        print(*(f"{value:.2f}" for value in np.quantile([value for value, _ in found], [0, 0.5, 1])), end=" (authors ")
        print(*(f"{value:.2f}" for value in np.quantile(theirs, [0, 0.5, 1])), end="); inputs per output ")
        print(f"{np.mean([inputs for _, inputs in found]):.2f} (authors {np.mean(counts):.2f})")


def main() -> None:
    options = begin(__doc__, batches=8)
    torch.manual_seed(0)
    began = time.perf_counter()
    from automixsearch.mixers import supermodular  # noqa: F401

    print(f"first use in this process (compiles unless the cache is warm): {time.perf_counter() - began:.1f} s")
    for name, (shape, knobs, authors) in SETTINGS.items():
        taken, inputs = measure(shape, CoMixup(**knobs), options.batches, options.rounds)
        mean = statistics.mean(taken)
        compared = f"; the authors' code {authors} ms: {authors / mean:.0f} times" if authors else ""
        print(
            f"{name}, batch {shape[0]}: mean {mean:.2f} ms, batches from {min(taken):.2f} to {max(taken):.2f}", end=""
        )
        print(f", {inputs:.1f} inputs per output{compared}")
    compare(Path(__file__).parents[1] / "golden" / "comixup.npz")


if __name__ == "__main__":
    main()
