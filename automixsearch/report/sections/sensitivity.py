"""What each knob does, within each method."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from automixsearch.analysis.selection import take_sample
from automixsearch.report import charts
from automixsearch.report.parts import Figure, Section, Table, Verdict
from automixsearch.report.wording import ask, file_name, listed, p_text, short
from automixsearch.results.study import Study
from automixsearch.show import brief

if TYPE_CHECKING:
    from automixsearch.analysis.sensitivity import Curve

TITLE = "Sensitivity"
MOST_PANELS = 48
NO_KNOB = "No knob takes several values within a method: vary one in a study of design curve, grid or sobol."


def section(study: Study, design: str | None) -> Section:
    """Curves, and heat maps where a method varies exactly two; verdicts where the design was run for them."""
    from automixsearch.analysis.sensitivity import curve, heat, isolation

    sample, refused = ask(lambda: take_sample(study))
    if sample is None:
        return Section("sensitivity", TITLE, missing=[refused])
    inks = charts.inks(sample.methods)
    asked = [(knob, method) for method in charts.in_order(sample.methods) for knob in sample.varied(method)]
    if not asked:
        return Section("sensitivity", TITLE, missing=[NO_KNOB])
    asked.sort(key=lambda pair: pair[0])
    figures, numbers, missing = [], [], []
    pictures: list[tuple[str, str, list[charts.Line], Curve]] = []
    for knob, method in asked[:MOST_PANELS]:
        shown, problem = ask(lambda knob=knob, method=method: curve(study, knob, method))
        if shown is None:
            missing.append(problem)
            continue
        lines = [_curve_line(shown, inks[method], "")]
        numbers += shown.rows()
        if shown.kind != "curve":
            isolated, problem = ask(lambda knob=knob, method=method: isolation(study, knob, method))
            if isolated is None:
                missing.append(problem)
            else:
                lines.append(_curve_line(isolated, inks[method], "2 3"))
                numbers += isolated.rows()
        pictures.append((knob, method, lines, shown))
    # The intervals of few runs can be very wide; they leave the panel, and the CSV holds them.
    drawn = [line for _, _, lines, _ in pictures for line in lines]
    low, high = charts.focus(
        [value for line in drawn for value in line.y], [value for line in drawn for value in (*line.low, *line.high)]
    )
    for knob, method, lines, shown in pictures:
        name = short(knob)
        places = [point.value for point in shown.points]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in places)
        log = numeric and _is_wide([float(value) for value in places])
        x = charts.Axis(name, log=log, names=() if numeric else tuple(brief(value) for value in places))
        svg = charts.lines(
            f"{shown.metric} by {name}, {method}", x, charts.Axis(shown.metric, low=low, high=high), lines
        )
        caption = f"Best - worst: {shown.effect}, p {p_text('p')({'p': shown.p})}" if isfinite(shown.p) else ""
        figures.append(Figure(f"sensitivity-{file_name(name)}-{file_name(method)}", f"{name}, {method}", svg, caption))
    tables = [Table("sensitivity", "", numbers)] if numbers else []
    for method in charts.in_order(sample.methods):
        knobs = sample.varied(method)
        if len(knobs) == 2:
            answer, problem = ask(lambda knobs=knobs, method=method: heat(study, knobs[0], knobs[1], method))
            if answer is None:
                missing.append(problem)
                continue
            figures.append(_heat(answer))
            tables.append(Table(f"heat-{file_name(method)}", "", answer.rows()))
    if len(asked) > MOST_PANELS:
        missing.append(
            f"{len(asked) - MOST_PANELS} more pairs of knob and method: automixsearch sensitivity prints any of them."
        )
    verdicts = knob_sentences([(knob, method, shown) for knob, method, _, shown in pictures])
    kinds = {shown.kind for *_, shown in pictures}
    how = "at the centre of all other knobs" if kinds == {"curve"} else "averaged over all other knobs"
    more = (
        ""
        if kinds == {"curve"}
        else "; dotted: the best over all other knobs (isolation plot), of equal numbers of tries, intervals in the CSV"
    )
    return Section(
        "sensitivity",
        TITLE,
        about=f"{sample.metric} by the value of one knob, {how}{more}. Bars and bands: 95 %. All axes of scores alike.",
        figures=figures,
        numbers=tables,
        missing=list(dict.fromkeys(missing)),
        verdicts=verdicts if design in ("curve", "grid") else [],
    )


def knob_sentences(curves: Sequence[tuple[str, str, Curve]]) -> list[Verdict]:
    """For which methods each knob matters, Holm-corrected over all curves, and for which that cannot be told."""
    from automixsearch.analysis.compare import adjusted

    held = adjusted([shown.p for *_, shown in curves])
    said = []
    for knob in dict.fromkeys(knob for knob, *_ in curves):
        own = [(method, shown, p) for (name, method, shown), p in zip(curves, held, strict=True) if name == knob]
        known = [(method, shown) for method, shown, p in own if p < 0.05]
        name, unknown = short(knob), [method for method, _, p in own if not p < 0.05]
        if known:
            sizes = listed(
                f"{method} ({shown.effect.value:.2f} between its best and worst value)" for method, shown in known
            )
            said.append(Verdict("note", f"{name} matters for {sizes}; Holm-corrected."))
        if unknown:
            said.append(Verdict("unresolved", f"Whether {name} matters for {listed(unknown)} cannot be told."))
    return said


def _is_wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > 8


def _curve_line(shown: Curve, ink: charts.Ink, dash: str) -> charts.Line:
    values = [point.value for point in shown.points]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = [float(value) for value in values] if numeric else [float(place) for place in range(len(values))]
    found = [point.estimate for point in shown.points]
    what = {"best": "best over the rest", "mean": "mean over the rest", "curve": "all else at the centre"}[shown.kind]
    tips = [f"{short(shown.knob)} = {brief(p.value)}: {p.estimate}, {what}, {p.n} runs" for p in shown.points]
    return charts.Line(
        shown.method,
        places,
        [e.value for e in found],
        # Intervals of a best are wide, and would hide the rest: tips and the CSV hold them.
        [e.low for e in found if shown.kind != "best"],
        [e.high for e in found if shown.kind != "best"],
        charts.Ink(ink.colour, dash or ink.dash),
        band=numeric,
        tips=tips,
    )


def _heat(answer: Any) -> Figure:
    names = [short(name) for name in (answer.knob_a, answer.knob_b)]
    values = [[cell.value for cell in row] for row in answer.cells]
    tips = [
        [
            f"{names[0]} = {brief(x)}, {names[1]} = {brief(y)}: {answer.cells[i][j]}, {answer.counts[i][j]} runs"
            for j, y in enumerate(answer.b)
        ]
        for i, x in enumerate(answer.a)
    ]
    svg = charts.heat(
        f"{answer.metric} by {names[0]} and {names[1]}, {answer.method}",
        charts.Axis(names[1], names=tuple(map(brief, answer.b))),
        charts.Axis(names[0], names=tuple(map(brief, answer.a))),
        values,
        answer.metric,
        tips,
    )
    caption = f"Interaction: {answer.interaction}, p {p_text('p')({'p': answer.p})}" if isfinite(answer.p) else ""
    title = f"{names[0]} and {names[1]}, {answer.method}"
    return Figure(f"heat-{file_name(answer.method)}", title, svg, caption)
