"""What it took: device time and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Section, Table
from automixsearch.show import brief, duration


def section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Device time by method: sums of the ledger's rows, complete and pruned and failed alike."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    methods = sorted((_costs(name, own) for name, own in by_method.items()), key=lambda own: -own["device_s"])
    silent = sum(row.get("energy_j") is None for row in rows)
    total = sum(own["device_s"] for own in methods)
    told = silent < len(rows)
    devices = sorted({f"{row['device']}" for row in rows if row["device"]})
    inks = charts.inks(by_method)
    drawn = [
        charts.Bar(
            own["method"], own["device_h"], ink=inks[own["method"]], tip=f"{own['method']}: {duration(own['device_s'])}"
        )
        for own in methods
    ]
    columns = [
        Column("method", lambda row: str(row["method"])),
        *(Column(name, _whole(name), True) for name in ("trials", "complete", "pruned", "failed", "epochs")),
        Column("device-hours", lambda row: f"{row['device_h']:.4g}", True),
        Column("share", lambda row: f"{100 * row['device_s'] / total:.1f} %" if total else "-", True),
        Column("device-s per epoch", lambda row: brief(row["device_s_per_epoch"]), True),
        *([Column("energy, kWh", lambda row: brief(row["energy_kwh"]), True)] if told else []),
    ]
    says = [
        f"{duration(total)} of device time ({total / 3600:.3g} device-hours) on "
        f"{', '.join(devices) or 'unnamed devices'}: training and validation; the start of processes is left out."
    ]
    missing = []
    if told:
        says.append(f"Energy of the devices in that time: {sum(own['energy_j'] for own in methods) / 3.6e6:.3g} kWh.")
    if silent:
        which = "" if silent == len(rows) else f" in {silent} of {len(rows)} trials"
        missing.append(f"Energy: the devices did not tell{which} (NVIDIA's from Volta on do).")
    return Section(
        "cost",
        "Cost",
        says,
        figures=[
            Figure(
                "cost",
                "Device-hours by method",
                charts.bars("Device-hours by method", charts.Axis("device-hours"), drawn),
            )
        ],
        tables=[Table("cost", "", methods, columns)],
        missing=missing,
    )


def _costs(method: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over the trials of a method."""
    states = [row["state"] for row in rows]
    epochs, device_s, wall_s = (sum(row[name] or 0 for row in rows) for name in ("epochs_run", "device_s", "wall_s"))
    joules = [row["energy_j"] for row in rows if row.get("energy_j") is not None]
    return {
        "method": method,
        "trials": len(rows),
        **{state: states.count(state) for state in ("complete", "pruned", "failed")},
        "epochs": epochs,
        "device_s": float(device_s),
        "wall_s": float(wall_s),
        "energy_j": float(sum(joules)),
        "device_h": device_s / 3600,
        "energy_kwh": sum(joules) / 3.6e6 if joules else None,
        "device_s_per_epoch": device_s / epochs if epochs else None,
    }


def _whole(name: str) -> Any:
    return lambda row: f"{row[name]:,}"
