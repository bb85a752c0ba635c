"""The ways of training: one file each, and the only list of them."""

from __future__ import annotations

from automixsearch.algorithms.adautomix import AdAutoMixTraining
from automixsearch.algorithms.automix import AutoMixTraining
from automixsearch.algorithms.base import Algorithm, Batch, Clock, Images, Needs, Part, Setup, Term
from automixsearch.algorithms.bss import BSS
from automixsearch.algorithms.co_tuning import CoTuning
from automixsearch.algorithms.fine_tuning import FineTuning
from automixsearch.algorithms.fixmatch import FixMatch
from automixsearch.algorithms.flexmatch import FlexMatch
from automixsearch.algorithms.mixmatch import MixMatch
from automixsearch.algorithms.pseudo_label import PseudoLabel
from automixsearch.algorithms.remixmatch import ReMixMatch
from automixsearch.algorithms.self_tuning import SelfTuning
from automixsearch.algorithms.supervised import Supervised
from automixsearch.algorithms.uda import UDA

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        Supervised,
        AutoMixTraining,
        AdAutoMixTraining,
        PseudoLabel,
        MixMatch,
        ReMixMatch,
        UDA,
        FixMatch,
        FlexMatch,
        FineTuning,
        BSS,
        CoTuning,
        SelfTuning,
    )
}

__all__ = ["ALGORITHMS", "Algorithm", "Batch", "Clock", "Images", "Needs", "Part", "Setup", "Term"]
