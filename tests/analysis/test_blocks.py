"""Runs that share seeds and splits are looked at within them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from automixsearch.analysis.compare import compare
from automixsearch.analysis.importance import importance
from automixsearch.analysis.robustness import scorecards
from automixsearch.analysis.sensitivity import curve
from automixsearch.errors import StudyError
from automixsearch.results.study import Study
from automixsearch.studies.design import enumerate_runs
from automixsearch.studies.file import parse_study_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from ledgers import write_study


def study(folder: Path, effect: float = 1.0, noise: float = 0.2, world: int = 0, **more) -> Study:
    """A curve over alpha in which seeds scatter by three points, alike in all arms; alpha = 4 costs `effect`."""
    content = {
        "question": "q",
        "knobs": {"method": ["mixup", "cutmix"], "width": 4},
        "vary": {"alpha": [0.2, 1.0, 4.0]},
        "design": "curve",
        "replicates": 4,
        "splits": 2,
    } | more
    design, rng = enumerate_runs(parse_study_file(content, "a.yaml")), np.random.default_rng(world)
    of_seed = {run.seed: rng.normal(0, 3) for run in design.runs}
    rows = [
        {"knobs": dict(run.values), "seed": run.seed, "split_seed": run.split_seed,
         "score": 70 + of_seed[run.seed] + 2 * run.split_seed + (run.stratum == "mixup")
         - effect * (run.values.get(f"{run.stratum}.alpha") == 4.0) + rng.normal(0, noise)}
        for run in design.runs
    ]  # fmt: skip
    return write_study(folder, "blocks", rows, design.content)


def test_a_curve_is_told_from_flat_within_seeds_that_scatter_more(tmp_path):
    found = curve(study(tmp_path), "alpha", "mixup")
    assert found.p < 0.01
    points = {point.value: point for point in found.points}
    assert points[4.0].estimate.high - points[4.0].estimate.low > 4  # where its mean lies is known less well
    assert points[4.0].gap.value == pytest.approx(-1, abs=0.3)
    assert points[4.0].gap.high < 0 < points[0.2].gap.high
    assert not points[1.0].gap.known  # the centre


def test_a_flat_curve_seems_to_matter_in_one_of_twenty_studies(tmp_path):
    ps = [curve(study(tmp_path / str(world), 0.0, world=world), "alpha", "mixup").p for world in range(60)]
    assert sum(p < 0.05 for p in ps) <= 8
    assert np.mean(ps) == pytest.approx(0.5, abs=0.15)


def test_points_that_each_have_a_seed_of_their_own_make_no_blocks(tmp_path):
    rng = np.random.default_rng(0)
    drawn = [
        {"knobs": {"method": "mixup", "mixup.alpha": float(rng.uniform(0.1, 4))}, "score": 70 + float(rng.normal())}
        for _ in range(3000)
    ]
    found = curve(write_study(tmp_path, "drawn", drawn), "alpha", "mixup")
    assert (found.kind, len(found.points)) == ("mean", 5)
    assert found.p > 0.01
    assert not any(point.gap.known for point in found.points)


def test_methods_are_compared_within_seeds_though_each_has_several_values(tmp_path):
    (found,) = compare(study(tmp_path))
    assert (found.paired, found.n) == (True, 4)
    assert found.difference.value == pytest.approx(1, abs=0.3)
    assert found.difference.low > 0


def test_two_seeds_make_no_pairs(tmp_path):
    (found,) = compare(study(tmp_path, replicates=2))
    assert not found.paired
    assert found.note == "unpaired: too few shared seeds and splits"


def test_curves_and_parts_are_no_draws_from_a_prior(tmp_path):
    curves = study(tmp_path / "curve", vary={"alpha": [0.2, 1.0], "lr": [0.05, 0.2]})
    parts = study(
        tmp_path / "parts",
        knobs={"method": "automix"},
        vary={},
        factors={"teacher": {"off": {"ema": False}, "on": {"ema": True}}},
        design="one_in",
    )
    for ask in (scorecards, importance):
        with pytest.raises(
            StudyError, match=r"ask automixsearch sensitivity \S*blocks --knob alpha, automixsearch compare"
        ):
            ask(curves)
        with pytest.raises(
            StudyError, match=r"ask automixsearch ablate report \S*blocks, or run a study of design sobol"
        ):
            ask(parts)
