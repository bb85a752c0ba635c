"""What is counted of a device's energy."""

from __future__ import annotations

import pytest
import torch

from automixsearch.training import energy
from automixsearch.training.energy import EnergyMeter, cpu_share

CPU = torch.device("cpu")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two CPU packages as Linux shows them, and a part of one; returns what sets a counter, in joules."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)

    def set_to(name, joules):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("100000000\n")

    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        set_to(name, 50)
    return set_to


def test_all_packages_count_and_their_parts_do_not(packages):
    meter = EnergyMeter(CPU)
    packages("intel-rapl:0", 60)
    packages("intel-rapl:0:0", 55)
    packages("intel-rapl:1", 53)
    assert meter.spent() == pytest.approx(13)
    assert meter.spent() == 0


def test_a_counter_that_starts_again_loses_nothing(packages):
    meter = EnergyMeter(CPU)
    packages("intel-rapl:0", 2)  # after 100, where it wraps
    assert meter.spent() == pytest.approx(52)


def test_a_share_of_the_device_is_a_share_of_its_energy(packages):
    meter = EnergyMeter(CPU, share=0.25)
    packages("intel-rapl:1", 90)
    assert meter.spent() == pytest.approx(10)
    assert cpu_share(10**6) == 1


def test_a_machine_that_does_not_tell_has_no_energy(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    assert EnergyMeter(CPU).spent() is None
    (tmp_path / "intel-rapl:0").mkdir()  # there, but not to be read
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    assert EnergyMeter(CPU).spent() is None
