"""Time to the first batch and to a whole epoch of JPEGs: decoded anew, into the cache, from it, and by torchvision.

COMMAND   python tests/bench/data.py [--images 3000] [--size 128] [--workers 2]
HARDWARE  any; two CPU cores suffice, about two minutes and 0.5 GB of disk
EXPECTED  from the cache, a first batch within 0.5 s, and an epoch in a tenth of the time of torchvision's loader

Each line is a fresh process; importing is left out. The images are 500 x 375 pixels, smooth noise, in 10 classes. An
epoch is every image once in random order, in batches of 100, as float32 [B, 3, H, W].
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
import automixsearch.data.folder
from automixsearch.data import load
from automixsearch.spec import Data
root, size, _ = sys.argv[1:]
clock = time.perf_counter()
part = load(Data(source="folder", path=root, size=int(size))).train
def batches():
    order = np.random.default_rng(0).permutation(len(part))
    for start in range(0, len(order), 100):
        yield torch.from_numpy(part.images[order[start : start + 100]]).permute(0, 3, 1, 2).float().div_(255)
"""
TORCHVISION = """
import json, sys, time
import torch
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
root, size, workers = sys.argv[1:]
clock = time.perf_counter()
fit = T.Compose([T.Resize(int(size)), T.CenterCrop(int(size)), T.ToTensor()])
loader = torch.utils.data.DataLoader(ImageFolder(root + "/train", fit), 100, shuffle=True, num_workers=int(workers))
def batches():
    for x, _ in loader:
        yield x
"""
TIMED = """
next(iter(batches()))
first = time.perf_counter() - clock
clock = time.perf_counter()
for _ in batches(): pass
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


def timed(code: str, root: Path, options: argparse.Namespace, cache: str) -> tuple[float, float]:
    """Seconds to the first batch and of an epoch after it, in a fresh process."""
    command = [sys.executable, "-c", code + TIMED, str(root), str(options.size), str(options.workers)]
    environment = os.environ | {"AUTOMIXSEARCH_CACHE": cache}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    first_s, epoch_s = json.loads(done.stdout)
    return first_s, epoch_s


def main() -> None:
    """Run all four and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "images"), str(Path(folder, "cache"))
        make(root, options.images)
        decoded = options.images * 1.1 * options.size**2 * 3
        print(f"{platform.machine()}, {os.cpu_count()} cores; {options.images} training images, "
              f"{options.size} pixels, {decoded / 1e6:.0f} MB decoded")  # fmt: skip
        for name, code, place in (
            ("without the cache", OURS, "off"),
            ("first, building the cache", OURS, cache),
            ("from the cache", OURS, cache),
            (f"torchvision, {options.workers} workers", TORCHVISION, "off"),
        ):
            first_s, epoch_s = timed(code, root, options, place)
            print(f"{name:28} first batch {first_s:7.2f} s   epoch {epoch_s:7.2f} s")


if __name__ == "__main__":
    main()
