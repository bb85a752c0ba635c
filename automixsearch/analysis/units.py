"""The unit of every analysis is the config: repeated runs of one are one observation, whatever their number.

A *point* is a config, or the configs that several methods have at one place of a design. A *block* is a seed with its
validation split. Where configs were drawn, points are the sample; where they were chosen one by one (ablations,
curves) or where there is one only, the sample are the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from automixsearch.analysis.selection import Frame
    from automixsearch.results.study import ImageOutcomes

Array = NDArray[np.float64]
Labels = NDArray[np.intp]
TOLERANCE = 1e-9
"""Differences below it, relative to the scores, are rounding of the computer."""


@dataclass(frozen=True)
class Mean:
    """The mean over units: each counts once.

    units: the value of each, [n]. error: the standard error of the mean. freedom: its degrees of freedom.
    """

    value: float
    error: float
    freedom: float
    units: Array

    @property
    def n(self) -> int:
        """How many units there are."""
        return len(self.units)


def block_of(frame: Frame) -> Labels:
    """The number of the seed and split of each run, [N]."""
    return frame.groupby(["seed", "split_seed"], sort=False).ngroup().to_numpy()


def point_of(frame: Frame) -> Labels:
    """The number of the point of each run, [N].

    Configs of several methods are one point where the design says so (its arms) or, in a ledger without a design, where
    they share a seed and split that no other config of these methods has.
    """
    import pandas as pd
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if frame["arm"].notna().all():
        return pd.factorize(frame["arm"])[0]
    configs, blocks = pd.factorize(frame["config_key"])[0], block_of(frame)
    cells = pd.DataFrame({"method": frame["method"].to_numpy(), "config": configs, "block": blocks}).drop_duplicates()
    if cells.duplicated(["method", "block"]).any():
        return configs
    count = int(configs.max()) + 1
    shape = (count + int(blocks.max()) + 1,) * 2
    links = coo_array((np.ones(len(configs)), (configs, count + blocks)), shape=shape)
    return connected_components(links, directed=False)[1][configs]


def mean_of(values: Array, points: Labels, blocks: Labels, drawn: bool) -> Mean:
    """The mean over units of values [N], each of a point and a block.

    Where blocks are shared by points, the errors of both add up: MS_points + MS_blocks - MS_rest, over N.

    Source: the grand mean of a two-way table of random effects; Searle, Casella and McCulloch, Variance Components
        (1992), chapter 4; Satterthwaite, Biometrics Bulletin 2 (1946), the degrees of freedom.
    """
    points, blocks = (np.unique(labels, return_inverse=True)[1] for labels in (points, blocks))
    many_points, many_blocks = int(points.max()) + 1, int(blocks.max()) + 1
    if not drawn or many_points == 1:
        return _one_way(values, blocks)
    cells = len(np.unique(points * many_blocks + blocks))
    if cells == many_blocks or many_blocks == 1:  # each point has seeds of its own, or all share one
        return _one_way(values, points)
    means, rest, freedom = two_way(values, points, blocks)
    columns = two_way(values, blocks, points)[0]
    parts = [(float(np.var(means, ddof=1)) / many_points, many_points - 1),
             (float(np.var(columns, ddof=1)) / many_blocks, many_blocks - 1)]  # fmt: skip
    shared = rest / len(values)  # is in both
    variance = max(sum(part for part, _ in parts) - shared, *(part for part, _ in parts))
    spent = sum(part**2 / free for part, free in parts) + (shared**2 / freedom if freedom else 0.0)
    return Mean(float(means.mean()), sqrt(variance), variance**2 / spent if spent else many_points - 1, means)


def two_way(values: Array, rows: Labels, columns: Labels) -> tuple[Array, float, int]:
    """Least squares of value = row + column: the mean of each row over all columns, the variance that is left and its
    degrees of freedom."""
    count = np.bincount(rows)
    inside = np.zeros((len(values), int(columns.max()) + 1))
    inside[np.arange(len(values)), columns] = 1
    within = inside - (np.array([np.bincount(rows, one) for one in inside.T]) / count).T[rows]
    centred = values - (np.bincount(rows, values) / count)[rows]
    effects, _, rank, _ = np.linalg.lstsq(within, centred, rcond=1e-9)
    effects = effects - effects.mean()
    freed = values - effects[columns]
    means = np.bincount(rows, freed) / count
    freedom = len(values) - len(count) - int(rank)
    rest = float(((freed - means[rows]) ** 2).sum() / freedom) if freedom else 0.0
    return means, rest, freedom


def _one_way(values: Array, units: Labels) -> Mean:
    means = np.bincount(units, values) / np.bincount(units)
    n = len(means)
    error = float(np.std(means, ddof=1)) / sqrt(n) if n > 1 else nan
    return Mean(float(means.mean()), error, n - 1, means)


def by_config(frame: Frame, drawn: bool) -> Frame:
    """One row for each config of a method, with the mean score of its runs, freed of what shared seeds do to all.

    Of a design whose configs were chosen one by one, the runs as they are.
    """
    if not drawn or not frame["config_key"].duplicated().any():
        return frame
    means: dict[tuple[str, str], float] = {}
    for method, part in frame.groupby("method", sort=False):
        keys, names = part["config_key"].factorize()
        blocks, values = block_of(part), part["score"].to_numpy(float)
        shared = len(part.drop_duplicates(["config_key", "seed", "split_seed"])) > int(blocks.max()) + 1
        if shared and blocks.max():
            scores = two_way(values, keys, blocks)[0]
        else:
            scores = np.bincount(keys, values) / np.bincount(keys)
        means |= {(str(method), str(name)): float(score) for name, score in zip(names, scores, strict=True)}
    single = frame.drop_duplicates(["method", "config_key"])
    pairs = zip(single["method"], single["config_key"], strict=True)
    return single.assign(score=[means[str(method), str(key)] for method, key in pairs])


def image_error(value: float, quantum: float, weights: float) -> float:
    """The least standard error of a difference of scores that are counts of images.

    Two networks that differ by K images disagree on K at least, whose number has a standard deviation of sqrt(K)
    (McNemar, Psychometrika 12 (1947)); where they do not differ, one image more or less would not have shown.

    Args:
        value: the difference.
        quantum: what one image is worth, in the unit of the score; 0 for a metric that counts nothing.
        weights: the sum of the squares of the weights that the runs have in the difference, 2 for one pair.
    """
    return sqrt(quantum * max(abs(value), quantum) * weights / 2)


@dataclass(frozen=True)
class ImageContrast:
    """A difference of accuracies, image by image.

    gaps: for each split the share of runs of one side that answer an image rightly minus that of the other, [n].
    error: the standard error of the difference in points, were the images drawn anew and the networks kept. unpaired:
    the same from the counts alone, as if each run had images of its own.
    """

    gaps: Mapping[str, Array]
    error: float
    unpaired: float

    @property
    def sentence(self) -> str:
        """What pairing on images gains."""
        apart = 100 * float(np.mean([np.abs(gap).mean() for gap in self.gaps.values()]))
        half, counts = 1.96 * self.error, 1.96 * self.unpaired
        gain = f", {1 - half / counts:.0%} narrower" if half < counts else ""
        return (
            f"paired on images: {apart:.1f} % are answered differently, so which images were drawn moves the "
            f"difference by ±{half:.2f} points, and by ±{counts:.2f} from the counts alone{gain}"
        )


def contrast_of_images(weights: Mapping[str, float], outcomes: Mapping[str, ImageOutcomes]) -> ImageContrast | None:
    """The sum of accuracies with weights that sum to 0, by trial; None where a trial has no outcomes.

    The difference of an image is one observation, whatever the number of runs: runs share the images of their split.
    Splits count as independent, though they may share images.

    Source: the variance of a difference of paired proportions; McNemar, Psychometrika 12 (1947).
    """
    if not weights.keys() <= outcomes.keys():
        return None
    sums, sides, counts = dict[str, Any](), dict[str, float](), 0.0
    for trial, weight in weights.items():
        found = outcomes[trial]
        right = found.right
        sums[found.split_id] = sums.get(found.split_id, 0.0) + weight * right
        sides[found.split_id] = sides.get(found.split_id, 0.0) + max(weight, 0.0)
        counts += weight**2 * right.mean() * (1 - right.mean()) / len(right)
    variance = sum(float(np.var(gap)) / len(gap) for gap in sums.values())
    gaps = {split: gap / (sides[split] or 1.0) for split, gap in sums.items()}
    return ImageContrast(gaps, 100 * sqrt(variance), 100 * sqrt(counts))
