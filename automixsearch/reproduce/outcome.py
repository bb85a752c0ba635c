"""Published figures beside measured ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from automixsearch.analysis.estimate import Estimate
from automixsearch.reproduce.registry import Cell, select
from automixsearch.reproduce.settings import MARGIN, SHARE, Changes, missing, plan, study_name, trained
from automixsearch.reproduce.verdict import Agreement, Judgement, Verdict, agreement, combined, judge, paired
from automixsearch.results.store import Store
from automixsearch.results.study import Study

COMPARABLE = {"epochs", "width", "backbone", "stem", "train_size", "test_size", "train", "data.size", "data.source"}
"""What, where the user changes it, makes another measurement of a cell."""


@dataclass(frozen=True)
class Outcome:
    """What is known of one cell.

    scores: by replicate. problems: of the runs without a score, the error of each. lacking: what is missing to measure
    it. parameters: their exact number, where the cell is one. differs: what is not as published.
    """

    cell: Cell
    scale: str
    judgement: Judgement
    scores: Mapping[int, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    lacking: str = ""
    parameters: int | None = None
    differs: tuple[str, ...] = ()
    study: str = ""

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict

    def row(self) -> dict[str, Any]:
        """All of it as plain values."""
        judgement = self.judgement
        return {
            "table": self.cell.table,
            "number": self.cell.number,
            **self.cell.content(),
            "published_std": self.cell.std,
            "scale": self.scale,
            **judgement.measured.row("measured"),
            **judgement.difference.row("difference"),
            "seeds": len(self.scores),
            "failed": len(self.problems),
            "problems": list(self.problems),
            "verdict": str(self.verdict),
            "p_within": judgement.p_within,
            "runs_needed": judgement.runs_needed,
            "missing": self.lacking,
            "parameters": self.parameters,
            "differs": list(self.differs),
            "study": self.study,
        }


@dataclass(frozen=True)
class Column:
    """The rows of a table that share data set, network, epochs and labels, and how their order agrees with the
    published one.

    against: the row that the others are compared with. gaps: published and measured differences from it.
    """

    table: str
    name: str
    against: Cell
    gaps: tuple[tuple[Cell, float, Estimate], ...]
    agreement: Agreement

    def row(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "table": self.table,
            "column": self.name,
            "against": self.against.row,
            "gaps": [
                {"method": cell.row, "published": published, **measured.row("measured")}
                for cell, published, measured in self.gaps
            ],
            "rows": self.agreement.rows,
            "kendall_tau": self.agreement.tau,
            "p": self.agreement.p,
            "pairs": self.agreement.pairs,
            "resolved": self.agreement.resolved,
            "as_published": self.agreement.as_published,
        }


def outcomes(
    target: str | Sequence[Cell],
    scale: str = "tiny",
    results: str | Path = "results",
    *,
    changes: Changes | None = None,
    share: float = SHARE,
    margin: float = MARGIN,
    seeds: int | None = None,
) -> tuple[Outcome, ...]:
    """What the ledgers under `results` hold of the cells that `target` names: `TABLE[:CELLS]`, or the cells themselves.

    Args:
        changes, share: as the cells were run.
        margin: points within which a figure counts as reproduced.
        seeds: replicates to look at; None: all that were run.
    """
    cells = select(target) if isinstance(target, str) else target
    changes = changes or Changes()
    measured = {term: None for cell in cells if not missing(cell) for _, term in cell.terms if trained(term)}
    scores = _read(measured, scale, results, changes, share, seeds)
    return tuple(_outcome(cell, scale, scores, changes, share, margin) for cell in cells)


@dataclass(frozen=True)
class Runs:
    """The runs of one cell that have ended: scores by replicate, and the first words of those without a score."""

    scores: Mapping[int, float]
    problems: tuple[str, ...]


def _outcome(
    cell: Cell, scale: str, known: Mapping[Cell, Runs], changes: Changes, share: float, margin: float
) -> Outcome:
    nothing = Judgement(Verdict.MISSING, Estimate(float("nan")), Estimate(float("nan")))
    lacking = missing(cell)
    if cell.metric == "time":
        nothing = Judgement(Verdict.OTHER_MACHINE, nothing.measured, nothing.difference)
    if lacking:
        return Outcome(cell, scale, nothing, lacking=lacking)
    if cell.metric == "params_M":
        return _counted(cell, scale)
    terms = [(weight, known[term]) for weight, term in cell.terms]
    scores = combined([(weight, runs.scores) for weight, runs in terms])
    judgement = judge([scores[replicate] for replicate in sorted(scores)], cell.value, margin, cell.std)
    if not cell.derived:
        judgement = replace(judgement, measured=_bounded(judgement.measured))
    chosen = [plan(term, scale, changes, share) for _, term in cell.terms]
    if scores and (scale != "paper" or any(COMPARABLE & set(each.changed) for each in chosen)):
        judgement = Judgement(Verdict.OTHER_SCALE, judgement.measured, judgement.difference)
    return Outcome(
        cell,
        scale,
        judgement,
        scores,
        problems=tuple(problem for _, runs in terms for problem in runs.problems),
        differs=() if cell.derived else chosen[0].differs,
        study=study_name(cell, scale, changes, share),
    )


def _bounded(accuracy: Estimate) -> Estimate:
    """An accuracy lies between 0 and 100."""
    return replace(accuracy, low=max(accuracy.low, 0.0), high=min(accuracy.high, 100.0)) if accuracy.known else accuracy


def _counted(cell: Cell, scale: str) -> Outcome:
    """The outcome of a number of parameters."""
    from automixsearch.reproduce.parameters import agrees, count

    exact = count(cell)
    verdict = Verdict.REPRODUCED if agrees(cell) else Verdict.DIFFERS
    value = exact / 1e6
    return Outcome(
        cell,
        scale,
        Judgement(verdict, Estimate(value, value, value), Estimate(value - (cell.value or 0.0))),
        parameters=exact,
    )


def _read(
    cells: Iterable[Cell], scale: str, results: str | Path, changes: Changes, share: float, seeds: int | None
) -> Mapping[Cell, Runs]:
    """The runs of cells, from the studies they belong to."""
    by_study: dict[str, list[Cell]] = {}
    for cell in cells:
        by_study.setdefault(study_name(cell, scale, changes, share), []).append(cell)
    found: dict[Cell, Runs] = {}
    for name, members in by_study.items():
        store = Store(results, name)
        runs, rows = {}, []
        if store.exists():
            listed = Study(store).info.get("design", {}).get("runs", [])
            runs = {run["number"]: run for run in listed if seeds is None or run["replicate"] < seeds}
            columns = sorted({plan(cell, scale, changes, share).measured for cell in members})
            rows = store.trial_rows(["number", "error_class", "error_message", *columns])
        for cell in members:
            column = plan(cell, scale, changes, share).measured
            own = [row for row in rows if runs.get(row["number"], {}).get("arm") == cell.row]
            scores = {runs[row["number"]]["replicate"]: row[column] for row in own if row[column] is not None}
            problems = [
                f"{row['error_class']}: {(row['error_message'] or '').partition(chr(10))[0][:200]}"
                for row in own
                if row[column] is None
            ]
            found[cell] = Runs(scores, tuple(problems))
    return found


def columns(found: Sequence[Outcome]) -> tuple[Column, ...]:
    """The columns in which at least two measured rows can be compared."""
    by_column: dict[tuple[Any, ...], list[Outcome]] = {}
    for outcome in found:
        if outcome.scores and not outcome.cell.derived and outcome.cell.value is not None:
            by_column.setdefault((outcome.cell.table, *outcome.cell.column), []).append(outcome)
    made = []
    for (table, *parts), rows in by_column.items():
        published = [row.cell.value or 0.0 for row in rows]
        agreed = agreement([row.scores for row in rows], published)
        if agreed is not None:
            against = next((row for row in rows if row.cell.method == "Vanilla"), rows[0])
            gaps = tuple(
                (row.cell, (row.cell.value or 0.0) - (against.cell.value or 0.0), paired(row.scores, against.scores))
                for row in rows
                if row is not against
            )
            name = "/".join(str(part) for part in parts if part)
            made.append(Column(table, name, against.cell, gaps, agreed))
    return tuple(made)
