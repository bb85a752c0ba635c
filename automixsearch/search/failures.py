"""What is known of attempts that failed, and what follows: try again, try with fewer neighbours, set the trial aside,
keep away from a machine, or stop the search.

A failure of the world (storage, data, nodes, files of the system) says nothing about the config of a trial: it is never
recorded as the trial's own. The trial tries again, and where that does not help the search stops.

Decisions need no clock and no cluster: an attempt that ended before its first epoch was quick, and a trial that has
got further since is not stuck.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from automixsearch.errors import DamagedError, DataError, ResourceError, StudyError
from automixsearch.results.documents import STRICT
from automixsearch.secrecy import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from automixsearch.results.store import Store

log = logging.getLogger(__name__)

TRIES = 3
"""A trial that has failed so often of one cause, without getting further, is set aside; a node on which so many
trials have failed quickly, one after another and of one cause, is avoided."""

STORAGE_PATIENCE_S = 120.0
"""How long a search and its trials try again where the results cannot be reached; a trial then fails, and goes on from
its checkpoint when it is tried again."""

SIGNALS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
"""What a process does to itself: faults of compiled code, which configs meet and nodes do not."""
MEMORY, DIED, NO_ROOM, NODE = "OutOfMemory", "WorkerDied", "NoRoom", "NodeDied"
_FULL = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|could not create a primitive$",  # all that oneDNN says where it finds no memory for its code
    re.I,
)
_NODE = ("NodeDiedError", "LocalRayletDiedError")
_NODE_DIED = re.compile("its node has died")
_DEAD = ("RayActorError", "ActorDiedError", "ActorUnavailableError", "WorkerCrashedError", "OwnerDiedError")


def _with_subclasses(*kinds: type) -> Iterator[str]:
    for kind in kinds:
        yield kind.__name__
        yield from _with_subclasses(*kind.__subclasses__())


_OUTSIDE = {
    *_with_subclasses(OSError, ImportError, StudyError, DataError, ResourceError),
    *(NODE, "OutOfDiskError", "ObjectStoreFullError", "RuntimeEnvSetupError"),
}
_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.ESTALE,
           errno.ENOTCONN, errno.EACCES)  # fmt: skip
_SYSTEM_SAYS = re.compile("|".join(re.escape(os.strerror(number)) for number in _SYSTEM))
"""Libraries wrap what the system says into errors of their own."""


def is_of_world(cause: str, message: str) -> bool:
    """Whether the config of a trial cannot be to blame for a failure."""
    return cause in _OUTSIDE or _SYSTEM_SAYS.search(message) is not None


@dataclass(frozen=True)
class Place:
    """Where an attempt runs: Ray's id of the node ("" outside Ray), the machine's name, its accelerators."""

    __pydantic_config__: ClassVar = STRICT

    node: str = ""
    host: str = ""
    devices: str = ""

    @classmethod
    def here(cls) -> Place:
        """Where this process runs: outside Ray only the machine has a name."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return cls(host=socket.gethostname())
        context = ray.get_runtime_context()
        devices = ",".join(map(str, context.get_accelerator_ids().get("GPU", ())))
        return cls(context.get_node_id(), socket.gethostname(), devices)


@dataclass(frozen=True)
class Failure:
    """How one attempt at a trial ended before the trial did.

    epoch: the last that is in the ledger. quick: no epoch ended in this attempt. counts: whether trying again in the
    same way is one of the `TRIES`; not so where the next attempt gets more room.
    """

    __pydantic_config__: ClassVar = STRICT

    cause: str
    message: str = ""
    epoch: int = 0
    quick: bool = True
    counts: bool = True
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", redact(self.message))

    @property
    def of_world(self) -> bool:
        """Whether the config of the trial cannot be to blame."""
        return is_of_world(self.cause, self.message)


@dataclass(frozen=True)
class Attempt:
    """What a trial's process leaves beside the results, so that its end can be told when it cannot tell it itself.

    cause: of the error that ended it; "" while it runs, or if it was killed.
    """

    __pydantic_config__: ClassVar = STRICT

    place: Place
    cause: str = ""
    message: str = ""

    def save(self, store: Store, trial_id: str) -> None:
        store.put_document(_name(trial_id), self)

    @classmethod
    def load(cls, store: Store, trial_id: str) -> Attempt | None:
        """The note of a trial's process; None where there is none, or it is damaged: then the end tells nothing."""
        try:
            return store.document(_name(trial_id), cls)
        except DamagedError as error:
            log.warning("%s", error)
            return None

    @staticmethod
    def close(store: Store, trial_id: str) -> None:
        store.delete(_name(trial_id))


def _name(trial_id: str) -> str:
    return f"attempts/{trial_id}.json"


def cause_of(error: BaseException) -> tuple[str, str]:
    """The cause by which failures are compared, as a rule the class of the error, and its message.

    Errors that Ray has wrapped are unwrapped; all ways to run out of memory are one cause.
    """
    workers = getattr(error, "worker_failures", None)
    # One that died makes its peers fail, too.
    first = min(workers.values(), key=lambda one: cause_of(one)[0] != DIED) if workers else None
    inner = first or getattr(error, "controller_failure", None)
    inner = inner or getattr(error, "cause", None)
    if isinstance(inner, BaseException) and inner is not error:
        return cause_of(inner)
    name, message = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or _FULL.search(message):
        return MEMORY, message
    if name == "WorkerGroupStartupTimeoutError":
        return NO_ROOM, message
    if name in _NODE or (name in _DEAD and _NODE_DIED.search(message)):
        return NODE, " ".join(message.split())[:300]
    if name in _DEAD:
        return DIED, f"the trial's process ended without an error ({' '.join(message.split())[:500]})"
    if isinstance(error, OSError) and name not in _OUTSIDE:  # of a library that this process may not have
        name = "OSError"
    return name.removeprefix("RayTaskError(").removesuffix(")"), message


def stuck(failures: Sequence[Failure]) -> bool:
    """Whether a trial is to be set aside: it has failed `TRIES` times of one cause and got no further in between."""
    if not failures:
        return False
    last = failures[-1]
    return last.counts and same(failures) >= TRIES


def same(failures: Sequence[Failure]) -> int:
    """How often a trial has failed as it did last, without getting further."""
    last = failures[-1]
    return sum(f.counts and (f.cause, f.epoch) == (last.cause, last.epoch) for f in failures)


def doublings(failures: Sequence[Failure]) -> int:
    """How many times a trial has to hold double of what it asks for, so that it has fewer neighbours.

    Once for each time that memory ran out, and for each unexplained death of its process after the first: the kernel
    kills without saying why.
    """
    died = sum(f.cause in (DIED, "SIGKILL") and f.epoch == failures[-1].epoch for f in failures)
    return sum(f.cause == MEMORY for f in failures) + max(died - 1, 0)


class Nodes:
    """Which nodes fail their trials.

    A node is bad when `TRIES` different trials have failed on it quickly, one after another and of one cause, with
    none that got through an epoch at the same place (the node and its accelerators) in between: a place that can
    train is good, and what fails there is the trial. Running out of memory or waiting for room says nothing, and a
    fault of compiled code is told of the configs or the build.
    """

    def __init__(self) -> None:
        self.bad: dict[str, Failure] = {}
        self._quick: dict[Place, dict[str, Failure]] = {}

    def passed(self, place: Place) -> None:
        """An epoch has ended there."""
        self._quick.pop(place, None)

    def failed(self, trial_id: str, failure: Failure) -> bool:
        """A trial has failed; whether its node is bad from now on."""
        place = failure.place
        if (
            not place.node
            or not failure.quick
            or failure.cause in (MEMORY, NO_ROOM, *SIGNALS)
            or place.node in self.bad
        ):
            return False
        here = self._quick.setdefault(place, {})
        for other in [other for other, earlier in here.items() if earlier.cause != failure.cause]:
            del here[other]
        here[trial_id] = failure
        if len(here) < TRIES:
            return False
        self.bad[place.node] = failure
        return True
