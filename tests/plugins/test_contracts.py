"""The contracts of `automixsearch.testing`, as somebody else runs them on classes of their own, and what they find."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from dataclasses import dataclass

import pytest
import torch

from automixsearch.algorithms.base import Term
from automixsearch.algorithms.supervised import Supervised
from automixsearch.losses import MCE
from automixsearch.mixers.base import pairs
from automixsearch.testing import AlgorithmContract, ContractError, MixerContract, check_loss, check_mixer

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "example"))
from stripes import Focal, StripeMix


class TestStripeMix(MixerContract):
    mixer = StripeMix


def test_the_loss_of_the_example_keeps_the_contract():
    check_loss(Focal)


@dataclass(frozen=True)
class Edits(StripeMix):
    def apply(self, x, draw):
        x[:, :, 0] = 0
        return super().apply(x, draw)


@dataclass(frozen=True)
class Mislabels(StripeMix):
    def apply(self, x, draw):
        return pairs(super().apply(x, draw).x, draw.partner, draw.share)


@dataclass(frozen=True)
class Unseeded(StripeMix):
    def draw(self, shape, generator):
        return dataclasses.replace(super().draw(shape, generator), share=torch.rand(()).item())


@dataclass(frozen=True)
class Faulty(Edits, Mislabels, Unseeded):
    pass


FAULTS = {
    Edits: r"Edits\.apply edits x in place: 288 of 4608 values have changed; work on a copy, x\.clone\(\)",
    Mislabels: r"Mislabels: shares are not those of the pixels that are shown: of 4 x 4 pixels \(seed \d\) sample \d",
    Unseeded: r"Unseeded: the same seed gives another batch; draw from the generator alone",
}


@pytest.mark.parametrize("kind", list(FAULTS))
def test_a_fault_of_a_mixer_is_named(kind):
    with pytest.raises(ContractError, match=FAULTS[kind]):
        check_mixer(kind)


def test_all_faults_of_a_mixer_are_named_in_one_error():
    with pytest.raises(ContractError, match=r"Faulty\.apply edits x in place") as caught:
        check_mixer(Faulty)
    for kind, message in FAULTS.items():
        assert re.search(message.replace(kind.__name__, "Faulty", 1), str(caught.value))


@dataclass(frozen=True)
class FirstAlone(MCE):
    def __call__(self, logits, labels, shares, label_smoothing=0.0, labelled=None, weights=None):
        return super().__call__(logits, labels[:, :1], shares[:, :1] * 0 + 1, label_smoothing)


def test_a_fault_of_a_loss_is_named():
    with pytest.raises(ContractError, match=r"FirstAlone: the order of sources must not matter: \S+ and \S+"):
        check_loss(FirstAlone)


class Forgets(Supervised):
    """Counts steps in a number, which no checkpoint holds."""

    name = "forgets"
    count = 0

    def terms(self, batch, clock, generator):
        self.count += 1
        yield from (Term(term.loss / self.count) for term in super().terms(batch, clock, generator))


def test_a_fault_of_an_algorithm_is_named():
    contract = AlgorithmContract()
    contract.algorithm = Forgets
    contract.test_the_parts_are_what_has_a_gradient()
    with pytest.raises(
        ContractError, match=r"Forgets: with the same state, the next step must be the same, and .* differ"
    ):
        contract.test_the_state_holds_all_that_the_next_step_depends_on()
