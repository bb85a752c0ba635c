"""The energy that a GPU says it has used, by NVML's counter; of CPUs nothing is told that ordinary users may read."""

from __future__ import annotations

from typing import Any

import torch


class EnergyMeter:
    """Counts the joules of one device from its making on.

    `share` of the device is counted, as several trials can run on it; the device does not tell who used what.
    """

    def __init__(self, device: torch.device, share: float = 1.0) -> None:
        self.share = share
        self._handle = _handle(device) if device.type == "cuda" else None
        self._last = self._joules()

    def spent(self) -> float | None:
        """Joules since the last call, or since the start; None where the device does not tell."""
        if self._handle is None:
            return None
        before, self._last = self._last, self._joules()
        return self.share * (self._last - before)

    def _joules(self) -> float:
        if self._handle is None:
            return 0.0
        import pynvml

        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3


def _handle(device: torch.device) -> Any:
    """What NVML knows a GPU by, None where it does not count its energy."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # before Volta, a part of a GPU, or a container without NVML
        return None
    return handle
