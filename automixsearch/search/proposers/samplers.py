"""Optuna samplers by name, seeded anew for every trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automixsearch.seeds import derive_seed

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from automixsearch.config.knobs import Scalar
    from automixsearch.config.space import SearchSpace


POPULATION = 50
"""Trials of a generation of NSGA-II."""


def make_sampler(space: SearchSpace, number: int) -> BaseSampler:
    """Make the sampler of a space for one trial, without Optuna's notes on what it calls experimental."""
    import warnings

    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _make(space, number)


def _make(space: SearchSpace, number: int) -> BaseSampler:
    """The sampler that proposes trial `number`.

    Its generator is derived from (study seed, number), so an interrupted study continues with the proposals that
    it would have made; all other state lies in the study. `sobol` proposes through `sobol_point`; its random
    sampler is never asked.
    """
    from optuna import samplers

    seed = derive_seed(space.seeds.study, "sampler", number) % 2**32
    startup = space.sampler.startup_trials
    match space.sampler.name:
        case "tpe":
            # group: conditional knobs are modelled jointly with their siblings, not one by one.
            return samplers.TPESampler(
                n_startup_trials=startup,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=seed,
            )
        case "gp":
            return samplers.GPSampler(
                seed=seed, n_startup_trials=startup, independent_sampler=samplers.RandomSampler(seed)
            )
        case "nsga2":
            return samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        case _:
            return samplers.RandomSampler(seed)


def sobol_point(space: SearchSpace, index: int) -> dict[str, Scalar]:
    """Point `index` of a scrambled Sobol sequence over every searched knob of the space, by full name.

    Each knob owns one column, conditional ones too, so methods meet the same values of the knobs they share.
    Optuna's own QMC sampler leaves conditional knobs to chance.
    """
    from scipy.stats import qmc

    searched = [dimension for dimension in space.dimensions if not dimension.fixed]
    if not searched:
        return {}
    engine = qmc.Sobol(len(searched), scramble=True, rng=derive_seed(space.seeds.study, "sobol"))
    if index:
        engine.fast_forward(index)
    cube = engine.random(1)[0]
    return {dimension.name: dimension.at(float(unit)) for dimension, unit in zip(searched, cube, strict=True)}


def active_part(space: SearchSpace, point: dict[str, Scalar]) -> dict[str, Scalar]:
    """The part of a full point that the space would ask for, given its method, loss and conditions."""
    values: dict[str, Scalar] = {}
    for dimension in space.dimensions:
        value = point.get(dimension.name, dimension.choices[0] if dimension.choices else dimension.low)
        if dimension.name == "loss" and not space.catalogue.mixes(values["method"]):
            value = "mce"
        if dimension.name in ("method", "loss") or dimension.active(values):
            values[dimension.name] = value
    return {name: value for name, value in values.items() if name in point}
