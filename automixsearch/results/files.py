"""Files by name under a directory or a URI: written whole or not at all, and a study held by one driver.

Names are relative to the results directory, with forward slashes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from automixsearch.errors import DamagedError, StorageError, StudyError, StudyTaken, remedy
from automixsearch.results.lease import Fence, Lease, busy, lease_of
from automixsearch.secrecy import redact

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

LASTING = (
    errno.ELOOP,
    errno.ENXIO,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
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
        lasting = error.errno in LASTING or any(word in str(error) for word in ("ACCESS_DENIED", "NO_SUCH_BUCKET"))
        raise StorageError(
            f"{place}: cannot be {deed}: {error.strerror or error}; {remedy(error)}", passing=not lasting
        ) from None


def _at_once(path: str, flags: int) -> int:
    """Open a file, but a pipe that somebody put there is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: whoever reads it says so
        return False


class Files(ABC):
    """Files by name. `fence`: looked at before each change, where a study is held or belongs to another process."""

    fence: Fence | None = None

    def _check(self) -> None:
        if self.fence is not None:
            self.fence.check()

    @abstractmethod
    def place(self, name: str) -> str:
        """Where a file lies, for people."""

    @abstractmethod
    def read(self, name: str, most: int | None = None) -> bytes | None:
        """A file's content, up to `most` bytes of it, or None."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; whether it was written."""

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write a file whole."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    @contextmanager
    def lease(self, study: str, note: Callable[[str], None], lock: int = 0) -> Iterator[None]:
        """Hold a study by a lease; see `Lease`."""
        lease = Lease(self, study, note, lock)
        lease.take()
        self.fence = lease
        try:
            yield
        finally:
            try:
                lease.release()
            finally:
                self.fence = None


class LocalFiles(Files):
    """Files under a directory, written whole or not at all, whenever the process or the power goes."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    @cached_property
    def arrow(self) -> FileSystem:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem()

    def arrow_path(self, name: str) -> str:
        return str(self.root / name)

    def names(self, folder: str, folders: bool = False) -> list[str]:
        """What is no folder in a folder, or everything there; none if there is no such folder."""
        return [entry.name for entry in self._list(folder) if folders or not _leads_to_folder(entry)]

    def folders(self) -> list[str]:
        """The folders at the top."""
        return sorted(entry.name for entry in self._list("") if entry.is_dir())

    def _list(self, folder: str) -> list[os.DirEntry[str]]:
        place = self.root / folder
        with _storage(place, "listed"), suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as all_:
            return list(all_)
        if os.path.lexists(place) and not os.path.isdir(place):
            raise DamagedError(f"{place}: cannot be listed: it is no folder; remove it, or put the folder in its place")
        return []

    def place(self, name: str) -> str:
        """Where a file lies, for people."""
        return str(self.root / name)

    def read(self, name: str, most: int | None = None) -> bytes | None:
        path, there = str(self.root / name), "a pipe, a device or a folder"
        try:
            with (
                _storage(path, "read"),
                suppress(FileNotFoundError, IsADirectoryError),
                open(path, "rb", opener=_at_once) as file,
            ):
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return file.read(-1 if most is None else most)
        except StorageError:
            if os.path.exists(path) or not os.path.islink(path):
                raise
        if not os.path.lexists(path):
            return None
        if os.path.islink(path) and not os.path.exists(path):
            there = "a link that leads nowhere"
        elif os.path.isfile(path):  # written just now
            return self.read(name, most)
        raise DamagedError(
            f"{path}: cannot be read: it is {there} and no file; remove it, or put the file in its place"
        )

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
        self._check()
        with _storage(self.root / name, "deleted"):
            self._own(name).unlink(missing_ok=True)

    def _own(self, name: str) -> Path:
        """The path of a file that may be changed: a link inside a study does not lead out of it.

        Raises:
            StudyError: it would lie outside.
        """
        target, study = self.root / name, name.partition("/")[0] if "/" in name else ""
        home, folder = (os.path.realpath(path) for path in (self.root / study, target.parent))
        if os.path.commonpath((home, folder)) != home:
            raise StudyError(
                f"{target}: lies outside of the study, in {folder}, and nothing is changed there; put a folder in the "
                "place of the link, or move the whole study"
            )
        return target

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
        target = self._own(name)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with _storage(target, "written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self._check()
                yield temporary, target
                folder = os.open(target.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def hold(self, study: str, note: Callable[[str], None]) -> Iterator[None]:
        """Hold a study by a lock, which the kernel releases however the process ends, and by a lease beside it.

        Either alone is not enough: on a shared file system a lock can be local to the machine, or there is none; and a
        lease of a dead process has to be watched, where it cannot be seen that it is dead.
        """
        folder = self.root / study
        new = not folder.exists()
        with self._locked(folder / ".lock", study) as inode:
            try:
                with self.lease(study, note, inode):
                    yield
            finally:
                if new and [entry.name for entry in self._list(study)] == [".lock"]:
                    with suppress(OSError):  # an empty folder that stays does no harm
                        (folder / ".lock").unlink()
                        folder.rmdir()

    @contextmanager
    def _locked(self, path: Path, study: str) -> Iterator[int]:
        """Lock a file of its own: its inode, 0 on a file system without locks."""
        while True:
            with _storage(path, "locked"):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a+")
            with file:
                inode = os.fstat(file.fileno()).st_ino
                with _storage(path, "locked"):
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        raise busy(study, self.read(lease_of(study))) from None
                    except OSError as error:
                        if error.errno not in LOCKLESS:
                            raise
                        inode = 0
                    else:
                        with suppress(FileNotFoundError):
                            if path.stat().st_ino != inode:  # removed by the one who had it just now
                                continue
                yield inode
                return


class RemoteFiles(Files):
    """Files under a URI that Arrow can open, e.g. on S3, where an upload appears whole or not at all."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import FileSystem

        try:
            return FileSystem.from_uri(self.uri)
        except (OSError, ValueError, ImportError) as error:
            problem = f"{self.uri}: cannot be opened: {error}; check address and credentials"
            raise StudyError(problem) from None

    @property
    def arrow(self) -> FileSystem:
        return self._opened[0]

    def arrow_path(self, name: str) -> str:
        return f"{self._opened[1].rstrip('/')}/{name}".rstrip("/")

    def names(self, folder: str, folders: bool = False) -> list[str]:
        return [info.base_name for info in self._list(folder) if info.is_file]

    def folders(self) -> list[str]:
        return sorted(info.base_name for info in self._list("") if not info.is_file)

    def _list(self, folder: str) -> list[Any]:
        from pyarrow.fs import FileSelector

        with _storage(f"{self.uri}/{folder}", "listed"):
            return self.arrow.get_file_info(FileSelector(self.arrow_path(folder), allow_not_found=True))

    @contextmanager
    def _unless_gone(self, path: str, deed: str) -> Iterator[None]:
        """Go on where the file is not there, or goes between two requests, which each storage says in its own words."""
        with _storage(path, deed):
            try:
                yield
            except FileNotFoundError:
                return
            except OSError:
                if self.arrow.get_file_info(path).is_file:
                    raise

    def place(self, name: str) -> str:
        """Where a file lies, for people."""
        return redact(f"{self.uri.partition('?')[0].rstrip('/')}/{name}")

    def read(self, name: str, most: int | None = None) -> bytes | None:
        path = self.arrow_path(name)
        with self._unless_gone(path, "read"), self.arrow.open_input_file(path) as file:
            return file.read(most)
        return None

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; whether it was written. Two writers at once may both write."""
        with _storage(f"{self.uri}/{name}", "written"):
            if self.arrow.get_file_info(self.arrow_path(name)).is_file:
                return False
        try:
            self.replace(name, data)
        except StudyTaken:
            raise
        except StudyError:
            with suppress(StudyError):  # storage that shows a broken upload
                self.delete(name)
            raise
        return True

    def replace(self, name: str, data: bytes) -> None:
        path = self.arrow_path(name)
        self._check()
        with _storage(f"{self.uri}/{name}", "written"):
            try:
                stream = self.arrow.open_output_stream(path)
            except FileNotFoundError:  # storage that knows folders
                self.arrow.create_dir(path.rpartition("/")[0], recursive=True)
                stream = self.arrow.open_output_stream(path)
            with stream:
                stream.write(data)

    def delete(self, name: str) -> None:
        self._check()
        path = self.arrow_path(name)
        with self._unless_gone(path, "deleted"):
            self.arrow.delete_file(path)

    def sweep(self, folder: str) -> None:
        """Uploads leave no temporary files."""

    def hold(self, study: str, note: Callable[[str], None]) -> AbstractContextManager[None]:
        """Hold a study by a lease."""
        return self.lease(study, note)
