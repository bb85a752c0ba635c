"""What it took: device time and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Section, Table
from automixsearch.show import brief, duration


def section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Device time by method: sums of the ledger's rows, complete and pruned and failed alike."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = found.setdefault(
            row["method"],
            {
                "method": row["method"],
                "trials": 0,
                "complete": 0,
                "pruned": 0,
                "failed": 0,
                "epochs": 0,
                "device_s": 0.0,
                "wall_s": 0.0,
                "energy_j": 0.0,
                "untold": 0,
            },
        )
        own["trials"] += 1
        own[row["state"]] += 1
        own["epochs"] += row["epochs_run"] or 0
        own["device_s"] += row["device_s"] or 0.0
        own["wall_s"] += row["wall_s"] or 0.0
        own["energy_j"] += row.get("energy_j") or 0.0
        own["untold"] += row.get("energy_j") is None
    methods = sorted(found.values(), key=lambda own: -own["device_s"])
    silent = 0
    for own in methods:
        own["device_h"] = own["device_s"] / 3600
        untold = own.pop("untold")
        own["energy_kwh"] = None if untold == own["trials"] else own["energy_j"] / 3.6e6
        silent += untold
        own["device_s_per_epoch"] = own["device_s"] / own["epochs"] if own["epochs"] else None
    total = sum(own["device_s"] for own in methods)
    told = silent < len(rows)
    devices = sorted({f"{row['device']}" for row in rows if row["device"]})
    inks = charts.inks(found)
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
        missing.append(
            f"Energy: the devices did not tell{which} (NVIDIA's do, and Intel's where /sys/class/powercap may be read)."
        )
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


def _whole(name: str) -> Any:
    return lambda row: f"{row[name]:,}"
