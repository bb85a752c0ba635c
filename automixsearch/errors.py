"""Everything that AutoMixSearch raises on purpose.

    AutoMixError
    ├── SpecError        a space, config or override is wrong (file, key, rule, what arrived, what to do)
    ├── DataError        a data set is missing, corrupt or unfit (file, rule, what to do)
    ├── StudyError       a study cannot be opened, continued or queried
    │   ├── StudyBusy    another driver holds the study
    │   ├── StudyTaken   another driver has taken the study from this one
    │   ├── DamagedError   a stored file is not what was written, or not what it should be
    │   └── StorageError  its files cannot be reached, read or written
    ├── TrainingError    a training run cannot go on
    │   └── Diverged        training has diverged: the config is to blame
    │       └── NonFiniteLoss   the loss or an output of the network became NaN or infinite
    └── ResourceError    the cluster cannot run what was asked

The command line prints these without a traceback and exits with status 2; anything else is a bug.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class AutoMixError(Exception):
    """Base of the tree: the message says what is wrong and what to do."""


class SpecError(AutoMixError):
    """A space, a config or an override breaks a rule."""


class DataError(AutoMixError):
    """A data set is missing, corrupt or unfit for training."""


class StudyError(AutoMixError):
    """A study cannot be opened, continued or queried."""


class StudyBusy(StudyError):
    """Another driver holds the study."""


class StudyTaken(StudyError):
    """Another driver has taken the study from this one, which must write no more."""


class DamagedError(StudyError):
    """A stored file is not what was written, or not what it should be."""


class StorageError(StudyError):
    """The files of a study cannot be reached, read or written; `passing`: trying again later can help."""

    def __init__(self, message: str, passing: bool = True) -> None:
        super().__init__(message)
        self.passing = passing


class TrainingError(AutoMixError):
    """A training run cannot go on."""


class Diverged(TrainingError):
    """Training has diverged, and would again: the config is to blame."""


class NonFiniteLoss(Diverged):
    """The training loss, or an output of the network, became NaN or infinite."""


class ResourceError(AutoMixError):
    """The cluster cannot run what was asked."""


_SECRET = re.compile(
    r"(://)[^/@\s]*:[^/@\s]*@|\b((?:[\w-]*(?:secret|token|password|passwd|access_key)[\w-]*)=)[^&\s'\",;)]+", re.I
)


def redact(text: str) -> str:
    """`text` without the secrets of the URIs in it: `s3://KEY:SECRET@bucket`, `?secret_key=...`, `token=...`."""
    return _SECRET.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


def brief_repr(value: object, most: int = 80) -> str:
    """What arrived, for a message: in quotes, with escapes for what is not printed, and cut where it is long."""
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[:most]!r}... ({len(value):,} characters)"
    if isinstance(value, dict | list | tuple | set):
        kind = "mapping" if isinstance(value, dict) else "list"
        return f"a {kind} of {len(value):,}" if value else f"an empty {kind}"
    return repr(value)[:most]


def unknown(kind: str, name: object, choices: Iterable[object]) -> str:
    """Say that `name` is no known `kind`, list the choices and the nearest one."""
    names = sorted(str(choice) for choice in choices)
    swapped = [choice for choice in names if sorted(choice) == sorted(str(name))]
    begun = [choice for choice in names if str(name) and choice.startswith(str(name))]
    near = swapped or (begun if len(begun) == 1 else []) or difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if near and len(names) > 24:  # a long list would bury the answer
        return f"unknown {kind} {name!r}{hint}"
    return f"unknown {kind} {name!r}{hint} (choices: {', '.join(names) or 'none'})"
