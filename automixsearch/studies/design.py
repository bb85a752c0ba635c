"""Designs: from a study file to the list of its runs, all of them, before anything runs.

A run is numbered once and for all, and its seeds follow from the study's seed and its place in the design, so a study
can be interrupted anywhere and goes on as what it was. Runs of different arms and methods share their seeds and
validation splits: differences between arms are taken within pairs.

Source: scrambled Sobol points, Owen 1998 (scipy.stats.qmc); two-level fractions: `factorials`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from automixsearch.config.dimensions import Dimension
from automixsearch.config.identity import hash_json
from automixsearch.config.knobs import published_for
from automixsearch.config.points import suggest
from automixsearch.config.policy import methods_of
from automixsearch.errors import SpecError
from automixsearch.seeds import derive_seed
from automixsearch.studies.factorial import aliases, fraction

if TYPE_CHECKING:
    from automixsearch.config.knobs import Scalar
    from automixsearch.config.space import SearchSpace
    from automixsearch.studies.file import StudyFile

Values = dict[str, "Scalar"]


@dataclass(frozen=True)
class Run:
    """One training run of a study.

    arm: its name within its stratum. levels: what the design sets, by factor (true: on) or by the knob's full name.
    values: the knobs that the study gives, by full name. stratum: the method, and what else `knobs` lists.
    of: the number of the run whose config is run again; None for a winner that is not known yet, of its rank.
    """

    number: int
    purpose: str
    arm: str
    levels: Mapping[str, Any]
    values: Mapping[str, Scalar]
    seed: int
    split_seed: int
    replicate: int
    stratum: str
    of: int | None = None
    rank: int | None = None

    @property
    def waits(self) -> bool:
        """Whether its config is decided by runs before it."""
        return self.rank is not None and self.of is None

    def row(self) -> dict[str, Any]:
        """As `study.json` has it."""
        names = ("number", "purpose", "arm", "replicate", "seed", "split_seed", "stratum")
        more = {name: value for name in ("of", "rank") if (value := getattr(self, name)) is not None}
        return {**{name: getattr(self, name) for name in names}, "levels": dict(self.levels), **more}


@dataclass(frozen=True)
class Design:
    """All runs of a study, and what an analysis must know of them.

    about: what the study file says of the question: metric, margin, factors, and what else an analysis reads.
    against: the arm that an arm of an ablation is compared with; {} where every effect has contrasts of its own.
    aliases: for each effect of a fractional factorial (one factor, or two joined by :), the effects up to two factors
    that cannot be told from it.
    """

    name: str
    about: Mapping[str, Any]
    runs: tuple[Run, ...]
    vary: tuple[str, ...]
    methods: tuple[str, ...]
    strata: tuple[str, ...]
    against: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        """What `study.json` keeps under `design`."""
        names = ("vary", "methods", "strata")
        lists = {name: list(getattr(self, name)) for name in names}
        against = {"against": dict(self.against), "aliases": dict(self.aliases)}
        return {"name": self.name, **self.about, **lists, **against, "runs": [run.row() for run in self.runs]}


@dataclass(frozen=True)
class Arm:
    """A setting of the design, before seeds: in every stratum where it says anything."""

    name: str
    levels: Mapping[str, Any]
    values: Mapping[str, Scalar]
    place: int
    """Arms of different strata at the same place share their seeds and splits."""
    split: int | None = None


def enumerate_runs(study: StudyFile) -> Design:
    """The runs of a study in the order in which they are started.

    Replicates come one after the other, each with all arms, so that what drifts with time meets all arms alike.

    Raises:
        SpecError: the design does not fit its factors or knobs.
    """
    space = study.space
    strata = [_incumbent(study, space, chosen) for chosen in _strata(study, space)]
    names = [_stratum_name(base, space, study) for base in strata]
    arms = [_arms(study, space, base) for base in strata]
    for stratum, own in zip(names, arms, strict=True):
        _refuse_twins(study, stratum, own)
    runs: list[Run] = []

    def add(purpose: str, stratum: str, seed: Sequence[object], split: int, replicate: int, **more: Any) -> None:
        made = derive_seed(study.seeds.study, *seed)
        split_seed = study.seeds.split + split % study.splits
        runs.append(
            Run(number=len(runs), purpose=purpose, seed=made, split_seed=split_seed, replicate=replicate,
                stratum=stratum, **more)
        )  # fmt: skip

    def setting(arm: Arm) -> dict[str, Any]:
        return {"arm": arm.name, "levels": arm.levels, "values": arm.values}

    points = study.design.name == "sobol"
    for replicate in range(study.replicates):
        for place in range(max(map(len, arms))):
            for stratum, own in zip(names, arms, strict=True):
                for arm in own[place : place + 1]:
                    seed = ("point", arm.place, replicate) if points else ("replicate", replicate)
                    add("study", stratum, seed, (arm.split or 0) + replicate, replicate, **setting(arm))
    first = {(run.stratum, run.arm): run.number for run in runs if run.replicate == 0}
    block = study.replicate_block
    if block is not None:
        for stratum, arm in _spread(block.configs, names, arms, points):
            for extra in range(block.seeds):
                split = (arm.split or 0) + study.replicates + extra
                more = {**setting(arm), "of": first[stratum, arm.name]}
                add("replicate", stratum, ("block", arm.place, extra), split, study.replicates + extra, **more)
    confirm = study.confirm
    if confirm is not None:
        pools = dict.fromkeys(names) if confirm.per == "method" else [""]
        for pool, rank, fresh in product(pools, range(confirm.top), range(confirm.seeds)):
            _refuse_small_pool(study, confirm.top, pool, dict(zip(names, arms, strict=True)))
            arm = f"winner {rank + 1}" + (f" of {pool}" if pool else "")
            more = {"arm": arm, "levels": {}, "values": {}, "rank": rank}
            add("confirm", pool, ("confirm", fresh), fresh, fresh, **more)
    return Design(
        name=study.design.name,
        about=_about(study),
        runs=tuple(runs),
        vary=tuple(dict.fromkeys(name for own in arms for arm in own for name in arm.levels)) if study.vary else (),
        methods=tuple(dict.fromkeys(str(base["method"]) for base in strata)),
        strata=tuple(dict.fromkeys(names)),
        against=_against(study),
        aliases=aliases(list(study.factors), study.design.resolution) if study.design.name == "factorial" else {},
    )


def _about(study: StudyFile) -> dict[str, Any]:
    made: dict[str, Any] = {name: getattr(study, name) for name in ("question", "metric", "margin")}
    made["factors"] = {name: factor.model_dump() for name, factor in study.factors.items()}
    made |= {"delta": study.delta} if study.delta is not None else {}
    made |= {"order": study.order} if study.design.name == "path" else {}
    return made | ({"confirm": study.confirm.model_dump()} if study.confirm is not None else {})


def space_of(study: StudyFile, design: Design) -> SearchSpace:
    """The space of a study with the number of its runs, as the driver takes it."""
    budget = study.space.budget.model_copy(update={"trials": len(design.runs)})
    return study.space.model_copy(update={"budget": budget})


def known_setting(space: SearchSpace, chosen: Values) -> Values:
    """The setting in the middle of a space, with some knobs chosen."""
    middle = {dimension.name: dimension.at(0.5) for dimension in space.dimensions}
    return _filled(space, {**middle, **chosen})


# Strata and the base ---------------------------------------------------------------------------------------------


class _Known:
    """Answers `suggest` from known values."""

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        self.values = values

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        return float(self.values[name])

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        return int(self.values[name])

    def suggest_categorical(self, name: str, choices: tuple[Scalar, ...]) -> Scalar:
        return self.values[name]


def _set_by_design(study: StudyFile) -> set[str]:
    levels = [study.settings(level, name) for name in study.factors for level in ("off", "on")]
    return {*study.varied, *(full for setting in levels for full in setting)}


def _strata(study: StudyFile, space: SearchSpace) -> Iterator[Values]:
    """Each combination of what `knobs` lists, as far as it makes a difference."""
    own = _set_by_design(study)
    listed = [dimension for dimension in space.dimensions if not dimension.fixed and dimension.name not in own]
    for dimension in listed:
        if dimension.choices is None:
            raise SpecError(f"knobs.{dimension.name}: the base takes values and lists; put a range into vary")
    seen = set()
    for values in product(*(dimension.choices or () for dimension in listed)):
        chosen = dict(zip((dimension.name for dimension in listed), values, strict=True))
        method = chosen.get("method") or next(d for d in space.dimensions if d.name == "method").choices[0]  # type: ignore[index]
        told = {name: v for name, v in chosen.items() if space.catalogue[name].method in (None, *methods_of(method))}
        if (key := hash_json(told)) not in seen:
            seen.add(key)
            yield told


def _incumbent(study: StudyFile, space: SearchSpace, chosen: Values) -> Values:
    """A value for every knob that is not fixed: of the stratum, as `knobs` says, as published, or the default."""
    values = {d.name: d.choices[0] for d in space.dimensions if d.fixed and d.choices} | chosen
    open_ones = [dimension for dimension in space.dimensions if dimension.name not in values]
    for dimension in sorted(open_ones, key=lambda d: d.name not in ("method", "loss")):
        values[dimension.name] = _centre(study, dimension, values)
    return values


def _centre(study: StudyFile, dimension: Dimension, values: Values) -> Scalar:
    """Where a knob stands that the design sets: as `knobs` says, as published for the method, or its default."""
    name, knob = dimension.name, dimension.entry.knob
    owner, _, short = name.rpartition(".")
    for factor in study.factors:
        off = study.settings("off", factor) | {}
        if name in off:
            return knob.check(off[name], f"factors.{factor}.off.{name}")
    for key in (name, short):
        if key in study.knobs:
            if isinstance(study.knobs[key], list | dict) or study.knobs[key] in ("auto", "all"):
                raise SpecError(
                    f"knobs.{key} and vary.{short} both have several values; give knobs.{key} one, the centre"
                )
            return knob.check(study.knobs[key], f"knobs.{key}")
    published = published_for(study.catalogue.published(owner), study.family, values.get("backbone"))
    if owner in study.catalogue.losses:
        published = published.get(str(values.get("method")), {})
    return knob.check(published.get(short, knob.default), name)


def _stratum_name(base: Values, space: SearchSpace, study: StudyFile) -> str:
    own = _set_by_design(study)
    listed = [d.name for d in space.dimensions if not d.fixed and d.name not in own and d.name != "method"]
    method = [] if "method" in own else [str(base["method"])]
    active = _filled(space, base)
    return " ".join([*method, *(f"{name.rpartition('.')[2]}={active[name]}" for name in listed if name in active)])


def _filled(space: SearchSpace, given: Mapping[str, Scalar]) -> Values:
    """The whole setting of a run: what `given` says of the active knobs."""
    return suggest(space, _Known(given))


def _refuse_twins(study: StudyFile, stratum: str, arms: Sequence[Arm]) -> None:
    """Refuse a design in which two arms are the same config: their difference is noise with a name."""
    if study.design.name == "sobol":
        return
    if not arms:
        raise SpecError(f"vary: nothing of it has an effect in {stratum or 'this study'}; leave that stratum out")
    seen: dict[str, str] = {}
    for arm in arms:
        key = hash_json(study.catalogue.complete(arm.values, f"arm {arm.name}"))
        if key in seen:
            raise SpecError(
                f"{stratum}: the arms {seen[key]!r} and {arm.name!r} are the same config: what tells them apart has no "
                "effect here; leave that stratum or factor out"
            )
        seen[key] = arm.name


# Arms ------------------------------------------------------------------------------------------------------------


def _arms(study: StudyFile, space: SearchSpace, base: Values) -> list[Arm]:
    match study.design.name:
        case "curve":
            return list(_curve(study, space, base))
        case "grid":
            return list(_grid(study, space, base))
        case "sobol":
            return list(_sobol(study, space, base))
        case _:
            return list(_ablation(study, space, base))


def _varied(study: StudyFile, space: SearchSpace, base: Values) -> list[Dimension]:
    """The varied knobs that are active in a stratum at its centre, in the order of the file."""
    by_name = {dimension.name: dimension for dimension in space.dimensions}
    own = [by_name[name] for name in study.varied if name in by_name]
    return [d for d in own if d.name in ("method", "loss") or d.active(_filled(space, base))]


def _levels(study: StudyFile, dimension: Dimension) -> list[Scalar]:
    """The values of a list, or evenly spaced ones of a range, ends included, to three digits."""
    if dimension.choices is not None:
        return list(dimension.choices)
    count = study.design.count
    values = [dimension.at(place / (count - 1)) for place in range(count)]
    if dimension.entry.knob.kind is float:
        values = [min(max(float(f"{value:.3g}"), dimension.low), dimension.high) for value in values]
    return list(dict.fromkeys(values))


def _curve(study: StudyFile, space: SearchSpace, base: Values) -> Iterator[Arm]:
    """The centre, and one knob at a time moved away from it."""
    yield Arm("incumbent", {}, _filled(space, base), 0)
    place = 0
    for dimension in _varied(study, space, base):
        for value in _levels(study, dimension):
            if value != base[dimension.name]:
                place += 1
                values = _filled(space, base | {dimension.name: value})
                yield Arm(f"{_short(dimension.name)}={_text(value)}", {dimension.name: value}, values, place)


def _grid(study: StudyFile, space: SearchSpace, base: Values) -> Iterator[Arm]:
    dimensions = _varied(study, space, base)
    for place, values in enumerate(product(*(_levels(study, dimension) for dimension in dimensions))):
        levels = {d.name: value for d, value in zip(dimensions, values, strict=True)}
        name = " ".join(f"{_short(knob)}={_text(value)}" for knob, value in levels.items()) or "incumbent"
        yield Arm(name, levels, _filled(space, base | levels), place)


def _sobol(study: StudyFile, space: SearchSpace, base: Values) -> Iterator[Arm]:
    """Points of one scrambled sequence for all strata.

    A column for each knob by its short name, so that methods meet the same learning rates and the same places in
    their ranges of alpha; those that all methods have come first. The split has a column too: to take it from the
    number of the point would tie it to the first bits of a knob.
    """
    from scipy.stats import qmc

    by_name = {dimension.name: dimension for dimension in space.dimensions}
    own = [by_name[name] for name in study.varied if name in by_name]
    own.sort(key=lambda d: (d.entry.method is not None, d.entry.loss is not None))
    shorts = list(dict.fromkeys(_short(dimension.name) for dimension in own))
    engine = qmc.Sobol(1 + len(shorts), scramble=True, rng=derive_seed(study.seeds.study, "sobol"))
    for place, (chance, *units) in enumerate(engine.random(study.design.count).tolist()):
        column = dict(zip(shorts, units, strict=True))
        drawn = {dimension.name: dimension.at(column[_short(dimension.name)]) for dimension in own}
        values = _filled(space, base | drawn)
        levels = {name: values[name] for name in drawn if name in values}
        yield Arm(f"point {place}", levels, values, place, min(int(chance * study.splits), study.splits - 1))


def _ablation(study: StudyFile, space: SearchSpace, base: Values) -> Iterator[Arm]:
    for place, (name, on) in enumerate(_combinations(study).items()):
        levels = {factor: factor in on for factor in study.factors}
        values = dict(base)
        for factor in study.factors:
            level = "on" if levels[factor] else "off"
            setting = study.settings(level, factor)
            values |= {
                full: study.catalogue[full].knob.check(value, f"factors.{factor}.{level}.{full}")
                for full, value in setting.items()
            }
        yield Arm(name, levels, _filled(space, values), place)


def _combinations(study: StudyFile) -> dict[str, frozenset[str]]:
    """The arms of an ablation: by name, the factors that are on.

    A part that needs another is never on without it: leaving out a part leaves out what needs it, adding one adds what
    it needs (and is compared with that), and a full factorial has the combinations that exist, in which the effect of
    a part is that among runs with all it needs.
    """
    factors = list(study.factors)
    full, none = frozenset(factors), frozenset[str]()
    needs = {name: study.needed_by(name) for name in factors}
    match study.design.name:
        case "one_out":
            return {"full": full} | {f"-{name}": full - {name} - _dependents(name, needs) for name in factors}
        case "one_in":
            found = {"base": none}
            for name in factors:
                if needs[name]:
                    found.setdefault(_added(needs[name], factors), frozenset(needs[name]))
                found[f"+{name}"] = frozenset({name} | needs[name])
            unique = {on: name for name, on in reversed(found.items())}
            return {name: on for name, on in found.items() if unique[on] == name}
        case "path":
            steps = [frozenset(study.order[:count]) for count in range(len(factors) + 1)]
            return dict(zip(["base", *(f"+{name}" for name in study.order)], steps, strict=True))
        case _:
            rows = fraction(len(factors), study.design.resolution)
            chosen = [frozenset(n for n, on in zip(factors, row, strict=True) if on) for row in rows]
            kept = [on for on in chosen if all(needs[name] <= on for name in on)]
            return {_named(on, factors): on for on in kept}


def _dependents(name: str, needs: Mapping[str, set[str]]) -> set[str]:
    return {other for other, needed in needs.items() if name in needed}


def _added(names: set[str], factors: Sequence[str]) -> str:
    return "".join(f"+{name}" for name in factors if name in names)


def _named(on: frozenset[str], factors: Sequence[str]) -> str:
    return " ".join(f"{name}={'on' if name in on else 'off'}" for name in factors)


def _against(study: StudyFile) -> dict[str, str]:
    """The arm that each arm is compared with."""
    if study.design.name == "curve":
        return {}
    found = _combinations(study) if study.factors else {}
    match study.design.name:
        case "one_out":
            return {arm: "full" for arm in found if arm != "full"}
        case "one_in":
            arm_of = {on: arm for arm, on in found.items()}
            return {
                f"+{name}": arm_of[frozenset(study.needed_by(name))] for name in study.factors if f"+{name}" in found
            }
        case "path":
            arms = list(found)
            return dict(zip(arms[1:], arms[:-1], strict=True))
        case _:
            return {}


# Replicates and winners ------------------------------------------------------------------------------------------


def _spread(count: int, names: Sequence[str], arms: Sequence[Sequence[Arm]], prefix: bool) -> Iterator[tuple[str, Arm]]:
    """So many arms, spread over the strata and within them; `prefix`: the first ones, which of a sequence are even."""
    total = sum(map(len, arms))
    if count > total:
        raise SpecError(f"replicate_block.configs = {count} must be at most {total}, the configs of the study")
    shares = [0] * len(arms)
    while sum(shares) < count:
        for place, own in enumerate(arms):
            if shares[place] < len(own) and sum(shares) < count:
                shares[place] += 1
    for stratum, own, share in zip(names, arms, shares, strict=True):
        for place in range(share):
            yield stratum, own[place if prefix else place * len(own) // share]


def _refuse_small_pool(study: StudyFile, top: int, pool: str, arms: Mapping[str, Sequence[Arm]]) -> None:
    size = len(arms[pool]) if pool else sum(map(len, arms.values()))
    if top > size:
        what = f"{pool} has" if pool else "the study has"
        raise SpecError(f"confirm.top = {top} must be at most {size}: {what} no more configs")


def winners(design: Design, rows: Sequence[Mapping[str, Any]], metric: str, sign: int) -> dict[tuple[str, int], Run]:
    """The best configs of each pool by the ended runs before the confirmation: (pool, rank) -> a run of the config.

    A config's score is the mean over its runs, each less the mean of its validation split: some splits are easier. Of
    equal configs the earlier wins. Where fewer than `confirm.top` configs have a score, the ranks begin again.

    Args:
        rows: of the ledger, any order. sign: 1 where more of the metric is better, else -1.

    Raises:
        SpecError: no config of a pool has a score.
    """
    scores = {row["number"]: row[metric] for row in rows if row["state"] == "complete" and row.get(metric) is not None}
    earlier = [run for run in design.runs if run.rank is None and run.number in scores]
    by_split: dict[int, list[float]] = {}
    for run in earlier:
        by_split.setdefault(run.split_seed, []).append(scores[run.number])
    level = {split: sum(values) / len(values) for split, values in by_split.items()}
    of_config: dict[tuple[str, str], list[float]] = {}
    first: dict[tuple[str, str], Run] = {}
    for run in design.runs:
        if run.rank is None:
            first.setdefault((run.stratum, run.arm), run)
    for run in earlier:
        of_config.setdefault((run.stratum, run.arm), []).append(scores[run.number] - level[run.split_seed])
    found = {}
    waiting = [run for run in design.runs if run.rank is not None]
    for pool in dict.fromkeys(run.stratum for run in waiting):
        own = {key: values for key, values in of_config.items() if pool in ("", key[0])}
        if not own:
            raise SpecError(
                f"no run{' of ' + pool if pool else ''} has ended with a {metric}, so there is nothing to confirm"
            )
        order = sorted(own, key=lambda key: (-sign * sum(own[key]) / len(own[key]), first[key].number))
        ranks = {run.rank for run in waiting if run.stratum == pool}
        found |= {(pool, rank): first[order[rank % len(order)]] for rank in ranks if rank is not None}
    return found


def settled(run: Run, winner: Run) -> Run:
    """A run of the confirmation that knows its config."""
    return replace(
        run, arm=winner.arm, levels=winner.levels, values=winner.values, stratum=winner.stratum, of=winner.number
    )


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _text(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
