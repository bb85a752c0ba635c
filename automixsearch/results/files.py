"""Files by name under a directory or a URI: written whole or not at all, and a study held by one driver.

Names are relative to the results directory, with forward slashes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from automixsearch.errors import StorageError, StudyBusy, StudyError, redact

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

BEAT_S, STALE_S = 15.0, 60.0
"""A lease on remote storage is renewed every BEAT_S and given up for dead after STALE_S."""
LASTING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""Failures that no waiting mends."""
LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system says that has no locks."""
SWEEP_S = 3600.0
"""Temporary files older than this belong to writers that were killed."""


def open_files(results: str) -> LocalFiles | RemoteFiles:
    """The files under a path or URI."""
    if results.startswith("file://"):
        results = unquote(urlsplit(results).path)
    return RemoteFiles(results) if "://" in results else LocalFiles(results)


@contextmanager
def _storage(place: object, deed: str) -> Iterator[None]:
    """Turn failures of the storage into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and run the same command again; what was written before is kept"
        else:
            remedy = "check that the place exists, can be reached and is yours to write"
        lasting = error.errno in LASTING or any(word in str(error) for word in ("ACCESS_DENIED", "NO_SUCH_BUCKET"))
        raise StorageError(
            f"{place}: cannot be {deed}: {error.strerror or error}; {remedy}", passing=not lasting
        ) from None


def _me() -> dict[str, Any]:
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"pid": os.getpid(), "host": socket.gethostname(), "time": now}


class Leases(ABC):
    """Holding a study where the storage has no locks."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content, or None."""

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write a file whole."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    @contextmanager
    def lease(self, study: str) -> Iterator[None]:
        """Hold a study by a lease, renewed while we live. Best effort: two may start in one moment."""
        name, lease = f"{study}/.lock.json", {**_me(), "token": uuid.uuid4().hex}
        other = self._lease(name)
        age = time.time() - other.get("seen", 0.0)
        if age < -STALE_S and not self._beats(name, other):  # a clock has been set back, here or there
            age = STALE_S
        if age < STALE_S:
            age = max(age, 0.0)
            dead = f"if it is dead, wait {STALE_S - age:.0f} s and try again"
            raise StudyBusy(f"{_busy(study, json.dumps(other))}; {dead}")
        self._renew(name, lease)
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(name, lease, ended), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            with suppress(StudyError):  # storage that is away: the lease runs out by itself
                if self._lease(name).get("token") == lease["token"]:
                    self.delete(name)

    def _beats(self, name: str, lease: dict[str, Any]) -> bool:
        """Whether a lease is renewed while we watch, whatever the clocks say."""
        until = time.monotonic() + 2 * BEAT_S
        while time.monotonic() < until:
            time.sleep(BEAT_S / 4)
            if self._lease(name).get("seen") != lease.get("seen"):
                return True
        return False

    def _lease(self, name: str) -> dict[str, Any]:
        with suppress(json.JSONDecodeError):  # half written by one who died over it: nobody holds it
            return json.loads(self.read(name) or "{}")
        return {}

    def _renew(self, name: str, lease: dict[str, Any]) -> None:
        self.replace(name, json.dumps({**lease, "seen": time.time()}).encode())

    def _beat(self, name: str, lease: dict[str, Any], ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with suppress(StudyError):  # storage that is away for a moment: the next beat tries again
                if self._lease(name).get("token") == lease["token"]:
                    self._renew(name, lease)


class LocalFiles(Leases):
    """Files under a directory, written whole or not at all, whenever the process or the power goes."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    @cached_property
    def arrow(self) -> FileSystem:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem()

    def arrow_path(self, name: str) -> str:
        return str(self.root / name)

    def names(self, folder: str) -> list[str]:
        """The files in a folder; none if there is no such folder."""
        return [entry.name for entry in self._list(folder) if entry.is_file()]

    def folders(self) -> list[str]:
        """The folders at the top."""
        return sorted(entry.name for entry in self._list("") if entry.is_dir())

    def _list(self, folder: str) -> list[os.DirEntry[str]]:
        place = self.root / folder
        with _storage(place, "listed"), suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as all_:
            return list(all_)
        return []

    def read(self, name: str) -> bytes | None:
        with _storage(self.root / name, "read"), suppress(FileNotFoundError):
            return (self.root / name).read_bytes()
        return None

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; whether it was written."""
        with self._temporary(name, data) as (temporary, target):
            try:
                os.link(temporary, target)  # unlike a rename, this fails where the target exists
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                if target.exists():  # a file system without hard links
                    return False
                os.replace(temporary, target)
        return True

    def replace(self, name: str, data: bytes) -> None:
        with self._temporary(name, data) as (temporary, target):
            os.replace(temporary, target)

    def delete(self, name: str) -> None:
        with _storage(self.root / name, "deleted"):
            (self.root / name).unlink(missing_ok=True)

    def sweep(self, folder: str) -> None:
        """Remove the temporary files of writers that were killed."""
        with _storage(self.root / folder, "swept"):
            for path in (self.root / folder).rglob(".*.tmp"):
                with suppress(FileNotFoundError):  # its writer has just let go of it
                    if time.time() - path.stat().st_mtime > SWEEP_S:
                        path.unlink()

    @contextmanager
    def _temporary(self, name: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """A hidden copy of `data` beside the target, synced to disk; so is the renaming done inside."""
        target = self.root / name
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with _storage(target, "written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary, target
                folder = os.open(target.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def hold(self, study: str) -> Iterator[None]:
        """Hold a study by a lock that the kernel releases, however the process (and its forks) ends.

        A shared file system without locks (some NFS mounts) gets a lease instead, as remote storage does.
        """
        path = self.root / study / ".lock"
        with _storage(path, "locked"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        with file:
            with _storage(path, "locked"):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    raise StudyBusy(_busy(study, file.read())) from None
                except OSError as error:
                    if error.errno not in LOCKLESS:
                        raise
                    locked = False
                else:
                    locked = True
                    file.truncate(0)
                    file.write(json.dumps(_me()))
                    file.flush()
            with nullcontext() if locked else self.lease(study):
                yield


def _busy(study: str, note: str) -> str:
    try:
        owner = json.loads(note)
    except json.JSONDecodeError:  # between taking the lock and saying so
        return f"study {study} was taken by another process just now; wait for it or use another name"
    return (
        f"study {study} is held by process {owner['pid']} on {owner['host']} since {owner['time']}; "
        f"wait until it ends, stop it there (kill {owner['pid']}), or use another name"
    )


class RemoteFiles(Leases):
    """Files under a URI that Arrow can open, e.g. on S3, where an upload appears whole or not at all."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import FileSystem

        try:
            return FileSystem.from_uri(self.uri)
        except (OSError, ValueError, ImportError) as error:
            problem = redact(f"{self.uri}: cannot be opened: {error}; check address and credentials")
            raise StudyError(problem) from None

    @property
    def arrow(self) -> FileSystem:
        return self._opened[0]

    def arrow_path(self, name: str) -> str:
        return f"{self._opened[1].rstrip('/')}/{name}".rstrip("/")

    def names(self, folder: str) -> list[str]:
        return [info.base_name for info in self._list(folder) if info.is_file]

    def folders(self) -> list[str]:
        return sorted(info.base_name for info in self._list("") if not info.is_file)

    def _list(self, folder: str) -> list[Any]:
        from pyarrow.fs import FileSelector

        with _storage(f"{self.uri}/{folder}", "listed"):
            return self.arrow.get_file_info(FileSelector(self.arrow_path(folder), allow_not_found=True))

    def read(self, name: str) -> bytes | None:
        path = self.arrow_path(name)
        with _storage(path, "read"), suppress(FileNotFoundError), self.arrow.open_input_file(path) as file:
            return file.readall()
        return None

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; whether it was written. Two writers at once may both write."""
        with _storage(f"{self.uri}/{name}", "written"):
            if self.arrow.get_file_info(self.arrow_path(name)).is_file:
                return False
        try:
            self.replace(name, data)
        except StudyError:
            with suppress(StudyError):  # storage that shows a broken upload
                self.delete(name)
            raise
        return True

    def replace(self, name: str, data: bytes) -> None:
        path = self.arrow_path(name)
        with _storage(f"{self.uri}/{name}", "written"):
            try:
                stream = self.arrow.open_output_stream(path)
            except FileNotFoundError:  # storage that knows folders
                self.arrow.create_dir(path.rpartition("/")[0], recursive=True)
                stream = self.arrow.open_output_stream(path)
            with stream:
                stream.write(data)

    def delete(self, name: str) -> None:
        with _storage(f"{self.uri}/{name}", "deleted"), suppress(FileNotFoundError):
            self.arrow.delete_file(self.arrow_path(name))

    def sweep(self, folder: str) -> None:
        """Uploads leave no temporary files."""

    def hold(self, study: str) -> AbstractContextManager[None]:
        """Hold a study by a lease."""
        return self.lease(study)
