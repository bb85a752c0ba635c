"""A study for other tools: its rows as CSV, its trials as a study of Optuna.

Needs neither torch nor ray; optuna only where an Optuna study is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch.config.catalogue import Entry
from automixsearch.config.points import suggest, whole
from automixsearch.config.space import SearchSpace
from automixsearch.errors import StudyError
from automixsearch.results.documents import parse_config
from automixsearch.results.schema import Table
from automixsearch.visible import csv_text

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

    from automixsearch.config.knobs import Scalar
    from automixsearch.results.study import Study

KEPT = (
    *("trial_id", "purpose", "config_id", "seed", "split_seed", "epochs_total", "rung", "candidate"),
    *("test_top1", "device_s", "energy_j", "error_class"),
)
"""Columns of the ledger that become user attributes of an Optuna trial."""


def write_csv(study: Study, place: str | Path) -> list[Path]:
    """Write `trials.csv` and `epochs.csv` into a folder, or the trials alone into a file that ends in .csv.

    Every column of the ledger is there, nulls are empty, times are ISO 8601 in UTC. A text that a spreadsheet would
    take for a formula has a ' in front; see `visible.csv_text`. Returns the files.
    """
    import pyarrow as pa
    from pyarrow import compute, types
    from pyarrow.csv import write_csv as write

    place = Path(place)
    alone = place.suffix == ".csv"
    (place.parent if alone else place).mkdir(parents=True, exist_ok=True)
    files: dict[Table, Path] = {"trials": place}
    if not alone:
        files = {"trials": place / "trials.csv", "epochs": place / "epochs.csv"}
    for table, path in files.items():
        rows = study.table(table)
        for position, field in enumerate(rows.schema):
            if types.is_timestamp(field.type):
                how = compute.StrftimeOptions("%Y-%m-%dT%H:%M:%SZ")
                text = compute.call_function("strftime", [rows[field.name]], how)
                rows = rows.set_column(position, field.name, text)
            elif types.is_string(field.type) or types.is_large_string(field.type):
                cells = [None if cell is None else csv_text(cell) for cell in rows[field.name].to_pylist()]
                rows = rows.set_column(position, field.name, pa.array(cells, pa.string()))
        write(rows, path)
    return list(files.values())


class Recorder:
    """Answers `space.suggest` from known values and records what Optuna needs to know of them."""

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        self.values = values
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, Any] = {}

    def _record(self, name: str, distribution: Any) -> Any:
        self.params[name], self.distributions[name] = self.values[name], distribution
        return self.values[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        from optuna.distributions import FloatDistribution

        return self._record(name, FloatDistribution(low, high, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        from optuna.distributions import IntDistribution

        return self._record(name, IntDistribution(low, high, log=log))

    def suggest_categorical(self, name: str, choices: tuple[Scalar, ...]) -> Scalar:
        from optuna.distributions import CategoricalDistribution

        return self._record(name, CategoricalDistribution(choices))


def optuna_study(study: Study, storage: str | Path | BaseStorage | None = None) -> optuna.Study:
    """Make an Optuna study of the ledger: params, distributions, states, values, intermediate values.

    A search has the distributions of its space; another study has, for every knob that its trials differ in, the
    range or the list of the values that occur. Failed and pruned trials keep their state. Intermediate values are what
    may be compared, by epochs: see `_intermediate`.

    Args:
        storage: a file (an Optuna journal; SQLite where it ends in .db or .sqlite), or a storage of Optuna's; None:
            in memory.

    Raises:
        StudyError: the file exists already.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(
        storage=_storage(storage),
        study_name=study.name,
        directions=["maximize" if study.sign(name) > 0 else "minimize" for name in study.objective],
    )
    optuna.logging.set_verbosity(level)
    for name in ("question", "name"):
        text = (study.info.get("design") or {}).get(name)
        if text:
            made.set_user_attr(name, text)
    study.check_comparable()
    rows = study.table("trials").to_pylist()
    reported = _intermediate(study, rows)
    trials = []
    for row, (params, distributions) in zip(rows, _parameters(study, rows), strict=True):
        state, steps = states[row["state"]], reported.get(row["trial_id"], {})
        scores = [row.get(name) for name in study.objective]
        if state is TrialState.PRUNED:  # its value is the last one that it reported, as Optuna has it
            scores = [steps[max(steps)]] if steps else []
        values = [score for score in scores if score is not None]
        if state is TrialState.COMPLETE and len(values) < len(study.objective):
            state = TrialState.FAIL
        trial = create_trial(
            state=state,
            values=values if values and state is not TrialState.FAIL else None,
            params=params,
            distributions=distributions,
            user_attrs={name: row[name] for name in KEPT if row.get(name) is not None},
            intermediate_values=steps,
        )
        for name, column in (("datetime_start", "started_at"), ("datetime_complete", "ended_at")):
            if row.get(column) is not None:  # Optuna's times are local and name no zone
                setattr(trial, name, row[column].astimezone().replace(tzinfo=None))
        trials.append(trial)
    made.add_trials(trials)
    return made


def _intermediate(study: Study, rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The first objective of each trial on its way, by epochs; nothing where there are several objectives.

    Where configs are halved, these are the scores of its rungs, as only they may be compared: at the end of each
    shorter schedule that the config was trained on so far, or after each cool-down. Elsewhere those of every epoch.
    """
    if len(study.objective) > 1:
        return {}
    metric, rows = study.objective[0], list(rows)
    found: dict[str, dict[int, float]] = {}
    if any(row.get("rung") is not None for row in rows):
        ended = [row for row in rows if row["state"] != "failed" and row.get(metric) is not None]
        for row in ended:
            found.setdefault(row["candidate"], {})[row["epochs_total"]] = row[metric]
        return {
            row["trial_id"]: {at: value for at, value in found[row["candidate"]].items() if at <= row["epochs_total"]}
            for row in ended
        }
    epochs = study.store.epoch_rows()
    if any(row["rung"] is not None for row in epochs):
        for row in epochs:
            if row["rung"] is not None and row[f"{metric}.cooled"] is not None:
                found.setdefault(row["trial_id"], {})[row["epoch"]] = row[f"{metric}.cooled"]
        for row in rows:
            if row["state"] == "complete" and row.get(metric) is not None:
                found.setdefault(row["trial_id"], {})[row["epochs_run"]] = row[metric]
        return found
    for row in epochs:
        if row.get(metric) is not None:
            found.setdefault(row["trial_id"], {})[row["epoch"]] = row[metric]
    return found


def _storage(place: str | Path | BaseStorage | None) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if not isinstance(place, str | Path):
        return place
    place = Path(place)
    if place.exists():
        raise StudyError(f"{place}: exists already; give another file, or remove it")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix in (".db", ".sqlite", ".sqlite3"):
        from sqlalchemy.pool import NullPool

        # A pool would keep the file open for as long as this process lives.
        return optuna.storages.RDBStorage(f"sqlite:///{place}", engine_kwargs={"poolclass": NullPool})
    return optuna.storages.JournalStorage(JournalFileBackend(str(place)))


def write_config(study: Study, trial_id: str, file: Path, head: str = "") -> None:
    """Write the config of a trial as YAML, ready to train, and beside it the files that it takes from outside.

    head: comments that go before it.
    """
    config, written = study.config(trial_id), []
    for plugin in config.plugins:
        text = study.store.get(f"plugins/{plugin.digest}.py")
        if plugin.file is None or text is None:
            written.append(plugin)
            continue
        copy = file.parent / plugin.file.name
        if copy.exists() and copy.read_bytes() != text:
            copy = copy.with_name(f"{copy.stem}_{plugin.digest[:8]}.py")
        copy.write_bytes(text)
        written.append(plugin.model_copy(update={"ref": f"./{copy.name}:{plugin.ref.rpartition(':')[2]}"}))
    content = config.model_copy(update={"plugins": tuple(written)})
    file.write_text(head + content.to_yaml(), encoding="utf-8")


def _parameters(
    study: Study, rows: list[dict[str, Any]]
) -> Iterable[tuple[dict[str, Any], dict[str, BaseDistribution]]]:
    """Params and distributions of each row."""
    knobs = [_knobs(study, row) for row in rows]
    if "knobs" in (study.info.get("space") or {}) and "design" not in study.info:
        from automixsearch.config.files import build

        space = build(SearchSpace, study.info["space"], f"study {study.name}")
        for values in knobs:
            recorder = Recorder(whole(space, values) if values else {})
            if values:
                suggest(space, recorder)
            yield recorder.params, recorder.distributions
        return
    found: dict[str, set[Any]] = {}
    for values in knobs:
        for name, value in values.items():
            found.setdefault(name, set()).add(value)
    distributions = {
        name: _distribution(study.catalogue.get(name), seen) for name, seen in found.items() if len(seen) > 1
    }
    for values in knobs:
        own = {name: value for name, value in values.items() if name in distributions}
        yield own, {name: distributions[name] for name in own}


def _knobs(study: Study, row: Mapping[str, Any]) -> dict[str, Any]:
    text = row.get("config")
    return parse_config(text, f"study {study.name}, trial {row['trial_id']}")["knobs"] if text else {}


def _distribution(entry: Entry | None, seen: set[Any]) -> BaseDistribution:
    """The range or the list of the values that occur."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if any(isinstance(value, str | bool) for value in seen):
        return CategoricalDistribution(tuple(sorted(seen, key=str)))
    low, high = min(seen), max(seen)
    log = entry is not None and entry.knob.log and low > 0
    if all(isinstance(value, int) for value in seen):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)
