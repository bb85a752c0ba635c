"""Time `best` on a large ledger, in a fresh process, start-up included.

    python tests/bench/ledger.py --rows 1000000

The ledger is made in a temporary directory with the real schema, in merged files as `Store.compact` leaves them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from automixsearch.results.schema import SCHEMA_VERSION, encode, to_arrow
from automixsearch.results.store import MERGED_ROWS

ROWS_CALL = "import automixsearch; automixsearch.open_study({path!r}).top_rows({args})"
FRAME_CALL = "import automixsearch; automixsearch.open_study({path!r}).top({args})"
ANSWER_CALL = (
    "import automixsearch; from automixsearch.analysis.best import best; best(automixsearch.open_study({path!r}))"
)
CALLS = {
    "best configs": ANSWER_CALL,
    "best, as rows": ROWS_CALL.replace("{args}", ""),
    "best per method, as rows": ROWS_CALL.replace("{args}", "per='method'"),
    "best, as a DataFrame": FRAME_CALL.replace("{args}", ""),
}


def rows(first: int, count: int) -> Iterator[dict[str, object]]:
    """Trials as a search leaves them: distinct configs of about 600 bytes, two in three complete."""
    rng = random.Random(first)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(first, first + count):
        alpha, lr = rng.lognormvariate(0, 1), 10 ** rng.uniform(-3, 0)
        method = rng.choice(("vanilla", "mixup", "cutmix", "resizemix"))
        config = {
            "schema_version": 1,
            "data": {"source": "cifar100", "path": "/data/cifar100", "size": None, "val_fraction": 0.1},
            "seed": rng.getrandbits(62),
            "knobs": {"method": method, "alpha": alpha, "lr": lr}
            | {f"recipe_knob_{position:02d}": rng.random() for position in range(12)},
        }
        yield {
            "schema_version": SCHEMA_VERSION,
            "study": "bench",
            "trial_id": f"t{number:05d}",
            "number": number,
            "state": rng.choices(("complete", "pruned", "failed"), (64, 30, 6))[0],
            "purpose": "search",
            "method": method,
            "alpha": alpha,
            "knob.lr": lr,
            "knob.batch_size": rng.randint(50, 400),
            "knob.backbone": "resnet18",
            "config": json.dumps(config),
            "config_id": f"{rng.getrandbits(64):016x}",
            "config_key": f"{rng.getrandbits(64):016x}",
            "space_id": "0123456789abcdef",
            "code_version": "0.1.0",
            "seed": config["seed"],
            "epochs_total": 200,
            "epochs_run": 200,
            "train_loss": rng.random(),
            "val_top1": min(100.0, rng.gauss(70, 5)),
            "val_top5": min(100.0, rng.gauss(90, 3)),
            "val_loss": rng.random(),
            "val_ece": rng.random(),
            "wall_s": rng.uniform(600, 1200),
            "device_s": rng.uniform(600, 1200),
            "device": "cpu",
            "workers": 1,
            "host": f"node{rng.randrange(16)}",
            "started_at": start + timedelta(seconds=number),
            "ended_at": start + timedelta(seconds=number + 900),
        }


def build(study: Path, total: int) -> None:
    """Write the ledger of `total` trials."""
    (study / "trials").mkdir(parents=True)
    (study / "study.json").write_text(json.dumps({"schema_version": 1, "objective": ["val_top1"]}))
    for first in range(0, total, MERGED_ROWS):
        table = to_arrow("trials", rows(first, min(MERGED_ROWS, total - first)))
        (study / "trials" / f"merged-{first:016d}.parquet").write_bytes(encode(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="build the ledger here, and use it again next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = (options.keep or Path(folder)) / "bench"
        if not study.is_dir():
            began = time.perf_counter()
            build(study, options.rows)
            print(f"built {options.rows:,} rows in {time.perf_counter() - began:.0f} s")
        size = sum(file.stat().st_size for file in study.rglob("*.parquet"))
        print(f"{size / 1e6:.0f} MB; Python {platform.python_version()}, {os.cpu_count()} cores")
        for name, call in CALLS.items():
            seconds = []
            for _ in range(options.runs):
                began = time.perf_counter()
                subprocess.run([sys.executable, "-c", call.format(path=str(study))], check=True)
                seconds.append(time.perf_counter() - began)
            middle, worst = statistics.median(seconds), max(seconds)
            print(f"{name}: median {middle:.2f} s, worst {worst:.2f} s of {options.runs} fresh processes")


if __name__ == "__main__":
    main()
