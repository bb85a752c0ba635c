"""Estimators and their 95 % intervals, on plain arrays; larger scores are better throughout.

How well the intervals cover, over many shapes of truth: the README beside this file, made by `make simulations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, isfinite, log, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from automixsearch.analysis.estimate import Estimate

Array = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 1999
TAIL = 0.2
"""Share of the configs that CVaR averages."""


# Means --------------------------------------------------------------------------------------------------------


def t_interval(values: Array, level: float = LEVEL) -> Estimate:
    """The mean with Student's interval."""
    n = len(values)
    if n < 2:
        return Estimate(float(np.mean(values)) if n else nan, level=level, note="one run has no interval")
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / sqrt(n)
    mean = float(np.mean(values))
    return Estimate(mean, float(mean - half), float(mean + half), level)


def studentised(
    statistic: Callable[[Array], tuple[Array, Array]],
    values: Array,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """A statistic with its bootstrap-t interval.

    Args:
        statistic: of samples [..., N], their values and standard errors [...].

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 12.5.
    """
    value, error = (float(part) for part in statistic(values))
    if not error > 0:
        return Estimate(value, value, value, level, "all values are equal")
    drawn = values[rng.integers(len(values), size=(resamples, len(values)))]
    again, errors = statistic(drawn)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > 0, (again - value) / errors, np.inf * np.sign(again - value))
    t = np.sort(np.nan_to_num(t, nan=0.0, posinf=1e9, neginf=-1e9))
    tail = round((1 - level) / 2 * (resamples + 1)) - 1
    return Estimate(value, value - t[-1 - tail] * error, value - t[tail] * error, level)


def mean_and_error(values: Array) -> tuple[Array, Array]:
    """The mean over the last axis and its standard error."""
    return values.mean(-1), values.std(-1, ddof=1) / sqrt(values.shape[-1])


def mean_interval(values: Array, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """The mean with its bootstrap-t interval; Student's where there are fewer than 10 values to resample."""
    if len(values) < 10:
        return t_interval(values)
    return studentised(mean_and_error, values, rng, resamples)


# Variances ----------------------------------------------------------------------------------------------------


def variance_interval(values: Array, lost: int = 1, level: float = LEVEL) -> Estimate:
    """The variance, with an interval for values of any shape.

    Args:
        lost: degrees of freedom that were spent on means.

    Source: Bonett, Approximate confidence interval for standard deviation of nonnormal distributions,
        Computational Statistics and Data Analysis 50 (2006), equation 4.
    """
    n, freedom = len(values), len(values) - lost
    deviations = values - values.mean()
    variance = float((deviations**2).sum() / freedom) if freedom > 0 else nan
    if freedom < 4 or not variance > 0:
        return Estimate(variance, level=level, note="too few values for an interval" if freedom < 4 else "")
    trimmed = stats.trim_mean(values, min(0.49, 1 / (2 * sqrt(max(n - 4, 1)))))
    kurtosis = n * float(((values - trimmed) ** 4).sum()) / float((deviations**2).sum()) ** 2
    z = float(stats.norm.ppf((1 + level) / 2))
    c = n / (n - z)
    error = c * sqrt(max(kurtosis - (n - 3) / n, 0) / freedom)
    return Estimate(variance, c * variance * exp(-z * error), c * variance * exp(z * error), level)


def noise_interval(groups: Sequence[Array], level: float = LEVEL) -> tuple[Estimate, int]:
    """The variance within groups, pooled, with its interval from chi-square, and its degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return Estimate(nan, level=level, note="no config was run twice"), 0
    total = float(sum(((group - group.mean()) ** 2).sum() for group in groups))
    ends = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], freedom)
    return Estimate(total / freedom, float(total / ends[0]), float(total / ends[1]), level), freedom


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b from two independent estimates with (asymmetric) intervals of their own.

    Source: the method of variance estimates recovery (MOVER); Zou and Donner, Statistics in Medicine 27 (2008).
    """
    value = a.value - b.value
    if not (a.known and b.known):
        return Estimate(value, level=a.level, note=a.note or b.note)
    low = value - sqrt((a.value - a.low) ** 2 + (b.high - b.value) ** 2)
    high = value + sqrt((a.high - a.value) ** 2 + (b.value - b.low) ** 2)
    return Estimate(value, low, high, a.level)


def spread(values: Array, noise: Estimate, runs: float = 1.0, lost: int = 1) -> Estimate:
    """S_hp: the standard deviation over configs that is left when the noise of `runs` runs is taken off.

    S_hp^2 = Var(values) - noise / runs, not below 0.
    """
    total = variance_interval(values, lost)
    part = Estimate(noise.value / runs, noise.low / runs, noise.high / runs)
    found = difference(total, part)
    if not isfinite(found.value):
        return Estimate(nan, note=noise.note or total.note)
    low, high = (sqrt(max(end, 0)) if isfinite(end) else nan for end in (found.low, found.high))
    return Estimate(sqrt(max(found.value, 0)), low, high, note=found.note)


def share_of_configs(values: Array, noise: Estimate, runs: float = 1.0, lost: int = 1) -> Estimate:
    """ICC: the share of the variance of single runs that is due to their configs, from 0 to 1.

    1 - noise / (S_hp^2 + noise); the interval of the ratio is MOVER's on the scale of logarithms.
    """
    total = variance_interval(values, lost)
    single = [end + noise.value * (1 - 1 / runs) for end in (total.value, total.low, total.high)]
    if not isfinite(single[0]) or not noise.value > 0 or not single[0] > 0:
        return Estimate(1.0 if noise.value == 0 else nan, note=noise.note or total.note)
    value = min(max(1 - noise.value / single[0], 0), 1)
    if not (total.known and noise.known):
        return Estimate(value, note=noise.note or total.note)
    ratio = difference(
        Estimate(log(noise.value), log(noise.low), log(noise.high)),
        Estimate(log(single[0]), log(single[1]), log(single[2])),
    )
    return Estimate(value, min(max(1 - exp(ratio.high), 0), 1), min(max(1 - exp(ratio.low), 0), 1))


def corrected(values: Array, noise: float, runs: float = 1.0, lost: int = 1) -> Array:
    """Config means with the spread that they have without noise: M + sqrt(B) (y - M), B = S_hp^2 / Var(y).

    Works over the last axis. Source: constrained empirical Bayes; Louis, JASA 79 (1984); Ghosh, JASA 87 (1992).
    """
    mean = values.mean(-1, keepdims=True)
    variance = ((values - mean) ** 2).sum(-1, keepdims=True) / (values.shape[-1] - lost)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(variance > 0, np.clip(1 - noise / runs / variance, 0, 1), 0)
    return mean + np.sqrt(kept) * (values - mean)


# Tails --------------------------------------------------------------------------------------------------------


def tail_mean(values: Array, share: float = TAIL) -> Array:
    """CVaR: the mean of the lowest ceil(share N) values of the last axis."""
    k = int(np.ceil(share * values.shape[-1] - 1e-9))
    return np.partition(values, k - 1, axis=-1)[..., :k].mean(-1)


def tail_and_error(values: Array, share: float = TAIL) -> tuple[Array, Array]:
    """CVaR and its standard error from the influence function q + min(y - q, 0) / share, q the quantile."""
    n = values.shape[-1]
    k = int(np.ceil(share * n - 1e-9))
    part = np.partition(values, k - 1, axis=-1)
    quantile = part[..., k - 1 : k]
    influence = np.minimum(values - quantile, 0) / share
    return part[..., :k].mean(-1), influence.std(-1, ddof=1) / sqrt(n)


def tail_interval(
    values: Array,
    noise: Estimate,
    rng: np.random.Generator,
    runs: float = 1.0,
    lost: int = 1,
    resamples: int = RESAMPLES,
) -> Estimate:
    """CVaR of the noise-corrected config means, with the BCa interval over configs.

    Source: Efron, JASA 82 (1987), by `scipy.stats.bootstrap`.
    """
    scale = 0.0 if not isfinite(noise.value) else noise.value

    def statistic(sample: Array, axis: int = -1) -> Array:
        return tail_mean(corrected(np.moveaxis(sample, axis, -1), scale, runs, lost))

    value = float(statistic(values))
    if len(values) < 10 or np.ptp(values) == 0:
        return Estimate(value, note="too few configs for an interval" if len(values) < 10 else "all values are equal")
    found = stats.bootstrap(
        (values,), statistic, n_resamples=resamples, confidence_level=LEVEL, method="BCa", vectorized=True, rng=rng
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


# The best of n ------------------------------------------------------------------------------------------------


def weights_of_best(count: int, n: int) -> Array:
    """The probability of each of `count` sorted values to be the largest of n drawn without replacement.

    C(i - 1, n - 1) / C(count, n). Source: Tang et al., Showing Your Work Doesn't Always Work (arXiv 2004.13705).
    """
    i = np.arange(1, count + 1)
    with np.errstate(divide="ignore"):
        logs = np.where(i >= n, special.gammaln(i) - special.gammaln(np.maximum(i - n + 1, 1)), -np.inf)
    total = special.gammaln(count + 1) - special.gammaln(count - n + 1) - log(n)
    return np.exp(logs - total)


def best_and_error(values: Array, n: int) -> tuple[Array, Array]:
    """The expected best of n (unbiased) over the last axis, and its jackknife standard error."""
    count = values.shape[-1]
    ordered = np.sort(values, axis=-1)
    value = ordered @ weights_of_best(count, n)
    less = weights_of_best(count - 1, n)
    below = np.cumsum(ordered[..., :-1] * less, axis=-1)
    above = np.cumsum((ordered[..., 1:] * less)[..., ::-1], axis=-1)[..., ::-1]
    left_out = np.zeros_like(ordered)
    left_out[..., 1:] += below
    left_out[..., :-1] += above
    return value, left_out.std(-1) * sqrt(count - 1)


def best_interval(values: Array, n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """The expected best observed score of n configs drawn from the prior, with its bootstrap-t interval."""
    if len(values) <= n or len(values) < 10:
        note = f"needs more than {n} configs" if len(values) <= n else "too few configs for an interval"
        value = float(np.sort(values) @ weights_of_best(len(values), n)) if len(values) >= n else nan
        return Estimate(value, note=note)
    return studentised(lambda sample: best_and_error(sample, n), values, rng, resamples)


def median_best(values: Array, n: int, level: float = LEVEL) -> Estimate:
    """The median of the best of n draws, with the exact, distribution-free interval from order statistics.

    The median of the best of n is the quantile of order 0.5^(1/n). An end is missing (NaN) where the sample is too
    small for one at this level.

    Source: binomial intervals of quantiles, by `scipy.stats.quantile_test`; the same curve as the bands of Lourie et
        al. (arXiv 2311.09480), pointwise.
    """
    order = 0.5 ** (1 / n)
    value = float(np.quantile(values, order, method="inverted_cdf"))
    test: Any = stats.quantile_test
    found = test(values, q=value, p=order).confidence_interval(level)
    note = "" if isfinite(found.low) and isfinite(found.high) else "too few configs for both ends"
    return Estimate(value, float(found.low), float(found.high), level, note)
