"""How each method does when nobody tunes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automixsearch.report import charts
from automixsearch.report.parts import Column, Section, Table
from automixsearch.report.wording import estimate, listed, marked, plain
from automixsearch.show import brief

if TYPE_CHECKING:
    from automixsearch.analysis.robustness import Scorecard
    from automixsearch.results.study import Study


def section(study: Study, cards: Sequence[Scorecard], refused: str) -> Section:
    """A scorecard of each method."""
    title = "Robustness"
    if not cards:
        return Section("robustness", title, missing=[refused])
    rows = [row for card in cards for row in card.rows()]
    inks = charts.inks(row["method"] for row in rows)
    larger = "larger is better" if study.sign(cards[0].metric) > 0 else "smaller is better"
    columns = [
        Column("method", plain("method")),
        marked("mean", rows, inks, "mean under the prior"),
        marked("cvar", rows, inks, "worst fifth (CVaR20)"),
        marked("s_hp", rows, inks, "S_hp"),
        Column("seed noise", estimate("noise"), True),
        Column("ICC", estimate("icc"), True),
        Column("share near the best", estimate("share"), True),
        Column("best of 16 over 1", estimate("gain"), True),
        Column("configs", plain("configs"), True),
        Column("runs", plain("runs"), True),
    ]
    notes: dict[str, list[str]] = {}
    for card in cards:
        for note in card.notes:
            notes.setdefault(note, []).append(card.method)
    deltas = sorted({card.delta for card in cards})
    delta = brief(deltas[0]) if len(deltas) == 1 else f"{brief(deltas[0])} to {brief(deltas[-1])} (by method)"
    return Section(
        "robustness",
        title,
        about=f"By {cards[0].metric} ({larger}), under the prior that the study declares: a config is a draw of it. "
        "Mean: what a user gets who tunes nothing. Worst fifth: the mean of the unluckiest 20 % of configs, freed of "
        "seed noise. S_hp: the standard deviation that the knobs alone cause; small is robust. Seed noise: that of one "
        f"config over seeds. ICC: the knobs' part of the variance of single runs. Near the best: within {delta} of the "
        "best config, re-evaluated on fresh seeds. Brackets: 95 % intervals.",
        tables=[Table("scorecard", "Scorecard", rows, columns, stacked=True)],
        missing=[
            f"{note[:1].upper()}{note[1:]}." if len(of) == len(cards) else f"{listed(of)}: {note}."
            for note, of in notes.items()
        ],
    )
