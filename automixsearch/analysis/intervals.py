"""Estimators and their 95 % intervals, on plain arrays; larger scores are better throughout.

How well the intervals cover, over many shapes of truth: the README beside this file, made by `make simulations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import exp, isfinite, log, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from automixsearch.analysis.estimate import Estimate

Array = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 1999
DRAWS = 1000
TAIL = 0.2
"""Share of the configs that CVaR averages."""
MANY = 2000
"""Of more values, as many groups of neighbours stand for them in the bootstrap, and a mean has Student's interval."""
LEAST = 10
"""Fewer configs than this have no interval of anything but their mean."""
TOO_FEW = f"fewer than {LEAST} configs: no interval"


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
    """The mean with its bootstrap-t interval; Student's where there are fewer than 10 values, or very many."""
    if not LEAST <= len(values) <= MANY:
        return t_interval(values)
    return studentised(mean_and_error, values, rng, resamples)


# Variances ----------------------------------------------------------------------------------------------------


def variance_interval(values: Array, lost: int = 1, level: float = LEVEL) -> Estimate:
    """The variance, with an interval for values of any shape.

    The interval is the one for nonnormal distributions on the scale of logarithms, z sqrt((kurtosis - (n - 3) / n) /
    (n - 1)), but a sample of a skewed distribution has usually missed the tail that makes its variance. So the upper
    end is not below that of the smoothed bootstrap, which has tails.

    Args:
        lost: degrees of freedom that were spent on means.

    Source: Bonett, Computational Statistics and Data Analysis 50 (2006), equation 4.
    """
    n, freedom = len(values), len(values) - lost
    deviations = values - values.mean()
    variance = float((deviations**2).sum() / freedom) if freedom > 0 else nan
    if n < LEAST or not variance > 0:
        return Estimate(variance, level=level, note=TOO_FEW if n < LEAST else "all values are equal")
    kurtosis = float(stats.kurtosis(values, bias=False)) + 3
    z = float(stats.norm.ppf((1 + level) / 2))
    c = n / (n - z)
    error = sqrt(max(kurtosis - (n - 3) / n, 0.05) / freedom)
    drawn = Smoothed.of(values).variance
    return Estimate(
        variance,
        variance * exp(-z * error),
        max(c * variance * exp(z * c * error), float(np.quantile(drawn, (1 + level) / 2))),
        level,
    )


def noise_interval(groups: Sequence[Array], spent: int = 0, level: float = LEVEL) -> tuple[Estimate, int]:
    """The variance within groups, pooled, with its interval, and its degrees of freedom.

    Noise may have long tails, and some groups more of it than others: the interval is that of the jackknife over
    groups, on the scale of logarithms. Fewer than 10 do not tell that; theirs is from chi-square, for normal noise.

    Args:
        spent: degrees of freedom that were spent on what groups share.

    Source: Miller, Annals of Mathematical Statistics 39 (1968); Layard, JASA 68 (1973).
    """
    sums = np.array([((group - group.mean()) ** 2).sum() for group in groups])
    each = np.array([len(group) - 1 for group in groups])
    count, total, freedom = len(groups), float(sums.sum()), int(each.sum()) - spent
    if freedom < 1:
        return Estimate(nan, level=level, note="no config was run twice"), 0
    value = total / freedom
    if count < LEAST or not (total - sums > 0).all():
        ends = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], freedom)
        return Estimate(value, float(total / ends[0]), float(total / ends[1]), level), freedom
    moved = (count - 1) * (np.log((total - sums) / (each.sum() - each)) - log(total / each.sum()))
    error = float(moved.std(ddof=1)) * sqrt(float(each.sum()) / freedom / count)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    low, high = (value * exp(-float(moved.mean()) + end) for end in (-half, half))
    return Estimate(value, min(low, value), max(high, value), level), freedom


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


def share_of_configs(
    values: Array, noise: Estimate, runs: float = 1.0, lost: int = 1, rest: float | None = None
) -> Estimate:
    """ICC: the share of the variance of single runs that is due to their configs, from 0 to 1.

    1 - noise / (S_hp^2 + noise); the interval of the ratio is MOVER's on the scale of logarithms.

    Args:
        rest: the part of the noise that scatters the values, where seeds that they share have a part of their own.
    """
    total = variance_interval(values, lost)
    more = noise.value - (noise.value if rest is None else rest) / runs
    single = [end + more for end in (total.value, total.low, total.high)]
    if not isfinite(single[0]) or not noise.value > 0 or not single[0] > 0:
        return Estimate(1.0 if noise.value == 0 else nan, note=noise.note or total.note)
    value = min(max(1 - noise.value / single[0], 0), 1)
    if not (total.known and noise.known and single[1] > 0):
        return Estimate(value, note=noise.note or total.note)
    ratio = difference(
        Estimate(log(noise.value), log(max(noise.low, 1e-300)), log(noise.high)),
        Estimate(log(single[0]), log(single[1]), log(single[2])),
    )
    return Estimate(value, min(max(1 - exp(ratio.high), 0), 1), min(max(1 - exp(ratio.low), 0), 1))


# The smoothed bootstrap ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Smoothed:
    """Distributions that may have given a sample: each as weights of the same atoms.

    The probability between two neighbours of a sorted sample is that between two neighbours of as many uniform
    numbers, whatever the distribution; it is put in the middle of the gap. Beyond the ends it falls off exponentially,
    as fast as the outermost sqrt(N) values say.

    atoms: sorted, [A]. weights: of `RESAMPLES` distributions, [R, A]. levels: their cumulated weights.

    Source: histospline smoothing of the Bayesian bootstrap; Banks, Biometrika 75 (1988). The tails are ours.
    """

    atoms: Array
    weights: Array
    levels: Array

    @classmethod
    def of(cls, values: Array) -> Smoothed:
        """The distributions behind a sample of at least 4 values."""
        n, k = len(values), max(2, round(sqrt(len(values))))
        y = np.sort(values)
        above, below = float((y[-k:] - y[-k - 1]).mean()), float((y[k] - y[:k]).mean())
        if n > MANY:
            y = np.array([group.mean() for group in np.array_split(y, MANY)])
        between = (y[1:] + y[:-1]) / 2
        atoms = np.concatenate([y[0] - below * _TAIL_ATOMS[::-1], between, y[-1] + above * _TAIL_ATOMS])
        return cls(atoms, *_weights(len(y), n / len(y)))

    @property
    def mean(self) -> Array:
        """Of each distribution, [R]."""
        return self.weights @ self.atoms

    @property
    def variance(self) -> Array:
        """Of each distribution, [R]."""
        return np.maximum(self.weights @ self.atoms**2 - self.mean**2, 0)

    @property
    def better_half(self) -> tuple[Array, Array]:
        """The median of each distribution, and the mean square from it of what lies above, [R].

        Of a normal distribution that is its variance; bad configs, however bad, have no say in it.
        """
        middle = self.atoms[(self.levels < 0.5).sum(1)]
        above = self.weights * (self.atoms >= middle[:, None])
        squares = above @ self.atoms**2 - 2 * middle * (above @ self.atoms) + middle**2 * above.sum(1)
        return middle, np.maximum(squares / above.sum(1), 0)

    def noisier(self, noise: float) -> Smoothed:
        """The distributions with normal noise of this variance added."""
        atoms = (self.atoms[:, None] + sqrt(noise) * _NORMAL_ATOMS).ravel()
        order = np.argsort(atoms)
        weights = np.repeat(self.weights / len(_NORMAL_ATOMS), len(_NORMAL_ATOMS), axis=1)[:, order]
        return Smoothed(atoms[order], weights, np.cumsum(weights, axis=1))

    def tail(self, share: float = TAIL) -> Array:
        """The mean of the lowest `share` of each distribution, [R]."""
        return self._sum(np.minimum(self.levels, share)) / share

    def best(self, n: int) -> Array:
        """The expected largest of n draws from each distribution, [R]."""
        levels, power, left = self.levels, None, n
        while left:  # by squaring; numpy's own power takes ten times as long
            if left & 1:
                power = levels if power is None else power * levels
            levels, left = (levels * levels, left >> 1) if left > 1 else (levels, 0)
        assert power is not None
        return self._sum(power)

    def _sum(self, levels: Array) -> Array:
        """The atoms, weighted with the steps of other levels, [R]; summed by parts."""
        return levels[:, -1] * self.atoms[-1] - levels[:, :-1] @ np.diff(self.atoms)

    def above(self, limit: Array) -> Array:
        """The probability of `limit` [R] or more in each distribution, [R]."""
        return (self.weights * (self.atoms >= limit[:, None])).sum(1)


_TAIL_ATOMS = -np.log(1 - np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
_TAIL_ATOMS /= _TAIL_ATOMS.mean()
_NORMAL_ATOMS = stats.norm.ppf((np.arange(5) + 0.5) / 5)
_NORMAL_ATOMS /= _NORMAL_ATOMS.std()


@cache
def _weights(n: int, each: float = 1.0) -> tuple[Array, Array]:
    """Weights and levels of the atoms for n values, or groups of `each` neighbours; the same for every sample, so that
    answers repeat exactly."""
    rng = np.random.default_rng(n)
    if each == 1:
        gaps = rng.exponential(size=(DRAWS, n + 1))
    else:  # what lies beyond the middle of the outermost groups is half of them
        shapes = np.array([(each + 1) / 2, *[each] * (n - 1), (each + 1) / 2])
        gaps = rng.gamma(shapes, size=(DRAWS, n + 1))
    gaps /= gaps.sum(1, keepdims=True)
    ends = len(_TAIL_ATOMS)
    parts = [np.repeat(gaps[:, :1] / ends, ends, 1), gaps[:, 1:-1], np.repeat(gaps[:, -1:] / ends, ends, 1)]
    weights = np.concatenate(parts, axis=1)
    return weights, np.cumsum(weights, axis=1)


def plain(values: Array) -> Smoothed:
    """The sample itself in the form of `Smoothed`: one distribution."""
    weights = np.full((1, len(values)), 1 / len(values))
    return Smoothed(np.sort(values), weights, np.cumsum(weights, axis=1))


@dataclass(frozen=True)
class Clean:
    """Scores with the noise of their seeds taken off, as far as the noise is known.

    Standardised scores lose their shape to noise smoothly: with noise added once more, as much of it is lost again.
    So a shape number r (in units of the standard deviation, measured from the mean) is extrapolated to no noise,
    2 r(0) - r(1), and scaled with S_hp, whose noise comes off by subtraction: S_hp^2 = Var(y) - noise. Where no noise
    is known, none is taken off.

    scatter: of configs that were run again, the share of configs that score less, and what is left of their runs.

    Source: simulation and extrapolation (SIMEX); Cook and Stefanski, JASA 89 (1994).
    """

    values: Array
    noise: float
    freedom: int
    lost: int = 1
    scatter: Sequence[tuple[float, Array]] = ()

    @classmethod
    def of(
        cls,
        values: Array,
        noise: Estimate,
        freedom: int,
        runs: float = 1.0,
        lost: int = 1,
        scatter: Sequence[tuple[float, Array]] = (),
    ) -> Clean:
        """Scores that are means of `runs` runs."""
        own = [(place, group / sqrt(runs)) for place, group in scatter]
        return cls(values, noise.value / runs if isfinite(noise.value) else 0.0, freedom, lost, own)

    def near(self, place: float) -> Clean:
        """The same with the noise of configs at a place, of 0 to 1: bad configs may be unsteady ones.

        It is read off a straight line through the variances of configs over their places.
        """
        if len(self.scatter) < LEAST:
            return self
        parts = [(own, group.var(ddof=1), len(group) - 1) for own, group in self.scatter]
        places, variances, each = np.array(parts).T
        line = np.stack([np.ones(len(parts)), places])
        weights = [1, place] @ np.linalg.pinv((line * each) @ line.T) @ (line * each)
        freedom = max(round(1 / float((weights**2 / each).sum())), 1)
        return replace(self, noise=max(float(weights @ variances), 0.0), freedom=freedom)

    @cached_property
    def sample(self) -> tuple[Smoothed, Smoothed]:
        """The sample, and with its noise once more."""
        found = plain(self.values)
        return found, found.noisier(self.noise) if self.noise else found

    @cached_property
    def drawn(self) -> tuple[Smoothed, Smoothed]:
        """What may be behind the sample, and with its noise once more."""
        found = Smoothed.of(self.values) if len(self.values) > 2 else plain(self.values)
        return found, found.noisier(self.noise) if self.noise else found

    @cached_property
    def variances(self) -> tuple[float, float, Array, Array, Array]:
        """Of the sample and of it without noise; of the draws, of their noise, and of them without noise."""
        own = float(((self.values - self.values.mean()) ** 2).sum() / max(len(self.values) - self.lost, 1))
        drawn = self.drawn[0].variance
        drawn = drawn * own / exp(float(np.log(np.maximum(drawn, 1e-300)).mean())) if own > 0 else drawn
        noise = np.full(len(drawn), self.noise)
        if self.noise and self.freedom:
            noise = noise * self.freedom / np.random.default_rng(self.freedom).chisquare(self.freedom, len(drawn))
        return own, own - self.noise, drawn, noise, drawn - noise

    def shape(self, number: Callable[[Smoothed], Array], pair: tuple[Smoothed, Smoothed]) -> Array:
        """A location `number` of a distribution in standard deviations from its mean, without noise."""
        a, b = ((number(one) - pair[0].mean) for one in pair)
        variance = np.maximum(pair[0].variance, 1e-300)
        return 2 * a / np.sqrt(variance) - b / np.sqrt(variance + self.noise)


def signed_root(x: Array | float) -> Array:
    """sqrt(x), and -sqrt(-x) below 0: an estimated variance that came out negative keeps its say in an interval."""
    return np.sign(x) * np.sqrt(np.abs(x))


def interval(value: float, centre: float, draws: Array, freedom: tuple[float, float], level: float = LEVEL) -> Estimate:
    """The interval from draws around a centre, widened for each side as Student's t is against the normal.

    A mean over a few values is less certain than its spread says; freedom: of the lower and of the upper end.
    """
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    z = stats.norm.ppf((1 + level) / 2)
    low, high = (
        float(centre + (end - centre) * stats.t.ppf((1 + level) / 2, max(own, 2)) / z)
        for end, own in zip(ends, freedom, strict=True)
    )
    return Estimate(value, min(low, value), max(high, value), level)


# Tails --------------------------------------------------------------------------------------------------------


def tail_interval(clean: Clean, share: float = TAIL) -> Estimate:
    """CVaR: the mean of the worst `share` of the configs, freed of seed noise: M - r S_hp.

    A little noise moves it by what crosses its upper end, so the noise is that of configs there.
    """
    clean, values = clean.near(share), clean.values
    _, without, _, _, drawn = clean.variances
    mean, r = float(values.mean()), float(clean.shape(lambda one: one.tail(share), clean.sample)[0])
    value = mean + r * sqrt(max(without, 0))
    if len(values) < LEAST:
        return Estimate(value, note=TOO_FEW)
    draws = clean.drawn[0].mean + clean.shape(lambda one: one.tail(share), clean.drawn) * signed_root(drawn)
    inside = share * len(values)
    found = interval(value, mean + r * float(signed_root(without)), draws, (inside / 2, 1e6))
    most = float(np.quantile(clean.drawn[0].mean, (1 + LEVEL) / 2))  # no tail is above the mean
    return Estimate(value, min(found.low, most), max(min(found.high, most), value))


# The best of n ------------------------------------------------------------------------------------------------


def weights_of_best(count: int, n: int) -> Array:
    """The probability of each of `count` sorted values to be the largest of n drawn without replacement.

    C(i - 1, n - 1) / C(count, n). Source: Tang et al., Showing Your Work Doesn't Always Work (arXiv 2004.13705).
    """
    i = np.arange(1, count + 1)
    logs = np.where(
        i >= n, special.gammaln(i) - special.gammaln(np.maximum(i - n + 1, 1)) - special.gammaln(n), -np.inf
    )
    total = special.gammaln(count + 1) - special.gammaln(count - n + 1) - special.gammaln(n + 1)
    return np.exp(logs - total)


def best_of(values: Array, n: int) -> float:
    """The expected best of n draws, unbiased (a U statistic); NaN where there are fewer values."""
    return float(np.sort(values) @ weights_of_best(len(values), n)) if len(values) >= n else nan


def best_interval(values: Array, n: int) -> Estimate:
    """The expected best score of n configs drawn from the prior, as a search of n shows it."""
    value = best_of(values, n)
    if len(values) < max(LEAST, 2 * n):
        return Estimate(value, note=f"needs {max(LEAST, 2 * n)} configs for an interval")
    freedom = _freedom_of_best(len(values), n)
    return interval(value, value, Smoothed.of(values).best(n), (freedom, freedom))


def worth_interval(clean: Clean, n: int) -> Estimate:
    """What the config that scored best of n is worth on a fresh seed: without the winner's curse.

    The expected score of a config, given its observed one, is y + noise d log m(y) / dy with the density m of observed
    scores (Robbins and Tweedie; Efron, JASA 106 (2011)). Averaged over the best of n this is E_n - 2 dE_n / dt, t the
    share of the noise that is added once more: the heat equation, integrated by parts. The noise is that of configs
    around place (n - 1) / (n + 1), the mean of the weights n (n - 1) F^(n - 2) m^2 that it has in there where the upper
    tail falls off exponentially.
    """
    clean, values = clean.near((n - 1) / (n + 1)), clean.values
    if len(values) < n:
        return Estimate(nan, note=f"needs {n} configs")

    def fresh(pair: tuple[Smoothed, Smoothed], first: Array, noise: Array | float) -> Array:
        if not clean.noise:
            return first
        variance = np.maximum(pair[0].variance, 1e-300)
        sd, mean = np.sqrt(variance), pair[0].mean
        r, more = (pair[0].best(n) - mean) / sd, (pair[1].best(n) - mean) / np.sqrt(variance + clean.noise)
        # E_n = mean + r sd, and with noise once more both r and sd change.
        slope = (more - r) * sd * noise / clean.noise + r * noise / (2 * sd)
        return first - 2 * slope

    shown = best_of(values, n)
    # Choosing does no harm, and noise does not help.
    value = min(max(float(fresh(clean.sample, np.array([shown]), clean.noise)[0]), float(values.mean())), shown)
    if len(values) < max(LEAST, 2 * n):
        return Estimate(value, note=f"needs {max(LEAST, 2 * n)} configs for an interval")
    draws = fresh(clean.drawn, clean.drawn[0].best(n), clean.variances[3])
    freedom = _freedom_of_best(len(values), n)
    found = interval(value, value, draws, (freedom, freedom))
    # Choosing does no harm: what is chosen is worth no less than the mean is, at either end.
    least, most = (float(end) for end in np.quantile(clean.drawn[0].mean, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Estimate(value, min(max(found.low, least), value), max(found.high, most))


def gain_interval(values: Array, n: int) -> Estimate:
    """What a search of n configs shows above a single one: E_n - E_1."""
    value = best_of(values, n) - float(values.mean())
    if len(values) < max(LEAST, 2 * n):
        return Estimate(value, note=f"needs {max(LEAST, 2 * n)} configs for an interval")
    drawn, freedom = Smoothed.of(values), _freedom_of_best(len(values), n)
    return interval(value, value, drawn.best(n) - drawn.mean, (freedom, freedom))


def _freedom_of_best(count: int, n: int) -> float:
    """How many values the best of n rests on, less one."""
    return float(1 / (weights_of_best(count, n) ** 2).sum()) - 1


def median_best(values: Array, n: int, level: float = LEVEL) -> Estimate:
    """The median of the best of n draws: the quantile of order 0.5^(1/n), with its distribution-free interval.

    Between two order statistics of which the one covers too rarely and the other too often lies a fractional one that
    covers as promised; it is found between them by straight lines. An end is missing (NaN) where not even the outermost
    value of the sample covers often enough.

    Source: Hutson, Journal of Applied Statistics 26 (1999); `band` holds for all n at once, and is exact.
    """
    order, y, count = 0.5 ** (1 / n), np.sort(values), len(values)
    value = float(np.quantile(values, order, method="inverted_cdf"))
    ends = (_fractional(y, order, (1 + level) / 2), _fractional(y, order, (1 - level) / 2)) if count else (nan, nan)
    low, high = min(ends[0], value), max(ends[1], value)
    note = "" if isfinite(ends[0]) and isfinite(ends[1]) else "too few configs for both ends"
    return Estimate(value, low if isfinite(ends[0]) else nan, high if isfinite(ends[1]) else nan, level, note)


def _fractional(y: Array, order: float, below: float) -> float:
    """The value at the fractional rank r of sorted `y` whose level, Beta(r, N + 1 - r), is `below` for `order`."""
    n = len(y)

    def excess(rank: float) -> float:
        return float(special.betainc(rank, n + 1 - rank, order)) - below

    if n < 2 or excess(1) < 0 or excess(n) > 0:
        return nan
    rank: Any = optimize.brentq(excess, 1, n)
    return float(np.interp(rank, np.arange(1, n + 1), y))


def band(values: Array, counts: Sequence[int], level: float = LEVEL) -> dict[int, Estimate]:
    """The tuning curve: for these numbers of draws the median best, with a band that holds for all numbers at once.

    It needs no assumption, and is exact for the whole distribution function, of which the curve shows the upper half,
    so it holds a little more often than `level`: the band whose ends are Beta quantiles of one level for every order
    statistic, that level chosen so that all hold together (Owen, JASA 90 (1995); as bands of
    tuning curves Lourie et al., arXiv 2311.09480). Ends that the sample cannot give are NaN.
    """
    n = len(values)
    low, high = _band_levels(n, level)
    y = np.concatenate([[nan], np.sort(values), [nan]])
    found = {}
    for draws in counts:
        order = 0.5 ** (1 / draws)
        # F(y_(i)) lies from low[i] to high[i]: the quantile is above y_(i) where that ends below its order.
        under, over = int((high < order).sum()), n - int((low >= order).sum())
        middle = float(np.quantile(values, order, method="inverted_cdf"))
        found[draws] = Estimate(middle, float(y[under]), float(y[min(over, n) + 1]), level)
    return found


@cache
def _band_levels(n: int, level: float) -> tuple[Array, Array]:
    """Ends of F at each order statistic that hold together with probability `level`, by simulation of uniforms."""
    i = np.arange(1, n + 1)
    draws = min(20_000, max(500, 20_000_000 // n))  # of many configs fewer, or they would fill the memory
    u = np.random.default_rng(n).standard_exponential((draws, n + 1)).cumsum(1)
    u = u[:, :-1] / u[:, -1:]

    def ends(tail: float) -> tuple[Array, Array]:
        return stats.beta.ppf(tail, i, n + 1 - i), stats.beta.ppf(1 - tail, i, n + 1 - i)

    least, most = log((1 - level) / 2 / n), log((1 - level) / 2)  # of n intervals alone, and of one
    for _ in range(12):
        middle = (least + most) / 2
        low, high = ends(exp(middle))
        missed = ((u < low) | (u > high)).any(1).mean() > 1 - level
        least, most = (least, middle) if missed else (middle, most)
    return ends(exp(least))


# Close to the best --------------------------------------------------------------------------------------------


def top_of(confirmed: Sequence[Array], noise: Estimate, freedom: int) -> tuple[Estimate, float]:
    """The best of a few configs, from fresh runs, and its standard error: the largest mean, drawn back as far as chance
    made it largest.

    Means m_j are spread sqrt(B) as far as they are, B the share of their variance that noise does not explain: that of
    the fresh runs, together with `noise` where that alone has fewer than 10 degrees of freedom.
    """
    means = np.array([group.mean() for group in confirmed])
    runs = len(confirmed) / sum(1 / len(group) for group in confirmed)
    own, df = noise_interval(confirmed)
    scatter = own.value
    if df < LEAST and freedom:
        own_part = scatter * df if df else 0.0
        scatter, df = (own_part + noise.value * freedom) / (df + freedom), df + freedom
    if not isfinite(scatter):
        return Estimate(float(means.max()), note="one fresh run each has no interval"), nan
    error = scatter / runs
    variance = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    kept = sqrt(max(0.0, 1 - error / variance)) if variance > 0 else 1.0 if len(means) == 1 else 0.0
    value = float(means.mean() + kept * (means.max() - means.mean()))
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * sqrt(error)
    return Estimate(value, value - half, value + half), sqrt(error)


def share_interval(clean: Clean, top: Estimate, error: float, delta: float) -> Estimate:
    """W: the share of configs whose worth is within `delta` of the best, `top` with its standard error."""
    values = clean.values

    def share(pair: tuple[Smoothed, Smoothed], limit: Array | float, noise: Array | float) -> Array:
        middle, square = pair[0].better_half
        z = (limit - middle) / np.sqrt(np.maximum(square - noise, 1e-18))
        own = pair[0].above(middle + z * np.sqrt(square))
        more = pair[1].above(middle + z * np.sqrt(square + clean.noise))
        return np.clip(2 * own - more, 0, 1)

    limit = top.value - delta
    value = float(share(clean.sample, limit, clean.noise)[0])
    if len(values) < LEAST or not top.known:
        return Estimate(value, note=TOO_FEW if len(values) < LEAST else top.note)
    limits = limit + error * np.random.default_rng(len(values)).standard_normal(DRAWS)
    draws = share(clean.drawn, limits, clean.variances[3])
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value))
