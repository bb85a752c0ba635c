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
    │   ├── OtherConfig     a checkpoint is of another config
    │   └── Diverged        training has diverged: the config is to blame
    │       └── NonFiniteLoss   the loss or an output of the network became NaN or infinite
    └── ResourceError    the cluster cannot run what was asked

The command line prints these without a traceback and exits with status 2; anything else is a bug.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from automixsearch.secrecy import redact

__all__ = [
    "AutoMixError",
    "DamagedError",
    "DataError",
    "Diverged",
    "NonFiniteLoss",
    "OtherConfig",
    "ResourceError",
    "SpecError",
    "StorageError",
    "StudyBusy",
    "StudyError",
    "StudyTaken",
    "TrainingError",
]


class AutoMixError(Exception):
    """Base of the tree: the message says what is wrong and what to do, without any secret that arrived."""

    def __init__(self, *words: object) -> None:
        super().__init__(*(redact(word) if isinstance(word, str) else word for word in words))


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


class OtherConfig(TrainingError):
    """A checkpoint is whole, but of another config."""


class Diverged(TrainingError):
    """Training has diverged, and would again: the config is to blame."""


class NonFiniteLoss(Diverged):
    """The training loss, or an output of the network, became NaN or infinite."""


class ResourceError(AutoMixError):
    """The cluster cannot run what was asked."""


def shortened(text: str, most: int = 80) -> str:
    """`text`, of a long one its ends: an error must be readable, whatever arrived."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def remedy(error: OSError) -> str:
    """What to do about an error of the system."""
    number = error.errno
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space, or raise the limit, and run the same command again; what was written before is kept"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make it yours to read and write, and run the same command again"
    if number in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n), and run the same command again"
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        return "check the path"
    return "check that the place exists, can be reached and is yours to write, and run the same command again"


def brief_repr(value: object, most: int = 80) -> str:
    """What arrived, for a message: its `repr`, with escapes for what is not printed, of a long one the ends."""
    try:
        return shortened(repr(value), most)
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return "a number of thousands of digits"


def unknown(kind: str, name: object, choices: Iterable[object]) -> str:
    """Say that `name` is no known `kind`, list the choices and the nearest one."""
    names = sorted(str(choice) for choice in choices)
    near = _nearest(name, names) if isinstance(name, str) else None
    hint = f"; did you mean {near!r}?" if near else ""
    hint = "; drop the quotes" if near == name else hint  # it is a number or a truth value
    if near and len(names) > 24:  # a long list would bury the answer
        return f"unknown {kind} {brief_repr(name)}{hint}"
    return f"unknown {kind} {brief_repr(name)}{hint} (choices: {shortened(', '.join(names), 2000) or 'none'})"


def _nearest(name: str, names: list[str]) -> str | None:
    if len(name) > 200:  # nobody mistypes that much, and comparing takes its square
        return None
    swapped = [choice for choice in names if sorted(choice) == sorted(name)]
    begun = [choice for choice in names if name and choice.startswith(name)]
    near = swapped or (begun if len(begun) == 1 else []) or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return near[0] if near else None
