"""The mixing methods: one file each, and the only list of them."""

from __future__ import annotations

from automixsearch.mixers.adautomix import AdAutoMix
from automixsearch.mixers.augmix import AugMix
from automixsearch.mixers.automix import AutoMix
from automixsearch.mixers.base import Draw, Mixed, Mixer, PairDraw, pairs
from automixsearch.mixers.comixup import CoMixup
from automixsearch.mixers.cutmix import CutMix
from automixsearch.mixers.fmix import FMix
from automixsearch.mixers.manifoldmix import ManifoldMix
from automixsearch.mixers.mixup import MixUp
from automixsearch.mixers.puzzlemix import PuzzleMix
from automixsearch.mixers.regmixup import RegMixup
from automixsearch.mixers.resizemix import ResizeMix
from automixsearch.mixers.saliencymix import SaliencyMix
from automixsearch.mixers.samix import SAMix
from automixsearch.mixers.transmix import TransMix
from automixsearch.mixers.trivialmix import TrivialMix
from automixsearch.mixers.vanilla import Vanilla

MIXERS: dict[str, type[Mixer]] = {
    mixer.name: mixer
    for mixer in (
        Vanilla,
        MixUp,
        CutMix,
        ManifoldMix,
        ResizeMix,
        SaliencyMix,
        FMix,
        PuzzleMix,
        CoMixup,
        AugMix,
        AutoMix,
        SAMix,
        AdAutoMix,
        RegMixup,
        TransMix,
        TrivialMix,
    )
}

__all__ = [
    "MIXERS",
    "AdAutoMix",
    "AugMix",
    "AutoMix",
    "CoMixup",
    "CutMix",
    "Draw",
    "FMix",
    "ManifoldMix",
    "MixUp",
    "Mixed",
    "Mixer",
    "PairDraw",
    "PuzzleMix",
    "RegMixup",
    "ResizeMix",
    "SAMix",
    "SaliencyMix",
    "TransMix",
    "TrivialMix",
    "Vanilla",
    "pairs",
]
