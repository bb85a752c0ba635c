"""What a number of runs can resolve: exact power of the t test.

Source: noncentral t; Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2.
"""

from __future__ import annotations

from math import inf, isfinite, nan, sqrt
from typing import Any


def power_of(effect: float, error: float, freedom: float, level: float = 0.05) -> float:
    """The probability that a two-sided t test finds `effect`, given its standard error and degrees of freedom."""
    from scipy.stats import nct, norm, t

    if not freedom >= 1 or not isfinite(error):
        return nan
    shift, limit = abs(effect) / error if error > 0 else inf, float(t.ppf(1 - level / 2, freedom))
    if shift - limit > 30:
        return 1.0
    if freedom > 1e4:
        return float(norm.sf(limit - shift) + norm.cdf(-limit - shift))
    wrong_side = float(nct.cdf(-limit, freedom, shift))  # NaN where it is too small for scipy
    return float(nct.sf(limit, freedom, shift)) + (wrong_side if isfinite(wrong_side) else 0.0)


def detectable_at(error: float, freedom: float, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest effect that a two-sided t test finds with probability `power`; NaN where there is no test."""
    from scipy.optimize import brentq

    if not freedom >= 1 or not isfinite(error):
        return nan
    if error == 0:
        return 0.0
    high = 4.0
    while power_of(high, 1.0, freedom, level) < power:
        high *= 2
    found: Any = brentq(lambda effect: power_of(effect, 1.0, freedom, level) - power, 0, high)
    return error * float(found)


def detectable(sd: float, n_a: int, n_b: int | None = None, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest difference of two means that a two-sided t test at `level` finds with probability `power`.

    Args:
        sd: of one run, in the unit of the difference; of one difference where runs are paired.
        n_a, n_b: runs of each side; `n_b` None: `n_a` pairs. With one pair, or one run on each side, the answer is NaN.
    """
    return detectable_at(sd * _scale(n_a, n_b), _freedom(n_a, n_b), power, level)


def runs_needed(
    effect: float, sd: float, power: float = 0.8, level: float = 0.05, paired: bool = False, most: int = 1_000_000
) -> int:
    """The runs of each side (or the pairs) with which a two-sided t test finds `effect` with probability `power`.

    `most` where not even that many are enough.
    """
    low, high = 1, 2

    def enough(n: int) -> bool:
        other = None if paired else n
        return power_of(effect, sd * _scale(n, other), _freedom(n, other), level) >= power

    while not enough(high):
        if high >= most:
            return most
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _freedom(n_a: int, n_b: int | None) -> int:
    if n_b is None:
        return n_a - 1
    return n_a + n_b - 2 if min(n_a, n_b) > 0 else 0


def _scale(n_a: int, n_b: int | None) -> float:
    """The standard error of the difference in units of the sd."""
    return 1 / sqrt(max(n_a, 1)) if n_b is None else sqrt(1 / max(n_a, 1) + 1 / max(n_b, 1))
