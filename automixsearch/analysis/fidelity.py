"""Whether short schedules rank configs as the full one does: measured on anchor configs that were run at both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from automixsearch.analysis.estimate import Estimate
from automixsearch.analysis.selection import Frame, config_key, take_sample
from automixsearch.errors import StudyError

if TYPE_CHECKING:
    from automixsearch.results.study import Study

MOST_SIMULATED = 100
"""Configs up to which rank correlations are simulated."""


@dataclass(frozen=True)
class Fidelity:
    """How a rung of `rung` epochs ranks configs, against `full` epochs.

    method: None for all methods together. rho: Spearman's rank correlation over `n` anchor configs. flipped: the share
    of pairs in the other order. regret: how far the best at the rung is below the best at the end, at the end.
    """

    method: str | None
    rung: int
    full: int
    n: int
    rho: Estimate
    flipped: float
    regret: float

    @property
    def sentence(self) -> str:
        """What the rung is good for, in words."""
        who = self.method or "all methods together"
        text = f"{self.rung} of {self.full} epochs rank {who} with a correlation of {self.rho} ({self.n} configs)"
        return f"{text}." if self.rho.known and self.rho.low > 0 else f"Unresolved: {text}."

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        names = ("rung", "full", "n", "flipped", "regret")
        return [{"method": self.method} | {name: getattr(self, name) for name in names} | self.rho.row("rho")]


def fidelity(study: Study, metric: str | None = None, seed: int = 0) -> list[Fidelity]:
    """Rank correlations between every shorter schedule and the longest, of each method and of all together.

    Raises:
        StudyError: as `take_sample`; all runs have one schedule, or no config was run at two.
    """
    metric = metric or study.objective[0]
    study.sign(metric)
    study.check_comparable()
    rungs = _rungs(study, metric)
    if rungs is not None:
        sign, frame = rungs
    else:
        scheduler = (study.info.get("space") or {}).get("scheduler") or {}
        if scheduler.get("name") == "asha":
            raise StudyError(
                f"study {study.name}: its configs were chosen by their short schedules, and among the chosen these say "
                "less than among all; give the search fidelity: {anchors: 12}, which trains the first configs at every "
                "rung"
            )
        sample = take_sample(study, metric, any_epochs=True)
        sign, frame = sample.sign, sample.frame
        keys = [
            config_key(text, row, without=("epochs", "warmup_epochs"))
            for text, row in zip(frame["config"], frame["trial_id"], strict=True)
        ]
        frame = frame.assign(key=keys)
    table = frame.pivot_table(index=["method", "key"], columns="epochs_total", values="score")
    schedules = [int(epochs) for epochs in sorted(table.columns)]
    if len(schedules) < 2:
        raise StudyError(
            f"study {study.name}: all trials were trained for {schedules[0]} epochs; "
            "run the same configs for fewer, too"
        )
    full, found = schedules[-1], []
    for rung in schedules[:-1]:
        both = sign * table[[rung, full]].dropna()
        if both.empty:
            raise StudyError(f"study {study.name}: no config was run for {rung} and for {full} epochs")
        methods = list(dict.fromkeys(both.index.get_level_values("method")))
        for method in [*methods, *([None] if len(methods) > 1 else [])]:
            part = both if method is None else both.xs(method, level="method")
            low, high = part[rung].to_numpy(), part[full].to_numpy()
            found.append(_agreement(method, rung, full, low, high))
    return found


def _rungs(study: Study, metric: str) -> tuple[int, Frame] | None:
    """The anchors of a search that halves: candidates that were trained at every rung, whatever they scored.

    None for other studies. Candidates that were promoted are no anchors: they were chosen by the lower rung, and
    among the chosen a correlation is lower than among all.
    """
    anchors = ((study.info.get("space") or {}).get("fidelity") or {}).get("anchors")
    if not anchors:
        return None
    trials: Frame = study.trials()
    sign = study.sign(metric)
    if study.info["space"]["scheduler"]["rungs"] == "cooldown":
        return sign, _cooled(study, trials.sort_values("number").head(int(anchors)), metric)
    own = trials[
        trials["rung"].notna() & trials["candidate"].notna() & (trials["epochs_run"] == trials["epochs_total"])
    ]
    own = own[(own["state"] != "failed") & own[metric].notna()]
    first = trials[trials["trial_id"].isin(set(own["candidate"]))].sort_values("number")["trial_id"].head(int(anchors))
    own = own[own["candidate"].isin(set(first))]
    if own.empty:
        return None
    return sign, own.assign(key=own["candidate"], score=own[metric].astype(float))


def _cooled(study: Study, anchors: Frame, metric: str) -> Frame:
    """The scores of anchors after their cool-downs, by the epochs at which those branched off, and at their ends."""
    import pandas as pd

    names = ["method", "key", "epochs_total", "score"]
    epochs: Frame = study.epochs()
    if f"{metric}.cooled" not in epochs:
        raise StudyError(f"study {study.name}: a cool-down is not scored by {metric}; use a validation metric")
    branches: Frame = epochs[epochs["rung"].notna() & epochs["trial_id"].isin(set(anchors["trial_id"]))]
    ends = anchors[anchors["state"] == "complete"]
    parts: list[Frame] = [
        branches[["method", "trial_id", "epoch", f"{metric}.cooled"]],
        ends[["method", "trial_id", "epochs_total", metric]],
    ]
    return pd.concat([part.set_axis(names, axis=1) for part in parts])


def rank_correlation(x: np.ndarray, y: np.ndarray, level: float = 0.95) -> Estimate:
    """Spearman's rho, with an interval that holds for a handful of configs too, and for ranks that agree altogether.

    It contains every rho under which what was seen, or what is further away, has more than half of 1 - level as its
    probability (mid-p), by simulation of normal scores; for more than 100 configs it is that of Fisher's z with
    SE(z) = sqrt((1 + rho^2 / 2) / (n - 3)).

    Source: Bonett and Wright, Psychometrika 65 (2000), who find the latter too narrow from 0.95 on, and for few.
    """
    n = len(x)
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(nan, note="too few configs for a rank correlation")
    rho = float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])
    if n < 5:
        return Estimate(rho, -1.0, 1.0, level, "fewer than 5 configs say nothing")
    if n <= MOST_SIMULATED:
        grid, drawn = _rank_correlations(n)
        equal = np.abs(drawn - rho) < 1e-9
        more = (drawn > rho + 1e-9).mean(1) + equal.mean(1) / 2  # rises with rho
        low, high = (float(np.interp(end, more, grid)) for end in ((1 - level) / 2, (1 + level) / 2))
        return Estimate(rho, min(low, rho) if more[0] < (1 - level) / 2 else -1.0,
                        max(high, rho) if more[-1] > (1 + level) / 2 else 1.0, level)  # fmt: skip
    z = np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9))
    half = stats.norm.ppf((1 + level) / 2) * sqrt((1 + rho**2 / 2) / (n - 3))
    return Estimate(rho, float(np.tanh(z - half)), float(np.tanh(z + half)), level)


@cache
def _rank_correlations(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of rho, and for each Spearman's of 2,000 samples of n pairs of normal scores."""
    rng = np.random.default_rng(n)
    x, rest = rng.standard_normal((2, 2000, n))
    places = np.tanh(np.linspace(-4, 4, 65))  # Pearson's correlation
    ranks = _ranks(x)
    drawn = [1 - 6 * ((_ranks(r * x + sqrt(1 - r * r) * rest) - ranks) ** 2).sum(1) / (n * (n * n - 1)) for r in places]
    more = np.sort(np.stack(drawn), axis=1)
    return 6 / np.pi * np.arcsin(places / 2), more


def _ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort(1).argsort(1)


def _agreement(method: str | None, rung: int, full: int, low: np.ndarray, high: np.ndarray) -> Fidelity:
    pairs = np.triu_indices(len(low), 1)
    order = np.sign(low[:, None] - low[None])[pairs] * np.sign(high[:, None] - high[None])[pairs]
    flipped = float((order < 0).mean()) if len(order) else nan
    regret = float(high.max() - high[np.argmax(low)])
    return Fidelity(method, rung, full, len(low), rank_correlation(low, high), flipped, regret)
