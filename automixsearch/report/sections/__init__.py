"""What a study has to say: the sections of a report, one file for each question, in the order in which one reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from automixsearch.errors import StudyError
from automixsearch.report.parts import Report, Section, Verdict
from automixsearch.report.sections import (
    ablation,
    best,
    compare,
    cost,
    evaluations,
    fidelity,
    gate,
    guesses,
    importance,
    learning,
    provenance,
    robustness,
    sensitivity,
    trials,
    tuning,
)
from automixsearch.report.wording import ask
from automixsearch.results.documents import parse_config
from automixsearch.results.schema import listed
from automixsearch.results.study import Study
from automixsearch.show import class_notes, duration

if TYPE_CHECKING:
    from pandas import DataFrame

Rows = Sequence[Mapping[str, Any]]
ABLATIONS = ("one_out", "one_in", "path", "factorial")


class Snapshot(Study):
    """A study whose trials are read once: every answer of a report is about the same rows, also while it runs."""

    @cached_property
    def _frame(self) -> DataFrame:
        return super().trials()

    def trials(self) -> DataFrame:
        """Every ended trial, as of the first call."""
        return self._frame.copy()


def make_report(study: Study) -> Report:
    """Everything that can be said of a study, in the order in which it is read.

    Raises:
        StudyError: the study has no trials.
    """
    study = Snapshot(study.store)
    study.check_comparable()
    rows = study.table("trials").to_pylist()
    if not rows:
        raise StudyError(f"study {study.name} has no ended trial yet; run it, then report it")
    design = study.info.get("design") or {}
    space = study.info.get("space") or {}
    sections = [
        *_answers(study, rows),
        *([asked] if (asked := evaluations.section(study, rows)) else []),
        learning.section(study, rows),
        *([beside] if (beside := guesses.section(study, rows)) is not None else []),
        trials.section(rows),
        cost.section(rows),
        provenance.section(study, rows),
    ]
    verdicts = [verdict for section in sections for verdict in section.verdicts]
    verdicts += [Verdict("note", said) for said in class_notes(rows)]
    question = design.get("question") or space.get("about") or f"Which policy is best by {study.objective[0]}?"
    if study.corrupt:
        verdicts.append(Verdict("note", f"Left out as damaged: {listed(study.corrupt[:3], len(study.corrupt))}."))
    return Report(
        study=study.name,
        question=str(question),
        about=str(design.get("about") or (space.get("about") if design.get("question") else "") or ""),
        verdicts=verdicts or [Verdict("note", "No complete trial yet: nothing can be said.")],
        facts=facts(study, rows),
        sections=sections,
        trials=trials.payload(study, rows),
    )


def _answers(study: Study, rows: Rows) -> list[Section]:
    """What the study was run to find out comes first."""
    design = (study.info.get("design") or {}).get("name")
    searched = any(row["purpose"] == "search" for row in rows)
    parts = [_of_search(study, rows, design), _of_study(study, design)]
    return [section for part in (parts if searched else reversed(parts)) for section in part]


def _of_search(study: Study, rows: Rows, design: str | None) -> list[Section]:
    """What a search is for; of another study, its best trials stand at the end."""
    named = design is None
    sections = [best.section(study, named), gate.section(study, named), best.pareto(study, rows)]
    return [section for section in sections if section is not None]


def _of_study(study: Study, design: str | None) -> list[Section]:
    """What methods, knobs and parts do; the question of the design comes first."""
    from automixsearch.analysis.robustness import scorecards

    cards, refused = ask(lambda: scorecards(study))
    parts = ablation.section(study)
    knobs = (
        Section("sensitivity", sensitivity.TITLE, missing=[sensitivity.NO_KNOB])
        if design in ABLATIONS
        else sensitivity.section(study, design)
    )
    return [
        *([parts] if design in ABLATIONS else []),
        robustness.section(study, cards or [], refused),
        compare.section(study, cards or []),
        tuning.section(cards or [], refused),
        knobs,
        *([parts] if design == "curve" else []),
        importance.section(study),
        *([parts] if design != "curve" and design not in ABLATIONS else []),
        fidelity.section(study),
    ]


def facts(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What was run, in a few numbers."""
    states = [row["state"] for row in rows]
    data = _configs(rows)
    images = sorted({row["val_images"] for row in rows if row.get("val_images")})
    epochs = sorted({row["epochs_total"] for row in rows if row.get("epochs_total")})
    seconds = sum(row["device_s"] or 0.0 for row in rows)
    total = study.info.get("total_trials")
    parts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states)
    found = [
        ("Trials", f"{len(rows)}" + (f" of {total}" if total and total != len(rows) else "")),
        ("Ended", parts),
        ("Methods", str(len({row["method"] for row in rows}))),
        ("Metric", ", ".join(study.objective)),
        ("Epochs", ", ".join(map(str, epochs)) or "-"),
        ("Data", ", ".join(sorted({_data_name(config["data"]) for config in data})) or "-"),
        ("Validation images", ", ".join(f"{n:,}" for n in images) or "-"),
        ("Splits", str(len({row["split_id"] or row["split_seed"] for row in rows}))),
        ("Seeds", str(len({row["seed"] for row in rows}))),
        ("Device time", duration(seconds)),
    ]
    return [fact for fact in found if fact[1]]


def _data_name(data: Mapping[str, Any]) -> str:
    """`cifar10`, or of folders and files the name of the place: `folder birds`."""
    own = data["source"] in ("folder", "parquet") and data.get("path")
    return f"{data['source']} {str(data['path']).rstrip('/').rpartition('/')[2]}" if own else str(data["source"])


def _configs(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The configs of the rows, one for each data set."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        if row.get("config") and row.get("data_fingerprint") not in found:
            found[row["data_fingerprint"]] = parse_config(row["config"], f"trial {row['trial_id']}")
    return list(found.values())
