"""Failures are outcomes: how often they happened, and what would be said if they counted.

A config of which a run failed has no score, so a figure of the others is of the configs that lived. Every verdict is
reached twice, without the failures and with each of them at the worst score that any trial of the study has; it stands
only where both agree, and where runs did not fail more often on one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy import stats

from automixsearch.analysis.estimate import Estimate

if TYPE_CHECKING:
    from automixsearch.analysis.selection import Frame

LEVEL = 0.05


@dataclass(frozen=True)
class Failures:
    """How many units failed, of all that ended; a unit is a config, or a run where configs were chosen one by one."""

    failed: int
    units: int

    @classmethod
    def of(cls, complete: Frame, failed: Frame, drawn: bool) -> Failures:
        """Of the runs with a score and those that failed; a config counts as failed where any of its runs did."""
        if not drawn:
            return cls(len(failed), len(complete) + len(failed))
        bad, good = set(failed["config_key"]), set(complete["config_key"])
        return cls(len(bad), len(bad | good))

    @property
    def share(self) -> Estimate:
        """The share that failed, 0 to 1, with its exact 95 % interval (Clopper and Pearson, Biometrika 26 (1934))."""
        if not self.units:
            return Estimate(0.0, note="nothing has ended")
        ends = stats.binomtest(self.failed, self.units).proportion_ci()
        return Estimate(self.failed / self.units, float(ends.low), float(ends.high))

    def __str__(self) -> str:
        """`20 of 64 (31 % [20, 44])`."""
        share = self.share
        span = f" ({share.value:.0%} [{100 * share.low:.0f}, {100 * share.high:.0f}])" if self.failed else ""
        return f"{self.failed} of {self.units}{span}"


def fail_unlike(groups: Sequence[Failures]) -> bool:
    """Whether two of the groups fail more unlike than chance explains: Fisher's test, Bonferroni over all pairs."""
    groups = sorted((one for one in groups if one.units), key=lambda one: one.failed / one.units)
    if len(groups) < 2:
        return False
    table = [[one.failed, one.units - one.failed] for one in (groups[0], groups[-1])]
    pairs = len(groups) * (len(groups) - 1) / 2
    p = float(stats.fisher_exact(table)[1])  # type: ignore[arg-type]
    return bool(pairs * p < LEVEL)
