"""What seeds and validation splits do to the scores of one method, and scores without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from automixsearch.analysis import intervals
from automixsearch.analysis.estimate import Estimate

if TYPE_CHECKING:
    from automixsearch.analysis.selection import Column, Frame

LEAST_SHARED = 4
"""So many runs of a split tell what it does to all; a seed is shared by so many configs, and by half of all."""


@dataclass(frozen=True)
class Scores:
    """Scores of configs without what a split, or a seed that configs share, does to all of them alike.

    values: of each config, the mean of its runs, larger is better, [N]. fresh: of each confirmed config, its new runs.
    runs: of a config (harmonic mean). lost: degrees of freedom of the values that their mean and the splits took.
    rest: variance of the runs of a config that is left. freedom: its degrees of freedom.
    noise: variance of a config over seeds, what a seed does to all configs included.
    scatter: as `intervals.Clean` has it.
    level: half of the 95 % interval of what the shared seeds do to the mean of all values; 0 where none are shared.
    """

    values: np.ndarray
    fresh: Sequence[np.ndarray]
    runs: float
    lost: int
    rest: Estimate
    freedom: int
    noise: Estimate
    scatter: Sequence[tuple[float, np.ndarray]]
    level: float
    note: str = ""


def scores_of(own: Frame, replicates: Frame, confirmed: Frame, sign: int) -> Scores:
    """The scores of one method (or of several, as one), and what scatters them.

    The model is two-way: score = config + block + rest, a block being a split, with its seed where configs share it.
    Blocks come off the values by their means, and off the noise by least squares within configs, where it does not
    matter which other configs a block met.

    Source: random effects of a two-way table; Searle, Casella and McCulloch, Variance Components (1992), chapter 4.
    """
    import pandas as pd

    configs = own.groupby("seed")["config_key"].nunique()
    shared = configs.index[configs >= max(LEAST_SHARED, own["config_key"].nunique() / 2)]

    def block(frame: Frame) -> Column:
        seeds = frame["seed"].where(frame["seed"].isin(shared), -1)
        return frame["split_seed"].astype(str) + "/" + seeds.astype(str)

    own, replicates, confirmed = (
        frame.assign(score=sign * frame["score"], block=block(frame)) for frame in (own, replicates, confirmed)
    )
    count = own["block"].nunique()
    if count * LEAST_SHARED > len(own):
        own, replicates, confirmed = (frame.assign(block="") for frame in (own, replicates, confirmed))
        count = 1
    means = own.groupby("block")["score"].mean()
    offsets = means - own["score"].mean()

    def freed(frame: Frame) -> Column:
        return (frame["score"] - frame["block"].map(offsets).astype(float).fillna(0.0)).groupby(
            frame["config_key"], sort=False
        )

    met = pd.crosstab(own["config_key"], own["block"], normalize="index").to_numpy()
    groups, spent = _within(pd.concat([own, replicates]))
    rest, freedom = intervals.noise_interval(list(groups.values()), spent)
    noise, level, note = rest, 0.0, ""
    if len(shared) > 1 and count > 1:
        found = intervals.noise_interval([means.to_numpy()])[0]
        kept = 1 - 1 / own["config_key"].nunique()  # of the rest; the means of seeds scatter by what is left of it
        part = Estimate(kept * rest.value, kept * rest.low, kept * rest.high)
        noise = intervals.difference(found, part.flipped())
        level = float(stats.t.ppf((1 + intervals.LEVEL) / 2, count - 1)) * sqrt(found.value / count)
    elif len(shared):
        note = "all configs share one seed: what it does to all of them is in no interval"
    sizes = own.groupby("config_key").size()
    values, fresh = freed(own).mean(), {key: part.to_numpy() for key, part in freed(confirmed)}
    places = (values.rank() - 0.5) / len(values)
    again = [(key, group) for key, group in (*groups.items(), *fresh.items()) if len(group) > 1 and key in places]
    return Scores(
        values=values.to_numpy(),
        fresh=list(fresh.values()),
        runs=len(sizes) / float((1 / sizes).sum()),
        lost=int(np.linalg.matrix_rank(met)),
        rest=rest,
        freedom=freedom,
        noise=noise if isfinite(noise.value) else rest,
        scatter=[(float(places[key]), group) for key, group in again],
        level=level,
        note=note,
    )


def _within(runs: Frame) -> tuple[dict[str, np.ndarray], int]:
    """What is left of the runs of each config that was run more than once, and the degrees of freedom this took."""
    import pandas as pd

    runs = runs[runs.groupby("config_key")["score"].transform("size") > 1]
    if runs.empty:
        return {}, 0
    keys = runs["config_key"].to_numpy()
    parts = pd.get_dummies(runs["block"], dtype=float).assign(score=runs["score"])
    parts = parts - parts.groupby(keys).transform("mean")
    score, blocks = parts.pop("score"), parts.to_numpy()
    effects, _, rank, _ = np.linalg.lstsq(blocks, score.to_numpy(), rcond=1e-9)
    rest = score - blocks @ effects
    return {str(key): part.to_numpy() for key, part in rest.groupby(keys)}, int(rank)
