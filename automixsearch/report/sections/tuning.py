"""What tuning buys: the best of n configs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automixsearch.report import charts
from automixsearch.report.parts import Figure, Section, Table
from automixsearch.report.wording import file_name

if TYPE_CHECKING:
    from automixsearch.analysis.robustness import Scorecard


def section(cards: Sequence[Scorecard], refused: str) -> Section:
    """A curve of each method, beside those of the others."""
    title = "Tuning curves"
    if not cards:
        return Section("tuning", title, missing=[refused])
    inks, figures, numbers = charts.inks(card.method for card in cards), [], []
    lines = {card.method: _best_of(card, inks[card.method]) for card in cards}
    every = [value for line in lines.values() for values in (line.y, line.low, line.high) for value in values]
    low, high = charts.limits(every)
    for method in charts.in_order(lines):
        others = [charts.Line(name, line.x, line.y, ghost=True) for name, line in lines.items() if name != method]
        axis = charts.Axis(cards[0].metric, low=low, high=high)
        svg = charts.lines(
            f"Best of n configs, {method}", charts.Axis("configs tried, n", log=True), axis, [*others, lines[method]]
        )
        figures.append(Figure(f"tuning-{file_name(method)}", method, svg))
    for card in cards:
        for n, found in card.best_of.items():
            numbers.append(
                {"method": card.method, "n": n}
                | found.row("expected_best")
                | card.worth[n].row("worth")
                | card.median_best[n].row("median_best")
                | card.band[n].row("median_band")
            )
    return Section(
        "tuning",
        title,
        about=f"The {cards[0].metric} that the best of n configs drawn from the prior is expected to show (unbiased, "
        "band: 95 %); faint: the other methods. What it shows is more than it is worth on a fresh seed: the CSV holds "
        "both, and the median, also with the exact band that holds for all n at once (where there are configs enough).",
        figures=figures,
        numbers=[Table("tuning-curves", "", numbers)],
    )


def _best_of(card: Scorecard, ink: charts.Ink) -> charts.Line:
    found = list(card.best_of.values())
    tips = [f"best of {n}: {value}; on a fresh seed {card.worth[n]}" for n, value in card.best_of.items()]
    return charts.Line(
        card.method,
        [float(n) for n in card.best_of],
        [e.value for e in found],
        [e.low for e in found],
        [e.high for e in found],
        ink,
        tips=tips,
    )
