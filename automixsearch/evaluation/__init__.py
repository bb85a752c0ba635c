"""What a trained network is judged by: the evaluations, one file each, and the only list of them."""

from __future__ import annotations

from automixsearch.evaluation.attack import Attack
from automixsearch.evaluation.calibration import Calibration
from automixsearch.evaluation.occlusion import Occlusion
from automixsearch.evaluation.suite import Evaluation, Pictures, Score, Subject

EVALUATIONS: dict[str, type[Evaluation]] = {one.name: one for one in (Calibration, Attack, Occlusion)}

__all__ = ["EVALUATIONS", "Attack", "Calibration", "Evaluation", "Occlusion", "Pictures", "Score", "Subject"]
