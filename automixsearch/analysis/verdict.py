"""What may be said about a difference, given its interval and tests."""

from __future__ import annotations

from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING

from automixsearch.analysis.estimate import Estimate, unit_of

if TYPE_CHECKING:
    from automixsearch.results.study import Study

MARGIN = 0.3
"""Differences up to it are of no interest, in points, where a study declares no other."""


class Verdict(StrEnum):
    """Of a first thing against a second; `unresolved` is an outcome, and asks for more runs."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNRESOLVED = "unresolved"


def judge(gain: float, p: float, p_equivalent: float = 1.0, level: float = 0.05) -> Verdict:
    """The verdict on a `gain` (positive: the first is better) from the p-values of its test and of equivalence.

    Both p-values are to be corrected for the family they belong to. A difference that is resolved is named even where
    it lies within the margin of equivalence.
    """
    if isfinite(p) and p < level and gain != 0:
        return Verdict.BETTER if gain > 0 else Verdict.WORSE
    return Verdict.EQUIVALENT if isfinite(p_equivalent) and p_equivalent < level else Verdict.UNRESOLVED


def judge_interval(gain: Estimate) -> Verdict:
    """The verdict on a gain whose interval alone is known: better or worse where it leaves out 0."""
    if gain.known and gain.low > 0:
        return Verdict.BETTER
    return Verdict.WORSE if gain.known and gain.high < 0 else Verdict.UNRESOLVED


def margin_of(study: Study, metric: str, margin: float | None = None) -> float:
    """The margin of equivalence: as given, in the unit of the metric; else as the study declares it, or 0.3.

    These two are in points. For another metric there is none, 0, and nothing is equivalent.
    """
    if margin is None and not unit_of(metric):
        return 0.0
    declared = (study.info.get("design") or {}).get("margin")
    return margin if margin is not None else declared if declared is not None else MARGIN


def within(margin: float, metric: str) -> str:
    """`within 0.3 points`, or why nothing is equivalent."""
    return f"within {margin:g}{unit_of(metric)}" if margin else f"not tested, for the study has no margin in {metric}"
