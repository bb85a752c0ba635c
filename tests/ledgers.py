"""Simulated studies: real Parquet ledgers with scores that a test decides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.results.schema import config_row, encode, to_arrow
from automixsearch.results.store import Store
from automixsearch.results.study import Study, open_study

WHEN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def write_study(
    folder: str | Path,
    name: str,
    rows: Iterable[Mapping[str, Any]],
    design: Mapping[str, Any] | None = None,
    objective: str = "val_top1",
    space: Mapping[str, Any] | None = None,
    epochs: Iterable[Mapping[str, Any]] = (),
) -> Study:
    """Write a study and open it.

    Args:
        rows: one mapping per trial: `knobs` by full name (`{"method": "mixup", "mixup.alpha": 0.5}`), `score`, and if
            wanted `seed`, `split_seed`, `purpose` (study), and any other column of the ledger. Numbers count from 0.
        design: the `design` of study.json.
        objective: the metric that `score` is.
        space: the `space` of study.json, for studies that were searches: `{"sampler": {"name": "tpe"}}`.
        epochs: rows of `epochs`; each has `number` instead of `trial_id`.
    """
    store = Store(folder, name)
    trials = []
    for position, given in enumerate(rows):
        row = dict(given)
        knobs, score = row.pop("knobs"), row.pop("score", None)
        number = row.pop("number", position)
        seeds = {"seed": row.pop("seed", number), "split_seed": row.pop("split_seed", 0)}
        config = TrialConfig(data=Data(), data_fingerprint="simulated", knobs=dict(knobs), **seeds)
        trials.append(
            {
                "schema_version": 1,
                "study": name,
                "trial_id": f"t{number:05d}",
                "number": number,
                "state": "complete",
                "purpose": "study",
                **config_row(config),
                "epochs_run": config.recipe.epochs,
                "val_images": 5000,
                "wall_s": 60.0,
                "device_s": 60.0,
                "device": "simulated",
                "workers": 1,
                "study_seed": 0,
                "started_at": WHEN,
                "ended_at": WHEN + timedelta(seconds=60),
                objective: score,
            }
            | row
        )
    content = {
        "schema_version": 1,
        "name": name,
        "space_id": "simulated",
        "objective": [objective],
        "total_trials": len(trials),
        **({} if design is None else {"design": dict(design)}),
        **({} if space is None else {"space": dict(space)}),
    }
    store.put("study.json", json.dumps(content).encode())
    lies = Path(folder) / name
    for table, found in (("trials", trials), ("epochs", [_epoch(name, row) for row in epochs])):
        (lies / table).mkdir(exist_ok=True)
        if found:
            (lies / table / "merged-simulated.parquet").write_bytes(encode(to_arrow(table, found)))
    return open_study(lies)


def _epoch(study: str, given: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(given)
    return {"schema_version": 1, "study": study, "trial_id": f"t{row.pop('number'):05d}", **row}
