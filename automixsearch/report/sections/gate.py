"""Was the search worth it?"""

from __future__ import annotations

from automixsearch.analysis.baseline_gate import gate
from automixsearch.report.parts import Column, Section, Table, Verdict
from automixsearch.report.wording import ask, estimate, plain
from automixsearch.results.study import Study
from automixsearch.show import brief


def section(study: Study, named: bool) -> Section:
    """The winner against the baseline that needs no search; `named`: a verdict even where nothing can be said."""
    title = "Was the search worth it?"
    answer, refused = ask(lambda: gate(study))
    if answer is None:
        return Section("gate", title, missing=[refused])
    verdict = Verdict(str(answer.verdict), answer.sentence.removeprefix("Unresolved: "))
    verdicts = [verdict] if answer.answered or named else []
    if not answer.answered:
        return Section("gate", title, missing=[answer.sentence], verdicts=verdicts)
    columns = [
        Column("winner", lambda row: str(row["winner"] or "-")),
        Column("baseline", plain("baseline")),
        Column("difference", estimate("difference"), True),
        Column(
            "device-s of one run",
            lambda row: f"{brief(row['device_s_winner'])} / {brief(row['device_s_baseline'])}",
            True,
        ),
        Column("runs", lambda row: f"{row['n_winner']} / {row['n_baseline']}", True),
        Column("verdict", plain("verdict"), kind="verdict"),
    ]
    about = (
        "The winner of the search against trivialmix, which draws a method and its strength anew for every batch and "
        "needs no search, at equal device-seconds."
    )
    tables = [Table("gate", "", answer.rows(), columns)]
    return Section("gate", title, [answer.sentence], about, tables=tables, verdicts=verdicts)
