"""What every mixer, loss and algorithm is tested for, for authors of their own.

In a test module, three lines are enough; pytest finds the checks as tests:

    from automixsearch.testing import MixerContract

    class TestMine(MixerContract):
        mixer = MyMix  # or MyMix(alpha=2.0)

Without pytest, `check_mixer(MyMix)` runs them all and names every fault in one error. `LossContract` and `check_loss`,
`AlgorithmContract` and `check_algorithm` do the same. The package tests its own with this code.
"""

from __future__ import annotations

from automixsearch.testing.algorithms import AlgorithmContract, check_algorithm
from automixsearch.testing.contract import ContractError
from automixsearch.testing.losses import LossContract, check_loss
from automixsearch.testing.mixers import MixerContract, check_mixer

__all__ = [
    "AlgorithmContract",
    "ContractError",
    "LossContract",
    "MixerContract",
    "check_algorithm",
    "check_loss",
    "check_mixer",
]
