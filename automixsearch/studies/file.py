"""Study files: a question, and the design by which it is answered, as data.

What a file says is checked here; which runs follow from it, in which order and with which seeds: `design`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from automixsearch.config.catalogue import SUPERVISED, Catalogue, catalogue
from automixsearch.config.data import Data
from automixsearch.config.evaluate import questions
from automixsearch.config.files import build, read_content
from automixsearch.config.frozen import Frozen
from automixsearch.config.outside import Plugins, by_name
from automixsearch.config.policy import methods_of
from automixsearch.config.resources import Resources
from automixsearch.config.shipped import find_file
from automixsearch.config.space import Budget, Sampler, SearchSpace, Seeds
from automixsearch.errors import SpecError, unknown
from automixsearch.studies.design import enumerate_runs

CURVES = ("curve", "sobol", "grid")
"""Designs over ranges and lists of values, which stand in `vary`."""
ABLATIONS = ("one_out", "one_in", "path", "factorial")
"""Designs over parts that are on or off, which stand in `factors`."""
MOST_FACTORS = 10
"""2^10 combinations, times seeds and splits, are more than anybody runs; fractions get along with less anyway."""


class Factor(Frozen):
    """A part that is on or off: the knobs that it sets either way, and the factors without which it means nothing."""

    off: dict[str, Any]
    on: dict[str, Any]
    needs: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _differs(self) -> Self:
        if not self.on or self.on == self.off:
            raise ValueError("on and off must set at least one knob differently")
        return self


class DesignKeys(Frozen):
    """Which design, and what only some designs have.

    points: configs of `sobol` for each method, or levels of a range in `curve` and `grid`. resolution: of `factorial`;
    full, or a fraction that keeps main effects clear of two-way interactions (4), or those clear of each other too (5).
    order: of `path`, the factors in the order in which they are switched on.
    """

    name: Literal["curve", "sobol", "grid", "one_out", "one_in", "path", "factorial"]
    points: int | None = Field(default=None, ge=2, le=65_536)
    resolution: Literal["full", 4, 5] = "full"
    order: list[str] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.points is not None and self.name not in CURVES:
            raise ValueError(f"points has no effect in design {self.name}; drop it")
        if self.name == "sobol" and self.count & (self.count - 1):
            low = 1 << (self.count.bit_length() - 1)
            raise ValueError(
                f"points = {self.points} must be a power of two, or the sequence is not balanced; "
                f"use {low} or {2 * low}"
            )
        if self.resolution != "full" and self.name != "factorial":
            raise ValueError(f"resolution has no effect in design {self.name}; drop it")
        if self.order is not None and self.name != "path":
            raise ValueError(f"order has no effect in design {self.name}; drop it")
        return self

    @property
    def count(self) -> int:
        """`points` or its default: 64 configs of sobol, 5 levels of a range."""
        return self.points or (64 if self.name == "sobol" else 5)


class Block(Frozen):
    """A replicate block: so many configs, spread over the methods, with so many further seeds each."""

    configs: int = Field(default=12, ge=1, le=10_000)
    seeds: int = Field(default=2, ge=1, le=1000)


class Confirm(Frozen):
    """A last stage: the `top` configs of each method, or of the study, again with seeds that chose nothing."""

    top: int = Field(default=3, ge=1, le=1000)
    seeds: int = Field(default=5, ge=1, le=1000)
    per: Literal["method", "study"] = "method"


class Length(Frozen):
    """epochs: of every run."""

    epochs: int = Field(default=200, ge=1, le=100_000)


class StudySeeds(Frozen):
    """study: from which the seeds of runs follow. split: of the first validation split; the others count on from it."""

    study: int = Field(default=0, ge=0, lt=2**63)
    split: int = Field(default=0, ge=0, lt=2**62)


class StudyFile(Frozen):
    """A study, as data: see jobs/README.md for the format."""

    question: str = Field(min_length=1)
    name: str = Field(default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    about: str = ""
    data: Data = Data()
    recipe: str | None = None
    """The file that gave knobs, family and epochs where this one does not say otherwise; all of it is in them."""
    family: Literal["cifar", "tiny", "imagenet", "fine_grained"] = "cifar"
    """Whose published settings are the centre of curves where `knobs` gives none."""
    plugins: Plugins = ()
    """What of it comes from outside; follows from the knobs that name it."""
    knobs: dict[str, Any] = Field(default_factory=dict)
    """The base: single values, and lists, for each of whose values the whole design is run (the strata)."""
    vary: dict[str, Any] = Field(default_factory=dict)
    """What curve, sobol and grid vary: ranges and lists, as in a search space."""
    factors: dict[str, Factor] = Field(default_factory=dict)
    design: DesignKeys
    replicates: int = Field(default=1, ge=1, le=10_000)
    """Seeds of every arm; the same ones in all arms, which are compared in pairs."""
    splits: int = Field(default=1, ge=1, le=1000)
    """Validation splits. Replicates take turns on them; the points of sobol fall evenly on them."""
    replicate_block: Block | None = None
    confirm: Confirm | None = None
    budget: Length = Length()
    metric: str = "val_top1"
    evaluate: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """As in a search space."""
    margin: float = Field(default=0.3, gt=0, le=100)
    """Differences within it are of no practical interest, in points: the margin of equivalence tests."""
    delta: float | None = Field(default=None, gt=0, le=100)
    """How far from the best a config may lie to count as good, in points."""
    effect: float | None = Field(default=None, gt=0, le=100)
    """The smallest effect that the question is about, in points: what `plan` compares with what can be resolved."""
    seeds: StudySeeds = StudySeeds()
    resources: Resources = Resources()

    @field_validator("design", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: object) -> object:
        try:
            return by_name(content) if isinstance(content, dict) else content
        except SpecError as error:
            raise ValueError(str(error)) from None

    @field_validator("metric")
    @classmethod
    def _measured(cls, value: str, info: ValidationInfo) -> str:
        known = catalogue(info.data.get("plugins", ())).metrics
        if value not in known:
            hint = " (test scores choose nothing; reports show them beside)" if value.startswith("test") else ""
            raise ValueError(unknown("metric", value, known) + hint)
        return value

    @field_validator("evaluate", mode="before")
    @classmethod
    def _asked(cls, value: object, info: ValidationInfo) -> object:
        return questions(value, info.data.get("plugins", ()))

    @model_validator(mode="after")
    def _together(self) -> Self:
        self.resources.check_methods(self.catalogue.methods)
        name = self.design.name
        wanted, other = ("vary", "factors") if name in CURVES else ("factors", "vary")
        if not getattr(self, wanted):
            raise ValueError(f"design {name} needs {wanted}")
        if getattr(self, other):
            raise ValueError(f"design {name} takes {wanted}, not {other}; drop {other} or choose another design")
        if name == "grid" and len(self.vary) > 2:
            raise ValueError(f"a grid takes 1 or 2 knobs, not {len(self.vary)}; use design: sobol")
        if "method" in self.vary:
            raise ValueError("vary.method: methods are no levels; list them in knobs.method, and each gets the design")
        if len(self.factors) > MOST_FACTORS:
            raise ValueError(
                f"factors has {len(self.factors)} entries, and {MOST_FACTORS} are the most; split the question"
            )
        self._check_needs()
        return self

    def _check_needs(self) -> None:
        for name, factor in self.factors.items():
            for other in factor.needs:
                if other not in self.factors:
                    raise ValueError(f"factors.{name}.needs: {unknown('factor', other, self.factors)}")
            if name in self.needed_by(name):
                raise ValueError(f"factors.{name}.needs leads back to {name}; a part cannot need itself")
        constrained = [name for name, factor in self.factors.items() if factor.needs]
        if constrained and self.design.resolution != "full":
            raise ValueError(
                f"a fraction of a factorial is balanced only where all combinations exist, and {constrained[0]} needs "
                f"{self.factors[constrained[0]].needs[0]}; use resolution: full, make one factor of both, or switch "
                f"{self.factors[constrained[0]].needs[0]} on in knobs and leave it out of factors"
            )
        order = self.design.order
        if order is not None and sorted(order) != sorted(self.factors):
            raise ValueError(f"design.order = {order} must name every factor once: {', '.join(self.factors)}")
        for position, name in enumerate(self.order):
            missing = self.needed_by(name) - set(self.order[:position])
            if self.design.name == "path" and missing:
                raise ValueError(f"design.order: {name} needs {min(missing)}, which comes later; put it first")

    @property
    def catalogue(self) -> Catalogue:
        """The knobs there are, those from outside included."""
        return catalogue(self.plugins)

    @property
    def order(self) -> list[str]:
        """The factors in the order of a path: as declared, or as written."""
        return self.design.order or list(self.factors)

    def needed_by(self, factor: str) -> set[str]:
        """All that must be on for `factor` to mean something, directly or by way of others."""
        found: set[str] = set()
        front = list(self.factors[factor].needs)
        while front:
            name = front.pop()
            if name not in found and name in self.factors:
                found.add(name)
                front += self.factors[name].needs
        return found

    # As search spaces -------------------------------------------------------------------------------------------

    @cached_property
    def space(self) -> SearchSpace:
        """Everything that a run of this study may be, as a space: the base, and over it what is varied.

        Raises:
            SpecError: a knob is wrong.
        """
        merged = {full: value for part in (self.knobs, self.vary) for full, value in self._by_full_name(part).items()}
        levels = [self.settings(level, name) for name in self.factors for level in ("off", "on")]
        for knob in dict.fromkeys(name for setting in levels for name in setting):
            base = merged.get(knob)
            values: list[Any] = [] if base is None or isinstance(base, list | dict) else [base]
            for setting in levels:
                if knob in setting and setting[knob] not in values:
                    values.append(setting[knob])
            merged[knob] = values if len(values) > 1 else values[0]
        space = SearchSpace(
            name=self.name,
            about=self.about,
            data=self.data,
            plugins=self.plugins,
            knobs=merged,
            recipe=self.recipe,
            family=self.family,
            budget=Budget(trials=1, epochs=self.budget.epochs),
            objective=(self.metric,),
            evaluate=self.evaluate,
            sampler=Sampler(name="random"),
            seeds=Seeds(study=self.seeds.study, split=self.seeds.split),
            resources=self.resources,
            purpose="study",
        )
        _ = space.dimensions
        return space

    @property
    def varied(self) -> list[str]:
        """The full names of the knobs in `vary`."""
        return list(dict.fromkeys(full for key in self.vary for full in self._full(key)))

    def settings(self, level: Literal["off", "on"], factor: str) -> dict[str, Any]:
        """What a factor sets at a level: values by the knobs' full names."""
        return self._by_full_name(getattr(self.factors[factor], level))

    def _by_full_name(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """Values by full names; a name that was written in full wins over a short one."""
        short_first = sorted(written, key=lambda key: key in self.catalogue)
        return {full: written[key] for key in short_first for full in self._full(key)}

    def _full(self, key: str) -> list[str]:
        """The full names that a short name stands for in this study; the name itself where it is full, or unknown."""
        known = self.catalogue
        if key in known:
            return [key]
        chosen = {"method": self._chosen("method"), "loss": self._chosen("loss")}
        methods = [name for method in chosen["method"] for name in methods_of(method)]
        brought = [known.methods[name].algorithm for name in methods if name in known.methods]
        algorithms = [*brought, *(self._chosen("algorithm") if "algorithm" in known else ())]
        found = [
            name
            for name, entry in known.items()
            if name.rpartition(".")[2] == key
            and entry.method in (None, *methods)
            and entry.loss in (None, *chosen["loss"])
            and entry.algorithm in (None, *algorithms)
            and (not entry.joint or any(len(methods_of(method)) > 1 for method in chosen["method"]))
        ]
        return found or [key]

    def _chosen(self, kind: str) -> list[str]:
        """The methods, losses or algorithms that may occur."""
        knob = self.catalogue[kind].knob
        written = [self.knobs.get(kind), self.vary.get(kind)]
        written += [getattr(factor, level).get(kind) for factor in self.factors.values() for level in ("off", "on")]
        found: list[Any] = []
        for value in written:
            found += knob.choices or () if value in ("all", "auto") else value if isinstance(value, list) else [value]
        names = [str(value) for value in found if value is not None]
        return names or [{"method": "vanilla", "loss": "mce", "algorithm": SUPERVISED}[kind]]


def load_study_file(path: str | Path, overrides: Iterable[str] = ()) -> StudyFile:
    """Read a study file.

    Args:
        path: a YAML file, or the name of one that comes with the package, such as `alpha`.
        overrides: `key=value` strings; keys are those of the file (`replicates`, `vary.alpha`), `epochs`, or knobs.

    Raises:
        SpecError: with file, key, rule, value and remedy.
    """
    where = str(path)
    content = read_content(find_file(where, "study file"), where, overrides, StudyFile)
    if "design" not in content and ("knobs" in content or "search" in content):
        command = "submit" if "search" in content else "search"
        raise SpecError(f"{where}: has no design, so it is no study; use automixsearch {command}")
    if content.get("vary") == {} and not content.get("factors"):  # methods chosen by an override have dropped its knobs
        raise SpecError(
            f"{where}: vary has no knob of the chosen methods; choose others, or vary a knob that they have"
        )
    return parse_study_file(content, where)


def parse_study_file(content: Mapping[str, Any], where: str) -> StudyFile:
    """Build and check a study from plain data; `where` names it in errors."""
    study = build(StudyFile, content, where)
    try:
        enumerate_runs(study)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    return study
