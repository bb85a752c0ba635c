"""Which settings the methods of a study or a search are looked at with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from automixsearch.config.knobs import knobs_of
from automixsearch.config.space import SearchSpace
from automixsearch.config.trial import TrialConfig
from automixsearch.mixers import MIXERS
from automixsearch.studies.design import Design, known_setting
from automixsearch.studies.file import StudyFile

TEACHER = ("ema", "ema_start", "ema_end", "ema_hold", "report")
"""Knobs of AutoMix and its kin that say how its teacher follows, and whether it is reported."""


def config_of(what: SearchSpace | StudyFile, values: Mapping[str, Any]) -> TrialConfig:
    """The config of a run, without seeds."""
    return TrialConfig.of(what, values)


def method_settings(space: SearchSpace) -> dict[str, Mapping[str, Any]]:
    """A setting in the middle of the space for each method."""
    (methods,) = (dimension.choices or () for dimension in space.dimensions if dimension.name == "method")
    return {str(method): known_setting(space, {"method": method}) for method in methods}


def study_settings(design: Design) -> dict[str, Mapping[str, Any]]:
    """The first setting of each stratum."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in design.runs:
        if run.stratum and not run.waits:
            found.setdefault(run.stratum, run.values)
    return found


def teacher_settings(design: Design) -> list[Mapping[str, Any]]:
    """A setting for each way in which the design lets a teacher follow."""
    led = [name for name, mixer in MIXERS.items() if "ema_hold" in knobs_of(mixer)]
    names = ("method", "batch_size", *(f"{method}.{name}" for method in led for name in TEACHER))
    settings = (run.values for run in design.runs if not run.waits)
    return list({tuple(values.get(name) for name in names): values for values in settings}.values())
