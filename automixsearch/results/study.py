"""Questions to a study: which configs are best, what happened in a trial, anything in SQL.

Needs neither torch nor ray. Rows come from DuckDB, and pandas is loaded only where a DataFrame is asked for:
the best of a million trials must not take a second, start-up included.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from automixsearch.archives import check_records
from automixsearch.config.catalogue import Catalogue, catalogue
from automixsearch.errors import DamagedError, StorageError, StudyError, unknown
from automixsearch.results.documents import parse_config, stored_config, written_plugins
from automixsearch.results.evaluations import COLUMNS, evaluations
from automixsearch.results.files import open_files
from automixsearch.results.schema import (
    KEYS,
    TABLES,
    Table,
    TrialState,
    column_named,
    in_order,
    metric_directions,
    more_columns,
    to_arrow,
    utc,
)
from automixsearch.results.store import Store, weights_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray
    from pandas import DataFrame

    from automixsearch.config.trial import TrialConfig
    from automixsearch.registry import Plugin

T = TypeVar("T")
Row = dict[str, Any]


@dataclass(frozen=True)
class ImageOutcomes:
    """Which validation images a trial answered rightly; bits: packed, in the order of the split's list."""

    split_id: str
    images: int
    bits: bytes

    @property
    def right(self) -> NDArray[np.bool_]:
        """bool [n]: whether each image was answered rightly."""
        import numpy as np

        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.images).astype(bool)


Point = tuple[tuple[float, ...], int, str]
"""Values to be minimised, number and id of a trial."""


class Study:
    """All trials of one question, as far as they have ended. Made by `open_study`.

    Examples:
        >>> from importlib.resources import files
        >>> study = open_study(files("automixsearch") / "example")
        >>> study.top(n=1, per="method").method.nunique()
        12
        >>> study.query("SELECT count(*) AS n FROM trials").n.item()
        312
        >>> study.epochs().columns[:3].tolist()
        ['schema_version', 'study', 'trial_id']
        >>> study.config("t00008").method
        'comixup'
    """

    def __init__(self, store: Store) -> None:
        self.store, self.name = store, store.study
        self._single: dict[Table, list[str]] = {}

    def __repr__(self) -> str:
        return f"Study({self.store.results}/{self.name})"

    @cached_property
    def info(self) -> Row:
        """What the driver wrote into `study.json`: objective, total_trials, space, space_id; or nothing."""
        return self.store.info()

    @cached_property
    def catalogue(self) -> Catalogue:
        """The knobs there are, with those that came from outside."""
        return catalogue(self.plugins)

    @cached_property
    def plugins(self) -> tuple[Plugin, ...]:
        """What came from outside, as the driver wrote it down; none of it is imported."""
        return written_plugins(self.info, f"{self.store.uri}/study.json")

    @cached_property
    def metrics(self) -> dict[str, str]:
        """The metrics that trials can be ordered by, test scores included, each with its direction, `max` or `min`."""
        return metric_directions(self.plugins)

    def sign(self, metric: str) -> int:
        """1 where a metric is to be as large as can be, -1 where as small.

        Raises:
            StudyError: there is no such metric.
        """
        if metric not in self.metrics:
            raise StudyError(f"study {self.name}: {unknown('metric', metric, self.metrics)}")
        return 1 if self.metrics[metric] == "max" else -1

    @property
    def followed(self) -> str:
        """The metric whose course over the epochs is drawn: the first objective where an epoch has it."""
        return self.objective[0] if self.objective[0].startswith("val_") else "val_top1"

    @property
    def argument(self) -> str:
        """How a command line names this study from here: by its name, or by its place where that is another one."""
        try:
            near = Path("results", self.name).absolute() == Path(self.store.uri)
        except FileNotFoundError:  # the folder in which a job was started can be gone at its end
            near = False
        return shlex.quote(self.name if near else self.store.uri)

    @property
    def objective(self) -> list[str]:
        return list(self.info.get("objective") or ["val_top1"])

    @property
    def halving(self) -> str:
        """A sentence: whether the rungs showed what the search demanded of them; empty where it demanded nothing."""
        why = (self.info.get("halving") or {}).get("why")
        return f"What halving rests on: {why}." if why else ""

    @property
    def corrupt(self) -> list[str]:
        """The files of which something was left out of the answers so far, each with the reason."""
        return self.store.left_out

    def check_comparable(self) -> None:
        """Refuse to set scores beside each other that were measured on different data.

        Raises:
            StudyError: `mixture` says what is mixed.
        """
        self.ask(self.compare_in)

    def mixture(self) -> str:
        """Which data sets, and validation splits of which sizes, the trials have, where there are several; else
        nothing."""
        return self.ask(self._mixture)

    def compare_in(self, con: DuckDBPyConnection) -> None:
        """`check_comparable` where the trials are open already."""
        if mixed := self._mixture(con):
            raise StudyError(f"study {self.name}: {mixed}")

    def _mixture(self, con: DuckDBPyConnection) -> str:
        known = con.table("trials").columns  # ledgers of older versions have what they have
        data, images = (f'"{name}"' if name in known else "NULL" for name in ("data_fingerprint", "val_images"))
        sql = f"SELECT {data}, {images}, count(*) FROM trials WHERE {images} IS NOT NULL GROUP BY ALL"
        groups = con.execute(f"{sql} ORDER BY min(number)").fetchall()
        kinds = {data for data, _, _ in groups if data is not None}
        if len(kinds) < 2 and len({images for _, images, _ in groups}) < 2:
            return ""
        there = "; ".join(f"{count} trials of {data}, {images} validation images" for data, images, count in groups)
        by = "data_fingerprint" if len(kinds) > 1 else "val_images"
        remedy = f"choose some with query, by {by}"
        return f"its trials were scored on different data, and cannot be compared ({there}); {remedy}"

    # As DataFrames ------------------------------------------------------------------------------------------

    def trials(self) -> DataFrame:
        """Every ended trial, in order of the numbers."""
        return self.table("trials").to_pandas()

    def epochs(self) -> DataFrame:
        """Every epoch of every trial."""
        return self.table("epochs").to_pandas()

    def table(self, name: Table) -> pa.Table:
        """Every row of `trials` or `epochs` as Arrow has it, in order."""
        return in_order(name, self.store.read(name))

    def top(self, n: int = 5, per: str | None = None, metric: str | None = None) -> DataFrame:
        """The n trials of the best scores, or n of each value of the column `per`; see `top_rows`.

        These are single runs, luck included; `automixsearch.best` ranks configs by what a further run would score.
        """
        return to_arrow("trials", self.top_rows(n, per, metric)).to_pandas()

    def pareto(self) -> DataFrame:
        """The complete trials that no other beats in every objective."""
        return to_arrow("trials", self.pareto_rows()).to_pandas()

    def query(self, sql: str) -> DataFrame:
        """Answer SQL over the views `trials`, `epochs`, `outcomes` and `evaluations`; it reads and writes nothing else.

        Raises:
            StudyError: with DuckDB's own words.
        """
        import pandas as pd

        wanted: list[Table] = [table for table in TABLES if table.removesuffix("s") in sql.lower()]
        safe = "SET TimeZone = 'UTC'; SET enable_external_access = false; SET lock_configuration = true"

        def ask(con: DuckDBPyConnection) -> DataFrame:
            if "evaluations" in sql.lower():
                con.register("evaluations", self.evaluations())
            con.execute(safe)
            statements = len(con.extract_statements(sql))
            if statements > 1:
                raise StudyError(f"study {self.name}: {statements} statements; ask one at a time")
            answer = con.sql(sql)
            return pd.DataFrame() if answer is None else answer.to_arrow_table().to_pandas()

        return self.ask(ask, wanted, arrow=True)

    def outcomes(self, trials: Collection[str] | None = None) -> dict[str, ImageOutcomes]:
        """Which validation images trials answered rightly, by trial; those that cannot be believed are left out.

        trials: of which; None: of all that have them.
        """
        found = {}
        rows = self.store.read("outcomes", ["trial_id", "split_id", "images", "right", "bits"], trials)
        for row in rows.to_pylist():
            outcome = ImageOutcomes(row["split_id"], row["images"] or 0, row["bits"])
            if len(outcome.bits) == -(-outcome.images // 8) and outcome.right.sum() == row["right"]:
                found[row["trial_id"]] = outcome
            else:
                place = f"{self.name}/outcomes, trial {row['trial_id']}"
                self.store.corrupt[place] = "its bits are not as many as it says; remove the row"
        return found

    def evaluations(self) -> DataFrame:
        """What `automixsearch evaluate` found of the trials: a row for each score.

        Columns: trial_id; suite, the question; name and setting of the score; value; images, from how many; seed, of
        the run; code, that was asked; settings, of the question.
        """
        import pandas as pd

        rows = [row for found in evaluations(self.store) for row in found.rows]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    # As plain rows ------------------------------------------------------------------------------------------

    def top_rows(self, n: int = 5, per: str | None = None, metric: str | None = None) -> list[Row]:
        """The n complete trials of the best scores, best first; with `per`, n of each value of that column.

        Trials whose metric (or `per`) is null are left out; the earlier of two equal trials comes first.

        Args:
            metric: a validation or test metric; the study's first objective by default.

        Raises:
            StudyError: no such metric or column, trials of several data sets, or the storage cannot be read.
        """
        metric, per = metric or self.objective[0], per and column_named(per, self.plugins)
        sign = self.sign(metric)
        where = f"state = '{TrialState.COMPLETE}' AND \"{metric}\" IS NOT NULL"
        if per is None:
            sql = f'SELECT trial_id, number FROM trials WHERE {where} ORDER BY {-sign} * "{metric}", number LIMIT {n}'
        else:
            key, rank = "{'trial_id': trial_id, 'number': number}", f'({sign} * "{metric}", -number)'
            top = f"arg_max({key}, {rank}, {min(n, 999_999)})"  # DuckDB takes less than a million
            group = f'"{per}" IS NOT NULL GROUP BY "{per}"'
            sql = f"SELECT unnest({top}, recursive := true) FROM trials WHERE {where} AND {group}"

        def ask(con: DuckDBPyConnection) -> list[Row]:
            self.compare_in(con)
            if per is not None:
                self._check_column(con, per)
            rows = fetch(con, con.execute(sql).fetchall())
            return sorted(rows, key=lambda row: (-sign * row[metric], row["number"]))

        return self.ask(ask) if n > 0 else []

    def pareto_rows(self, metrics: Sequence[str] = ()) -> list[Row]:
        """The complete trials that no other beats in every one of some metrics, by the first of them, best first.

        Args:
            metrics: the study's objectives by default.

        Raises:
            StudyError: there is no such metric.
        """
        names = metrics or self.objective
        signs = [-self.sign(name) for name in names]
        wanted = ", ".join(f'"{name}"' for name in names)
        where = " AND ".join(f'"{name}" IS NOT NULL' for name in names)
        sql = f"SELECT trial_id, number, {wanted} FROM trials WHERE state = '{TrialState.COMPLETE}' AND {where}"

        def ask(con: DuckDBPyConnection) -> list[Row]:
            self.compare_in(con)
            points = [
                (tuple(sign * value for sign, value in zip(signs, values, strict=True)), number, trial_id)
                for trial_id, number, *values in con.execute(sql).fetchall()
            ]
            return fetch(con, [(trial_id, number) for _, number, trial_id in _front(points)])

        return self.ask(ask)

    def show(self, trial: str | int) -> Row:
        """One trial: its `row`, `epochs` and `config`; one that still runs has a state and epochs only.

        Args:
            trial: an id such as `t00007`, or the number: 7, `7`, `t7`.
        """
        name = _trial_id(trial)
        row, epochs = self.store.trial_row(name, copied=True), self.store.epoch_rows(name, copied=True)
        if row is None and (said := self._damage_of(name)):
            raise StudyError(f"study {self.name}, trial {name}: its row is damaged: {said}")
        if row is None and not epochs:
            raise StudyError(self._no_trial(trial))
        if row is None:
            row = {"trial_id": name, "state": TrialState.RUNNING.value}
        config, where = None, f"study {self.name}, trial {name}"
        if row.get("config"):
            try:
                config = parse_config(row["config"], where)
            except DamagedError as error:  # the rest of the row can be shown
                self.store.corrupt[where] = str(error).removeprefix(f"{where}: ")
        return {"row": row, "epochs": epochs, "config": config}

    def config(self, trial: str | int) -> TrialConfig:
        """The config of a trial, to run it again."""
        row = self.show(trial)["row"]
        name = f"study {self.name}, trial {row['trial_id']}"
        if not row.get("config"):
            raise StudyError(f"{name}: has no config ({row['state']}); wait until it ends")
        return stored_config(row["config"], name)

    def weights(self, trial: str | int) -> bytes:
        """The trained network of a trial, as a file that `torch.load` reads (a state_dict).

        Raises:
            StudyError: it was not kept; DamagedError: it was changed since it was written.
        """
        trial_id = self.show(trial)["row"]["trial_id"]
        found = self.store.get(weights_of(trial_id))
        if found is None:
            raise StudyError(
                f"study {self.name}, trial {trial_id}: its weights were not kept; resources.checkpoints.best says of "
                "how many trials they are; train its config again with train --out"
            )
        try:
            check_records(io.BytesIO(found))
        except ValueError as error:
            raise DamagedError(
                f"{self.store.uri}/{weights_of(trial_id)}: is damaged: {error}; restore it from a copy, or train its "
                "config again with train --out"
            ) from None
        return found

    def rows(self, sql: str) -> list[Row]:
        """The answer to SQL over the view `trials` as plain rows, without pandas; for sql of our own."""

        def ask(con: DuckDBPyConnection) -> list[Row]:
            found = con.execute(sql)
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, values, strict=True)) for values in found.fetchall()]

        return self.ask(ask)

    def summary(self) -> Row:
        """Trials wanted (`total`), ended, and in each state; the objective and the best trial so far."""
        sql = "SELECT state, count(*) FROM trials GROUP BY state"
        counts = dict(self.ask(lambda con: con.execute(sql).fetchall()))
        states = [state.value for state in TrialState if state is not TrialState.RUNNING]
        mixed = self.mixture()
        best = {} if mixed else next(iter(self.top_rows(1)), {})
        return {
            "study": self.name,
            "total": self.info.get("total_trials"),
            "ended": sum(counts.values()),
            **{state: counts.get(state, 0) for state in states},
            "objective": self.objective,
            "best": best.get(self.objective[0]),
            "best_trial": best.get("trial_id"),
            "best_method": best.get("method"),
            "note": mixed,
        }

    # How it is asked ----------------------------------------------------------------------------------------

    def ask(
        self,
        question: Callable[[DuckDBPyConnection], T],
        tables: Iterable[Table] = ("trials",),
        arrow: bool = False,
    ) -> T:
        """Put a question to DuckDB, over the files themselves where that is possible, else through Arrow.

        Every row counts once, and only what can be believed does: see `Store.corrupt`.
        """
        import duckdb

        mistakes = (
            duckdb.ParserException,
            duckdb.BinderException,
            duckdb.CatalogException,
            duckdb.PermissionException,
            duckdb.DataError,
            duckdb.NotSupportedError,
        )
        failure: Exception | None = None
        for effort in self.store.efforts(*tables, most=2):
            with duckdb.connect(":memory:") as con:
                try:
                    for table in tables:
                        if effort or not self._in_place(con, table, arrow):
                            con.register(table, self.store.read(table))
                    return question(con)
                except mistakes as error:
                    raise StudyError(f"study {self.name}: {error}") from None
                except (duckdb.Error, OSError) as error:
                    failure = error
        raise StudyError(f"study {self.name}: {failure}")

    def _in_place(self, con: DuckDBPyConnection, table: Table, arrow: bool) -> bool:
        """Make a view of the files as they are; False where their rows must be looked at first."""
        paths = self.store.intact(table)
        if not paths:
            return False
        arrow = arrow or bool(re.search(r"[*?\[{]", self.store.results))  # DuckDB takes paths for patterns
        if arrow:
            con.register(table, self.store.dataset(table, paths))
        else:
            con.read_parquet(paths, union_by_name=True, hive_partitioning=False).create_view(table)
            con.execute("SET parquet_metadata_cache = true")  # every query would decode the footers anew
        plugins = self.store.plugins
        own = {column.name for column in more_columns(table, plugins)} & metric_directions(plugins).keys()
        if not own <= {*con.table(table).columns}:
            return False  # no row has such a score yet, and the view would lack its column
        if self._single.get(table) == paths:  # merged or not, a file's rows are never changed
            return True
        keys = ", ".join(KEYS[table])
        unlike = f"SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {table})"
        names = sorted(self.store.known_as)
        own = f"bool_and(study IN ({', '.join('?' * len(names))}))" if names else "true"
        sound = con.execute(f"SELECT count(*) = ({unlike}) AND {own} FROM {table}", names)
        if sound.fetchone() == (True,):
            self._single[table] = paths
            return True
        con.unregister(table) if arrow else con.execute(f"DROP VIEW {table}")
        return False

    def _check_column(self, con: DuckDBPyConnection, name: str) -> None:
        known = con.table("trials").columns
        if name not in known:
            raise StudyError(f"study {self.name}: {unknown('column', name, known)}")

    def _damage_of(self, trial_id: str) -> str:
        """What is wrong with the file of a trial's row, or with a file that names the trial."""
        own = f"{self.name}/trials/{trial_id}.parquet"
        for file, reason in sorted(self.store.corrupt.items(), key=lambda pair: pair[0] != own):
            if file == own or (file.startswith(f"{self.name}/trials/") and re.search(rf"\b{trial_id}\b", reason)):
                return f"{file}: {reason}"
        return ""

    def _no_trial(self, trial: str | int) -> str:
        ids = sorted(self.store.finished())
        if len(ids) <= 20:
            return f"study {self.name}: {unknown('trial', trial, ids)}"
        known = f"it has {len(ids)} ended trials, {ids[0]} to {ids[-1]}"
        return f"study {self.name}: unknown trial {str(trial)!r}; {known}"


def _trial_id(trial: str | int) -> str:
    number = re.fullmatch(r"t?(\d+)", str(trial))
    return f"t{int(number[1]):05d}" if number else str(trial)


def fetch(con: DuckDBPyConnection, keys: list[tuple[str, int]]) -> list[Row]:
    """The full rows of the trials given by (trial_id, number), in that order."""
    if not keys:
        return []
    # Merged files are sorted by number, so DuckDB decodes few row groups. Times as such would need pytz.
    sql = """SELECT * REPLACE (epoch_us(started_at) AS started_at, epoch_us(ended_at) AS ended_at) FROM trials
             WHERE number IN (SELECT unnest(?)) AND trial_id IN (SELECT unnest(?))"""
    ids = [trial_id for trial_id, _ in keys]
    found = con.execute(sql, [sorted({number for _, number in keys}), ids])
    names = [column[0] for column in found.description or ()]
    rows = {}
    for values in found.fetchall():
        row = dict(zip(names, values, strict=True))
        rows[row["trial_id"]] = row | {name: utc(row[name]) for name in ("started_at", "ended_at")}
    return [rows[trial_id] for trial_id in ids]


def _front(points: list[Point]) -> list[Point]:
    """The points that no other one dominates."""
    front: list[Point] = []
    for point in sorted(points):  # only an earlier point can dominate a later one
        if not any(_dominates(kept[0], point[0]) for kept in front):
            front.append(point)
    return front


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


# Finding studies --------------------------------------------------------------------------------------------


def open_study(study: str | Path, results: str | Path = "results") -> Study:
    """Open a study by its path or URI, `<results>/<study>`, or by its name under `results`.

    Raises:
        StudyError: there is no such study; the message lists those that are there.

    Examples:
        >>> from importlib.resources import files
        >>> open_study(files("automixsearch") / "example").name
        'example'
        >>> open_study("nowhere")
        Traceback (most recent call last):
        automixsearch.errors.StudyError: results: no study 'nowhere' there, nor any other
    """
    text = str(study).rstrip("/")
    if "://" in text:
        place, mark, options = text.partition("?")
        folder, _, name = place.rstrip("/").rpartition("/")
        folder += mark + options
    elif os.sep in text or os.path.isdir(text):
        folder, _, name = os.path.abspath(text).rpartition("/")
    else:
        folder, name = str(results), text
    store = Store(folder, name)
    if store.exists():
        return Study(store)
    inside = _names(text) if "://" in text or os.path.isdir(text) else []
    if inside:
        raise StudyError(f"{text}: is a directory of studies; open one of them: {', '.join(inside)}")
    known = _names(folder)
    there = unknown("study", name, known) if known else f"no study {name!r} there, nor any other"
    raise StudyError(f"{folder}: {there}")


def list_studies(results: str | Path = "results") -> list[Row]:
    """The summary of every study under a directory or URI; of one that cannot be read, the `error`. Where files are
    damaged, `left_out` names them."""
    found = []
    for name in _names(str(results)):
        study = Study(Store(results, name))
        try:
            found.append(study.summary())
        except StudyError as error:
            found.append({"study": name, "error": str(error)})
        if study.corrupt:
            found[-1]["left_out"] = study.corrupt
    return found


def _names(results: str) -> list[str]:
    """The studies under a directory or URI."""
    return [name for name in open_files(results).folders() if _is_study(results, name)]


def _is_study(results: str, name: str) -> bool:
    try:
        return Store(results, name).exists()
    except (StorageError, DamagedError):  # whoever opens it is told why
        return True
    except StudyError:  # no legal name: a folder of something else
        return False
