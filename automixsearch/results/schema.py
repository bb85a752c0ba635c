"""What a row of the ledger is: every column with its type and meaning, declared once.

The knob columns follow from the catalogue of knobs, so a new mixing method brings its columns along. Types
are explicit, because readers take the schema of the first file they meet.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from automixsearch.errors import unknown
from automixsearch.results.columns import Column
from automixsearch.schema_version import SCHEMA_VERSION

if TYPE_CHECKING:
    import pyarrow as pa

    from automixsearch.spec import TrialConfig

ROW_GROUP = 10_000
"""Rows per row group of a merged file: small, so that fetching one trial out of a million decodes little."""

Table = Literal["trials", "epochs"]
TABLES: tuple[Table, ...] = ("trials", "epochs")
KEYS: dict[Table, tuple[str, ...]] = {"trials": ("trial_id",), "epochs": ("trial_id", "epoch")}
ORDER: dict[Table, tuple[str, ...]] = {"trials": ("number", "trial_id"), "epochs": ("trial_id", "epoch")}


class TrialState(StrEnum):
    """Where a trial stands; rows of `trials` hold the last three only."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


_OWNER = (
    Column("schema_version", int, "version of this layout", needed=True),
    Column("study", str, "name of the study", needed=True),
    Column("trial_id", str, "name of the trial within the study, e.g. t00007", needed=True),
)
_SETUP = (
    Column("number", int, "position of the trial in the study, from 0", needed=True),
    Column("state", str, "complete, pruned (ended below the full schedule) or failed", needed=True),
    Column("purpose", str, "what the trial was run for: search, study, replicate or confirm"),
    Column("config_id", str, "hash of the config, seeds included; where the data lie does not enter"),
    Column("space_id", str, "hash of the search space"),
    Column("rung", int, "where asha trains shorter schedules first: which of them this is, from 0; the last is full"),
    Column("candidate", str, "likewise: the trial that trained this config first; each of its rungs is a trial"),
)
_OUTCOME = (
    Column("epochs_total", int, "epochs of its schedule"),
    Column("epochs_run", int, "epochs that were trained"),
    Column("train_loss", float, "mean training loss of the last epoch"),
    Column("val_top1", float, "top-1 accuracy on the validation split, 0 to 100"),
    Column("val_top5", float, "top-5 accuracy on the validation split, 0 to 100"),
    Column("val_loss", float, "cross-entropy on the validation split"),
    Column("val_ece", float, "expected calibration error on the validation split, 0 to 1"),
    Column("val_top1_best", float, "the best of all epochs: an optimistic figure, for comparison with published ones"),
    Column("val_top1_median", float, "the median of the last epochs, as many as median_epochs says"),
    Column("test_top1_median", float, "the same on the test set, where test_median asks for it"),
    Column("test_top1_best", float, "the best of these test scores, as some tables report; nothing is chosen by it"),
    Column("test_top1", float, "top-1 accuracy on the test set, 0 to 100"),
    Column("test_top5", float, "top-5 accuracy on the test set, 0 to 100"),
    Column("test_loss", float, "cross-entropy on the test set"),
    Column("test_ece", float, "expected calibration error on the test set, 0 to 1"),
    Column("val_images", int, "images of the validation split"),
    Column("test_images", int, "images of the test set"),
    Column("skipped_images", int, "bad images that were left out of the data set"),
    Column("parameters", int, "trainable scalars of the network"),
    Column("stop_reason", str, "why the trial ended below the full schedule"),
    Column("error_class", str, "type of the exception that ended a failed trial"),
    Column("error_message", str, "its message"),
    Column("attempts", int, "how often a failed trial has ended so, one time after another, retries included"),
)
_ORIGIN = (
    Column("config", str, "the whole config as JSON, every default written out"),
    Column("code_version", str, "version of AutoMixSearch"),
    Column("data_fingerprint", str, "hash of the decoded data set"),
    Column("split_id", str, "hash of the indices of the validation split"),
    Column("seed", int, "seed of the trial"),
    Column("study_seed", int, "seed of the study, from which sampling follows"),
    Column("split_seed", int, "seed of the validation split"),
)
_COST = (
    Column("wall_s", float, "seconds of training and validation, over all resumes; starting processes is left out"),
    Column("device_s", float, "wall seconds times the devices held"),
    Column("energy_j", float, "joules of the devices in that time, of the share that was held; null: they do not tell"),
    Column("device", str, "name of the device"),
    Column("workers", int, "training processes"),
    Column("threads", int, "CPU threads of each"),
    Column("host", str, "machine of the first worker"),
    Column("started_at", datetime, "when the trial was first proposed (UTC)"),
    Column("ended_at", datetime, "when the trial ended (UTC)"),
)
EPOCH_SCORES = ("val_top1", "val_top5", "val_loss", "val_ece")
_EPOCH = (
    Column("method", str, "mixing method"),
    Column("epoch", int, "epoch, from 1", needed=True),
    Column("epochs_total", int, "epochs of its schedule"),
    Column("lr", float, "learning rate at the end of the epoch"),
    Column("train_loss", float, "mean training loss of the epoch"),
    *(column for column in _OUTCOME if column.name in EPOCH_SCORES),
    Column("wall_s", float, "seconds of training and validation so far, over all resumes"),
    Column("device_s", float, "wall seconds times the devices held, since the trial began"),
    Column("energy_j", float, "joules of the devices since the trial began, of the share that is held"),
    Column("images_per_s", float, "training images per second"),
    Column("ended_at", datetime, "when the epoch ended (UTC)"),
    Column("rung", int, "rung, from 0, whose cool-down branched off after this epoch"),
    *(Column(f"{name}.cooled", float, f"{name} when that had ended") for name in ("train_loss", *EPOCH_SCORES)),
)


@cache
def columns(table: Table) -> tuple[Column, ...]:
    """The columns of a table in order."""
    if table == "epochs":
        from automixsearch.algorithms import ALGORITHMS

        told = [column for algorithm in ALGORITHMS.values() for column in algorithm.columns]
        return _OWNER + _EPOCH + tuple({column.name: column for column in told}.values())
    return _OWNER + _SETUP + _knob_columns() + _OUTCOME + _ORIGIN + _COST


def _knob_columns() -> tuple[Column, ...]:
    """One column for all knobs of one short name: the canonical ones first, then `knob.<name>`."""
    from automixsearch.spec import CANONICAL, catalogue, column_of, joint_column_of

    found: dict[str, Column] = {}
    for name, entry in catalogue().items():
        if entry.joint:
            continue
        column, note = column_of(name), f"{name}: {entry.knob.note}"
        known = found.setdefault(column, Column(column, entry.knob.kind, note))
        if known.kind is not entry.knob.kind:
            raise TypeError(f"knob {name} is {entry.knob.kind}, but its column {column} is {known.kind}")
        if known.note != note:
            found[column] = Column(column, known.kind, f"{known.note}; {note}")
    for name, entry in catalogue().items():
        joint = joint_column_of(name)
        if joint is not None:
            found[joint] = Column(joint, entry.knob.kind, f"{name}, where several methods are joined")
    first = [found.pop(name) for name in CANONICAL]
    return (*first, *found.values())


@cache
def schema(table: Table) -> pa.Schema:
    """The Arrow schema of a table, notes included."""
    import pyarrow as pa

    types = {
        int: pa.int64(),
        float: pa.float64(),
        str: pa.string(),
        bool: pa.bool_(),
        datetime: pa.timestamp("us", "UTC"),
    }
    fields = [
        pa.field(column.name, types[column.kind], not column.needed, {"note": column.note}) for column in columns(table)
    ]
    return pa.schema(fields, {"table": table, "schema_version": str(SCHEMA_VERSION)})


def render_columns(table: Table) -> str:
    """The columns of a table as Markdown, for the documentation."""
    words = {int: "int64", float: "float64", str: "string", bool: "bool", datetime: "timestamp[us, UTC]"}
    lines = ["| column | type | null | meaning |", "|---|---|---|---|"]
    for column in columns(table):
        null = "no" if column.needed else "yes"
        lines.append(f"| `{column.name}` | {words[column.kind]} | {null} | {column.note} |")
    return "\n".join(lines) + "\n"


@cache
def metric_directions() -> dict[str, str]:
    """`max` or `min` for each metric that trials can be ordered by, test scores included."""
    from automixsearch.spec import METRICS

    tests = {name.replace("val_", "test_"): way for name, way in METRICS.items() if name.startswith("val_")}
    return METRICS | tests


def config_row(config: TrialConfig) -> dict[str, Any]:
    """The columns of `trials` that a config decides: knobs, JSON, hash, data, epochs and seeds."""
    from automixsearch.policy import methods_of
    from automixsearch.spec import catalogue, column_of, joint_column_of

    row: dict[str, Any] = {}
    joined = len(methods_of(config.method)) > 1
    for name, value in config.knobs.items():
        of_method = joined and catalogue()[name].method is not None
        column = joint_column_of(name) if of_method else column_of(name)
        if column in row:
            raise ValueError(f"two active knobs share the column {column}; {name} is the second")
        if column is not None:
            row[column] = value
    return row | {
        "config": json.dumps(config.model_dump(mode="json")),
        "config_id": config.config_id,
        "data_fingerprint": config.data_fingerprint,
        "epochs_total": config.recipe.epochs,
        "seed": config.seed,
        "split_seed": config.split_seed,
    }


def column_named(name: str) -> str:
    """The column of the trials that people mean: a knob's may be named as the knob is (`lr` -> `knob.lr`)."""
    names = {column.name for column in columns("trials")}
    return f"knob.{name}" if name not in names and f"knob.{name}" in names else name


def check_row(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` as it will be stored: missing columns are null, and so are NaN and infinite numbers.

    Raises:
        ValueError: a key is no column, a needed value is missing, a time has no zone, or the state is not
            final. Each is a bug in the caller.
    """
    known = columns(table)
    for name in row.keys() - {column.name for column in known}:
        raise ValueError(f"{table}: {unknown('column', name, [column.name for column in known])}")
    stored = {column.name: _value(column, row.get(column.name), table) for column in known}
    stored["schema_version"] = SCHEMA_VERSION
    for column in known:
        if column.needed and stored[column.name] is None:
            raise ValueError(f"{table}: {column.name} is missing")
    if table == "trials":
        final = [state.value for state in TrialState if state is not TrialState.RUNNING]
        if stored["state"] not in final:
            raise ValueError(f"trials: {unknown('final state', stored['state'], final)}")
    return stored


def _value(column: Column, value: Any, table: Table) -> Any:
    if value is None:
        return None
    if isinstance(value, Real):
        if not math.isfinite(value):
            return None
        if column.kind is int and value % 1 != 0:  # Arrow would cut it off
            raise ValueError(f"{table}: column {column.name} must be int64: {value} is no whole number")
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(f"{table}: {column.name} = {value} has no time zone; use datetime.now(UTC)")
    return str(value) if isinstance(value, StrEnum) else value


def to_arrow(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table; columns that newer files brought along follow ours, their types inferred.

    Raises:
        ValueError: a value does not fit its column.
    """
    import pyarrow as pa

    rows = list(rows)
    fields = {field.name: field for field in schema(table)}
    for name in rows[0] if rows else ():
        if name not in fields:
            fields[name] = pa.field(name, pa.array([row[name] for row in rows]).type)
    arrays = []
    for name, field in fields.items():
        try:
            arrays.append(pa.array([row.get(name) for row in rows], field.type))
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(f"{table}: column {name} must be {field.type}: {error}") from None
    return pa.Table.from_arrays(arrays, schema=pa.schema(list(fields.values()), schema(table).metadata))


def in_order(table: Table, rows: pa.Table) -> pa.Table:
    """The rows in the order that every reader gives them."""
    return rows.sort_by([(name, "ascending") for name in ORDER[table]])


FEW = 100
"""Rows up to which a file is written lean: what helps readers to skip parts of it would be most of its size."""


def encode(table: pa.Table) -> bytes:
    """A table as the bytes of one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink, lean = pa.BufferOutputStream(), table.num_rows <= FEW
    how: dict[str, Any] = {"compression": "zstd"}
    if lean:
        table = table.cast(pa.schema([field.remove_metadata() for field in table.schema], table.schema.metadata))
        how |= {"write_statistics": False, "use_dictionary": False, "store_schema": False}
    with pq.ParquetWriter(sink, table.schema, **how) as writer:
        if lean:
            writer.add_key_value_metadata(table.schema.metadata or {})
        writer.write_table(table, row_group_size=ROW_GROUP)
    return sink.getvalue().to_pybytes()


def utc(microseconds: int | None) -> datetime | None:
    """Microseconds since 1970 as a time."""
    if microseconds is None:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
