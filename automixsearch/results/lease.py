"""Holding a study: one driver at a time, on any storage, whatever the clocks of its machines say.

A driver keeps a document, its lease, beside the rows and changes it every few seconds. Whoever finds one watches
whether it changes: nobody has to believe a time that another machine wrote. Before each change to the study the driver
looks whether the lease is still its own, so one that was suspended, or cut off, stops where another has gone on.

Where the storage has no locks, two drivers may take a study in the same moment: one of them stops before its next
write.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Protocol

from automixsearch.errors import DamagedError, StudyBusy, StudyError, StudyTaken
from automixsearch.process import Process, boot_id
from automixsearch.results.documents import STRICT, decode_document, encode_document

BEAT_S, TAKEOVER_S, SETTLE_S = 10.0, 60.0, 0.5
"""A lease is renewed every BEAT_S. One that has not changed for TAKEOVER_S is taken over, and the new one counts if it
is still there after SETTLE_S."""
LOOK_S = 1.0
"""Seconds between two looks at a lease that is watched."""


class Files(Protocol):
    """What a lease is read from and written to."""

    def read(self, name: str) -> bytes | None: ...

    def create(self, name: str, data: bytes) -> bool: ...

    def replace(self, name: str, data: bytes) -> None: ...

    def delete(self, name: str) -> None: ...


@dataclass(frozen=True)
class Holder:
    """The document: who holds a study. beats: counts the renewals. lock: the inode of the file that is locked too."""

    __pydantic_config__: ClassVar = STRICT

    token: str
    process: Process
    time: str
    beats: int = 0
    lock: int = 0

    @classmethod
    def decode(cls, data: bytes | None) -> Holder | None:
        """The holder that a document names; None where it names none."""
        with suppress(DamagedError):
            return decode_document(data or b"", "lease", cls)
        return None

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host} since {self.time}"


def lease_of(study: str) -> str:
    """The name of a study's lease."""
    return f"{study}/.lock.json"


class Fence:
    """Lets changes to a study pass while the lease of `token` is there: for the processes that its driver starts."""

    def __init__(self, files: Files, study: str, token: str) -> None:
        self.files, self.study, self.token = files, study, token
        self.name = lease_of(study)

    def check(self) -> None:
        """Look whether the study is still held.

        Raises:
            StudyTaken: it is not.
            StorageError: that cannot be seen now.
        """
        data = self.files.read(self.name)
        holder = Holder.decode(data)
        if data is None or (holder is not None and holder.token != self.token):
            now = f"is held by {holder} now" if holder else "has lost its lease: another driver had it, or removed it"
            raise StudyTaken(
                f"study {self.study} {now}; this driver, which was suspended or cut off from the results for a minute "
                "or more, stops before its next write; nothing is lost: what has ended is in the ledger, and the same "
                "command goes on with the rest when the study is free"
            )


class Lease(Fence):
    """The hold of this process on a study. `note` is told what is waited for.

    lock: the inode of a file that the kernel keeps locked meanwhile, 0 where there is none.
    """

    def __init__(self, files: Files, study: str, note: Callable[[str], None], lock: int = 0) -> None:
        super().__init__(files, study, uuid.uuid4().hex)
        self.note = note
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self.holder = Holder(self.token, Process.here(), now, 0, lock)
        self.renewed = _clock()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Take the study: at once where nobody holds it or its holder is seen to be dead, else after watching.

        Raises:
            StudyBusy: another driver holds it.
        """
        found = self.files.read(self.name)
        if found is None:
            if not self.files.create(self.name, self._document()):
                raise busy(self.study, self.files.read(self.name))
        else:
            self._outlive(found)
            self.files.replace(self.name, self._document())
            time.sleep(SETTLE_S)
        found = self.files.read(self.name)
        holder = Holder.decode(found)
        if holder is None or holder.token != self.token:  # another one came in the same moment
            raise busy(self.study, found)
        self._beating.start()

    def _outlive(self, found: bytes) -> None:
        """Return when the holder of a lease is known to be dead."""
        holder = Holder.decode(found)
        if holder is None:  # damaged: its holder, if it lives, stops when it finds ours
            return
        lives = holder.process.lives()
        if holder.lock and (holder.lock, holder.process.boot) == (self.holder.lock, boot_id()):
            lives = False  # it would hold the lock that we have
        if lives:
            raise busy(self.study, found)
        if lives is None:
            self._watch(found, holder)

    def _watch(self, found: bytes, holder: Holder) -> None:
        self.note(
            f"study {self.study} was held by {holder}; whether it still is cannot be seen from here, so its lease is "
            f"watched for {TAKEOVER_S:.0f} s"
        )
        until = time.monotonic() + TAKEOVER_S
        while time.monotonic() < until:
            time.sleep(min(LOOK_S, BEAT_S / 4))
            now = self.files.read(self.name)
            if now is None:
                return
            if now != found:
                raise busy(self.study, now)

    def check(self) -> None:
        """Look whether the study is still ours; see `Fence.check`."""
        super().check()
        if _clock() - self.renewed > TAKEOVER_S:  # somebody may have watched us all the time and take it just now
            self.renew()
            time.sleep(SETTLE_S)
            super().check()

    def renew(self) -> None:
        """Change the lease, for those who watch. Raises: as `check`."""
        before, self.renewed = self.renewed, _clock()
        try:
            self.holder = Holder(**{**vars(self.holder), "beats": self.holder.beats + 1})
            self.files.replace(self.name, self._document())
        except StudyError:
            self.renewed = before
            raise

    def release(self) -> None:
        """Let go of the study."""
        self._ended.set()
        self._beating.join()
        with suppress(StudyError):  # it is no longer ours, or its storage is away: then it is outlived
            self.files.delete(self.name)

    def _document(self) -> bytes:
        return encode_document(self.holder)

    def _beat(self) -> None:
        failing = False
        while not self._ended.wait(BEAT_S):
            try:
                self.renew()
            except StudyTaken:  # the next write says so
                return
            except StudyError as error:
                if not failing:
                    self.note(f"{str(error).partition(';')[0]}; waiting for it")
                failing = True
                continue
            if failing:
                self.note("the results can be written again")
            failing = False


def busy(study: str, found: bytes | None) -> StudyBusy:
    """The error that names the holder of a study, as far as a document does."""
    holder = Holder.decode(found)
    if holder is None:  # between locking and saying so
        return StudyBusy(f"study {study} was taken by another process just now; wait for it or use another name")
    return StudyBusy(
        f"study {study} is held by {holder}; wait until it ends, stop it there (kill {holder.process.pid}), or use "
        "another name"
    )


def _clock() -> float:
    """Seconds that pass while the machine is suspended too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
