"""Time to the first batch and of a whole epoch of JPEGs: from the cache, streamed, and by torchvision's loader.

COMMAND   python tests/bench/data.py [--images 1000] [--size 224] [--workers 2]
HARDWARE  any; two CPU cores suffice, about two minutes and 0.3 GB of disk
EXPECTED  an epoch from the cache in 0.4 of the time of torchvision's loader (what is left is the conversion to floats),
          a streamed one in 0.9 of it (it decodes as torchvision does, but bytes come from the processes, not floats)

Each line is a fresh process; importing is left out. The images are 500 x 375 pixels, smooth noise, in 10 classes. An
epoch is every image once in random order, in batches of 100, as float32 [B, 3, H, W]: the centre square, resized. All
loaders have the same number of processes, and one thread beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

OURS = """
import json, sys, time
import numpy as np, torch, PIL.Image
import automixsearch.data.folder, automixsearch.data.stream
from automixsearch.data import load
from automixsearch.config.recipe import Recipe
from automixsearch.config.data import Data
from automixsearch.algorithms.base import Needs
from automixsearch.training.batches import Batches, training_batches
root, size, workers, pipeline = sys.argv[1:]
torch.set_num_threads(int(workers))  # of which the stream takes the number of its processes
clock = time.perf_counter()
part = load(Data(source="folder", path=root, size=int(size), pipeline=pipeline)).train
scale = np.zeros(3), np.ones(3)
images = Batches(part.images, part.labels, *scale, torch.device("cpu"))
recipe = Recipe(batch_size=100, crop_pad=0, flip=False)
def batches():
    for batch in training_batches(images, images, Needs(), recipe, 0, 0):
        yield images.normalise(batch.views[0])
"""
TORCHVISION = """
import json, sys, time
import torch
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
root, size, workers, _ = sys.argv[1:]
torch.set_num_threads(1)
clock = time.perf_counter()
fit = T.Compose([T.Resize(int(size)), T.CenterCrop(int(size)), T.ToTensor()])
folder = ImageFolder(root + "/train", fit)
loader = torch.utils.data.DataLoader(folder, 100, shuffle=True, num_workers=int(workers), persistent_workers=True)
def batches():
    for x, _ in loader:
        yield x
"""
TIMED = """
for number, x in enumerate(batches()):
    if number == 0:
        first = time.perf_counter() - clock
clock = time.perf_counter()
for x in batches(): pass
print(json.dumps([first, time.perf_counter() - clock]))
"""


def make(root: Path, images: int) -> None:
    """JPEGs of about 60 kB, a tenth of them for testing."""
    random = np.random.default_rng(0)
    for i in range(images * 11 // 10):
        coarse = Image.fromarray(random.integers(0, 256, (75, 100, 3), np.uint8))
        path = root / ("train" if i < images else "test") / f"class{i % 10}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def timed(code: str, root: Path, options: argparse.Namespace, cache: str, pipeline: str) -> tuple[float, float]:
    """Seconds to the first batch, and of an epoch after the first, in a fresh process."""
    command = [sys.executable, "-c", code + TIMED, str(root), str(options.size), str(options.workers), pipeline]
    environment = os.environ | {"AUTOMIXSEARCH_CACHE": cache}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    first_s, epoch_s = json.loads(done.stdout)
    return first_s, epoch_s


def main() -> None:
    """Run them all and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "images"), str(Path(folder, "cache"))
        make(root, options.images)
        decoded = options.images * 1.1 * options.size**2 * 3
        print(f"{platform.machine()}, {os.cpu_count()} cores; {options.images} training images, {options.size} pixels, "
              f"{decoded / 1e6:.0f} MB decoded, {options.workers} processes")  # fmt: skip
        lines = []
        for name, code, pipeline in (
            ("torchvision's ImageFolder and DataLoader", TORCHVISION, ""),
            ("cache, first: it is built", OURS, "cache"),
            ("cache, then", OURS, "cache"),
            ("stream, first: all images are looked at", OURS, "stream"),
            ("stream, then", OURS, "stream"),
            ("torchvision again", TORCHVISION, ""),
        ):
            lines.append((name, *timed(code, root, options, cache, pipeline)))
        plain = (lines[0][2] + lines[-1][2]) / 2
        for name, first_s, epoch_s in lines:
            print(f"{name:42} first batch {first_s:7.2f} s   epoch {epoch_s:7.2f} s   {epoch_s / plain:5.2f} of "
                  "torchvision's")  # fmt: skip


if __name__ == "__main__":
    main()
