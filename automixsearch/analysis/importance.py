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
from automixsearch.analysis.seed_noise import scores_of
from automixsearch.analysis.selection import Column, Sample, check_drawn, take_sample
from automixsearch.errors import StudyError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from automixsearch.results.study import Study

DUMMY, SEED = "(dummy)", "(seed)"
LEAST = 20
"""Fewer trials than this make no importances."""
MOST = 1000
"""Of more configs so many are drawn: Optuna takes seconds for each permutation of 10,000."""
TREES, DEPTH = 16, 16


@dataclass(frozen=True)
class Bar:
    """What one knob decides: `value`, its share of all importance, beside what chance shows.

    floor: what in 95 % of the permutations no knob rises above, in this knob's units. p: of the permutations in which
    some knob stands out from its floor as far (Westfall and Young's, so corrected for the number of knobs).
    distinguishable: p < 0.05.

    The bar of the seed is another share: of the variance of single runs, with its 95 % interval from `low` to `high`;
    it has no floor, and is distinguishable where seeds are known to make a variance.
    """

    knob: str
    value: float
    floor: float = nan
    p: float = nan
    distinguishable: bool = False
    low: float = nan
    high: float = nan


@dataclass(frozen=True)
class Importance:
    """Importances of the knobs of one method, or of all that a whole study varies.

    configs: on which they rest; a config that was run several times counts once, with its mean.
    bars: by `evaluator`, with those of a dummy knob, and of the seed (the share of the variance that seeds alone make;
    NaN without replicates).
    """

    method: str | None
    metric: str
    evaluator: str
    configs: int
    permutations: int
    during_optimisation: bool
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()

    @property
    def above(self) -> list[str]:
        """The knobs that stand out from chance, the most important first."""
        return [bar.knob.removeprefix("knob.") for bar in self.bars if bar.distinguishable and bar.knob != SEED]

    @property
    def seed(self) -> Bar:
        """What the seed alone does."""
        return next(bar for bar in self.bars if bar.knob == SEED)

    @property
    def sentence(self) -> str:
        """Which knobs rise above the floor."""
        where = "" if self.method is None else f" of {self.method}"
        if self.above:
            return f"Above what chance shows: {', '.join(self.above)}{where} ({self.configs} configs)."
        return f"Unresolved: no knob{where} can be told from noise with {self.configs} configs."

    def rows(self) -> list[dict[str, Any]]:
        """One row per bar."""
        head = {"method": self.method, "evaluator": self.evaluator}
        names = ("knob", "value", "low", "high", "floor", "p", "distinguishable")
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
        Optuna. The floor holds for all knobs at once: Westfall and Young, Resampling-Based Multiple Testing (1993).

    Raises:
        StudyError: as `take_sample`: of adaptive searches unless `during_optimisation`; too few configs.
    """
    if evaluator == "fanova" and during_optimisation:
        raise StudyError(
            f"study {study.name}: fanova is about the whole space, and a search did not see it; use ped_anova"
        )
    sample = _sample(study, metric, during_optimisation)
    rows = sample.frame if method is None else sample.of(method)
    frame = rows.assign(score=rows.groupby(["method", "config_key"])["score"].transform("mean"))
    frame = frame.drop_duplicates(["method", "config_key"])
    if len(frame) < LEAST:
        raise StudyError(f"study {study.name}: {len(frame)} configs are too few for importances; run {LEAST} or more")
    knobs = _knobs(sample, method)
    if not knobs:
        raise StudyError(f"study {study.name}: no knob takes several values, so none can matter")
    notes = []
    if len(frame) > MOST:
        notes.append(f"of {len(frame)} configs, {MOST} were drawn, which tell as much")
        frame = frame.sample(MOST, random_state=seed).sort_index()
    if evaluator == "fanova":
        left_out = [name for name in knobs if frame[name].isna().any()]
        knobs = [name for name in knobs if name not in left_out]
        if left_out:
            names = ", ".join(name.removeprefix("knob.") for name in left_out)
            notes.append(f"fanova takes knobs that all trials have; left out: {names}")
    if not during_optimisation and evaluator == "ped_anova" and len(frame) < 50:
        notes.append(f"the best tenth of {len(frame)} configs is {-(-len(frame) // 10)}: run 50 or more")
    rng = np.random.default_rng(seed)
    y = sample.sign * frame["score"].to_numpy(float)
    columns = {name: frame[name] for name in knobs}
    values = _Evaluation(columns, rng.random(len(frame)), evaluator, during_optimisation, seed)
    real = values(y)
    null = np.array([list(values(rng.permutation(y)).values()) for _ in range(permutations)])
    bars = [*_bars(real, null), _seed_bar(study, sample, method)]
    if not isfinite(bars[-1].value):
        notes.append("no config was run twice: the share of seeds is unknown; add replicates")
    return Importance(
        method, sample.metric, evaluator, len(frame), permutations, during_optimisation, tuple(bars), tuple(notes)
    )


def importances(study: Study, **more: Any) -> tuple[list[Importance], list[str]]:
    """Importances over all methods and, where there are several, within each; and why some methods have none.

    Args:
        more: as of `importance`.

    Raises:
        StudyError: as `importance`, over all methods.
    """
    found, refused = [importance(study, **more)], {}
    methods = _sample(study, more.get("metric"), more.get("during_optimisation", False)).methods
    for method in methods if len(methods) > 1 else []:
        try:
            found.append(importance(study, method, **more))
        except StudyError as error:
            refused.setdefault(str(error).removeprefix(f"study {study.name}: "), []).append(method)
    return found, [f"within {', '.join(names)}: {reason}" for reason, names in refused.items()]


def _sample(study: Study, metric: str | None, during_optimisation: bool) -> Sample:
    check_drawn(study)
    try:
        return take_sample(study, metric, ("study",), adaptive=during_optimisation)
    except StudyError as error:
        if "no sample of the search space" in str(error):
            raise StudyError(
                f"{error}; what mattered where the search went is another question: ask it with --during-optimisation"
            ) from None
        raise


def _knobs(sample: Sample, method: str | None) -> list[str]:
    """What varies within a method; a knob with one value for each method says no more than the method does."""
    if method is not None:
        return sample.varied(method)
    inside = {name for one in sample.methods for name in sample.varied(one)}
    return ["method"] * (len(sample.methods) > 1) + [name for name in sample.varied() if name in inside]


def _bars(real: Mapping[str, float], null: np.ndarray) -> list[Bar]:
    """The bars of all knobs, the largest first, from importances of the scores and of their permutations [P, knobs].

    A permutation stands out as far as that knob of it does which is furthest above its own 95 % quantile.
    """
    # Compared before they are made shares of a sum: among noise alone, one knob or another has most of it.
    total = sum(real.values()) or 1.0
    names = list(real)
    floors = np.quantile(null, 0.95, axis=0)
    floors = np.maximum(floors, 1e-12 + 1e-6 * floors.max())
    knobs = np.array([name != DUMMY for name in names])
    most = (null / floors)[:, knobs].max(1)
    shared = float(np.quantile(most, 0.95))
    bars = []
    for name, floor in zip(names, floors, strict=True):
        p = float((1 + (most >= real[name] / floor).sum()) / (len(null) + 1))
        above = p < 0.05 and name != DUMMY
        bars.append(Bar(name, real[name] / total, float(floor * shared / total), p, above))
    return sorted(bars, key=lambda bar: -bar.value)


def _seed_bar(study: Study, sample: Sample, method: str | None) -> Bar:
    """The share of the variance of single runs that seeds make; NaN where no config was run twice."""
    more = sample.frame.iloc[:0]
    with suppress(StudyError):  # a study need not have any
        more = take_sample(study, sample.metric, ("replicate",), any_epochs=True).frame
    own, again = (frame if method is None else frame[frame["method"] == method] for frame in (sample.frame, more))
    found = scores_of(own, again, own.iloc[:0], sample.sign)
    part = intervals.share_of_configs(found.values, found.noise, found.runs, found.lost, found.rest.value)
    return Bar(SEED, 1 - part.value, distinguishable=isfinite(part.value), low=1 - part.high, high=1 - part.low)


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
