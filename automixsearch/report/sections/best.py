"""The best trials, and those that no other beats in every objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from automixsearch.analysis.best import Place, best
from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Section, Table, Verdict
from automixsearch.report.wording import estimate, plain, short, unit
from automixsearch.results.schema import in_percent
from automixsearch.results.study import Study
from automixsearch.show import duration, policy_of, score, varied, with_error


def section(study: Study, named: bool) -> Section:
    """The best trial of each method by the first objective, and which of them cannot be told apart.

    named: with a verdict, where the study was run to find them.
    """
    metric = study.objective[0]
    answer = best(study, 1, per="method")
    first = answer.winner
    if first is None:
        return Section("best", "Best configs", missing=["No trial is complete yet: the best are listed once one is."])
    rows = [place.content() for place in answer.places]
    says = [
        f"Best by {metric}: {first.trial_id}, {policy_of(first.row)}, with {_mean_of(first, metric)}"
        f"{' %' if in_percent(metric) else ''}.",
        answer.sentence,
    ]
    names = list(dict.fromkeys([*study.objective, "val_top1", "test_top1"]))
    columns = [
        Column("method", lambda row: str(row["method"])),
        Column("trial", lambda row: row["trial_id"]),
        Column("policy", policy_of),
        *(Column(short(name), plain(name), True) for name in varied(rows)[:4]),
        Column("runs", plain("runs"), True),
        *(Column(unit(name), _scored(name), True) for name in names),
        *([Column("worth", estimate("worth"), True)] if any(place.worth.known for place in answer.places) else []),
        Column("told from the best", lambda row: "no" if row["alike"] else "yes"),
        Column("device time", lambda row: "-" if row["device_s"] is None else duration(row["device_s"]), True),
    ]
    kept = ("trial_id", "number", "method", "config_id", "seed", *names, "val_images", "device_s")
    kept = (*kept, "runs", "worth", "worth_low", "worth_high", "alike")
    csv_rows = [{name: row[name] for name in kept} | {"policy": policy_of(row)} for row in rows]
    shown = {row["trial_id"]: row for row in rows}
    table = Table(
        "best",
        "The best config of each method",
        csv_rows,
        [Column(c.label, _full(c.text, shown), c.numeric) for c in columns],
        note="Scores are means over the runs of a config. A best of many is an optimistic figure: its score chose it; "
        "what it is worth is drawn back as far as noise explains it. Test scores choose nothing.",
    )
    second = "unresolved" if answer.alike > 1 else "note"
    verdicts = [Verdict("best", says[0]), Verdict(second, says[1].removeprefix("Unresolved: "))] if named else []
    return Section("best", "Best configs", says, tables=[table], verdicts=verdicts)


def _full(text: Any, shown: Mapping[str, Any]) -> Any:
    return lambda row: text(shown[row["trial_id"]])


def _scored(name: str) -> Any:
    return lambda row: with_error(row, name, row["runs"])


def _mean_of(place: Place, metric: str) -> str:
    runs = f" (mean of {place.runs} runs)" if place.runs > 1 else ""
    return with_error(place.row, metric, place.runs) + runs


def pareto(study: Study, rows: Sequence[Mapping[str, Any]]) -> Section | None:
    """The trials that no other beats in every objective; None where there is one objective."""
    if len(study.objective) < 2:
        return None
    first, second = study.objective[:2]
    front = study.pareto_rows()
    names = study.objective
    complete = [row for row in rows if row["state"] == "complete" and all(row.get(name) is not None for name in names)]
    inks = charts.inks(row["method"] for row in complete)
    on_front = {row["trial_id"] for row in front}
    clouds = [
        charts.Line(
            method,
            [row[second] for row in own],
            [row[first] for row in own],
            ink=ink if member else charts.Ink("var(--faint)"),
            joined=False,
            tips=[f"{row['trial_id']} {policy_of(row)}: {_values(row, names)}" for row in own],
        )
        for member in (False, True)
        for method, ink in inks.items()
        if (own := [r for r in complete if r["method"] == method and (r["trial_id"] in on_front) == member])
    ]
    steps = sorted((row[second], row[first]) for row in front)
    line = charts.Line(
        "front", [x for x, _ in steps], [y for _, y in steps], points=False, ink=charts.Ink("var(--base)")
    )
    svg = charts.lines("Pareto front", charts.Axis(unit(second)), charts.Axis(unit(first)), [line, *clouds])
    table = Table(
        "pareto",
        "On the front",
        [
            {"trial_id": row["trial_id"], "policy": policy_of(row)} | {name: row[name] for name in names}
            for row in front
        ],
        [
            Column("trial", lambda row: row["trial_id"]),
            Column("policy", lambda row: row["policy"]),
            *(Column(unit(name), _score_of(name), True) for name in names),
        ],
    )
    used = {method: ink for method, ink in inks.items() if any(row["method"] == method for row in front)}
    figure = Figure("pareto", "Pareto front", svg, f"{unit(first)} against {unit(second)}; coloured: on the front.")
    return Section(
        "pareto",
        "Pareto front",
        [f"{len(front)} of {len(complete)} complete trials are beaten by no other in all of {', '.join(names)}."],
        figures=[figure],
        tables=[table],
        legend=charts.legend(used),
    )


def _values(row: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {score(name, row[name])}" for name in names)


def _score_of(name: str) -> Any:
    return lambda row: score(name, row[name])
