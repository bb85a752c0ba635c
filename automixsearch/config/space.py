"""A search as data: the space and how it is searched."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from automixsearch.config.catalogue import Catalogue, catalogue
from automixsearch.config.data import Data
from automixsearch.config.dimensions import Dimension, dimensions
from automixsearch.config.evaluate import questions
from automixsearch.config.frozen import Frozen
from automixsearch.config.identity import hash_json, space_identity
from automixsearch.config.knobs import normal
from automixsearch.config.outside import Plugins, by_name
from automixsearch.config.resources import Resources
from automixsearch.errors import SpecError, brief_repr, unknown


class Budget(Frozen):
    """trials: in total, over all runs of the command. epochs: of one full trial."""

    trials: int = Field(default=20, ge=1, le=1_000_000)
    epochs: int = Field(default=200, ge=1, le=100_000)


class Seeds(Frozen):
    """study: sampler and trial seeds. split: validation split. training: one seed for all trials, or one each."""

    study: int = Field(default=0, ge=0, lt=2**63)
    split: int = Field(default=0, ge=0, lt=2**63)
    training: Literal["per_trial", "shared"] = "per_trial"


class Sampler(Frozen):
    """How configs are proposed; `startup_trials` are random before tpe and gp start modelling."""

    name: Literal["tpe", "random", "sobol", "gp", "nsga2"] = "tpe"
    startup_trials: int = Field(default=10, ge=0)


class Scheduler(Frozen):
    """How trials are halved: asha compares a config with others of its own method, and only what has cooled down."""

    name: Literal["fifo", "asha"] = "fifo"
    rungs: Literal["schedules", "cooldown"] = "schedules"
    """schedules: each rung is a trial of its own with a shorter complete schedule; the best are trained again, longer.
    cooldown: trials of constant learning rate, from which short cool-downs branch off; the worst are stopped."""
    reduction: int = Field(default=3, ge=2)
    """One in `reduction` configs goes on at each rung."""
    first: float = Field(default=0.25, gt=0, lt=1)
    """The first rung, as a share of the full schedule."""
    protect: float = Field(default=0.5, ge=0, le=1)
    """Until this share of the budget is spent the methods take turns, and each gets a config to the full schedule."""

    @model_validator(mode="before")
    @classmethod
    def _raw(cls, value: object) -> object:
        if isinstance(value, dict) and "grace_epochs" in value:
            raise ValueError(
                "grace_epochs stopped trials by scores in the middle of a cosine, which say little about its end; "
                "rungs are complete schedules now: use first: 0.25, the share of the full schedule at the first rung"
            )
        return value


class Fidelity(Frozen):
    """What rungs must show before configs are halved by them.

    The first `anchors` configs are trained at every rung, whatever their rank. If the lower end of the 95 % interval
    of the rank correlation between rung and full schedule is below `min_lower_bound`, halving stops.
    """

    min_lower_bound: float = Field(default=0.3, ge=-1, lt=1)
    anchors: int = Field(default=12, ge=4)


class SearchSpace(Frozen):
    """A search, as data: see search_spaces/README.md for the format.

    Examples:
        >>> space = SearchSpace(
        ...     name="first",
        ...     knobs={"method": ["mixup", "cutmix"], "alpha": "auto", "lr": {"low": 0.01, "high": 0.3, "log": True}},
        ...     budget={"trials": 20, "epochs": 3},
        ... )
        >>> [dimension.name for dimension in space.dimensions]
        ['method', 'loss', 'mixup.alpha', 'cutmix.alpha', 'lr', 'epochs']
    """

    name: str = Field(default="search", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    about: str = ""
    data: Data = Data()
    plugins: Plugins = ()
    """What of it comes from outside; follows from the knobs that name it."""
    knobs: dict[str, Any]
    budget: Budget = Budget()
    objective: tuple[str, ...] = ("val_top1",)
    sampler: Sampler = Sampler()
    scheduler: Scheduler = Scheduler()
    fidelity: Fidelity | None = None
    evaluate: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What every complete trial is asked beside: evaluations by name, each with its settings; see `evaluation`."""
    priors: Literal["none", "published"] | list[dict[str, Any]] = "none"
    """Configs to try first: none, each method's published setting, or a list of {knob: value}."""
    family: Literal["cifar", "tiny", "imagenet", "fine_grained"] = "cifar"
    """Whose published settings are taken."""
    recipe: str | None = None
    """The file that gave knobs, family and epochs where this one does not say otherwise; all of it is in them."""
    seeds: Seeds = Seeds()
    resources: Resources = Resources()
    purpose: Literal["search", "study", "replicate", "confirm"] = "search"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: object) -> object:
        try:
            return by_name(content) if isinstance(content, dict) else content
        except SpecError as error:
            raise ValueError(str(error)) from None

    @field_validator("priors")
    @classmethod
    def _in_their_types(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, list):
            return value
        kinds = {
            name.rpartition(".")[2]: entry.knob.kind for name, entry in catalogue(info.data.get("plugins", ())).items()
        }
        return [
            {name: normal(inner, kinds.get(name.rpartition(".")[2], object)) for name, inner in point.items()}
            for point in value
        ]

    @field_validator("evaluate", mode="before")
    @classmethod
    def _asked(cls, value: object, info: ValidationInfo) -> object:
        return questions(value, info.data.get("plugins", ()))

    @field_validator("sampler", "scheduler", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("objective", mode="before")
    @classmethod
    def _objectives(cls, value: object, info: ValidationInfo) -> object:
        known = catalogue(info.data.get("plugins", ())).metrics
        if not isinstance(value, str | list | tuple):
            raise ValueError(
                f"{brief_repr(value)} must be the name of a metric, or a list of names; each has its direction: "
                + ", ".join(f"{name} ({'maximised' if way == 'max' else 'minimised'})" for name, way in known.items())
            )
        names = (value,) if isinstance(value, str) else tuple(value)
        for name in names:
            if not isinstance(name, str) or name not in known:
                hint = " (test scores are read once, at the end, and never optimised)"
                raise ValueError(unknown("metric", name, known) + (hint if str(name).startswith("test") else ""))
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{list(names)} must be one metric, or several different ones; drop what is double")
        return names

    @model_validator(mode="after")
    def _together(self) -> Self:
        self.resources.check_methods(self.catalogue.methods)
        if len(self.objective) > 1 and self.scheduler.name != "fifo":
            raise ValueError(
                f"scheduler {self.scheduler.name} cannot stop trials early with {len(self.objective)} objectives: "
                "a stopped trial has no comparable value for each of them and would distort the Pareto front; "
                "use scheduler: fifo or a single objective"
            )
        first = next(iter(self.objective))
        measured = [name for name in self.catalogue.metrics if not name.endswith("_s")]
        if self.scheduler.name != "fifo" and first not in measured:
            raise ValueError(
                f"scheduler {self.scheduler.name} needs an objective that is measured every epoch; "
                f"{first} only grows; use one of {', '.join(measured)}"
            )
        if self.fidelity is not None:
            if len(self.rungs) == 1:
                raise ValueError("fidelity is asked of rungs, and there are none; use scheduler: asha, or drop it")
            each = len(self.rungs) if self.scheduler.rungs == "schedules" else 1
            if self.fidelity.anchors * each > self.budget.trials:
                raise ValueError(
                    f"fidelity.anchors = {self.fidelity.anchors} configs take {self.fidelity.anchors * each} trials, "
                    f"more than budget.trials = {self.budget.trials}; lower the anchors or raise the trials"
                )
        return self

    @property
    def catalogue(self) -> Catalogue:
        """The knobs there are, those from outside included."""
        return catalogue(self.plugins)

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """The epochs of each rung, the full schedule last: equal ratios from the first, as near `reduction` as goes."""
        full, first = self.budget.epochs, self.scheduler.first
        if self.scheduler.name == "fifo":
            return (full,)
        count = max(1, round(math.log(1 / first) / math.log(self.scheduler.reduction)))
        return tuple(dict.fromkeys(max(1, round(full * first ** (1 - k / count))) for k in range(count + 1)))

    @property
    def branches(self) -> tuple[int, ...]:
        """The epochs after which a cool-down branches off every trial."""
        return self.rungs[:-1] if self.scheduler.rungs == "cooldown" else ()

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The knobs with their ranges, conditions and fixed values, checked, in the order of suggestion."""
        found = dimensions(self.knobs, self.budget.epochs, self.catalogue)
        if self.scheduler.name == "asha" and self.scheduler.rungs == "cooldown":
            kinds = next((d.choices for d in found if d.name == "schedule"), None) or ("cosine",)
            if "cosine" in kinds:
                raise SpecError(
                    "scheduler.rungs = cooldown branches off a constant learning rate, and schedule = cosine has none: "
                    "scores from the middle of a cosine are not compared; use knobs.schedule: trapezoid, or "
                    "rungs: schedules"
                )
        return found

    @property
    def methods(self) -> tuple[str, ...]:
        """The values of the knob `method` that can be proposed."""
        return tuple(map(str, next(d for d in self.dimensions if d.name == "method").choices or ()))

    @property
    def directions(self) -> tuple[Literal["maximize", "minimize"], ...]:
        """`maximize` or `minimize` for each objective."""
        return tuple("maximize" if self.catalogue.metrics[name] == "max" else "minimize" for name in self.objective)

    @property
    def sign(self) -> int:
        """1 where the first objective is to be as large as can be, -1 where as small."""
        return 1 if self.catalogue.metrics[self.objective[0]] == "max" else -1

    @cached_property
    def space_id(self) -> str:
        """Hash of all that must not change while a study goes on (not the number of trials, nor resources)."""
        return hash_json(space_identity(self))
