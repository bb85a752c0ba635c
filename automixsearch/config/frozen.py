"""The base of everything that people write."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from automixsearch.config.knobs import normal


class Frozen(BaseModel):
    """Base of everything that is read from YAML: no unknown keys, no changes afterwards, numbers that are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _normal(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)} & {bool, int, float}
        return normal(value, kinds.pop() if len(kinds) == 1 else object)
