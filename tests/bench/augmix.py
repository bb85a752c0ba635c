"""Time the two views of AugMix on this machine, beside a loop over Pillow images with the same draws.

    python tests/bench/augmix.py --threads 2

The images are noise over gradients. A timed call makes both views of a batch: all chains, normalisation, mixing; the
draw is timed apart. The best of several rounds is kept for every batch, since the machine is shared; means are over
batches, each with a draw of its own. Before anything is timed, the two are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from puzzlemix import begin
from torch import Tensor

from automixsearch.mixers.augmix import AugMix, AugMixDraw, augmented
from automixsearch.mixers.image_ops import OPERATIONS

SHAPES = [(128, 3, 32, 32), (8, 3, 224, 224)]
MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])


def pictures(shape: tuple[int, int, int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normalised images [B, C, H, W] and their pixels, uint8 [B, H, W, C]."""
    samples, channels, height, width = shape
    ramp = torch.linspace(0, 150, height)[:, None, None] + torch.linspace(0, 50, width)[:, None]
    noise = torch.randint(56, (samples, height, width, channels), generator=generator)
    pixels = (ramp + noise).to(torch.uint8)
    return ((pixels / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous(), pixels


def changed(image: Image.Image, name: str, level: float, sign: float) -> Image.Image:
    """One of the standard operations, by Pillow."""
    if name == "autocontrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name == "posterize":
        return ImageOps.posterize(image, 4 - int(level * 4 / 10))
    if name == "solarize":
        return ImageOps.solarize(image, 256 - int(level * 256 / 10))
    if name == "rotate":
        return image.rotate(int(sign) * int(level * 30 / 10), Image.Resampling.BILINEAR)
    slope = sign * (level * 0.3 / 10)
    matrix = {
        "shear_x": (1, slope, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, slope, 1, 0),
        "translate_x": (1, 0, int(sign) * int(level * (image.width / 3) / 10), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(sign) * int(level * (image.height / 3) / 10)),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def loop(x: Tensor, draw: AugMixDraw, pixels: Tensor) -> Tensor:
    """The views as a loader makes them, image by image: [V, B, C, H, W]."""
    names, mean, std = list(OPERATIONS), MEAN.numpy(), STD.numpy()
    operations, level, sign = draw.operations.tolist(), draw.level.tolist(), draw.sign.tolist()
    shares, strength = draw.shares.tolist(), draw.strength.tolist()
    views = []
    for view in range(len(operations)):
        for sample, array in enumerate(pixels.numpy()):
            start, total = Image.fromarray(array), np.zeros(array.shape, np.float32)
            for chain, steps in enumerate(operations[view][sample]):
                image = start
                for place, number in enumerate(steps):
                    if number >= 0:
                        levels, signs = level[view][sample][chain], sign[view][sample][chain]
                        image = changed(image, names[number], levels[place], signs[place])
                normalised = (np.asarray(image, np.float32) / 255 - mean) / std
                total += np.float32(shares[view][sample][chain]) * normalised
            weight = np.float32(strength[view][sample])
            views.append((1 - weight) * ((array.astype(np.float32) / 255 - mean) / std) + weight * total)
    made = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()
    return made.unflatten(0, (len(operations), len(x)))


def best_of(rounds: int, call: Callable[[], object]) -> float:
    """Milliseconds of the fastest of `rounds` calls."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        best = min(best, 1000 * (time.perf_counter() - began))
    return best


def measure(
    mixer: AugMix, shape: tuple[int, int, int, int], generator: torch.Generator, rounds: int
) -> tuple[float, float, float]:
    """Milliseconds of drawing for one batch, of its views, and of its views by Pillow; the views are compared first."""
    x, pixels = pictures(shape, generator)
    draw = mixer.draw(shape, generator)
    torch.testing.assert_close(augmented(x, draw, pixels, MEAN, STD), loop(x, draw, pixels), atol=1e-5, rtol=0)
    drawing = best_of(rounds, lambda: mixer.draw(shape, torch.Generator()))
    ours = best_of(rounds, lambda: augmented(x, draw, pixels, MEAN, STD))
    return drawing, ours, best_of(rounds, lambda: loop(x, draw, pixels))


def main() -> None:
    options = begin(__doc__, batches=5)
    print(f"Pillow {PIL.__version__}")
    generator, mixer = torch.Generator().manual_seed(0), AugMix()
    for shape in SHAPES:
        taken = [measure(mixer, shape, generator, options.rounds) for _ in range(options.batches)]
        drawing, ours, pillow = (statistics.mean(column) for column in zip(*taken, strict=True))
        fastest, slowest = min(taken, key=lambda row: row[1])[1], max(taken, key=lambda row: row[1])[1]
        print(f"{shape}: {ours:.1f} ms ({fastest:.1f} to {slowest:.1f}), drawing {drawing:.2f} ms;", end=" ")
        print(f"Pillow in a loop {pillow:.1f} ms: {pillow / ours:.1f} times")


if __name__ == "__main__":
    main()
