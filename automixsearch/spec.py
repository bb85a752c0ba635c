"""What search spaces, data sets and trial configs are: the catalogue of knobs, and frozen pydantic models.

How they are read from files and command lines: `reading`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from automixsearch.algorithms import ALGORITHMS
from automixsearch.errors import SpecError, brief_repr, unknown
from automixsearch.identity import config_identity, hash_json, space_identity
from automixsearch.knobs import Knob, Scalar, knobs_of, normal
from automixsearch.losses import LOSSES, Loss
from automixsearch.mixers import MIXERS, Mixer
from automixsearch.mixers.switch import switched
from automixsearch.models.registry import BACKBONES
from automixsearch.plain_yaml import write_yaml
from automixsearch.policy import WEIGHT, Policy, methods_of
from automixsearch.recipe import Recipe
from automixsearch.schema_version import SCHEMA_VERSION, upgrade

if TYPE_CHECKING:
    from automixsearch.space import Dimension

CANONICAL = ("method", "alpha", "eta", "gamma", "layer")
"""Knobs with a ledger column of their own name; every other knob is `knob.<name>`."""

SUPERVISED = "supervised"
"""The way of training of methods that bring none of their own."""
BROUGHT = frozenset(mixer.algorithm for mixer in MIXERS.values()) - {SUPERVISED}
"""The ways of training that a method brings, and that go with it alone."""

METRICS = {
    "val_top1": "max",
    "val_top5": "max",
    "val_loss": "min",
    "val_ece": "min",
    "train_loss": "min",
    "wall_s": "min",
    "device_s": "min",
}
"""What a search may optimise, and in which direction. Test scores are not among them, on purpose."""


# The catalogue of knobs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A knob and when it is active: only with `method` or only with `loss`; always where both are None.

    joint: only where several methods are joined. policy: only where there is anything to mix. algorithm: only with that
    one. free: only with methods that bring no algorithm of their own.
    """

    knob: Knob
    method: str | None = None
    loss: str | None = None
    joint: bool = False
    policy: bool = False
    algorithm: str | None = None
    free: bool = False


@cache
def catalogue() -> dict[str, Entry]:
    """Every knob by full name: `method`, `loss`, `<method>.<knob>`, `<loss>.<knob>`, `<policy or recipe knob>`."""
    names, losses = tuple(MIXERS), tuple(LOSSES)
    method = Knob("method", str, "mixup", "mixing method, or several", choices=names, search=names, several=True)
    found = {
        "method": Entry(method),
        "loss": Entry(Knob("loss", str, "mce", "loss of mixed samples", choices=losses, search=losses)),
    }
    free = tuple(name for name in ALGORITHMS if name not in BROUGHT)
    if len(free) > 1:
        found["algorithm"] = Entry(
            Knob("algorithm", str, SUPERVISED, "way of training", choices=free, search=free), free=True
        )
    for name, mixer in MIXERS.items():
        found |= {f"{name}.{k}": Entry(declared, method=name) for k, declared in knobs_of(mixer).items()}
        found[f"{name}.weight"] = Entry(WEIGHT, method=name, joint=True)
    for name, loss in LOSSES.items():
        found |= {f"{name}.{k}": Entry(declared, loss=name) for k, declared in knobs_of(loss).items()}
    for name, algorithm in ALGORITHMS.items():
        found |= {f"{name}.{k}": Entry(declared, algorithm=name) for k, declared in knobs_of(algorithm.knobs).items()}
    found |= {k: Entry(declared, policy=True) for k, declared in knobs_of(Policy).items()}
    return found | {k: Entry(declared) for k, declared in knobs_of(Recipe).items()}


def column_of(name: str) -> str:
    """The ledger column of a knob given by its full name (`mixup.alpha` -> `alpha`, `lr` -> `knob.lr`)."""
    short = name.rpartition(".")[2]
    return short if short in CANONICAL else f"knob.{short}"


def joint_column_of(name: str) -> str | None:
    """The ledger column of a knob of one of several joined methods; None: only the config holds it."""
    owner, _, short = name.rpartition(".")
    return f"knob.{name}" if owner in MIXERS and short in ("alpha", "weight") else None


def is_active(entry: Entry, values: Mapping[str, Scalar]) -> bool:
    """Whether a knob has an effect under the method and loss that `values` holds."""
    methods = methods_of(values["method"])
    if (entry.joint and len(methods) == 1) or (entry.policy and methods == ("vanilla",)):
        return False
    brings = MIXERS[methods[0]].algorithm in BROUGHT
    if (entry.free and brings) or entry.algorithm not in (None, algorithm_of(values)):
        return False
    return entry.method in (None, *methods) and entry.loss in (None, values["loss"])


@cache
def _active(method: str, loss: str, algorithm: str) -> dict[str, Knob]:
    values: dict[str, Scalar] = {"method": method, "loss": loss, "algorithm": algorithm}
    return {name: entry.knob for name, entry in catalogue().items() if is_active(entry, values)}


def algorithm_of(values: Mapping[str, Scalar]) -> str:
    """The way of training under the knobs that `values` holds: the method's own, or the one that is chosen."""
    own = MIXERS[methods_of(values["method"])[0]].algorithm
    return str(values.get("algorithm", SUPERVISED)) if own == SUPERVISED else own


def mixes(method: object) -> bool:
    """Whether a method, or any of several joined by +, changes labels."""
    return any(MIXERS[name].mixes for name in methods_of(method))


def complete(values: Mapping[str, object], where: str) -> dict[str, Scalar]:
    """Check knob `values` given by full name and write out every default of the active knobs.

    A method that does not mix has only one loss, `mce`.

    Raises:
        SpecError: a name is unknown, a value illegal, or a knob has no effect with this method and loss.
    """
    known = catalogue()
    for name in values:
        if name not in known:
            raise SpecError(f"{where}: {unknown('knob', name, known)}")
    chosen = {name: known[name].knob.check(values.get(name, known[name].knob.default), f"{where}: {name}")
              for name in ("method", "loss")}  # fmt: skip
    if not mixes(chosen["method"]) and chosen["loss"] != "mce":
        raise SpecError(f"{where}: loss {chosen['loss']} has no effect with method {chosen['method']}; use mce")
    wanted = dict(chosen)
    if "algorithm" in values:
        wanted["algorithm"] = known["algorithm"].knob.check(values["algorithm"], f"{where}: algorithm")
    algorithm = algorithm_of(wanted)
    active = _active(str(chosen["method"]), str(chosen["loss"]), algorithm)
    for name in values:
        if name not in active:
            beside = f"method {chosen['method']} and loss {chosen['loss']}"
            if known[name].algorithm or known[name].free:
                beside = f"method {chosen['method']} and algorithm {algorithm}"
            raise SpecError(f"{where}: {name} has no effect with {beside}; drop it")
    for name, knob in active.items():
        if name not in chosen:
            chosen[name] = knob.check(values[name], f"{where}: {name}") if name in values else knob.default
    _check_shares(chosen, where)
    check_backbone(chosen, where)
    if float(chosen["warmup_epochs"]) >= int(chosen["epochs"]):
        raise SpecError(
            f"{where}: warmup_epochs = {chosen['warmup_epochs']:g} must be below epochs = {chosen['epochs']}; lower it"
        )
    return chosen


def _check_shares(values: Mapping[str, Scalar], where: str) -> None:
    """Refuse part of a batch for a method that needs all of it, and weights that leave nothing to draw."""
    methods = methods_of(values["method"])
    led = [name for name in methods if MIXERS[name].algorithm != SUPERVISED]
    for name, plain in (("mix_prob", 1.0), ("repeats", 1), ("mix_until", 1.0)):
        if led and values[name] != plain:
            raise SpecError(f"{where}: {name} = {values[name]} does not go with {led[0]}; drop it")
    if led and len(methods) > 1:
        raise SpecError(f"{where}: {led[0]} trains in a way of its own and cannot be joined; use it alone")
    alone = [name for name in methods if MIXERS[name].whole and values.get("switch", "batch") != "batch"]
    if alone and (len(methods) > 1 or float(values["mix_prob"]) < 1):
        raise SpecError(
            f"{where}: switch = {values['switch']!r} gives {alone[0]} part of a batch, and it takes a whole one; "
            f"use switch: batch, or leave {alone[0]} out of method"
        )
    if len(methods) > 1 and not any(float(values[f"{name}.weight"]) > 0 for name in methods):
        raise SpecError(f"{where}: all weights of {values['method']} are 0; give one of them a positive weight")


def check_backbone(values: Mapping[str, Scalar], where: str) -> None:
    """Refuse knobs that the backbone cannot follow; a knob that `values` lacks has its default.

    Raises:
        SpecError: a width it cannot have, a stage that cannot be mixed, a knob without effect.
    """
    backbone = str(values["backbone"])
    network = BACKBONES[backbone]
    for name, value in values.items():
        if name.endswith(".stages"):
            for stage in str(value).split("+"):
                if stage not in network.mixable:
                    raise SpecError(
                        f"{where}: {name} = {value} needs {stage}, and backbone {backbone} can mix at "
                        f"{', '.join(network.mixable)} only; leave {stage} out"
                    )
        elif name.endswith(".layer") and int(str(value)[1:]) > network.stages:
            raise SpecError(
                f"{where}: {name} = {value} needs stage {str(value)[1:]}, and backbone {backbone} has "
                f"{network.stages}; use l{network.stages} at most"
            )
        elif name == "width" and int(value) % network.width:
            raise SpecError(
                f"{where}: width = {value} must be a multiple of {network.width} with backbone {backbone}; "
                "64 is the published network"
            )
        elif name in ("stem", "drop_path") and value != catalogue()[name].knob.default and not getattr(network, name):
            raise SpecError(f"{where}: {name} = {value} has no effect with backbone {backbone}; drop it")


# Trial configs -------------------------------------------------------------------------------------------------


class Frozen(BaseModel):
    """Base of everything that is read from YAML: no unknown keys, no changes afterwards, numbers that are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _normal(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)} & {bool, int, float}
        return normal(value, kinds.pop() if len(kinds) == 1 else object)


Several = Literal["voc2007", "voc2012", "coco2014", "coco2017"]
"""Sources whose images hold several classes; they can be looked at, not trained on."""
Source = Literal[
    "digits", "parquet", "folder", "cifar10", "cifar100", "tiny_imagenet", "imagenet", "cub200", "aircraft", "cars",
    "inat2017", "inat2018", "places205", Several,
]  # fmt: skip
Pipeline = Literal["auto", "cache", "stream"]
UNEQUAL = ("imagenet", "cub200", "aircraft", "cars", "inat2017", "inat2018")
"""Sources whose images differ in size."""
ARRAYS = ("digits", "cifar10", "cifar100")
"""Sources that are no image files."""


class Data(Frozen):
    """Which images, and which part of the training set is kept for validation."""

    source: Source = "digits"
    path: str | None = None
    """Directory in which the files of the source lie; digits has none."""
    image_column: str | None = None
    label_column: str | None = None
    """Parquet columns; None: found from the schema."""
    size: int | None = Field(default=None, ge=4, le=1024)
    """Resize to size x size pixels; None: as stored."""
    resize: Literal["crop", "squash"] = "crop"
    """crop: the centre square of the image. squash: all of it, whatever its shape."""
    trim: int = Field(default=0, ge=0, le=1024)
    """Rows of pixels to cut off at the bottom before resizing."""
    orientation: Literal["stored", "exif"] = "stored"
    """stored: pixels as they lie in the file, as torchvision's loaders take them. exif: turned as EXIF says."""
    labels: float | int | str | None = None
    """Training images to keep: a share of each class, a number of each class, a file that lists them; None: all."""
    labels_seed: int = Field(default=0, ge=0, lt=2**63)
    """Which images a share or a number takes."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """What to do about an image that is missing or cannot be decoded; skip leaves it out and counts it."""
    pipeline: Pipeline = "auto"
    """cache: images are decoded once, into memory or the cache. stream: anew for every epoch, by processes beside the
    training. auto: cache where it has room, else stream."""
    download: bool = False
    """Let torchvision download (cifar only)."""
    val_fraction: float = Field(default=0.1, gt=0, le=0.5)

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        # Workers and exported configs must find the data from any directory.
        return None if path is None else os.path.abspath(os.path.expanduser(path))

    @field_validator("labels", mode="before")
    @classmethod
    def _kept(cls, labels: object) -> object:
        if isinstance(labels, str) and labels:
            return cls._absolute(labels)
        legal = labels is None or (isinstance(labels, int) and labels >= 1) or (
            isinstance(labels, float) and 0 < labels < 1
        )  # fmt: skip
        if not legal or isinstance(labels, bool):
            raise ValueError(
                f"{labels!r} must be a share between 0 and 1, a number of images of each class from 1, or the path "
                "of a list; leave it out to keep all"
            )
        return labels

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.source == "digits" and self.path is not None:
            raise ValueError("path is not used by source digits (it is embedded); drop it")
        if self.source != "digits" and self.path is None:
            raise ValueError(f"path is missing; source {self.source} reads a local directory, e.g. data.path=DIR")
        if self.download and not self.source.startswith("cifar"):
            raise ValueError(f"download works for cifar10 and cifar100, not for source {self.source}; drop it")
        for name in ("image_column", "label_column"):
            if getattr(self, name) is not None and self.source != "parquet":
                raise ValueError(f"{name} works for source parquet, not for {self.source}; drop it")
        if self.size is None and self.source in UNEQUAL:
            raise ValueError(f"size is missing; the images of source {self.source} differ in size; e.g. data.size=256")
        if self.size is None and self.resize == "squash":
            raise ValueError("resize = squash has no effect without size; give one, e.g. data.size=256")
        if self.pipeline == "stream" and self.source in ARRAYS:
            raise ValueError(f"pipeline = stream reads encoded images, and source {self.source} has none; drop it")
        for name in ("size", "labels", "trim"):
            if getattr(self, name) and self.source in get_args(Several):
                raise ValueError(f"{name} is for images with one class, and source {self.source} has several; drop it")
        for name in ("trim", "orientation"):
            if getattr(self, name) != type(self).model_fields[name].default and self.source in ARRAYS:
                raise ValueError(f"{name} works for image files, and source {self.source} has none; drop it")
        return self


class TrialConfig(Frozen):
    """All that decides the outcome of one training run, every default written out.

    `knobs` holds the active knobs by full name. `data_fingerprint` is the hash of the decoded data set, so a
    config names its data by content; where they lie (`data.path`, a list in `data.labels`) does not enter `config_id`.
    """

    schema_version: int = SCHEMA_VERSION
    data: Data
    data_fingerprint: str | None = None
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    seed: int = Field(default=0, ge=0, lt=2**63)
    knobs: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, content: object) -> object:
        return upgrade(content) if isinstance(content, dict) else content

    @field_validator("knobs")
    @classmethod
    def _complete(cls, values: dict[str, Any]) -> dict[str, Scalar]:
        try:
            return complete(values, "knobs")
        except SpecError as error:
            raise ValueError(str(error).removeprefix("knobs: ")) from None

    @cached_property
    def config_id(self) -> str:
        """Hash of everything but the place of the data: 16 hexadecimal digits."""
        return hash_json(config_identity(self.model_dump(mode="json")))

    @property
    def method(self) -> str:
        return str(self.knobs["method"])

    @property
    def mixer(self) -> Mixer:
        """The mixing method with its values, or what draws one of several."""
        names, weights = methods_of(self.method), []
        members = []
        for name in names:
            values = self._owned(name)
            weights.append(float(values.pop("weight", 1.0)))
            members.append(MIXERS[name](**values))
        return switched(members, weights, self.policy.switch, self.policy.mix_prob)

    @property
    def algorithm(self) -> str:
        """The way of training, by its name in `algorithms.ALGORITHMS`."""
        return algorithm_of(self.knobs)

    @property
    def policy(self) -> Policy:
        """When and how often is mixed."""
        return Policy(**{name: self.knobs[name] for name in knobs_of(Policy) if name in self.knobs})

    @property
    def loss(self) -> Loss:
        """The loss with its values."""
        name = str(self.knobs["loss"])
        return LOSSES[name](**self._owned(name))

    @property
    def recipe(self) -> Recipe:
        """Everything about training that is neither mixing nor loss."""
        return Recipe(**{name: self.knobs[name] for name in knobs_of(Recipe)})

    def _owned(self, owner: str) -> dict[str, Any]:
        prefix = owner + "."
        return {name.removeprefix(prefix): v for name, v in self.knobs.items() if name.startswith(prefix)}

    def to_yaml(self) -> str:
        return write_yaml(self.model_dump())


def derive_seed(seed: int, *path: object) -> int:
    """An independent 63-bit seed for the stream named by `path` under `seed`."""
    digest = hashlib.sha256(f"{seed}/{'/'.join(map(str, path))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# Search spaces -------------------------------------------------------------------------------------------------


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


class Share(Frozen):
    """What the trials of one method hold, where it is not what all others do."""

    cpus: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, ge=0)


class Most(Frozen):
    """What an autoscaling cluster can grow to."""

    cpus: float = Field(default=0.0, ge=0)
    gpus: float = Field(default=0.0, ge=0)


class Checkpoints(Frozen):
    """What is kept of trainings beside their rows."""

    best: int = Field(default=1, ge=0)
    """Trained weights of so many trials, the best by the first objective."""
    last: int = Field(default=2, ge=1)
    """Checkpoints of each trial under way; where the newest cannot be read the trial goes on from the one before."""


class Resources(Frozen):
    """What one trial holds. With `workers` > 1, cpus and gpus are for each worker."""

    workers: int = Field(default=1, ge=1)
    cpus: float = Field(default=1.0, gt=0)
    gpus: float | Literal["auto"] = "auto"
    """auto: one GPU for each worker where the cluster has GPUs, else none."""
    concurrent: int | Literal["auto"] = "auto"
    executor: Literal["auto", "inline", "train"] = "auto"
    """inline: in a reused Tune actor. train: Ray Train. auto: train where workers > 1."""
    packing: int | Literal["off", "auto"] = "off"
    """How many trials share a GPU, or the memory of a machine where trials hold no GPU. auto: as many as fit by the
    memory that a short probe of each method takes. off: a trial has whole GPUs, and memory is not counted."""
    per_method: dict[str, Share] = Field(default_factory=dict)
    """Methods whose trials hold something else, e.g. {automix: {gpus: 1}}."""
    checkpoints: Checkpoints = Checkpoints()
    """What is stored of trainings."""
    most: Most | None = None
    """What the cluster can grow to, where it has an autoscaler; None: what it has when the search starts."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.executor == "inline" and self.workers > 1:
            raise ValueError(f"executor inline has one worker, not {self.workers}; use executor: train, or workers: 1")
        if self.gpus != "auto" and self.gpus < 0:
            raise ValueError(f"gpus = {self.gpus} must be >= 0")
        if self.concurrent != "auto" and self.concurrent < 1:
            raise ValueError(f"concurrent = {self.concurrent} must be >= 1")
        if isinstance(self.packing, int) and self.packing < 1:
            raise ValueError(f"packing = {self.packing} must be >= 1")
        if self.packing != "off" and self.distributed:
            raise ValueError(
                f"packing = {self.packing} is for trials of one worker, not for workers = {self.workers} (executor "
                f"{self.executor}); use workers: 1, or a fraction in gpus"
            )
        if self.packing != "off" and self.gpus not in ("auto", 0):
            rule = "decides what share of a GPU a trial has"
            raise ValueError(f"packing = {self.packing} {rule}, as gpus = {self.gpus} does; drop one of them")
        for method in self.per_method:
            for name in methods_of(method):
                if name not in MIXERS:
                    raise ValueError(f"per_method: {unknown('method', name, MIXERS)}")
        return self

    @property
    def distributed(self) -> bool:
        return self.executor == "train" or self.workers > 1

    def share(self, method: str) -> Share:
        """What `per_method` says of a method; of joined ones the most that it says of any of them."""
        if method in self.per_method:
            return self.per_method[method]
        known = [self.per_method[name] for name in methods_of(method) if name in self.per_method]
        return Share(
            cpus=max((share.cpus for share in known if share.cpus is not None), default=None),
            gpus=max((share.gpus for share in known if share.gpus is not None), default=None),
        )


class SearchSpace(Frozen):
    """A search, as data: see search_spaces/README.md for the format."""

    name: str = Field(default="search", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    about: str = ""
    data: Data = Data()
    knobs: dict[str, Any]
    budget: Budget = Budget()
    objective: tuple[str, ...] = ("val_top1",)
    sampler: Sampler = Sampler()
    scheduler: Scheduler = Scheduler()
    fidelity: Fidelity | None = None
    priors: Literal["none", "published"] | list[dict[str, Any]] = "none"
    """Configs to try first: none, each method's published setting, or a list of {knob: value}."""
    family: Literal["cifar", "tiny", "imagenet", "fine_grained"] = "cifar"
    """Whose published settings are taken."""
    recipe: str | None = None
    """The file that gave knobs, family and epochs where this one does not say otherwise; all of it is in them."""
    seeds: Seeds = Seeds()
    resources: Resources = Resources()
    purpose: Literal["search", "study", "replicate", "confirm"] = "search"

    @field_validator("priors")
    @classmethod
    def _in_their_types(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        kinds = {name.rpartition(".")[2]: entry.knob.kind for name, entry in catalogue().items()}
        return [
            {name: normal(inner, kinds.get(name.rpartition(".")[2], object)) for name, inner in point.items()}
            for point in value
        ]

    @field_validator("sampler", "scheduler", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("objective", mode="before")
    @classmethod
    def _objectives(cls, value: object) -> object:
        if not isinstance(value, str | list | tuple):
            raise ValueError(
                f"{brief_repr(value)} must be the name of a metric, or a list of names; each has its direction: "
                + ", ".join(f"{name} ({'maximised' if way == 'max' else 'minimised'})" for name, way in METRICS.items())
            )
        names = (value,) if isinstance(value, str) else tuple(value)
        for name in names:
            if not isinstance(name, str) or name not in METRICS:
                hint = " (test scores are read once, at the end, and never optimised)"
                raise ValueError(unknown("metric", name, METRICS) + (hint if str(name).startswith("test") else ""))
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{list(names)} must be one metric, or several different ones; drop what is double")
        return names

    @model_validator(mode="after")
    def _together(self) -> Self:
        if len(self.objective) > 1 and self.scheduler.name != "fifo":
            raise ValueError(
                f"scheduler {self.scheduler.name} cannot stop trials early with {len(self.objective)} objectives: "
                "a stopped trial has no comparable value for each of them and would distort the Pareto front; "
                "use scheduler: fifo or a single objective"
            )
        first = next(iter(self.objective))
        if self.scheduler.name != "fifo" and first not in PER_EPOCH:
            raise ValueError(
                f"scheduler {self.scheduler.name} needs an objective that is measured every epoch; "
                f"{first} only grows; use one of {', '.join(PER_EPOCH)}"
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
        from automixsearch.space import dimensions

        found = dimensions(self.knobs, self.budget.epochs)
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
        return tuple("maximize" if METRICS[name] == "max" else "minimize" for name in self.objective)

    @cached_property
    def space_id(self) -> str:
        """Hash of all that must not change while a study goes on (not the number of trials, nor resources)."""
        return hash_json(space_identity(self))


PER_EPOCH = ("val_top1", "val_top5", "val_loss", "val_ece", "train_loss")
