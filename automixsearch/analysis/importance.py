"""Which knobs matter, next to what chance alone would show."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from automixsearch.analysis import intervals
from automixsearch.analysis.sample import Column, Sample, take_sample
from automixsearch.errors import StudyError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from automixsearch.results.study import Study

DUMMY, SEED = "(dummy)", "(seed)"
LEAST = 20
"""Fewer trials than this make no importances."""
TREES, DEPTH = 16, 16


@dataclass(frozen=True)
class Bar:
    """value: share of all importance. floor: what 95 % of the permutations stay below. distinguishable: above it.

    The bar of the seed is another share: of the variance of single runs; it has no floor.
    """

    knob: str
    value: float
    floor: float
    p: float
    distinguishable: bool


@dataclass(frozen=True)
class Importance:
    """Importances of the knobs of one method, or of all that a whole study varies.

    bars: by `evaluator`, with those of a dummy knob, and of the seed (the share of the variance that seeds alone make;
    NaN without replicates).
    """

    method: str | None
    metric: str
    evaluator: str
    trials: int
    permutations: int
    during_optimisation: bool
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Which knobs rise above the floor."""
        where = "" if self.method is None else f" of {self.method}"
        above = [bar.knob.removeprefix("knob.") for bar in self.bars if bar.distinguishable and bar.knob != SEED]
        if above:
            return f"Above what chance shows: {', '.join(above)}{where} ({self.trials} trials)."
        return f"Unresolved: no knob{where} can be told from noise with {self.trials} trials."

    def rows(self) -> list[dict[str, Any]]:
        """One row per bar."""
        head = {"method": self.method, "evaluator": self.evaluator}
        names = ("knob", "value", "floor", "p", "distinguishable")
        return [head | {name: getattr(bar, name) for name in names} for bar in self.bars]


def importance(
    study: Study,
    method: str | None = None,
    during_optimisation: bool = False,
    permutations: int = 200,
    seed: int = 0,
    metric: str | None = None,
    evaluator: Literal["ped_anova", "fanova"] = "ped_anova",
) -> Importance:
    """How much of the score each knob decides, each beside a permutation floor.

    Args:
        method: within one method; None: over all, the method being a knob and others active under conditions.
        during_optimisation: importance where a search went, the only one that its trials can give.
        evaluator: `ped_anova`: for reaching the best tenth. fanova: for the variance over the whole space.

    Source: PED-ANOVA, arXiv 2304.10255, and with conditions, arXiv 2601.20800; fANOVA, Hutter et al., ICML 2014; all by
        Optuna.

    Raises:
        StudyError: as `take_sample`: of adaptive searches unless `during_optimisation`; too few trials.
    """
    sample = take_sample(study, metric, ("study",), adaptive=during_optimisation)
    if evaluator == "fanova" and during_optimisation:
        raise StudyError(
            f"study {study.name}: fanova is about the whole space, and a search did not see it; use ped_anova"
        )
    frame = sample.frame if method is None else sample.of(method)
    knobs = ([] if method is not None or len(sample.methods) < 2 else ["method"]) + sample.varied(method)
    if len(frame) < LEAST:
        raise StudyError(f"study {study.name}: {len(frame)} trials are too few for importances; run {LEAST} or more")
    if not knobs:
        raise StudyError(f"study {study.name}: no knob takes several values, so none can matter")
    notes = []
    if evaluator == "fanova":
        left_out = [name for name in knobs if frame[name].isna().any()]
        knobs = [name for name in knobs if name not in left_out]
        if left_out:
            notes.append(f"fanova takes knobs that all trials have; left out: {', '.join(left_out)}")
    if not during_optimisation and evaluator == "ped_anova" and len(frame) < 50:
        notes.append(f"the best tenth of {len(frame)} trials is {-(-len(frame) // 10)}: run 50 or more")
    rng = np.random.default_rng(seed)
    y = sample.sign * frame["score"].to_numpy(float)
    columns = {name: frame[name] for name in knobs}
    values = _Evaluation(columns, rng.random(len(frame)), evaluator, during_optimisation, seed)
    real = values(y)
    null = np.array([list(values(rng.permutation(y)).values()) for _ in range(permutations)])
    # Compared before they are made shares of a sum: among noise alone, one knob or another has most of it.
    total = sum(real.values()) or 1.0
    bars = []
    for i, (knob, value) in enumerate(real.items()):
        p = (1 + int((null[:, i] >= value).sum())) / (permutations + 1)
        floor = float(np.quantile(null[:, i], 0.95))
        bars.append(Bar(knob, float(value / total), float(floor / total), p, bool(value > floor) and knob != DUMMY))
    bars.sort(key=lambda bar: -bar.value)
    share, note = _seed_share(study, sample, method)
    notes += [note] if note else []
    bars.append(Bar(SEED, share, nan, nan, bool(share > 0)))
    return Importance(
        method, sample.metric, evaluator, len(frame), permutations, during_optimisation, tuple(bars), tuple(notes)
    )


def _seed_share(study: Study, sample: Sample, method: str | None) -> tuple[float, str]:
    """The share of the variance of single runs that seeds make; NaN where no config was run twice."""
    import pandas as pd

    frames = [sample.frame]
    with suppress(StudyError):  # a study need not have any
        frames.append(take_sample(study, sample.metric, ("replicate",), any_epochs=True).frame)
    both = pd.concat([frame if method is None else frame[frame["method"] == method] for frame in frames])
    groups = [part.to_numpy() for _, part in both.groupby("config_key")["score"] if len(part) > 1]
    noise, _ = intervals.noise_interval(groups)
    frame = sample.frame if method is None else sample.of(method)
    total = float(frame["score"].var())
    if not isfinite(noise.value) or not total > 0:
        return nan, f"{noise.note}: the share of seeds is unknown; add replicates" if noise.note else ""
    return min(noise.value / total, 1.0), ""


class _Evaluation:
    """Optuna's importances of any scores of the same trials."""

    def __init__(
        self, columns: Mapping[str, Column], dummy: np.ndarray, evaluator: str, local: bool, seed: int
    ) -> None:
        import optuna
        from optuna.distributions import FloatDistribution

        self.names = [*columns, DUMMY]
        self.dists: dict[str, BaseDistribution] = {name: _distribution(column) for name, column in columns.items()}
        self.dists[DUMMY] = FloatDistribution(0, 1)
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self.study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
            self.study.add_trials([self._trial(columns, place, float(noise)) for place, noise in enumerate(dummy)])
        finally:
            optuna.logging.set_verbosity(level)
        if evaluator == "ped_anova":
            self.evaluator: Any = optuna.importance.PedAnovaImportanceEvaluator(evaluate_on_local=local)
        else:
            self.evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=seed)

    def _trial(self, columns: Mapping[str, Column], place: int, noise: float) -> Any:
        import optuna

        row = {name: column.iloc[place] for name, column in columns.items()}
        params: dict[str, Any] = {
            name: _value(self.dists[name], value) for name, value in row.items() if value == value and value is not None
        }
        params[DUMMY] = noise
        dists = {name: self.dists[name] for name in params}
        return optuna.trial.create_trial(params=params, distributions=dists, value=0.0)  # the scores are handed over

    def __call__(self, scores: np.ndarray) -> dict[str, float]:
        """Importances of scores of which larger ones are better, in the evaluator's own unit."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A target is minimised.
            found = self.evaluator.evaluate(self.study, params=self.names, target=lambda trial: -scores[trial.number])
        return {name: float(found[name]) for name in self.names}


def _distribution(column: Column) -> BaseDistribution:
    """The range of a knob as far as the trials reach."""
    import pandas as pd
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values = column.dropna()
    if not pd.api.types.is_numeric_dtype(values) or values.dtype == bool:
        return CategoricalDistribution(sorted(values.unique().tolist()))
    low, high = values.min(), values.max()
    wide = bool(low > 0 and high / low > 8)
    if pd.api.types.is_integer_dtype(values):
        return IntDistribution(int(low), int(high), log=wide)
    return FloatDistribution(float(low), float(high), log=wide)


def _value(dist: BaseDistribution, value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
