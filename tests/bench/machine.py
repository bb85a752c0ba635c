"""How the benchmarks of single methods begin: their options, and what they say of the machine."""

from __future__ import annotations

import argparse
import os
import platform

import torch


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
