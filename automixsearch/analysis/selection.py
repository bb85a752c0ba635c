"""The rows of a ledger that may be looked at together."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from typing import TYPE_CHECKING, Any

from automixsearch.analysis.estimate import unit_of
from automixsearch.config.identity import config_identity, hash_json
from automixsearch.errors import StudyError, unknown
from automixsearch.results.documents import parse_config
from automixsearch.results.schema import PURPOSES, in_percent

if TYPE_CHECKING:
    from automixsearch.results.study import Study

Frame = Any
"""A pandas DataFrame; `Column` is one of its columns. pandas declares so many types for each call that a checker
cannot tell which it is."""
Column = Any

CENTRE = "incumbent"
"""The arm of a curve from which one knob at a time is moved away."""
ADAPTIVE = ("tpe", "gp", "nsga2")
"""Samplers that look where good results were before: what they drew says nothing about the space as a whole."""


@dataclass(frozen=True)
class Sample:
    """Complete trials of one study whose scores can be compared.

    frame: one row per trial: trial_id, number, method, purpose, config_key (hash of the config without its seeds),
        score, seed, split_seed, epochs_total, device_s, arm and levels (as the design has them), stratum (the method,
        where there is no design), the ledger's knob columns, and the config as JSON.
    sign: +1 where larger scores are better, -1 where smaller ones are.
    left_out: trials of these purposes that have no score, by state.
    failed: those of them that failed, as `frame` has them, with the worst score that any trial has.
    drawn: whether the configs are draws from a prior; else they were chosen one by one.
    quantum: what one image is worth, on the average, in the unit of the score; 0 for a metric that counts no images.
    """

    study: str
    frame: Frame
    metric: str
    sign: int
    left_out: Mapping[str, int]
    failed: Frame
    drawn: bool
    quantum: float

    @property
    def methods(self) -> list[str]:
        """The methods, in the order in which they first ran."""
        return list(dict.fromkeys(self.frame["method"]))

    @property
    def unit(self) -> str:
        """`points` for percentages, else nothing."""
        return unit_of(self.metric).strip()

    @property
    def legal(self) -> tuple[float, float]:
        """What the metric can be."""
        if self.unit:
            return 0.0, 100.0
        return (0.0, 1.0) if self.metric.endswith("ece") else (0.0, inf)

    @property
    def counted(self) -> Sample:
        """The same with each failed run at the worst score that any trial has."""
        import pandas as pd

        return (
            replace(self, frame=pd.concat([self.frame, self.failed], ignore_index=True)) if len(self.failed) else self
        )

    def of(self, method: str) -> Frame:
        """The rows of one method.

        Raises:
            StudyError: there are none.
        """
        if method not in self.methods:
            raise StudyError(f"study {self.study}: {unknown('method', method, self.methods)}")
        return self.frame[self.frame["method"] == method]

    def varied(self, method: str | None = None) -> list[str]:
        """The knob columns that take several values, within one method where it is given."""
        frame = self.frame if method is None else self.of(method)
        return [
            name
            for name in knob_columns(frame.columns)
            if name != "method" and frame[name].nunique(dropna=True) > 1 and name not in ("knob.epochs",)
        ]


def knob_columns(names: Collection[str]) -> list[str]:
    """The columns that hold knobs, in the ledger's order."""
    return [name for name in names if name in ("method", "alpha", "eta", "gamma", "layer") or name.startswith("knob.")]


def take_sample(
    study: Study,
    metric: str | None = None,
    purposes: Sequence[str] = ("study",),
    *,
    adaptive: bool = False,
    epochs: int | None = None,
    any_epochs: bool = False,
) -> Sample:
    """The complete trials of the given purposes.

    Trials of a search count as those of a study where the search drew them blindly (random or sobol) and let all run
    to their end.

    Args:
        metric: the study's first objective by default.
        adaptive: take trials of any search, whatever chose them.
        epochs: only trials of this schedule.
        any_epochs: trials of several schedules may stand side by side.

    Raises:
        StudyError: no such metric, no such trials, trials that a sampler chose by their predecessors' scores, or
            trials of several schedules.
    """
    metric = metric or study.objective[0]
    sign = study.sign(metric)
    for purpose in purposes:
        if purpose not in PURPOSES:
            raise StudyError(f"study {study.name}: {unknown('purpose', purpose, PURPOSES)}")
    study.check_comparable()
    trials: Frame = study.trials()
    there = trials["purpose"].value_counts().to_dict()
    wanted = list(purposes)
    if "search" in wanted and len(set(wanted)) > 1:
        raise StudyError(
            f"study {study.name}: trials of a search cannot stand beside those of {', '.join(purposes)}: they were "
            "not drawn from the same distribution; ask for one purpose at a time"
        )
    if "study" in wanted and "study" not in there and "search" in there:
        wanted = ["search"]
    if "search" in wanted and not adaptive:
        _check_blind(study)
    rows = trials[trials["purpose"].isin(wanted)]
    if rows.empty:
        found = ", ".join(f"{count} {purpose}" for purpose, count in there.items()) or "none"
        raise StudyError(
            f"study {study.name}: no trial of purpose {' or '.join(purposes)} has ended (there are: {found}); "
            "run the study to its end"
        )
    complete = (rows["state"] == "complete") & rows[metric].notna()
    left_out = rows["state"][~complete].replace({"complete": f"without {metric}"}).value_counts().to_dict()
    failed = rows[rows["state"] == "failed"]
    rows = rows[complete]
    if rows.empty:
        raise StudyError(f"study {study.name}: no complete trial of purpose {' or '.join(purposes)} has a {metric}")
    if epochs is not None:
        if epochs not in set(rows["epochs_total"]):
            raise StudyError(f"study {study.name}: {unknown('schedule', epochs, set(rows['epochs_total']))} epochs")
        rows, failed = (part[part["epochs_total"] == epochs] for part in (rows, failed))
    elif rows["epochs_total"].nunique() > 1 and not any_epochs:
        schedules = ", ".join(str(int(length)) for length in sorted(rows["epochs_total"].unique()))
        raise StudyError(
            f"study {study.name}: its trials were trained for {schedules} epochs, and scores of several schedules "
            "cannot be compared; choose one with epochs, or see automixsearch fidelity"
        )
    design = study.info.get("design") or {}
    runs = {run["number"]: run for run in design.get("runs", ())}
    frame, failed = _frame(rows, metric, runs), _frame(failed, metric, runs)
    images = rows["test_images" if metric.startswith("test_") else "val_images"].max() if in_percent(metric) else nan
    return Sample(
        study=study.name,
        frame=frame,
        metric=metric,
        sign=sign,
        left_out={str(state): int(n) for state, n in left_out.items()},
        failed=failed.assign(score=sign * (sign * frame["score"]).min()),
        drawn=design.get("name") not in (*BY_HAND, "curve"),
        quantum=100 / float(images) if images > 0 else 0.0,
    )


def _frame(rows: Frame, metric: str, runs: Mapping[int, Mapping[str, Any]]) -> Frame:
    """The columns of `Sample.frame`, of rows of the ledger and the runs of the design by their numbers."""
    import pandas as pd

    rows = rows.reset_index(drop=True)
    planned = [runs.get(number, {}) for number in rows["number"]]
    frame = pd.DataFrame(
        {
            "trial_id": rows["trial_id"],
            "number": rows["number"],
            "method": rows["method"],
            "purpose": rows["purpose"],
            "config_key": _config_keys(rows),
            "score": rows[metric].astype(float),
            "seed": rows["seed"],
            "split_seed": rows["split_seed"],
            "epochs_total": rows["epochs_total"],
            "device_s": rows["device_s"].astype(float),
            "arm": pd.Series([run.get("arm") for run in planned], dtype=object),
            "levels": [run.get("levels") or {} for run in planned],
            "stratum": [
                method if run.get("stratum") is None else run["stratum"]
                for run, method in zip(planned, rows["method"], strict=True)
            ],
        }
    )
    knobs = [name for name in knob_columns(rows.columns) if name != "method"]
    return pd.concat([frame, rows[knobs], rows[["config"]]], axis=1)


def _config_keys(rows: Frame) -> list[str]:
    """The keys of the configs of rows; ledgers of older versions have none, and theirs are computed."""
    stored = rows["config_key"] if "config_key" in rows else [None] * len(rows)
    return [key if isinstance(key, str) else config_key(config, row)
            for key, config, row in zip(stored, rows["config"], rows.index, strict=True)]  # fmt: skip


def config_key(config: str | None, otherwise: object = None, without: Collection[str] = (), data: bool = True) -> str:
    """A hash of what a config trains, seeds apart; see `config_identity` for the options.

    A row without a config is a config of its own, `otherwise`.
    """
    if not config:
        return f"row {otherwise}"
    content = parse_config(config, f"row {otherwise}")
    return hash_json(config_identity(content, seeds=False, data=data, without=without))


def blind(info: Mapping[str, Any]) -> str:
    """Why the trials of a search are no sample of its space; empty where they are one."""
    space = info.get("space") or {}
    sampler = (space.get("sampler") or {}).get("name", "tpe")
    if sampler in ADAPTIVE:
        return f"sampler {sampler} chose them by the scores of earlier ones"
    if (space.get("scheduler") or {}).get("name", "fifo") != "fifo":
        return "its scheduler stopped those that scored low"
    return "its first trials were chosen by hand (priors)" if space.get("priors", "none") != "none" else ""


def _check_blind(study: Study) -> None:
    reason = blind(study.info)
    if reason:
        raise StudyError(
            f"study {study.name}: its trials are no sample of the search space: {reason}, so they over-represent "
            f"what is good; {_sampled(study)}"
        )


def _sampled(study: Study) -> str:
    """How to get a sample of the same space: the command, where the study lies on this machine."""
    file = study.store.local_path("study.json")
    if file is None:
        return "run a search of the same knobs with sampler: sobol, scheduler: fifo and priors: none"
    trials = 1 << max(5, (int(study.info.get("total_trials") or 0) - 1).bit_length())
    command = (
        f"automixsearch search {shlex.quote(str(file))} --results {shlex.quote(str(file.parent.parent))} "
        f"--name {study.name[:93]}-sample sampler=sobol scheduler=fifo priors=none trials={trials}"
    )
    return f"this takes a sample of the same space, and is answered then:\n  {command}"


BY_HAND = ("one_out", "one_in", "path", "factorial", "cells")
"""Designs whose configs are no draws from anything."""


def check_drawn(study: Study) -> None:
    """Refuse a study whose configs are no draws from a prior, where the answer would be about one.

    Raises:
        StudyError: with what to ask or to run instead.
    """
    design = study.info.get("design") or {}
    name, run = design.get("name"), "or run a study of design sobol"
    said = f"study {study.name}: its configs were chosen one by one and are no draws from a prior"
    if name in BY_HAND:
        ask = f"ask automixsearch ablate report {study.argument}, " if design.get("factors") else ""
        raise StudyError(f"{said}; {ask}{run}")
    if name == "curve":
        knobs = list(dict.fromkeys(str(knob).rpartition(".")[2] for knob in design.get("vary") or ()))
        over = f" over {', '.join(knobs)}" if knobs else ""
        ask = f"ask automixsearch sensitivity {study.argument} --knob {knobs[0]}, " if knobs else ""
        raise StudyError(f"{said}; {ask}automixsearch compare {study.argument}, {run}{over}")
