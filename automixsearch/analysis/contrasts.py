"""Arms that share seeds and splits: their means, and differences between them, whose runs need not scatter alike."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np

LEAST_REPLICATES = 3
"""With fewer, how far the runs of each arm scatter cannot be told, and all are taken to scatter alike."""
FLOOR = 0.25
"""The least share of the pooled variance that an arm is taken to have; from few runs it may come out at 0 or below."""


@dataclass(frozen=True)
class Arms:
    """Least squares of y = arm + seed and split.

    Each arm has a variance of its own, from what is left when arms and replicates are known: the variances under which
    the sums of squares that are left are the expected ones. A contrast has Welch's degrees of freedom. For equal arms
    its interval is wider than with one pooled variance (for two of five arms with 3 replicates 1.4 times, with 5 1.1
    times, for a factor of 2^3 x 3 1.1 times), and it holds where one arm scatters five times as much as the others,
    which the pooled one does not: the README beside this file.

    Source: Rao, JASA 65 (1970), and for complete replicates Grubbs, JASA 43 (1948), the variances; Satterthwaite,
        Biometrics Bulletin 2 (1946), and Welch, Biometrika 34 (1947), the degrees of freedom.
    """

    means: np.ndarray
    """Of the arms over all replicates, [arms]."""
    weights: np.ndarray
    """Of the runs in the means, [arms, N]."""
    own: np.ndarray
    """Whether a run is of an arm, [arms, N]."""
    kept: np.ndarray
    """The share of the variance of each run that arms and replicates leave, [N]."""
    residual: np.ndarray
    """What they leave of its score, [N]."""
    repeated: bool
    """Whether anything is left, so that errors are those of the runs."""
    freedom: int
    """Degrees of freedom of all that is left."""
    variances: np.ndarray
    """Of one run of each arm, [arms]; NaN where nothing is known."""
    freedoms: np.ndarray

    @classmethod
    def of(cls, place: np.ndarray, block: np.ndarray, y: np.ndarray, spare: tuple[float, int] = (nan, 0)) -> Arms:
        """Fit runs with the scores y of the arms and replicates whose numbers these are, all [N].

        spare: a sum of squares and its degrees of freedom, for runs of which none is repeated.
        """
        arms, blocks = int(place.max()) + 1, int(block.max()) + 1
        own = np.equal.outer(np.arange(arms), place).astype(float)
        x = np.hstack([own.T, np.equal.outer(block, np.arange(blocks))])
        # Blocks sum to nothing, so the means of the arms are those over all blocks.
        closed = np.vstack([x, np.concatenate([np.zeros(arms), np.ones(blocks)])])
        weights = np.linalg.pinv(closed)[:arms, : len(y)]
        left = np.eye(len(y)) - x @ np.linalg.pinv(x)
        residual, kept = left @ y, np.diag(left)
        freedom = len(y) - int(np.linalg.matrix_rank(x))
        total = float(residual @ residual)
        repeated = freedom > 0
        if not repeated:
            total, freedom = spare
        pooled = total / freedom if freedom else nan
        variances, freedoms = np.full(arms, pooled), np.full(arms, float(freedom))
        runs = own @ (kept > 1e-9)
        if repeated and blocks >= LEAST_REPLICATES:
            found = np.linalg.pinv(own @ left**2 @ own.T) @ own @ residual**2
            variances = np.where(runs >= LEAST_REPLICATES, np.maximum(found, FLOOR * pooled), variances)
            freedoms = np.where(runs >= LEAST_REPLICATES, np.minimum(runs - 1, freedom), freedoms)
        return cls(weights @ y, weights, own, kept, residual, repeated, freedom, variances, freedoms)

    def contrast(self, c: np.ndarray) -> tuple[float, float, float]:
        """The weighted sum of the means, its standard error and degrees of freedom (0 where there is no error)."""
        value = float(c @ self.means)
        if not self.freedom:
            return value, nan, 0
        parts = self.own @ (c @ self.weights) ** 2 * self.variances
        total, squares = float(parts.sum()), float((parts**2 / self.freedoms).sum())
        return value, sqrt(total), min(total**2 / squares, self.freedom) if squares > 0 else self.freedom

    def weight(self, c: np.ndarray) -> float:
        """The sum of the squares of the weights that runs have in a contrast."""
        return float(((c @ self.weights) ** 2).sum())


def expected_freedom(replicates: int, arms: int, used: float) -> float:
    """The degrees of freedom that a contrast of `used` of the arms will have, where all scatter alike.

    The harmonic mean of Welch's, of variances with (replicates - 1) (arms - 1) / arms degrees of freedom each; never
    less than those of one arm nor more than all. Studies have the power that these promise, or more.
    """
    one, pooled = replicates - 1, (replicates - 1) * (arms - 1)
    if replicates < LEAST_REPLICATES:
        return pooled
    own = pooled / arms
    return min(max(own * (used * own + 2) / (own + 2), one), pooled)
