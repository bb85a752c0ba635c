"""Several mixing methods in one run: every batch, half or sample draws its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automixsearch.lazy import functional, torch
from automixsearch.mixers.base import Draw, Mixed, Mixer, Shape
from automixsearch.mixers.vanilla import Vanilla

if TYPE_CHECKING:
    from torch import Generator, Tensor

PER_SAMPLE = frozenset({"pixels", "saliency", "gradient"})
"""The needs that have a row for each sample."""


@dataclass(frozen=True)
class Part:
    """What one method does: its position among the members, its rows of the batch (int64 [b]; None: all), its draw."""

    member: int
    rows: Tensor | None
    draw: Draw


@dataclass(frozen=True)
class SwitchDraw(Draw):
    """parts: together they hold every row of the batch once."""

    parts: tuple[Part, ...]

    def between(self, count: int) -> SwitchDraw:
        (part,) = self.parts
        return SwitchDraw((Part(part.member, part.rows, part.draw.between(count)),))


@dataclass(frozen=True)
class Switch(Mixer):
    """Let every batch, half of a batch or sample draw one of several methods, with probabilities as the weights.

    Samples that drew the same method are mixed among themselves, with one draw of that method (one lam, say).

    Source: the switch between MixUp and CutMix of timm's Mixup, generalised.
    Differs: partners are drawn, where timm pairs sample i with N - 1 - i.
    """

    members: tuple[Mixer, ...]
    weights: tuple[float, ...]
    per: str

    def draw(self, shape: Shape, generator: Generator) -> SwitchDraw:
        """Draw the method of each part, then what each method draws for it."""
        if self.per == "batch":
            member = int(self._members(1, generator))
            return SwitchDraw((Part(member, None, self.members[member].draw(shape, generator)),))
        if self.per == "half":
            rows = torch.arange(shape[0])
            groups = list(zip(self._members(2, generator).tolist(), rows.chunk(2), strict=False))
        else:
            drawn = self._members(shape[0], generator)
            groups = [(member, (drawn == member).nonzero()[:, 0]) for member in range(len(self.members))]
        parts = (
            Part(member, rows, self.members[member].draw((len(rows), *shape[1:]), generator))
            for member, rows in groups
            if len(rows)
        )
        return SwitchDraw(tuple(parts))

    def _members(self, count: int, generator: Generator) -> Tensor:
        """Draw `count` positions among the members."""
        bounds = torch.tensor(self.weights, dtype=torch.float64).cumsum(0)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64) * bounds[-1]
        return torch.searchsorted(bounds, uniform, right=True).clamp_(max=len(self.members) - 1)

    def needs_of(self, draw: SwitchDraw) -> frozenset[str]:
        return frozenset().union(*(self.members[part.member].needs_of(part.draw) for part in draw.parts))

    def clean_weight_of(self, draw: SwitchDraw) -> float:
        rows = [1 if part.rows is None else len(part.rows) for part in draw.parts]
        weights = [self.members[part.member].clean_weight_of(part.draw) for part in draw.parts]
        return sum(weight * count for weight, count in zip(weights, rows, strict=True)) / sum(rows)

    def apply(self, x: Tensor, draw: SwitchDraw, **supplied: Tensor) -> Mixed:
        """Mix each part of `x` as its method says; `supplied` holds what `needs_of` names, for the whole batch."""
        if draw.parts[0].rows is None:
            return self._apply(draw.parts[0], x, supplied)
        out, sources, shares = torch.empty_like(x), [], []
        order = torch.cat([part.rows for part in draw.parts if part.rows is not None]).to(x.device, non_blocking=True)
        for part in draw.parts:
            assert part.rows is not None
            rows = part.rows.to(x.device, non_blocking=True)
            own = {name: value[rows] if name in PER_SAMPLE else value for name, value in supplied.items()}
            mixed = self._apply(part, x[rows], own)
            out[rows] = mixed.x
            sources.append(rows[mixed.sources])
            shares.append(mixed.shares)
        back = order.argsort()
        return Mixed(out, _stacked(sources)[back], _stacked(shares)[back])

    def _apply(self, part: Part, x: Tensor, supplied: dict[str, Tensor]) -> Mixed:
        member: Any = self.members[part.member]
        return member.apply(x, part.draw, **{need: supplied[need] for need in member.needs_of(part.draw)})


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """Put [b, S] of different S together; missing sources are sample 0 with share 0."""
    widest = max(part.shape[1] for part in rows)
    return torch.cat([functional.pad(part, (0, widest - part.shape[1])) for part in rows])


def switched(members: Sequence[Mixer], weights: Sequence[float], per: str, mix_prob: float) -> Mixer:
    """One mixer that draws among `members`, and leaves out mixing with probability 1 - `mix_prob`."""
    if len(members) == 1 and mix_prob == 1:
        return members[0]
    total = sum(weights)
    return Switch((*members, Vanilla()), (*(mix_prob * w / total for w in weights), 1 - mix_prob), per)
