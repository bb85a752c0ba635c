"""Where the rows of a study lie and how they get there: one file per row, never rewritten, merged now and then.

A row's key is its file name, so a second writer of the same row finds the file there and leaves it. Writers and
`compact` may be killed at any point: what they leave behind is hidden, and readers know what it means.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from automixsearch.errors import DamagedError, StorageError, StudyError, unknown
from automixsearch.results.documents import (
    MergeDocument,
    StudyDocument,
    encode_document,
    read_document,
    write_document,
    written_plugins,
)
from automixsearch.results.files import LocalFiles, RemoteFiles, open_files
from automixsearch.results.lease import Fence
from automixsearch.results.names import check_name
from automixsearch.results.schema import (
    KEYS,
    ORDER,
    SCHEMA_VERSION,
    TABLES,
    Table,
    check_row,
    doubled,
    encode,
    faults,
    in_order,
    label,
    more_schema,
    schema,
    to_arrow,
)
from automixsearch.results.seal import Damaged, Newer, check_seal
from automixsearch.secrecy import redact, secret_of_value

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

    from automixsearch.registry import Plugin
    from automixsearch.results.rows import RowFile

T = TypeVar("T")
P = ParamSpec("P")

MERGED_ROWS, MERGED_FILES = 100_000, 5_000
"""`compact` fills a merged file up to this many rows, from this many files at once; files under half of it are
merged again."""
TIDY_ROWS = {"trials": 2_000, "epochs": 20_000, "outcomes": 2_000}
"""The same while a search runs: its driver shall not hold more rows than this in memory."""

_MERGED, _JOURNAL, _MARKS = "merged-", ".journal-", ".merged-"


def weights_of(trial_id: str) -> str:
    """The document that holds the trained network of a trial, if it is one of the best."""
    return f"weights/{trial_id}.pt"


PAUSE_S = 0.5
"""A store with patience waits this long before it tries again, and each time twice as long, up to 30 times this."""


def patient(method: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    """Let a method of a store be tried again while its storage fails, as long as the store has patience."""

    @wraps(method)
    def tried(self: Store, *args: P.args, **kwargs: P.kwargs) -> T:
        until, pause = time.monotonic() + self.patience_s, PAUSE_S
        while True:
            try:
                return method(self, *args, **kwargs)
            except StorageError as error:
                if not error.passing or time.monotonic() + pause > until:
                    raise
                if pause == PAUSE_S:
                    self.note(f"{str(error).partition(';')[0]}; waiting for it, {self.patience_s:.0f} s at most")
            time.sleep(pause)
            pause = min(2 * pause, 30 * PAUSE_S)

    return tried


def check_place(uri: str) -> str:
    """Return a URI if it holds no secret: where results lie is logged, and stands in what is sent to a cluster.

    Raises:
        StudyError: it does.
    """
    if secret_of_value(uri):
        raise StudyError(
            f"{redact(uri)}: holds a secret, and places are logged and stored; leave it out and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or what your storage reads) on every node instead"
        )
    return uri


class Store:
    """The files of one study. Cheap to make, and can be pickled and sent to a worker.

    With `patience_s`, rows and documents are read and written again and again for that long where the storage cannot
    be reached or is full, of which `note` is told; without, the first failure is raised.

    token: of the lease under which another process holds the study, whose work this one does: it writes as long as that
    lease is there. See `lock`.

    `corrupt` maps each file of which something was left out to the reason: readers leave out files that cannot be read
    or are not what their writer wrote, rows that break a rule of their columns, and unlike rows of one key. Of equal
    ones they take one.
    """

    def __init__(
        self,
        results: str | Path,
        study: str,
        patience_s: float = 0.0,
        token: str = "",
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.results = check_place(str(results)) if "://" in str(results) else os.path.abspath(results)
        self.study = check_name("study", study)
        self.corrupt: dict[str, str] = {}
        self._intact, self._newer = dict[tuple[str, str], tuple[int, int, int]](), set[str]()
        self._asked, self._merged = "", dict[tuple[str, str], frozenset[str]]()
        self.patience_s, self._token = patience_s, token
        self.note = note or (lambda text: None)

    @cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        """What comes from outside in the study, which can have columns of its own; a driver and its workers set it."""
        try:
            return written_plugins(self.info())
        except StudyError:  # rows can be read where this document cannot
            return ()

    @cached_property
    def known_as(self) -> frozenset[str]:
        """The names that this study has or had, one of which each of its rows bears; none where nothing tells."""
        try:
            about = self.info()
        except StudyError:
            return frozenset()
        named = {about.get("name"), *about.get("former_names", ())} - {None}
        return frozenset({self.study, *named}) if named else frozenset()

    def __reduce__(self) -> tuple[type[Store], tuple[str, str, float, str]]:
        return Store, (self.results, self.study, self.patience_s, self.token)

    def __repr__(self) -> str:
        return f"Store({self.results!r}, {self.study!r})"

    @cached_property
    def files(self) -> LocalFiles | RemoteFiles:
        files = open_files(self.results)
        if self._token:
            files.fence = Fence(files, self.study, self._token)
        return files

    @property
    def token(self) -> str:
        """Of the lease under which this process may change the study; "" where nobody holds it."""
        return self.files.fence.token if self.files.fence is not None else ""

    @property
    def left_out(self) -> list[str]:
        """What `corrupt` holds, in words."""
        return [f"{file}: {reason}" for file, reason in sorted(self.corrupt.items())]

    @property
    def uri(self) -> str:
        """The study's directory, or its URI; options of the URI (`?endpoint_override=...`) stay at its end."""
        place, mark, options = self.results.partition("?") if "://" in self.results else (self.results, "", "")
        return f"{place.rstrip('/')}/{self.study}{mark}{options}"

    def local_path(self, name: str) -> Path | None:
        """Where a document lies on this machine; None on remote storage."""
        path = self._document(name)
        return self.files.root / path if isinstance(self.files, LocalFiles) else None

    def exists(self) -> bool:
        """Whether anything was ever written."""
        return self.get("study.json") is not None or any(self.live(table) for table in TABLES)

    # Writing rows -------------------------------------------------------------------------------------------

    def write_trial(self, row: Mapping[str, Any]) -> bool:
        """Write the one row of an ended trial; False if it was there already.

        Raises:
            ValueError: the row does not fit the schema, which is a bug.
            StudyError: the storage is full or cannot be reached; nothing was written.
        """
        return self._write("trials", row)

    def write_epoch(self, row: Mapping[str, Any]) -> bool:
        """Write the row of one epoch; False if it was there already. Raises: as `write_trial`."""
        return self._write("epochs", row)

    def write_outcome(self, row: Mapping[str, Any]) -> bool:
        """Write which images a trial answered rightly, before its own row: where a killed try has left another, this
        one takes its place. Raises: as `write_trial`."""
        return self._write("outcomes", row, anew=True)

    @patient
    def _write(self, table: Table, row: Mapping[str, Any], anew: bool = False) -> bool:
        if row.get("study", self.study) != self.study:
            raise ValueError(f"{table}: study is {row['study']!r}, but the store is of {self.study!r}")
        stored = check_row(table, {**row, "study": self.study, "schema_version": SCHEMA_VERSION}, self.plugins)
        stored |= {name: redact(value) for name, value in stored.items() if isinstance(value, str)}
        trial_id, stem = stored["trial_id"], _stem(*(stored[name] for name in KEYS[table]))
        name = self._path(table, f"{stem}.parquet")
        if self._is_merged(table, trial_id, stem):
            return False
        data = encode(to_arrow(table, [stored]))
        if not self.files.create(name, data):
            if not anew and not self._is_torn(table, stem):
                return False
            self.files.replace(name, data)
        self.corrupt.pop(name, None)
        if self._is_merged(table, trial_id, stem):  # compact() took this row, or an earlier one, just now
            self.files.delete(name)
        return True

    def _is_merged(self, table: Table, trial_id: str, stem: str) -> bool:
        """Whether a merged file holds the row; what those files hold of the last trial asked for is kept."""
        if self._asked != trial_id:
            self._asked, self._merged = trial_id, {}
        gone: set[str] = set()
        while True:
            names = [name for name in self._marked(table) if name not in gone]
            for name in names:
                if (table, name) not in self._merged:
                    try:
                        file = self._open(table, name)
                    except FileNotFoundError:  # merged once more, or not there yet; look again
                        gone.add(name)
                        break
                    own = file.read(KEYS[table], [trial_id]).to_pylist() if file else []
                    self._merged[table, name] = frozenset(_stem(*row.values()) for row in own)
                if stem in self._merged[table, name]:
                    return True
            else:
                return False

    def _marked(self, table: Table) -> list[str]:
        """The merged files of a table, by their marks in a folder of their own: listing all rows takes long."""
        names = self.files.names(self._marks(table))
        while (later := self.files.names(self._marks(table))) and not set(later) <= set(names):
            names = later  # see `live`
        return names

    def _marks(self, table: Table, *name: str) -> str:
        return self._path(f"{_MARKS}{table}", *name)

    def _is_torn(self, table: Table, stem: str) -> bool:
        """Whether the file of a row holds no such row that counts, so that it may be written again."""
        from automixsearch.results.rows import RowFile

        data = self.files.read(self._path(table, f"{stem}.parquet"))
        if data is None:
            return False
        try:
            rows = RowFile(table, data, self.known_as).read(KEYS[table])
        except Newer:
            return False
        except Damaged:
            return True
        return stem not in {_stem(*row.values()) for row in rows.select(list(KEYS[table])).to_pylist()}

    # Reading rows -------------------------------------------------------------------------------------------

    def trial_rows(self, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """The rows of all ended trials, in order of their numbers."""
        wanted = None if columns is None else list(dict.fromkeys([*columns, *ORDER["trials"]]))
        rows = in_order("trials", self.read("trials", wanted))
        return (rows if columns is None else rows.select(columns)).to_pylist()

    def trial_row(self, trial_id: str, copied: bool = False) -> dict[str, Any] | None:
        """The row of one ended trial, or None; `copied`: merged files may have come without their marks."""
        if not copied:  # mostly it is a file of its own, and then no listing is needed
            try:
                alone = self._open("trials", f"{_stem(trial_id)}.parquet")
            except FileNotFoundError:
                if not self._marked("trials"):
                    return None
                alone = None
            rows = alone.read(trials=[trial_id]).to_pylist() if alone else []
            if len(rows) == 1:
                return dict.fromkeys((*schema("trials").names, *more_schema("trials", self.plugins).names)) | rows[0]
        return next(iter(self._rows_of("trials", trial_id, copied).to_pylist()), None)

    def epoch_rows(self, trial_id: str | None = None, copied: bool = False) -> list[dict[str, Any]]:
        """The rows of all epochs, or of one trial's, in order."""
        rows = self.read("epochs") if trial_id is None else self._rows_of("epochs", trial_id, copied)
        return in_order("epochs", rows).to_pylist()

    def finished(self) -> set[str]:
        """The trials that have a row."""
        return set(self.read("trials", ["trial_id"])["trial_id"].to_pylist())

    def _rows_of(self, table: Table, trial_id: str, copied: bool) -> pa.Table:
        """The rows of one trial; without `copied`, those that stand in files of ours."""
        own = re.compile(re.escape(trial_id) + r"(-e\d+)?\.parquet")
        ours = None if copied else lambda name: name.startswith(_MERGED) or bool(own.fullmatch(name))
        return self.read(table, trials=[trial_id], only=ours)

    @patient
    def read(
        self,
        table: Table,
        columns: list[str] | None = None,
        trials: Collection[str] | None = None,
        only: Callable[[str], bool] | None = None,
    ) -> pa.Table:
        """Rows as an Arrow table, in any order: of `trials`, or all. `only` says which files are worth opening.

        Raises:
            StudyError: a column does not exist, or the storage cannot be reached.
        """
        failure: Exception | None = None
        for _ in self.efforts(table, most=1):
            try:
                if trials is None:
                    self._forget(table)
                return self._read(table, columns, trials, [name for name in self.live(table) if not only or only(name)])
            except FileNotFoundError as error:
                failure = error
        raise StorageError(f"{self._where(self._path(table))}: cannot be read: {failure}; check the storage")

    def _read(
        self, table: Table, columns: list[str] | None, trials: Collection[str] | None, names: list[str]
    ) -> pa.Table:
        import pyarrow as pa

        from automixsearch.results.rows import join, settle

        wanted = None if columns is None else list(dict.fromkeys([*columns, *KEYS[table]]))
        more = more_schema(table, self.plugins)
        if wanted is not None:
            more = pa.schema([field for field in more if field.name in wanted])
        types, parts, newer = {field.name: field.type for field in more}, [more.empty_table()], ""
        known = dict.fromkeys((*schema(table).names, *more.names))
        for name in names:
            file = self._open(table, name)
            if file is None:
                newer = newer or (name if self._path(table, name) in self._newer else "")
                continue
            known |= dict.fromkeys(file.names)
            part = file.read(wanted, trials)
            if self._agrees(table, name, part, types):
                parts.append(part)
        if newer and not parts[1:]:
            path = self._path(table, newer)
            raise StudyError(f"{self._where(path)}: {self.corrupt[path]}")
        for column in columns or ():
            if column not in known:
                raise StudyError(f"study {self.study}: {unknown('column', column, known)}")
        joined = join(table, parts, wanted)
        twice = doubled(table, joined)
        if twice.num_rows:
            ids = twice["trial_id"].unique().to_pylist()
            files = {name: file.read(trials=ids) for name in names if (file := self._open(table, name)) is not None}
            kept, reasons = settle(table, files, twice)
            self.corrupt |= {self._path(table, name): reason for name, reason in reasons.items()}
            key = list(KEYS[table])
            joined = join(table, [joined.join(twice, key, join_type="left anti"), kept], wanted)
            joined = joined.select([name for name in joined.schema.names if wanted is None or name in wanted])
        return joined if columns is None else joined.select(columns)

    def _forget(self, table: Table) -> None:
        """Begin the list of what is left out anew."""
        for path in [path for path in self.corrupt if path.startswith(self._path(table, ""))]:
            del self.corrupt[path]

    def _agrees(self, table: Table, name: str, part: pa.Table, types: dict[str, Any]) -> bool:
        """Whether the columns of a file that are none of ours have the types of other files; noted where not."""
        for field in part.schema:
            known = types.setdefault(field.name, field.type)
            if known != field.type:
                reason = f"column {field.name} is {field.type}, and {known} in other files; rename one of them"
                self.corrupt[self._path(table, name)] = reason
                return False
        return True

    def intact(self, table: Table) -> list[str] | None:
        """The paths of the files on this machine whose seals are whole; None where one has no seal, or lies elsewhere.

        Such files can be read without looking at their rows. What was looked at once is looked at again when its file
        has changed.
        """
        files = self.files
        if not isinstance(files, LocalFiles):
            return None
        self._forget(table)

        def look(name: str) -> bool | str:
            path = files.root / self._path(table, name)
            if not path.is_file():  # a pipe would be waited for; whoever reads it says what it is
                return False
            with path.open("rb") as file:
                state = os.fstat(file.fileno())
                stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
                if self._intact.get((table, name)) == stamp:
                    return True
                if not state.st_size:
                    return "is empty"
                try:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                        sealed = check_seal(data, SCHEMA_VERSION)
                except Damaged as error:
                    return str(error)
            if sealed:
                self._intact[table, name] = stamp
            return sealed

        names = self.live(table)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found = dict(zip(names, threads.map(look, names), strict=True))
        if False in found.values():
            return None
        self.corrupt |= {self._path(table, name): reason for name, reason in found.items() if isinstance(reason, str)}
        return [files.arrow_path(self._path(table, name)) for name, sealed in found.items() if sealed is True]

    def dataset(self, table: Table, paths: Sequence[str]) -> Dataset:
        """Files whose rows need no look as an Arrow data set, nothing read but the schemas."""
        import pyarrow as pa
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq

        files = self.files.arrow
        schemas = [schema(table), *(pq.read_schema(path, filesystem=files) for path in paths)]
        unified = pa.unify_schemas(schemas, promote_options="permissive")
        return ds.dataset(list(paths), schema=unified, format="parquet", filesystem=files)

    def efforts(self, *tables: Table, most: int) -> Iterator[int]:
        """How hard to try: 0, 1, ... below `most`, the same once more where `compact` deleted files meanwhile."""
        for effort in range(most):
            for _ in range(100):
                before = [(table, name) for table in tables for name in self.live(table)]
                yield effort
                now = {(table, name) for table in tables for name in self.live(table)}
                if now.issuperset(before):
                    break

    def live(self, table: Table) -> list[str]:
        """The names of the files that hold the table: each row once, whatever `compact` is doing."""
        folder = self._path(table)
        names = self.files.names(folder, folders=True)
        while True:
            # A listing is no snapshot: it can miss both a part and the file that the part was merged into.
            later = self.files.names(folder, folders=True)
            if all(name in names for name in later if name.startswith(_MERGED)):
                break
            names = later
        gone: set[str] = set()
        for journal in (name for name in later if name.startswith(_JOURNAL)):
            plan = self._journal(table, journal)
            if plan is not None and plan.merged in names:
                gone.update(plan.parts)
        return sorted(n for n in names if n.endswith(".parquet") and n[0] != "." and n not in gone)

    def _open(self, table: Table, name: str) -> RowFile | None:
        """One file; None, and noted, where nothing in it can be believed.

        Raises:
            FileNotFoundError: `compact` merged the file between listing and opening; try again.
        """
        from automixsearch.results.rows import RowFile

        path = self._path(table, name)
        try:
            data = self.files.read(path)
            if data is None:
                raise FileNotFoundError(path)
            file = RowFile(table, data, self.known_as)
        except (Damaged, DamagedError) as error:
            self.corrupt[path] = str(error).removeprefix(f"{self.files.place(path)}: ")
            if isinstance(error, Newer):
                self._newer.add(path)
            return None
        if file.fault:
            self.corrupt[path] = file.fault
        return file

    # Merging files ------------------------------------------------------------------------------------------

    def compact(self, sizes: Mapping[str, int] | None = None) -> int:
        """Merge small files into few; returns how many went. Needs the lock, and takes it if nobody has it.

        sizes: rows of a merged file, for each table, where they shall not be `MERGED_ROWS`.

        In this order: a journal appears that names the parts and the merged file; the merged file's mark appears, by
        which writers know of it; the merged file appears whole; the parts go; the journal goes. Once the merged file
        is there, readers leave out the parts that its journal names. So no row is lost or seen twice wherever this
        stops, and the next call finishes it. (pandas and DuckDB know no journals: alone, they may see a row twice
        until the parts are gone.)
        """
        merged = 0
        with self.lock():
            self.repair()
            for table, sealed in itertools.product(TABLES, (True, False)):
                while count := self._merge(table, (sizes or {}).get(table, MERGED_ROWS), sealed):
                    merged += count
        return merged

    def repair(self) -> None:
        """Finish what a killed `compact` began, and remove what killed writers left. Needs the lock."""
        with self.lock():
            for table in TABLES:
                for name in self.files.names(self._path(table)):
                    if name.startswith(_JOURNAL):
                        self._finish(table, name)
                there, marked = set(self.files.names(self._path(table))), set(self._marked(table))
                merged = {name for name in there if name.startswith(_MERGED)}
                for name in merged - marked:
                    self.files.create(self._marks(table, name), b"")
                for name in marked - merged:
                    self.files.delete(self._marks(table, name))
            self.files.sweep(self.study)

    def _merge(self, table: Table, size: int, sealed: bool) -> int:
        """Write one merged file; returns how many files it replaced, 0 when there was nothing to do.

        Rows get a seal by it only where all of them had one: damage from before shall not look whole.
        """
        parts: dict[str, pa.Table] = {}
        rows, types = 0, dict[str, Any]()
        for name in self.live(table):
            file = self._open(table, name)
            if file is None or file.sealed != sealed or file.fault or not 0 < file.count < size // 2:
                continue
            part = file.read()
            if self._agrees(table, name, part, types):
                parts[name] = part
                rows += part.num_rows
            if rows >= size or len(parts) >= MERGED_FILES:
                break
        merged, unfit = self._settled(table, parts)
        if unfit:  # what is wrong stays where it can be seen
            parts = {name: part for name, part in parts.items() if name not in unfit}
            merged, _ = self._settled(table, parts)
        if len(parts) < 2:
            return 0
        self._replace(table, list(parts), in_order(table, merged), sealed)
        return len(parts)

    def _settled(self, table: Table, parts: Mapping[str, pa.Table]) -> tuple[pa.Table, set[str]]:
        """The rows of several files as one table, each once, and the files that cannot be merged; those are noted."""
        from automixsearch.results.rows import join, settle

        rows = join(table, parts.values())
        reasons = {}
        for row, fault in faults(table, rows).items():  # of files that were sealed when less was demanded
            position = row
            for name, part in parts.items():
                if position < part.num_rows:
                    reasons.setdefault(name, f"{label(rows, row)}: {fault}")
                    break
                position -= part.num_rows
        twice = doubled(table, rows)
        if twice.num_rows:
            kept, unlike = settle(table, parts, twice)
            rows = join(table, [rows.join(twice, list(KEYS[table]), join_type="left anti"), kept])
            reasons |= unlike
        self.corrupt |= {self._path(table, name): reason for name, reason in reasons.items()}
        return rows, set(reasons)

    def drop(self, trial_ids: Collection[str]) -> None:
        """Take trials with all their rows out of the ledger. Needs the lock, and takes it if nobody has it.

        A file is replaced as in `compact`, so a reader sees it as it was or as it will be.
        """
        import pyarrow as pa

        with self.lock():
            self.repair()
            for table in TABLES:
                for name in self.live(table):
                    file = self._open(table, name)
                    if file is None:
                        continue
                    rows = file.everything()
                    ids = rows["trial_id"].to_pylist()
                    kept = rows.filter(pa.array([trial_id not in trial_ids for trial_id in ids], pa.bool_()))
                    if kept.num_rows < rows.num_rows:
                        self._replace(table, [name], kept, file.sealed)
            self._merged.clear()

    def _replace(self, table: Table, parts: list[str], rows: pa.Table, sealed: bool) -> None:
        """Let one merged file of `rows` take the place of the files `parts`, or nothing where there are none."""
        if not rows.num_rows:
            for part in parts:
                self.files.delete(self._path(table, part))
                if part.startswith(_MERGED):
                    self.files.delete(self._marks(table, part))
            return
        data = encode(rows.replace_schema_metadata(schema(table).metadata), sealed)
        stem = uuid.uuid4().hex[:16]  # a name that no file has: whatever lies there is not what we write
        target, journal = f"{_MERGED}{stem}.parquet", f"{_JOURNAL}{stem}.json"
        plan = MergeDocument(merged=target, parts=parts)
        self.files.create(self._path(table, journal), encode_document(plan))
        self.files.create(self._marks(table, target), b"")
        self.files.create(self._path(table, target), data)
        self._finish(table, journal)

    def _finish(self, table: Table, journal: str) -> None:
        plan = self._journal(table, journal)
        if plan is not None and plan.merged in self.files.names(self._path(table)):
            for part in plan.parts:
                self.files.delete(self._path(table, part))
                if part.startswith(_MERGED):
                    self.files.delete(self._marks(table, part))
        self.files.delete(self._path(table, journal))

    def _journal(self, table: Table, name: str) -> MergeDocument | None:
        """What a journal says; None where it is gone, or is damaged, which is noted."""
        path = self._path(table, name)
        try:
            return read_document(self.files, path, MergeDocument)
        except DamagedError as error:
            self.corrupt[path] = str(error).removeprefix(f"{self.files.place(path)}: ")
            return None

    # Documents and the lock ---------------------------------------------------------------------------------

    @patient
    def document(self, name: str, kind: type[T]) -> T | None:
        """The content of a JSON document as `kind`, a model or a dataclass; None where there is none.

        Raises:
            DamagedError: it is no such document, or was changed since it was written.
        """
        return read_document(self.files, self._document(name), kind)

    def info(self) -> dict[str, Any]:
        """What `study.json` says, as plain data; nothing where there is none. Raises: as `document`."""
        found = self.document("study.json", StudyDocument)
        return {} if found is None else found.content

    @patient
    def put_document(self, name: str, content: object) -> None:
        """Write a JSON document with a digest: a model, a dataclass or plain data."""
        write_document(self.files, self._document(name), content)

    @patient
    def put(self, name: str, data: bytes) -> None:
        """Write a file such as `checkpoints/t7.pt`; an older one is replaced whole."""
        self.files.replace(self._document(name), data)

    @patient
    def get(self, name: str) -> bytes | None:
        """The bytes of a document, unchecked, or None."""
        return self.files.read(self._document(name))

    @patient
    def delete(self, name: str) -> None:
        """Remove a document, if it is there."""
        self.files.delete(self._document(name))

    @patient
    def names(self, folder: str = "") -> list[str]:
        """The names of the documents in a folder of the study."""
        place = self._document(folder) if folder else self.study
        return sorted(name for name in self.files.names(place) if name[0] != ".")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study: one driver at a time. The same store may take it again inside, and so may those with its
        token. Inside, a change is refused with StudyTaken when another driver has taken the study over.

        Raises:
            StudyBusy: another driver has it.
        """
        if self.token:
            yield
            return
        with self.files.hold(self.study, self.note):
            yield

    def shared(self) -> Store:
        """A store for a thread or process that works under the lease of this one, and no longer."""
        return Store(self.results, self.study, self.patience_s, self.token, self.note)

    def check_held(self) -> None:
        """Look whether the study is still held, before a change that does not go through this store.

        Raises:
            StudyTaken: it is not.
        """
        if self.files.fence is not None:
            self.files.fence.check()

    def _document(self, name: str) -> str:
        for part in name.split("/"):
            check_name("document", part)
        if name.split("/")[0] in TABLES:
            raise StudyError(f"document {name!r} would lie among the rows; use another folder")
        return f"{self.study}/{name}"

    def _path(self, *parts: str) -> str:
        return "/".join((self.study, *parts))

    def _where(self, path: str) -> str:
        return f"{self.results}/{path}"


def _stem(trial_id: str, epoch: int | None = None) -> str:
    """The file name of a row, without the ending."""
    check_name("trial", trial_id)
    if trial_id.startswith(_MERGED):
        raise StudyError(f"trial {trial_id!r} is no legal name; {_MERGED} is kept for merged files")
    return trial_id if epoch is None else f"{trial_id}-e{epoch:06d}"
