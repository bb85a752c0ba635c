"""What a trained network is judged by: the evaluations, one file each, and the only list of them."""

from __future__ import annotations

from automixsearch.evaluation.attack import Attack
from automixsearch.evaluation.calibration import Calibration
from automixsearch.evaluation.corruption import Corruption
from automixsearch.evaluation.localisation import Localisation
from automixsearch.evaluation.mixed import MixedSamples
from automixsearch.evaluation.occlusion import Occlusion
from automixsearch.evaluation.suite import Evaluation, Pictures, Score, Subject

EVALUATIONS: dict[str, type[Evaluation]] = {
    one.name: one for one in (Calibration, Corruption, Attack, Occlusion, MixedSamples, Localisation)
}

__all__ = [
    "EVALUATIONS",
    "Attack",
    "Calibration",
    "Corruption",
    "Evaluation",
    "Localisation",
    "MixedSamples",
    "Occlusion",
    "Pictures",
    "Score",
    "Subject",
]
