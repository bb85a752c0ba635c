"""What stands in a row file: looked at before anything of it is believed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from automixsearch.results.schema import KEYS, SCHEMA_VERSION, Table, columns, doubled, faults, label, listed, schema
from automixsearch.results.seal import Damaged, Newer, check_seal

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN = {
    "whole number": (types.is_integer, pa.int64()),
    "number": (lambda kind: types.is_floating(kind) or types.is_decimal(kind), pa.float64()),
    "string": (lambda kind: types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind),
               pa.string()),
    "truth value": (types.is_boolean, pa.bool_()),
    "time": (types.is_timestamp, pa.timestamp("us", "UTC")),
    "string of bytes": (lambda kind: types.is_binary(kind) or types.is_large_binary(kind), pa.binary()),
    "nothing": (types.is_null, pa.null()),
}  # fmt: skip
"""What a value can be, and the type that it is read as."""


class RowFile:
    """One file of rows, as its bytes.

    Sealed rows are taken as they are. Those of other tools get the types of the ledger, and rows that break a rule are
    left out: `fault` says which. So are rows of another study than `known_as`, sealed or not.

    Raises:
        Damaged: the file is none, is not what its writer wrote, or has other columns than a ledger's. Newer: it is of
            a later version.
    """

    def __init__(self, table: Table, data: bytes, known_as: Collection[str] = ()) -> None:
        self.table: Table = table
        self.known_as = known_as
        self.fault = ""
        self.raw: pa.Table | None = None
        if not data:
            raise Damaged("is empty")
        self.sealed = check_seal(data, SCHEMA_VERSION)
        try:
            self.file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            sound = self.sealed and not self._strange(self.file.read(["study"] if known_as else []))
            self.rows = None if sound else self._believable(self.file)
        except Damaged:
            raise
        except Exception as error:  # pyarrow's own types and others: a damaged file can fail at any depth
            raise Damaged(f"cannot be read: {' '.join(str(error).split())[:300]}") from None

    @property
    def names(self) -> list[str]:
        """The columns."""
        return self.file.schema_arrow.names if self.rows is None else self.rows.schema.names

    @property
    def count(self) -> int:
        """The number of rows."""
        return self.file.metadata.num_rows if self.rows is None else self.rows.num_rows

    def read(self, names: Sequence[str] | None = None, trials: Collection[str] | None = None) -> pa.Table:
        """The rows, or those of some trials; all columns, or those of `names` that are there."""
        if self.rows is not None:
            rows = self.rows if names is None else self.rows.select([name for name in names if name in self.names])
            return rows if trials is None else rows.filter(_of(self.rows, trials))
        wanted = None if names is None else [name for name in names if name in self.names]
        if trials is None:
            return self.file.read(wanted)
        parts = [self.file.schema_arrow.empty_table().select(wanted or self.names)]
        for group in range(self.file.num_row_groups):  # mostly none of its rows is wanted
            mine = _of(self.file.read_row_group(group, ["trial_id"]), trials)
            if pc.call_function("any", [mine]).as_py():
                parts.append(self.file.read_row_group(group, wanted).filter(mine))
        return pa.concat_tables(parts)

    def everything(self) -> pa.Table:
        """All rows, those too that break a rule."""
        return self.file.read() if self.raw is None else self.raw

    def _believable(self, file: pq.ParquetFile) -> pa.Table:
        version = (file.schema_arrow.metadata or {}).get(b"schema_version", b"0")
        if not version.isdigit():
            raise Damaged(f"has schema version {version[:20]!r}")
        if int(version) > SCHEMA_VERSION:
            raise Newer(f"has schema version {int(version)}; upgrade AutoMixSearch")
        rows = conform(self.table, file.read())
        rows.validate(full=True)
        self.raw, wrong = rows, self._strange(rows) | faults(self.table, rows)
        if wrong:
            named = [f"{label(rows, row)}: {fault}" for row, fault in list(wrong.items())[:3]]
            self.fault = f"{_rows(len(wrong))} left out: {listed(named, len(wrong))}"
            kept = pa.array([row not in wrong for row in range(rows.num_rows)], pa.bool_())
            rows = rows.filter(kept)
        return rows

    def _strange(self, rows: pa.Table) -> dict[int, str]:
        """The rows, by position, that another study has written."""
        if not self.known_as:
            return {}
        own = pc.call_function("is_in", [rows["study"]], pc.SetLookupOptions(pa.array([*self.known_as], pa.string())))
        others = pc.call_function("indices_nonzero", [pc.call_function("invert", [own])]).to_pylist()
        return {
            row: f"study = {rows['study'][row].as_py()!r} is another study; move it to a folder of that name"
            for row in others
        }


def _of(rows: pa.Table, trials: Collection[str]) -> pa.ChunkedArray:
    return pc.call_function("is_in", [rows["trial_id"]], pc.SetLookupOptions(pa.array(list(trials), pa.string())))


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def conform(table: Table, rows: pa.Table) -> pa.Table:
    """Rows that another tool wrote, with the types of the ledger where nothing is lost by it.

    Raises:
        Damaged: a needed column is missing, or one has another type.
    """
    ours = {field.name: field.type for field in schema(table)}
    seen = {name.lower() for name in ours if name not in rows.schema.names}
    for name in rows.schema.names:
        if not name.isprintable() or not name:
            raise Damaged(f"has a column {name[:100]!r}; rename it")
        if name.lower() in seen:  # SQL knows no case
            raise Damaged(f"has a column {name[:100]!r} beside one of that name; rename it")
        seen.add(name.lower())
    for column in columns(table):
        if column.needed and column.name not in rows.schema.names:
            raise Damaged(f"has no column {column.name}")
    arrays, fields = [], []
    for field, values in zip(rows.schema, rows.columns, strict=True):
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        found = next((name for name, (fits, _) in PLAIN.items() if fits(kind)), "")
        if found == "nothing" and field.name not in ours:
            continue
        if not found or (found == "string of bytes" and ours.get(field.name) != pa.binary()):
            raise Damaged(
                f"column {field.name} is {str(kind)[:100]}; a ledger holds numbers, strings, true, false, times"
            )
        wanted = ours.get(field.name, PLAIN[found][1])
        known = next(name for name, (_, kind) in PLAIN.items() if kind == wanted)
        if found != known and found != "nothing" and not {found, known} <= {"number", "whole number"}:
            raise Damaged(f"column {field.name} is a {found} ({kind}) and must be {wanted}")
        try:
            arrays.append(values if field.type == wanted else values.cast(kind).cast(wanted))
        except pa.ArrowException as error:
            raise Damaged(f"column {field.name} is {kind} and must be {wanted}: {str(error)[:200]}") from None
        fields.append(pa.field(field.name, wanted))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, schema(table).metadata))


def join(table: Table, parts: Iterable[pa.Table], names: Sequence[str] | None = None) -> pa.Table:
    """Rows of several files as one table: the columns of the ledger first, null where a file has none."""
    empty = schema(table).empty_table()
    if names is not None:
        empty = empty.select([name for name in names if name in empty.schema.names])
    return pa.concat_tables([empty, *parts], promote_options="permissive")


def settle(table: Table, parts: Mapping[str, pa.Table], keys: pa.Table) -> tuple[pa.Table, dict[str, str]]:
    """The rows of keys that several rows have: one where all are equal, none where two differ.

    Args:
        parts: all rows with such keys and more, all columns, by file.

    Returns:
        the rows, and for each file with rows that do not count the reason.
    """
    key, files = list(KEYS[table]), list(parts)
    rows = join(table, parts.values())
    origin = pa.array([position for position, part in enumerate(parts.values()) for _ in range(part.num_rows)])
    rows = rows.append_column("", origin.cast(pa.int64())).join(keys, key, join_type="left semi")
    alike = rows.group_by([name for name in rows.schema.names if name]).aggregate([])
    unlike = doubled(table, alike)
    kept = alike.join(unlike, key, join_type="left anti")
    holders: dict[tuple[object, ...], set[str]] = {}
    for row in rows.join(unlike, key, join_type="left semi").select([*key, ""]).to_pylist():
        holders.setdefault(tuple(row[name] for name in key), set()).add(files[row[""]])
    reasons: dict[str, list[str]] = {}
    for names, among in sorted(holders.items(), key=str):
        for file in among:
            others = ", ".join(sorted(among - {file})) or "the same file"
            reasons.setdefault(file, []).append(f"{' epoch '.join(map(str, names))} has another row in {others}")
    return kept, {
        file: f"{_rows(len(found))} left out: {listed(found[:3], len(found))}; remove the wrong ones"
        for file, found in reasons.items()
    }
