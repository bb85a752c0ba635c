"""What a row is: columns, types, and what is refused."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from enum import StrEnum

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from automixsearch.config.catalogue import CANONICAL, METRICS, catalogue, column_of
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.results.schema import (
    FEW,
    SCHEMA_VERSION,
    TABLES,
    Table,
    TrialState,
    check_row,
    columns,
    config_row,
    encode,
    metric_directions,
    render_columns,
    schema,
    to_arrow,
    utc,
)
from automixsearch.show import policy_of

ROW = {"schema_version": SCHEMA_VERSION, "study": "s", "trial_id": "t00001", "number": 1, "state": "complete"}


def test_every_knob_has_a_column_of_its_type() -> None:
    types = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
    trials = schema("trials")
    for name, entry in catalogue().items():
        for column in {None if entry.joint else column_of(name), catalogue().joint_column_of(name)} - {None}:
            assert trials.field(column).type == types[entry.knob.kind]
            assert trials.field(column).nullable


def test_joined_methods_have_columns_of_their_own() -> None:
    knobs = {"method": "mixup+fmix", "mixup.alpha": 0.3, "fmix.alpha": 0.7, "fmix.weight": 2.0, "fmix.decay": 2.5}
    row = config_row(TrialConfig(data=Data(), knobs=knobs))
    assert (row["method"], row["knob.mixup.alpha"], row["knob.fmix.alpha"]) == ("mixup+fmix", 0.3, 0.7)
    assert (row["knob.mixup.weight"], row["knob.fmix.weight"]) == (1.0, 2.0)
    assert "alpha" not in row
    assert json.loads(row["config"])["knobs"]["fmix.decay"] == 2.5
    assert policy_of(row) == "mixup+fmix alpha=0.3,0.7"


def test_the_canonical_knob_columns_stand_together_and_include_the_reserved_ones() -> None:
    names = schema("trials").names
    first = names.index("method")
    assert tuple(names[first : first + 5]) == CANONICAL
    assert schema("trials").field("gamma").type == pa.float64()
    assert schema("trials").field("layer").type == pa.string()


@pytest.mark.parametrize("table", TABLES)
def test_every_column_has_a_note_and_the_schema_its_version(table: Table) -> None:
    assert schema(table).metadata == {b"table": table.encode(), b"schema_version": str(SCHEMA_VERSION).encode()}
    for field in schema(table):
        assert field.metadata[b"note"]
        assert b"\n" not in field.metadata[b"note"]


@pytest.mark.parametrize("table", TABLES)
def test_the_documentation_lists_every_column(table: Table) -> None:
    lines = render_columns(table).splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == [column.name for column in columns(table)]
    assert all(line.count("|") == 5 for line in lines)


def test_a_row_survives_the_file_unchanged() -> None:
    when = datetime(2026, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)
    row = ROW | {"method": "mixup", "alpha": 0.3, "seed": 2**62 + 1, "config": '{"a": "ü"}', "ended_at": when}
    stored = check_row("trials", row)
    table = pq.read_table(pa.BufferReader(encode(to_arrow("trials", [stored]))))
    assert table.schema.equals(schema("trials"))
    assert table.schema.metadata == schema("trials").metadata
    assert table.to_pylist() == [dict.fromkeys(schema("trials").names) | row]


def test_large_files_say_what_columns_mean_and_small_ones_are_small() -> None:
    few, many = (encode(to_arrow("trials", [ROW] * rows)) for rows in (1, FEW + 1))
    assert pq.read_schema(pa.BufferReader(many)).equals(schema("trials"), check_metadata=True)
    assert 3 * len(few) < len(many)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_become_null(value: float) -> None:
    assert check_row("trials", ROW | {"val_top1": value})["val_top1"] is None


def test_enums_are_stored_as_their_words() -> None:
    class Purpose(StrEnum):
        SEARCH = "search"

    stored = check_row("trials", ROW | {"state": TrialState.PRUNED, "purpose": Purpose.SEARCH})
    assert (type(stored["state"]), stored["state"]) == (str, "pruned")
    assert (type(stored["purpose"]), stored["purpose"]) == (str, "search")


def test_an_unknown_column_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="trials: unknown column 'val_top_1'; did you mean 'val_top1'"):
        check_row("trials", ROW | {"val_top_1": 1.0})


def test_a_missing_key_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs: epoch is missing"):
        check_row("epochs", {"study": "s", "trial_id": "t00001"})


@pytest.mark.parametrize("state", [TrialState.RUNNING, "done"])
def test_only_final_states_are_stored(state: str) -> None:
    with pytest.raises(ValueError, match=f"trials: unknown final state '{state}'"):
        check_row("trials", ROW | {"state": state})


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="ended_at = 2026-01-01 00:00:00 has no time zone"):
        check_row("trials", ROW | {"ended_at": datetime(2026, 1, 1)})


@pytest.mark.parametrize(("name", "value"), [("epochs_run", "ten"), ("epochs_run", 1.5), ("host", 3), ("alpha", [1])])
def test_a_value_of_the_wrong_type_is_refused_by_column(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"trials: column {name} must be"):
        to_arrow("trials", [check_row("trials", ROW | {name: value})])


def test_a_config_fills_its_columns() -> None:
    config = TrialConfig(
        data=Data(), seed=3, split_seed=4, knobs={"method": "cutmix", "cutmix.alpha": 0.5, "epochs": 7}
    )
    row = config_row(config)
    assert (row["method"], row["alpha"], row["epochs_total"], row["seed"], row["split_seed"]) == (
        "cutmix",
        0.5,
        7,
        3,
        4,
    )
    assert row["config_id"] == config.config_id
    assert TrialConfig.model_validate_json(row["config"]) == config
    check_row("trials", ROW | row)


def test_test_scores_have_the_direction_of_their_validation_twins() -> None:
    assert metric_directions() == METRICS | {
        "test_top1": "max", "test_top5": "max", "test_loss": "min", "test_ece": "min",
        "test_balanced_accuracy": "max", "test_macro_f1": "max", "test_auroc": "max",
    }  # fmt: skip


def test_microseconds_become_utc_times_exactly() -> None:
    when = datetime(2026, 7, 1, 1, 2, 3, 999999, tzinfo=UTC)
    assert utc(int((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000 + 999999) == when
    assert utc(None) is None
