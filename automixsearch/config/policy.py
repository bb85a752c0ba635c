"""When a method is applied, and what draws which one: the knobs of a mixing policy that belong to no method."""

from __future__ import annotations

from dataclasses import dataclass

from automixsearch.config.knobs import Knob, Knobbed, knob

WEIGHT = Knob(
    "weight", float, 1.0, "how often it is drawn, relative to the others", low=0, high=1000, search=(0.1, 1.0)
)
"""Of each method, where several are joined by +."""


@dataclass(frozen=True)
class Policy(Knobbed):
    """How a method, or several joined by + as in `mixup+cutmix`, is used over a run.

    Source: drawing a method per batch or sample and stopping early as timm's Mixup does; several mixed copies of a
    batch as `mix_repeat` of OpenMixup at 37e1372 does.
    """

    mix_prob: float = knob(
        1.0, "probability that a batch (half, sample: see switch) is mixed at all", low=0, high=1, search=(0.5, 1.0)
    )
    switch: str = knob(
        "batch",
        "what draws its own method, and whether it is mixed: every batch, half of a batch, or sample",
        choices=("batch", "half", "sample"),
        search=("batch", "half", "sample"),
    )
    repeats: int = knob(1, "differently mixed copies of every batch; their losses are averaged", low=1, high=64)
    mix_until: float = knob(
        1.0, "share of the epochs after which mixing is switched off", low=0, high=1, search=(0.7, 1.0)
    )


def methods_of(method: object) -> tuple[str, ...]:
    """The methods that a value of the knob `method` joins: `mixup+cutmix` -> (mixup, cutmix)."""
    return tuple(str(method).split("+"))
