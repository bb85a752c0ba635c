"""Whether short schedules rank configs as the full one does."""

from __future__ import annotations

from math import isfinite

from automixsearch.report.parts import Column, Section, Table, Verdict
from automixsearch.report.wording import ask, estimate, number, plain
from automixsearch.results.study import Study


def section(study: Study) -> Section:
    """Rank correlations of each length with the full one."""
    from automixsearch.analysis.fidelity import fidelity

    title = "Short schedules against the full one"
    answer, refused = ask(lambda: fidelity(study))
    if not answer:
        return Section("fidelity", title, missing=[refused or "No config was run for several lengths."])
    rows = [row for one in answer for row in one.rows()]
    overall = [one for one in answer if one.method is None] or answer
    says = [
        f"{one.rung} epochs rank {one.n} configs {'of ' + one.method + ' ' if one.method else ''}as {one.full} do with "
        f"a rank correlation of {one.rho}."
        for one in overall
    ]
    says = [*filter(None, [study.halving]), *says]
    verdicts = [Verdict("note", text) for text in says[:2]]
    columns = [
        Column("method", lambda row: str(row["method"] or "all")),
        Column("epochs", plain("rung"), True),
        Column("of", plain("full"), True),
        Column("configs", plain("n"), True),
        Column("rank correlation", estimate("rho"), True),
        Column(
            "pairs in other order",
            lambda row: f"{100 * row['flipped']:.0f} %" if isfinite(number(row["flipped"])) else "-",
            True,
        ),
        Column("regret of the best", plain("regret"), True),
    ]
    return Section("fidelity", title, says, tables=[Table("fidelity", "", rows, columns)], verdicts=verdicts)
