"""One training run as data: the config that decides its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from automixsearch.config.catalogue import Catalogue, catalogue
from automixsearch.config.data import Data
from automixsearch.config.frozen import Frozen
from automixsearch.config.identity import config_identity, hash_json
from automixsearch.config.knobs import Scalar, knobs_of
from automixsearch.config.outside import Plugins, by_name, named_by
from automixsearch.config.policy import Policy, methods_of
from automixsearch.config.recipe import Recipe
from automixsearch.config.upgrade import SCHEMA_VERSION, upgrade
from automixsearch.config.yaml import write_yaml
from automixsearch.errors import SpecError
from automixsearch.losses import Loss
from automixsearch.mixers import Mixer
from automixsearch.mixers.switch import switched
from automixsearch.registry import look_up

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.studies.file import StudyFile


class TrialConfig(Frozen):
    """All that decides the outcome of one training run, every default written out.

    `knobs` holds the active knobs by full name, and `plugins` what of them comes from outside.
    `data_fingerprint` is the hash of the decoded data set, so a
    config names its data by content; where they lie (`data.path`, a list in `data.labels`) does not enter `config_id`.

    Examples:
        >>> config = TrialConfig(data={"source": "digits"}, knobs={"method": "cutmix", "cutmix.alpha": 0.2})
        >>> config.mixer
        CutMix(alpha=0.2, boxes='batch')
        >>> config.knobs["lr"]  # every default is written out
        0.1
    """

    schema_version: int = SCHEMA_VERSION
    data: Data
    data_fingerprint: str | None = None
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    seed: int = Field(default=0, ge=0, lt=2**63)
    plugins: Plugins = Field(default=(), exclude_if=lambda plugins: not plugins)
    knobs: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, content: object) -> object:
        if not isinstance(content, dict) or not isinstance(content.get("knobs"), dict):
            return content
        made = by_name(upgrade(content))
        return made | {"plugins": named_by(made.get("plugins", ()), made.get("data"), made["knobs"])}

    @field_validator("knobs")
    @classmethod
    def _complete(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Scalar]:
        try:
            return catalogue(info.data.get("plugins", ())).complete(values, "knobs")
        except SpecError as error:
            raise ValueError(str(error).removeprefix("knobs: ")) from None

    @cached_property
    def config_id(self) -> str:
        """Hash of everything but the place of the data: 16 hexadecimal digits."""
        return hash_json(config_identity(self.model_dump(mode="json")))

    @classmethod
    def of(cls, what: SearchSpace | StudyFile, knobs: Mapping[str, Scalar], **more: Any) -> Self:
        """The config of a trial of a search or a study, of `knobs` by full name; more: its other fields, as seeds."""
        return cls(data=what.data, plugins=what.plugins, knobs=dict(knobs), **more)

    @property
    def catalogue(self) -> Catalogue:
        """The knobs there are, those from outside included."""
        return catalogue(self.plugins)

    @property
    def config_key(self) -> str:
        """The same without the seeds: runs of one config share it."""
        return hash_json(config_identity(self.model_dump(mode="json"), seeds=False))

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
            members.append(look_up("mixers", name, self.plugins)(**values))
        return switched(members, weights, self.policy.switch, self.policy.mix_prob)

    @property
    def algorithm(self) -> str:
        """The name of the way of training."""
        return self.catalogue.algorithm_of(self.knobs)

    @property
    def policy(self) -> Policy:
        """When and how often is mixed."""
        return Policy(**{name: self.knobs[name] for name in knobs_of(Policy) if name in self.knobs})

    @property
    def loss(self) -> Loss:
        """The loss with its values."""
        name = str(self.knobs["loss"])
        return look_up("losses", name, self.plugins)(**self._owned(name))

    @property
    def recipe(self) -> Recipe:
        """Everything about training that is neither mixing nor loss."""
        return Recipe(**{name: self.knobs[name] for name in knobs_of(Recipe)})

    def _owned(self, owner: str) -> dict[str, Any]:
        prefix = owner + "."
        return {name.removeprefix(prefix): v for name, v in self.knobs.items() if name.startswith(prefix)}

    def to_yaml(self) -> str:
        """The config as a file that `automixsearch train` takes."""
        return write_yaml(self.model_dump(mode="json"))
