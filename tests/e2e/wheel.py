"""Build the wheel, install it in a fresh environment, and use it from an empty directory, far from any checkout.

python tests/e2e/wheel.py            installs all dependencies, as a user does: needs an index of packages
python tests/e2e/wheel.py --offline  takes the packages of the Python that runs this, which has to have hatchling
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ("recipe=digits", "data={source: digits, val_fraction: 0.4}", "width=4", "epochs=2")
CHECKS = """
import sys
from pathlib import Path
import automixsearch
from automixsearch.mixers import CutMix
from automixsearch.testing import check_mixer

assert automixsearch.__file__.startswith(sys.prefix), automixsearch.__file__
check_mixer(CutMix)
assert automixsearch.open_study("results/quickstart").top(1).val_top1.item() > 0
trials = automixsearch.open_study("results/curve").trials()
assert set(trials.state) == {"complete"} and set(trials.alpha) == {0.2, 1.0, 2.0}, trials
assert "robustness" in Path("demo-report/report.html").read_text().lower()
"""
STUDY = """
question: Does alpha matter?
design: curve
knobs: {method: mixup, batch_size: 256}
vary: {alpha: [0.2, 2.0]}
replicates: 2
"""


def run(words: list[str], folder: Path, env: dict[str, str]) -> str:
    """The output of a command, which must succeed."""
    print("+", *words, flush=True)
    done = subprocess.run(words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{words} ended with {done.returncode}")
    return done.stdout


def check_contents(wheel: Path) -> None:
    """All files that come along are in the wheel, and nothing else."""
    tracked = subprocess.run(
        ["git", "ls-files", "--", "automixsearch", "search_spaces", "jobs"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = {
        name if name.startswith("automixsearch/") else f"automixsearch/{name}" for name in tracked.stdout.splitlines()
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    missing, more = sorted(wanted - inside), sorted(inside - wanted)
    if missing or more:
        sys.exit(f"{wheel.name} lacks {missing} and has {more}, which git does not track")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--offline", action="store_true")
    offline = options.parse_args().offline
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        fresh, empty = place / "fresh", place / "empty"
        empty.mkdir()
        isolation = ["--no-build-isolation"] if offline else []
        run([sys.executable, "-m", "pip", "wheel", "--no-deps", *isolation, "-w", name, str(ROOT)], place, env)
        (wheel,) = place.glob("*.whl")
        check_contents(wheel)
        run([sys.executable, "-m", "venv", str(fresh), *(["--without-pip"] if offline else [])], place, env)
        python, command = str(fresh / "bin" / "python"), str(fresh / "bin" / "automixsearch")
        if offline:
            (site,) = fresh.glob("lib/python*/site-packages")
            (site / "over.pth").write_text("\n".join(entry for entry in sys.path if entry.endswith("site-packages")))
            install = ["install", "--no-deps", "--ignore-installed", "--no-index"]
        else:
            install = ["install"]
        run([python, "-m", "pip", *install, str(wheel)], place, env)
        run([command, "search", "quickstart", "trials=2", "epochs=2", "width=4"], empty, env)
        (empty / "curve.yaml").write_text(STUDY)
        run([command, "study", "curve.yaml", "--debug", *TINY], empty, env)
        run([command, "demo"], empty, env)
        run([python, "-c", CHECKS], empty, env)
    print(f"{wheel.name}: a search, a study, the demo and a contract ran from an empty directory")


if __name__ == "__main__":
    main()
