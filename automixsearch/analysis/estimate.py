"""A number with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, isfinite, nan

from automixsearch.results.schema import in_percent


def unit_of(metric: str) -> str:
    """` points` for percentages; else nothing."""
    return " points" if in_percent(metric) else ""


def p_text(p: float) -> str:
    """`p = 0.012`, `p < 0.001`; `-` where there is none."""
    if not isfinite(p):
        return "-"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


@dataclass(frozen=True)
class Estimate:
    """`value` with the interval from `low` to `high` that covers the truth at `level`; NaN where that cannot be had.

    `note` says why there is no interval, or what it takes for granted.
    """

    value: float
    low: float = nan
    high: float = nan
    level: float = 0.95
    note: str = ""

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return isfinite(self.low) and isfinite(self.high)

    def row(self, name: str) -> dict[str, float]:
        """Three columns: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def flipped(self) -> Estimate:
        """The estimate of minus the quantity."""
        return Estimate(-self.value, -self.high, -self.low, self.level, self.note)

    def widened(self, half: float) -> Estimate:
        """The same with another error of mean 0 and this half of an interval, independent of its own (MOVER)."""
        low, high = self.value - hypot(self.value - self.low, half), self.value + hypot(self.high - self.value, half)
        return Estimate(self.value, low, high, self.level, self.note)

    def within(self, legal: tuple[float, float]) -> Estimate:
        """The same without what no value of the quantity can be: an accuracy of 104 %."""
        low, high = legal
        ends = (min(max(end, low), high) if isfinite(end) else end for end in (self.value, self.low, self.high))
        return Estimate(*ends, level=self.level, note=self.note)

    def __str__(self) -> str:
        """`95.12 [94.80, 95.41]`; `-` for what is not known."""
        if not isfinite(self.value):
            return "-"
        digits = 2 if abs(self.value) >= 0.1 or self.value == 0 else 3
        text = f"{self.value:.{digits}f}"
        if not isfinite(self.low) and not isfinite(self.high):
            return text
        low, high = (f"{end:.{digits}f}" if isfinite(end) else "?" for end in (self.low, self.high))
        return f"{text} [{low}, {high}]"
