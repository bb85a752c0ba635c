"""What a row of the ledger is: every column with its type and meaning, declared once.

The knob columns follow from the catalogue of knobs, so a new mixing method brings its columns along. Types
are explicit, because readers take the schema of the first file they meet.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from automixsearch.algorithms import ALGORITHMS
from automixsearch.config.catalogue import CANONICAL, PER_EPOCH, Catalogue, catalogue, column_of
from automixsearch.config.policy import methods_of
from automixsearch.config.upgrade import SCHEMA_VERSION
from automixsearch.errors import unknown
from automixsearch.registry import TYPES, Plugin
from automixsearch.results.columns import Column, amount, percent, share
from automixsearch.results.names import PATTERN
from automixsearch.results.seal import seal

if TYPE_CHECKING:
    import pyarrow as pa

    from automixsearch.config.trial import TrialConfig

ROW_GROUP = 10_000
"""Rows per row group of a merged file: small, so that fetching one trial out of a million decodes little."""

Table = Literal["trials", "epochs", "outcomes"]
TABLES: tuple[Table, ...] = ("trials", "epochs", "outcomes")
KEYS: dict[Table, tuple[str, ...]] = {
    "trials": ("trial_id",),
    "epochs": ("trial_id", "epoch"),
    "outcomes": ("trial_id",),
}
ORDER: dict[Table, tuple[str, ...]] = {**KEYS, "trials": ("number", "trial_id")}


class TrialState(StrEnum):
    """Where a trial stands; rows of `trials` hold the last three only."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


FINAL = tuple(state.value for state in TrialState if state is not TrialState.RUNNING)
"""The states that a row can have."""
PURPOSES = ("search", "study", "replicate", "confirm")

_OWNER = (
    Column("schema_version", int, "version of this layout", needed=True, low=1, high=SCHEMA_VERSION),
    Column("study", str, "name of the study", needed=True),
    Column(
        "trial_id", str, "name of the trial within the study, e.g. t00007", needed=True, pattern=PATTERN.strip("^$")
    ),
)
_SETUP = (
    Column("number", int, "position of the trial in the study, from 0", needed=True, low=0, high=10_000_000),
    Column(
        "state", str, "complete, pruned (ended below the full schedule) or failed", needed=True, pattern="|".join(FINAL)
    ),
    Column(
        "purpose", str, "what the trial was run for: search, study, replicate or confirm", pattern="|".join(PURPOSES)
    ),
    Column("config_id", str, "hash of the config, seeds included; where the data lie does not enter"),
    Column("config_key", str, "the same without seeds: runs of one config share it"),
    Column("space_id", str, "hash of the search space"),
    amount("rung", "where asha trains shorter schedules first: which of them this is, from 0; the last is full", int),
    Column("candidate", str, "likewise: the trial that trained this config first; each of its rungs is a trial"),
)
_OUTCOME = (
    amount("epochs_total", "epochs of its schedule", int),
    amount("epochs_run", "epochs that were trained", int, limit="epochs_total"),
    Column("train_loss", float, "mean training loss of the last epoch"),
    percent("val_top1", "top-1 accuracy on the validation split, 0 to 100"),
    percent("val_top5", "top-5 accuracy on the validation split, 0 to 100"),
    amount("val_loss", "cross-entropy on the validation split"),
    share("val_ece", "expected calibration error on the validation split, 0 to 1"),
    percent("val_balanced_accuracy", "the mean over classes of the accuracy on the images of each, 0 to 100"),
    percent("val_macro_f1", "the mean over classes of F1 (2 hits / (images + answers) of a class), 0 to 100"),
    percent("val_auroc", "area under the ROC curve, 0 to 100; of two classes, else null"),
    Column("val_class_accuracy", str, "accuracy on the validation images of each class, a JSON list; null: no image"),
    percent("val_majority", "share of the largest class in the validation split: what guessing it scores, 0 to 100"),
    amount("val_rarest", "validation images of the class that has fewest", int),
    percent("val_top1_best", "the best of all epochs: an optimistic figure, for comparison with published ones"),
    percent("val_top1_median", "the median of the last epochs, as many as median_epochs says"),
    percent("test_top1_median", "the same on the test set, where test_median asks for it"),
    percent("test_top1_best", "the best of these test scores, as some tables report; nothing is chosen by it"),
    percent("test_top1", "top-1 accuracy on the test set, 0 to 100"),
    percent("test_top5", "top-5 accuracy on the test set, 0 to 100"),
    amount("test_loss", "cross-entropy on the test set"),
    share("test_ece", "expected calibration error on the test set, 0 to 1"),
    percent("test_balanced_accuracy", "the same four on the test set: val_balanced_accuracy,"),
    percent("test_macro_f1", "val_macro_f1,"),
    percent("test_auroc", "val_auroc,"),
    Column("test_class_accuracy", str, "and val_class_accuracy"),
    percent("test_majority", "share of the largest class in the test set, 0 to 100"),
    amount("test_rarest", "test images of the class that has fewest", int),
    amount("val_images", "images of the validation split", int),
    amount("test_images", "images of the test set", int),
    amount("skipped_images", "bad images that were left out of the data set", int),
    amount("parameters", "trainable scalars of the network", int),
    Column("stop_reason", str, "why the trial ended below the full schedule"),
    Column("error_class", str, "type of the exception that ended a failed trial"),
    Column("error_message", str, "its message"),
    amount("attempts", "how often a failed trial has ended so, one time after another, retries included", int),
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
    amount("wall_s", "seconds of training and validation, over all resumes; starting processes is left out"),
    amount("device_s", "wall seconds times the devices held"),
    amount("energy_j", "joules of the devices in that time, of the share that was held; null: they do not tell"),
    Column("device", str, "name of the device"),
    amount("workers", "training processes", int),
    amount("threads", "CPU threads of each", int),
    Column("host", str, "machine of the first worker"),
    Column("started_at", datetime, "when the trial was first proposed (UTC)"),
    Column("ended_at", datetime, "when the trial ended (UTC)"),
)
EPOCH_SCORES = tuple(name for name in PER_EPOCH if name.startswith("val_"))
_EPOCH = (
    Column("method", str, "mixing method"),
    Column("epoch", int, "epoch, from 1", needed=True, low=1, limit="epochs_total"),
    amount("epochs_total", "epochs of its schedule", int),
    amount("lr", "learning rate at the end of the epoch"),
    Column("train_loss", float, "mean training loss of the epoch"),
    *(column for column in _OUTCOME if column.name in EPOCH_SCORES),
    amount("wall_s", "seconds of training and validation so far, over all resumes"),
    amount("device_s", "wall seconds times the devices held, since the trial began"),
    amount("energy_j", "joules of the devices since the trial began, of the share that is held"),
    amount("images_per_s", "training images per second"),
    Column("ended_at", datetime, "when the epoch ended (UTC)"),
    amount("rung", "rung, from 0, whose cool-down branched off after this epoch", int),
    *(
        replace(column, name=f"{column.name}.cooled", note=f"{column.name} when that had ended")
        for column in _OUTCOME
        if column.name in PER_EPOCH
    ),
)

_BITS = (
    Column("data_fingerprint", str, "hash of the decoded data set"),
    Column(
        "split_id",
        str,
        "the validation split, whose images splits/<split_id>.json lists",
        needed=True,
    ),
    amount("images", "images of the validation split", int),
    amount("right", "how many of them were answered rightly", int, limit="images"),
    Column(
        "bits",
        bytes,
        "1 for each image answered rightly, else 0: image i of the split's list is bit 7 - i % 8 of byte i // 8 "
        "(numpy.packbits); the last byte is filled up with 0",
        needed=True,
    ),
)


@cache
def columns(table: Table) -> tuple[Column, ...]:
    """The columns of a table in order."""
    if table == "outcomes":
        return _OWNER + _BITS
    if table == "epochs":
        told = [column for algorithm in ALGORITHMS.values() for column in algorithm.columns]
        return _OWNER + _EPOCH + tuple({column.name: column for column in told}.values())
    return _OWNER + _SETUP + _knob_columns(catalogue()) + _OUTCOME + _ORIGIN + _COST


@cache
def more_columns(table: Table, plugins: tuple[Plugin, ...]) -> tuple[Column, ...]:
    """The columns that rows have beside these because of what comes from outside; where null they are left out."""
    if table == "outcomes":
        return ()
    if table == "epochs":
        told = [content for plugin in plugins for content in plugin.facts.get("columns", ())]
        made = [Column(**{**content, "kind": TYPES[content["kind"]]}) for content in told]
    else:
        made = list(_knob_columns(catalogue(plugins)))
    ends = (".cooled",) if table == "epochs" else ()
    for plugin in plugins:
        if plugin.kind == "metrics":
            names = [plugin.value, *(f"{plugin.value}{end}" for end in ends)]
            names += [] if ends else [f"test_{plugin.name}"]
            made += [Column(name, float, plugin.about) for name in names]
    ours = {column.name for column in columns(table)}
    return tuple({column.name: column for column in made if column.name not in ours}.values())


def _knob_columns(knobs: Catalogue) -> tuple[Column, ...]:
    """One column for all knobs of one short name: the canonical ones first, then `knob.<name>`."""
    found: dict[str, Column] = {}
    for name, entry in knobs.items():
        if entry.joint:
            continue
        column, note = column_of(name), f"{name}: {entry.knob.note}"
        known = found.setdefault(column, Column(column, entry.knob.kind, note))
        if known.kind is not entry.knob.kind:
            raise TypeError(f"knob {name} is {entry.knob.kind}, but its column {column} is {known.kind}")
        if known.note != note:
            found[column] = Column(column, known.kind, f"{known.note}; {note}")
    for name, entry in knobs.items():
        joint = knobs.joint_column_of(name)
        if joint is not None:
            found[joint] = Column(joint, entry.knob.kind, f"{name}, where several methods are joined")
    first = [found.pop(name) for name in CANONICAL]
    return (*first, *found.values())


def arrow_type(column: Column) -> pa.DataType:
    """The type of the values of a column."""
    import pyarrow as pa

    types = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_(), bytes: pa.binary()}
    return types.get(column.kind) or pa.timestamp("us", "UTC")


@cache
def schema(table: Table) -> pa.Schema:
    """The Arrow schema of a table, notes included."""
    import pyarrow as pa

    fields = [
        pa.field(column.name, arrow_type(column), not column.needed, {"note": column.note}) for column in columns(table)
    ]
    return pa.schema(fields, {"table": table, "schema_version": str(SCHEMA_VERSION)})


@cache
def more_schema(table: Table, plugins: tuple[Plugin, ...]) -> pa.Schema:
    """The Arrow schema of `more_columns`."""
    import pyarrow as pa

    return pa.schema([pa.field(column.name, arrow_type(column)) for column in more_columns(table, plugins)])


def render_columns(table: Table) -> str:
    """The columns of a table as Markdown, for the documentation."""
    words = {int: "int64", float: "float64", str: "string", bool: "bool", bytes: "binary"}
    words |= {datetime: "timestamp[us, UTC]"}
    lines = ["| column | type | null | meaning |", "|---|---|---|---|"]
    for column in columns(table):
        null = "no" if column.needed else "yes"
        lines.append(f"| `{column.name}` | {words[column.kind]} | {null} | {column.note} |")
    return "\n".join(lines) + "\n"


@cache
def metric_directions(plugins: tuple[Plugin, ...] = ()) -> dict[str, str]:
    """`max` or `min` for each metric that trials can be ordered by, test scores and those of `plugins` included."""
    known = catalogue(plugins).metrics
    return known | {name.replace("val_", "test_"): way for name, way in known.items() if name.startswith("val_")}


@cache
def in_percent(name: str) -> bool:
    """Whether a column is an accuracy, or another figure from 0 to 100, so that differences of it are points."""
    return any(column.name == name and column.high == 100 for table in TABLES for column in columns(table))


def config_row(config: TrialConfig) -> dict[str, Any]:
    """The columns of `trials` that a config decides: knobs, JSON, hash, data, epochs and seeds."""
    row: dict[str, Any] = {}
    joined = len(methods_of(config.method)) > 1
    for name, value in config.knobs.items():
        of_method = joined and config.catalogue[name].method is not None
        column = config.catalogue.joint_column_of(name) if of_method else column_of(name)
        if column in row:
            raise ValueError(f"two active knobs share the column {column}; {name} is the second")
        if column is not None:
            row[column] = value
    return row | {
        "config": json.dumps(config.model_dump(mode="json")),
        "config_id": config.config_id,
        "config_key": config.config_key,
        "data_fingerprint": config.data_fingerprint,
        "epochs_total": config.recipe.epochs,
        "seed": config.seed,
        "split_seed": config.split_seed,
    }


def column_named(name: str, plugins: tuple[Plugin, ...] = ()) -> str:
    """The column of the trials that people mean: a knob's may be named as the knob is (`lr` -> `knob.lr`)."""
    names = {column.name for column in (*columns("trials"), *more_columns("trials", plugins))}
    return f"knob.{name}" if name not in names and f"knob.{name}" in names else name


def check_row(table: Table, row: Mapping[str, Any], plugins: tuple[Plugin, ...] = ()) -> dict[str, Any]:
    """`row` as it will be stored: missing columns are null, and so are NaN and infinite numbers.

    plugins: what comes from outside in the study, and can have columns of its own.

    Raises:
        ValueError: a key is no column, a needed value is missing, a time has no zone, or the state is not
            final. Each is a bug in the caller.
    """
    known, more = columns(table), more_columns(table, plugins)
    for name in row.keys() - {column.name for column in (*known, *more)}:
        raise ValueError(f"{table}: {unknown('column', name, [column.name for column in known])}")
    stored = {column.name: _value(column, row.get(column.name), table) for column in known}
    stored["schema_version"] = SCHEMA_VERSION
    values = {column.name: _value(column, row.get(column.name), table) for column in more}
    stored |= {name: value for name, value in values.items() if value is not None}
    for column in known:
        if column.needed and stored[column.name] is None:
            raise ValueError(f"{table}: {column.name} is missing")
    if table == "trials" and stored["state"] not in FINAL:
        raise ValueError(f"trials: {unknown('final state', stored['state'], FINAL)}")
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


SLACK = 1e-6
"""Of the bounds of numbers: sums of rounded ones may go so far beyond them."""
TIMES = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


def faults(table: Table, rows: pa.Table) -> dict[int, str]:
    """The rows, by position, that break a rule of their columns, and which; `rows` has the types of `schema`."""
    import pyarrow.compute as pc

    def call(name: str, *values: Any) -> Any:
        return pc.call_function(name, list(values))

    def where(condition: Any) -> list[int]:
        return call("indices_nonzero", call("coalesce", condition, False)).to_pylist()

    found: dict[int, str] = {}
    for column in columns(table):
        if column.name not in rows.schema.names:
            continue
        values = rows[column.name]
        if column.needed:
            found |= {row: f"{column.name} is missing" for row in where(call("is_null", values))}
        if values.null_count == len(values):
            continue
        broken: list[tuple[Any, str]] = []
        if column.kind is float:
            broken.append((call("invert", call("is_finite", values)), "is no number; null stands for none"))
        if column.kind in (int, float):
            slack = SLACK if column.kind is float else 0
            if column.low > -math.inf:
                broken.append((call("less", values, column.kind(column.low) - slack), f"is below {column.low:.0f}"))
            if column.high < math.inf:
                broken.append(
                    (call("greater", values, column.kind(column.high) + slack), f"is above {column.high:.0f}")
                )
            if column.limit in rows.schema.names:
                broken.append((call("greater", values, rows[column.limit]), f"is above {column.limit}"))
        if column.pattern:
            fits = pc.call_function(
                "match_substring_regex", [values], pc.MatchSubstringOptions(f"^(?:{column.pattern})$")
            )
            broken.append((call("invert", fits), f"does not match {column.pattern}"))
        if column.kind is datetime:
            broken.append((call("less", values, pa_time(TIMES[0])), "is before 1970"))
            broken.append((call("greater", values, pa_time(TIMES[1])), "is after 9999"))
        for condition, rule in broken:
            for row in where(condition):
                value = "a time" if column.kind is datetime else repr(values[row].as_py())[:100]
                found.setdefault(row, f"{column.name} = {value} {rule}")
    return found


def pa_time(value: datetime) -> pa.Scalar:
    """A time as the ledger's columns have them."""
    import pyarrow as pa

    return pa.scalar(value, pa.timestamp("us", "UTC"))


def doubled(table: Table, rows: pa.Table) -> pa.Table:
    """The keys of which `rows` has more than one row."""
    import pyarrow.compute as pc

    counted = rows.group_by(list(KEYS[table])).aggregate([([], "count_all")])
    return counted.filter(pc.field("count_all") > 1).select(list(KEYS[table]))


FEW = 100
"""Rows up to which a file is written lean: what helps readers to skip parts of it would be most of its size."""


def encode(table: pa.Table, sealed: bool = True) -> bytes:
    """A table as the bytes of one Parquet file.

    Args:
        sealed: rows of `trials` or `epochs`, as `to_arrow` makes them, get a seal, and readers trust them from then on.

    Raises:
        ValueError: a row that would be sealed breaks a rule.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = table.schema.metadata or {}
    kind: Table | None = (
        next((name for name in TABLES if name.encode() == metadata.get(b"table")), None) if sealed else None
    )
    if kind is not None:
        for row, fault in faults(kind, table).items():
            raise ValueError(f"{kind}: {label(table, row)}: {fault}")
    sink, lean = pa.BufferOutputStream(), table.num_rows <= FEW
    how: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    if lean:
        table = table.cast(pa.schema([field.remove_metadata() for field in table.schema], table.schema.metadata))
        how |= {"write_statistics": False, "use_dictionary": False, "store_schema": False}
    with pq.ParquetWriter(sink, table.schema, **how) as writer:
        if lean:
            writer.add_key_value_metadata(metadata)
        writer.write_table(table, row_group_size=ROW_GROUP)
    data = sink.getvalue().to_pybytes()
    return data if kind is None else seal(data, SCHEMA_VERSION)


def label(rows: pa.Table, row: int) -> str:
    """What a row is called: the trial, and the epoch where it is one's."""
    names = [name for name in ("trial_id", "epoch") if name in rows.schema.names]
    return " epoch ".join(str(rows[name][row].as_py())[:100] for name in names)


def listed(some: Iterable[str], count: int) -> str:
    """Some of `count` things, and that there are more."""
    some = list(some)
    return "; ".join([*some, *([f"and {count - len(some)} more"] if count > len(some) else [])])


def utc(microseconds: int | None) -> datetime | None:
    """Microseconds since 1970 as a time."""
    if microseconds is None:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
