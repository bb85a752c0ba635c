"""The live view of a search."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from automixsearch.commands.watch import Watch
from automixsearch.config.space import SearchSpace
from automixsearch.show import energy


@pytest.mark.parametrize(
    ("joules", "text"), [(850.0, "850 J"), (44_280.0, "12.3 Wh"), (12_240_000.0, "3.4 kWh"), (0.0, "0 J")]
)
def test_energy_is_said_in_the_unit_that_fits(joules, text):
    assert energy(joules) == text


def shown(rows, running) -> str:
    console = Console(width=120, record=True, file=io.StringIO(), force_terminal=False)
    watch = Watch(console)
    watch.begin(SearchSpace(name="s", knobs={}), rows)
    task = SimpleNamespace(
        trial_id="t00009", number=9, row=lambda state: {"method": "mixup"}, config=SimpleNamespace(knobs={"epochs": 4})
    )
    for values in running:
        watch.heard("epoch", task, values)
    console.print(watch.render())
    return console.export_text()


def test_what_was_spent_counts_ended_and_running_trials():
    rows = [
        {
            "state": "complete",
            "val_top1": 50.0,
            "trial_id": "t00000",
            "method": "mixup",
            "device_s": 100.0,
            "energy_j": 3e3,
        },
        {"state": "failed", "device_s": 20.0, "energy_j": None},
        {"state": "failed", "device_s": None},
    ]
    running = [{"epoch": 1, "device_s": 5.0, "energy_j": 100.0}, {"epoch": 2, "device_s": 30.0, "energy_j": 1800.0}]
    assert "spent: 2:30 min of device time, 1.33 Wh" in shown(rows, running)


def test_without_a_meter_nothing_is_said_of_energy():
    said = shown([{"state": "failed", "device_s": 20.0, "energy_j": None}], [])
    assert "spent: 20 s of device time\n" in "\n".join(line.rstrip() for line in said.splitlines()) + "\n"


def test_runs_of_a_study_are_told_apart_by_their_arms(capsys):
    watch = Watch(Console(file=io.StringIO()), lines=True)
    watch.arms = {9: "mask_source=cutmix layer=l3"}
    watch.begin(SearchSpace(name="s", knobs={}), [])
    row = {"state": "complete", "val_top1": 50.0, "trial_id": "t00009", "method": "automix", "layer": "l3"}
    watch.heard("end", SimpleNamespace(trial_id="t00009", number=9), row)
    assert "t00009 complete: val_top1 50.00  automix layer=l3 (mask_source=cutmix)" in capsys.readouterr().err
