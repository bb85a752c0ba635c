"""Which knobs matter, beside what chance alone would show and the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automixsearch.analysis.estimate import Estimate
from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Section, Table, Verdict
from automixsearch.report.wording import ask, estimate, file_name, listed, p_text, plain, short
from automixsearch.results.study import Study
from automixsearch.show import brief

if TYPE_CHECKING:
    from automixsearch.analysis.importance import Importance

TITLE = "Importance of the knobs"


def section(study: Study) -> Section:
    """Over all methods and within each."""
    from automixsearch.analysis.importance import importances

    answer, refused = ask(lambda: importances(study))
    local = answer is None and "sample of the search space" in refused
    if local:
        answer, more = ask(lambda: importances(study, during_optimisation=True))
        refused = refused.partition("; what mattered")[0] + "." if answer else more
    if answer is None:
        return Section("importance", TITLE, missing=[refused])
    parts, without = answer
    where = " where the search went (not over the whole space)" if local else ""
    says = [text for one in parts for text in _sentences(one)]
    verdicts = [
        Verdict("note" if "more than" in text else "unresolved", f"Importance{where}: {text}")
        for text in _sentences(parts[0])
    ]
    notes = list(dict.fromkeys(note for one in parts for note in one.notes))
    missing = [f"{note[:1].upper()}{note[1:]}." for note in (*notes, *without)]
    if local:
        missing.insert(0, f"Over the whole space it cannot be said. {refused}")
    columns = [
        *([Column("method", lambda row: str(row["method"] or "all"))] if len(parts) > 1 else []),
        Column("knob", lambda row: short(str(row["knob"]))),
        Column("importance", estimate("value"), True),
        Column("floor (95 % of permutations)", plain("floor"), True),
        Column("p", p_text("p"), True),
        Column("told from noise", lambda row: "yes" if row["distinguishable"] else "no"),
    ]
    return Section(
        "importance",
        TITLE,
        says,
        f"{parts[0].evaluator}, by Optuna, of {parts[0].configs} configs{where}: each knob's share of all importance, "
        f"over all methods and within each. Floor: what no knob rises above in 95 % of {parts[0].permutations} "
        "permutations of the scores. (dummy) is a knob that does nothing; (seed) another share: what seeds alone "
        "make of the variance of single runs, with its 95 % interval.",
        [_figure(one) for one in parts],
        [Table("importance", "", [row for one in parts for row in one.rows()], columns)],
        missing=missing,
        verdicts=verdicts,
    )


def _sentences(one: Importance) -> list[str]:
    of = "" if one.method is None else f" of {one.method}"
    knobs = [bar for bar in one.bars if not bar.knob.startswith("(")]
    clear = [short(bar.knob) for bar in knobs if bar.distinguishable]
    unclear = [short(bar.knob) for bar in knobs if not bar.distinguishable]
    says = []
    if clear:
        says.append(f"{listed(clear)}{of} {'matters' if len(clear) == 1 else 'matter'} more than chance would show.")
    if unclear:
        says.append(f"{listed(unclear)}{of} cannot be told from noise.")
    return says


def _figure(one: Importance) -> Figure:
    bars = []
    for bar in one.bars:
        name, seed = short(bar.knob), bar.knob == one.seed.knob
        tip = f"{name}: {brief(bar.value)}, floor {brief(bar.floor)}, p {p_text('p')({'p': bar.p})}"
        if seed:
            tip = f"{name}: {Estimate(bar.value, bar.low, bar.high)} of the variance of single runs"
        ink = charts.Ink("var(--c1)" if seed else "var(--c0)")
        bars.append(charts.Bar(name, bar.value, bar.low, bar.high, bar.floor, ink, not bar.distinguishable, tip))
    when = " during optimisation" if one.during_optimisation else ""
    return Figure(
        "importance" if one.method is None else f"importance-{file_name(one.method)}",
        f"Importance{when}{'' if one.method is None else f', {one.method}'}",
        charts.bars(f"Importance of each knob{'' if one.method is None else f' of {one.method}'}",
                    charts.Axis("share"), bars),
        "Dashed: the permutation floor; grey: not distinguishable from noise. (seed): of the variance, with interval.",
    )  # fmt: skip
