"""What holds for every mixing method: a new one is tested by being in MIXERS. The checks: `automixsearch.testing`."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automixsearch.config.knobs import knobs_of
from automixsearch.mixers import MIXERS
from automixsearch.mixers.automix import AutoMix
from automixsearch.mixers.cutmix import CutMix
from automixsearch.mixers.mixup import MixUp
from automixsearch.testing import MixerContract
from automixsearch.testing.mixers import check_labels_follow_pixels

KINDS = {
    **{name: kind() for name, kind in MIXERS.items()},
    **{f"automix of {source}": AutoMix(mask_source=source) for source in ("random_grid", "mixup", "cutmix")},
    "automix, adjusted": AutoMix(mask_adjust=1.0),
    "mixup per sample": MixUp(lams="sample"),
    "cutmix per sample": CutMix(boxes="sample"),
}
ON_HOST = {
    "puzzlemix": "minimum cuts and transport plans are found by programs of the host",
    "comixup": "its submodular functions are minimised by a program of the host",
}
"""Methods that make a GPU wait, and why."""


class TestMixers(MixerContract):
    @pytest.fixture(autouse=True, params=list(KINDS))
    def _each(self, request):
        self.mixer, self.waits = KINDS[request.param], ON_HOST.get(request.param, "")

    def test_it_names_its_source_and_what_was_published(self):
        assert self.tested.source
        assert not self.tested.mixes or self.tested.published


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([name for name, mixer in MIXERS.items() if "alpha" in knobs_of(mixer)]),
    alpha=st.floats(0.01, 50),
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
)
def test_labels_follow_the_pixels_whatever_is_drawn(name, alpha, seed, height, width):
    check_labels_follow_pixels(dataclasses.replace(KINDS[name], alpha=alpha), height, width, seed)
