"""The energy that a device says it has used: NVML's counter of a GPU, RAPL's of all CPU packages; else nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows RAPL; as a rule root alone may read it."""


class EnergyMeter:
    """Counts the joules of one device from its making on.

    `share` of the device is counted, as several trials can run on it; the device does not tell who used what.
    """

    def __init__(self, device: torch.device, share: float = 1.0) -> None:
        self.share = share
        self._counters = _gpu(device) if device.type == "cuda" else _packages(POWERCAP)
        self._last = [read() for read, _ in self._counters]

    def spent(self) -> float | None:
        """Joules since the last call, or since the start; None where the device does not tell."""
        if not self._counters:
            return None
        total = 0.0
        for place, (read, wraps_at) in enumerate(self._counters):
            now = read()
            total += now - self._last[place] + (wraps_at if now < self._last[place] else 0.0)
            self._last[place] = now
        return self.share * total


Counter = tuple[Callable[[], float], float]
"""What reads a counter in joules, and the value at which it starts again at 0."""


def cpu_share(threads: int) -> float:
    """The share of this machine's processors that `threads` can keep busy."""
    return min(1.0, threads / (os.cpu_count() or 1))


def _gpu(device: torch.device) -> list[Counter]:
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # before Volta, a part of a GPU, or a container without NVML
        return []
    return [(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, 0.0)]


def _packages(root: Path) -> list[Counter]:
    """The CPU packages; their parts (intel-rapl:0:1), which they include, are left out."""
    found: list[Counter] = []
    for folder in sorted(root.glob("intel-rapl:*")):
        if folder.name.count(":") > 1:
            continue
        try:
            wraps_at = int((folder / "max_energy_range_uj").read_text()) / 1e6
            read = _reader(folder / "energy_uj")
            read()
        except (OSError, ValueError):  # for administrators only, as a rule; reports say that it is missing
            return []
        found.append((read, wraps_at))
    return found


def _reader(file: Path) -> Callable[[], float]:
    return lambda: int(file.read_text()) / 1e6
