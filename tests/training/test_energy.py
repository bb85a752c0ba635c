"""What is counted of a device's energy."""

from __future__ import annotations

import pytest
import torch

from automixsearch.training.energy import EnergyMeter


def test_a_cpu_does_not_tell():
    assert EnergyMeter(torch.device("cpu")).spent() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that counts its energy")
def test_a_share_of_a_gpu_is_a_share_of_its_energy():
    meters = [EnergyMeter(torch.device("cuda"), share) for share in (1.0, 0.25)]
    x = torch.rand(4096, 4096, device="cuda")
    for _ in range(200):
        x = (x @ x).clamp_(0, 1)
    torch.cuda.synchronize()
    whole, part = (meter.spent() for meter in meters)
    if whole is None:
        pytest.skip("this GPU does not count")
    assert whole > 0
    assert part == pytest.approx(whole / 4, rel=0.1)
