"""The ways of training: one file each, and the only list of them."""

from __future__ import annotations

from automixsearch.algorithms.adautomix import AdAutoMixTraining
from automixsearch.algorithms.automix import AutoMixTraining
from automixsearch.algorithms.base import Algorithm, Batch, Clock, Images, Needs, Part, Setup, Term
from automixsearch.algorithms.supervised import Supervised

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm for algorithm in (Supervised, AutoMixTraining, AdAutoMixTraining)
}

__all__ = ["ALGORITHMS", "Algorithm", "Batch", "Clock", "Images", "Needs", "Part", "Setup", "Term"]
