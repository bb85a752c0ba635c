"""What one setting for all tasks costs: Phi, on plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from automixsearch.analysis.estimate import Estimate

DRAWS = 1000
WORLDS, FEW = 100, 20
"""Studies that are drawn to see how far the estimate is off, and draws of each."""
LEAST = 1e-3
"""The least share of the variance that is taken to be of the configs: Phi does not depend on how much it is."""


def price(scores: np.ndarray) -> np.ndarray:
    """Phi of scores [..., configs, tasks], of which larger are better; from 0 to below 1."""
    low, high = scores.min(-2, keepdims=True), scores.max(-2, keepdims=True)
    scaled = (scores - low) / np.where(high > low, high - low, 1)
    return scaled.max(-2).mean(-1) - scaled.mean(-1).max(-1)


def price_interval(
    scores: np.ndarray, noise: Sequence[float], freedom: Sequence[int], rng: np.random.Generator
) -> Estimate:
    """Phi of these configs on these tasks, freed of noise.

    Noise alone makes one config the best here and another there, so what the scores of a config are worth on all tasks
    is drawn from what seeds and configs leave open (empirical Bayes with a normal prior, whose covariance is from the
    Bayesian bootstrap over configs), and Phi with it. The prior misleads where scores are skewed. How far, is seen in
    studies drawn with normal noise from the scores themselves, drawn together to spread as without noise. These are
    blurred once more, and show about half of it (found by simulation): the interval reaches from the central 95 % of
    the draws to these without twice the bias that is seen, and the value lies between.

    Args:
        scores: [configs, tasks]. noise, freedom: the variance of a score on each task, and its degrees of freedom.

    Source: Efron and Morris, Biometrika 59 (1972), the posterior; Rubin, Annals of Statistics 9 (1981), the bootstrap;
        Carlin and Gelfand, JASA 85 (1990), corrections by drawn studies; Ghosh, JASA 87 (1992), scores that spread as
        what they are worth.
    """
    own, df = np.asarray(noise, float), np.asarray(freedom, float)
    drawn = price(_worth(scores[None], own[None], df, rng, DRAWS))[0]
    centre, total = scores.mean(0), scores.var(0, ddof=1)
    kept = np.sqrt(np.maximum(1 - own / np.maximum(total, 1e-300), LEAST))
    true = centre + (scores - centre) * kept
    there = own * df / rng.chisquare(df, (WORLDS, len(df)))
    again = true + rng.standard_normal((WORLDS, *scores.shape)) * np.sqrt(there)[:, None]
    seen = there * rng.chisquare(df, (WORLDS, len(df))) / df
    bias = 2 * float(price(_worth(again, seen, df, rng, FEW)).mean() - price(true))
    low, middle, high = (float(end) for end in np.quantile(drawn, [0.025, 0.5, 0.975]))
    alike = total / own < stats.f.ppf(0.975, len(scores) - 1, df)
    note = "on some task the configs cannot be told apart, so phi may be 0" if alike.any() else ""
    low = 0.0 if note else max(min(low, low - bias), 0.0)
    return Estimate(max(middle - bias / 2, low), low, max(high, high - bias), note=note)


def _worth(y: np.ndarray, noise: np.ndarray, freedom: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draws of what scores [R, configs, tasks] are worth on fresh seeds, given noise [R, tasks]; [R, draws, ...]."""
    runs, configs, tasks = y.shape
    weights = rng.exponential(size=(runs, draws, configs))
    weights /= weights.sum(-1, keepdims=True)
    centre = weights @ y
    away = y[:, None] - centre[:, :, None]
    total = np.swapaxes(away * weights[..., None], -1, -2) @ away
    own = noise[:, None] * freedom / rng.chisquare(freedom, (runs, draws, tasks))
    own = own[..., None] * np.eye(tasks)
    sizes, ways = np.linalg.eigh(total - own)
    least = LEAST * np.trace(total, axis1=-2, axis2=-1)[..., None] / tasks
    # Of what the configs are worth.
    between = (ways * np.maximum(sizes, least)[..., None, :]) @ np.swapaxes(ways, -1, -2)
    kept = between @ np.linalg.inv(between + own)
    sizes, root = np.linalg.eigh(between - kept @ between)
    left = rng.standard_normal(away.shape) * np.sqrt(np.maximum(sizes, 0))[..., None, :]
    return centre[:, :, None] + away @ np.swapaxes(kept, -1, -2) + left @ np.swapaxes(root, -1, -2)
