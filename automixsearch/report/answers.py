"""Sections that answer the study's question: every number comes from `automixsearch.analysis`, every refusal too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, TypeVar

from automixsearch.analysis.estimate import Estimate
from automixsearch.errors import StudyError
from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Section, Table, Verdict
from automixsearch.report.sections import best, file_name, pareto
from automixsearch.show import brief

if TYPE_CHECKING:
    from automixsearch.analysis.compare import Comparison
    from automixsearch.analysis.importance import Importance
    from automixsearch.analysis.robustness import Scorecard
    from automixsearch.analysis.sensitivity import Curve
    from automixsearch.results.study import Study

T = TypeVar("T")
ABLATIONS = ("one_out", "one_in", "path", "factorial")
NO_KNOB = "No knob takes several values within a method: vary one in a study of design curve, grid or sobol."
IMPORTANCE = "Importance of the knobs"
SENSITIVITY = "Sensitivity"
MOST_PANELS = 48
MOST_NAMED = 6
"""Methods or knobs that one sentence names."""


def answers(study: Study, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Verdict], list[Section]]:
    """The verdicts in one sentence each, and the sections behind them."""
    design = (study.info.get("design") or {}).get("name")
    searched = any(row["purpose"] == "search" for row in rows)
    found: list[Verdict] = []
    first, last = (_of_search, _of_study) if searched else (_of_study, _of_search)
    return found, [*first(study, rows, found, design), *last(study, rows, found, design)]


def _of_search(
    study: Study, rows: Sequence[Mapping[str, Any]], found: list[Verdict], design: str | None
) -> list[Section]:
    """What a search is for; of another study, its best trials stand at the end."""
    winners = best(study)
    if design is None:
        found += [
            Verdict(kind, text.removeprefix("Unresolved: "))
            for kind, text in zip(("best", "unresolved"), winners.says, strict=False)
        ]
    sections = [winners, gate(study, found, named=design is None), pareto(study, rows)]
    return [section for section in sections if section is not None]


def _of_study(
    study: Study, rows: Sequence[Mapping[str, Any]], found: list[Verdict], design: str | None
) -> list[Section]:
    sections: list[Section] = []
    if design in ABLATIONS:
        sections.append(ablation(study, found))
    cards, refused = ask(lambda: _scorecards(study))
    sections.append(scorecard(cards or [], refused))
    sections.append(comparison(study, cards or [], found))
    sections.append(tuning(cards or [], refused))
    sections.append(
        sensitivity(study, found if design in ("curve", "grid") else [])
        if design not in ABLATIONS
        else Section("sensitivity", SENSITIVITY, missing=[NO_KNOB])
    )
    sections += [ablation(study, found)] if design == "curve" else []
    sections.append(importances(study, found))
    sections += [ablation(study, found)] if design != "curve" and design not in ABLATIONS else []
    sections.append(fidelities(study, found))
    return sections


def ask(question: Callable[[], T]) -> tuple[T | None, str]:
    """The answer, or why there is none and what would be needed."""
    try:
        return question(), ""
    except StudyError as error:
        text = str(error)
        start, colon, rest = text.partition(": ")
        text = rest if colon and start.startswith("study ") else text
        return None, text[:1].upper() + text[1:] + "."


def listed(words: Iterable[str]) -> str:
    """`a, b and c`; long lists are cut."""
    names = list(words)
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def estimate(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A getter of an estimate's text from the three columns of a row."""
    return lambda row: str(Estimate(*_ends(row, name)))


def _ends(row: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    """Value and interval of an estimate in a row."""
    return _number(row.get(name)), _number(row.get(f"{name}_low")), _number(row.get(f"{name}_high"))


def _number(value: Any) -> float:
    return nan if value is None else float(value)


def marked(name: str, rows: Sequence[Mapping[str, Any]], inks: Mapping[str, charts.Ink], label: str) -> Column:
    """A column of an estimate with its drawing, all on one scale."""
    span = charts.limits(value for row in rows for value in _ends(row, name))
    text = estimate(name)

    def draw(row: Mapping[str, Any]) -> str:
        what = f"{row['method']}, {label}: {text(row)}"
        return charts.interval_mark(*_ends(row, name), span, inks[row["method"]], what)

    return Column(label, text, True, draw)


def p_text(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A getter of a p-value's text."""

    def text(row: Mapping[str, Any]) -> str:
        value = _number(row.get(name))
        return "-" if not isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"

    return text


def points(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A getter of a difference's text, with the digits of an estimate."""
    return lambda row: str(Estimate(_number(row.get(name))))


def plain(name: str) -> Callable[[Mapping[str, Any]], str]:
    """A getter of a value's text."""
    return lambda row: brief(row.get(name))


# Search ------------------------------------------------------------------------------------------------------


def gate(study: Study, found: list[Verdict], named: bool) -> Section:
    """The winner against the baseline that needs no search; `named`: a verdict even where nothing can be said."""
    from automixsearch.analysis.gate import gate as ask_gate

    title = "Was the search worth it?"
    answer, refused = ask(lambda: ask_gate(study))
    if answer is None:
        return Section("gate", title, missing=[refused])
    if answer.answered or named:
        found.append(Verdict(str(answer.verdict), answer.sentence.removeprefix("Unresolved: ")))
    if not answer.answered:
        return Section("gate", title, missing=[answer.sentence])
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
    return Section("gate", title, [answer.sentence], about, tables=[Table("gate", "", answer.rows(), columns)])


# Robustness and comparison -----------------------------------------------------------------------------------


def _scorecards(study: Study) -> list[Scorecard]:
    from automixsearch.analysis.robustness import scorecards

    return scorecards(study)


def scorecard(cards: Sequence[Scorecard], refused: str) -> Section:
    """How each method does when nobody tunes it."""
    title = "Robustness"
    if not cards:
        return Section("robustness", title, missing=[refused])
    rows = [row for card in cards for row in card.rows()]
    inks = charts.inks(row["method"] for row in rows)
    larger = "larger is better" if _larger(cards[0].metric) else "smaller is better"
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


def _larger(metric: str) -> bool:
    from automixsearch.results.schema import metric_directions

    return metric_directions()[metric] == "max"


def comparison(study: Study, cards: Sequence[Scorecard], found: list[Verdict]) -> Section:
    """Every method against every other."""
    from automixsearch.analysis.compare import compare, compare_sensitivity

    title = "Methods compared"
    answer, refused = ask(lambda: compare(study))
    if not answer:
        return Section("comparison", title, missing=[refused or "One method: nothing to compare."])
    leader = (
        max(cards, key=lambda card: (1 if _larger(card.metric) else -1) * card.mean.value).method
        if cards
        else answer[0].a
    )
    own = [one for one in answer if leader in (one.a, one.b)]
    found += lead_sentences(leader, own)
    contrasts, _ = ask(lambda: compare_sensitivity(study, cards=cards))
    tables = []
    if contrasts:
        found += sensitivity_sentences(contrasts)
        rows = [row for one in contrasts for row in one.rows()]
        columns = [
            Column("method", plain("a")),
            Column("against", plain("b")),
            Column("verdict", plain("verdict"), kind="verdict"),
            Column("difference of S_hp", estimate("difference"), True),
            Column("Holm p", p_text("p_holm"), True),
            Column("priors of equal information", plain("comparable")),
        ]
        note = (
            "Better: less sensitive. No verdict where the priors hold different information: a wider range makes any "
            "method look fragile."
        )
        tables = [Table("sensitivity-of-methods", "Which method is less sensitive", rows, columns, note)]
    rows = [row for one in answer for row in one.rows()]
    columns = [
        Column("method", plain("a")),
        Column("against", plain("b")),
        Column("verdict", plain("verdict"), kind="verdict"),
        Column("difference", estimate("difference"), True),
        Column("Holm p", p_text("p_holm"), True),
        Column("p of equivalence", p_text("p_equivalent"), True),
        Column("detectable (80 % power)", points("mde"), True),
        Column("pairs" if answer[0].paired else "runs", plain("n"), True),
    ]
    bars = [_difference_bar(one, leader) for one in own]
    figure = Figure(
        "comparison",
        f"{leader} against the others",
        charts.intervals(
            f"{leader} minus each other method", charts.Axis(f"{answer[0].metric}, difference"), bars, answer[0].margin
        ),
        f"Shaded: within the margin of ±{brief(answer[0].margin)}, of no interest. Hollow: unresolved.",
    )
    notes = list(dict.fromkeys(one.note for one in answer if one.note))
    how = "paired on splits and seeds" if answer[0].paired else "unpaired"
    about = (
        f"Mean differences of {answer[0].metric} under the prior, {how}; p-values are Holm's over all {len(answer)} "
        f"pairs; equivalent: two one-sided tests within ±{brief(answer[0].margin)}. Unresolved is a result: it asks "
        "for more runs."
    )
    return Section(
        "comparison",
        title,
        _counted([str(one.verdict) for one in answer]),
        about,
        [figure],
        [Table("comparisons", "", rows, columns, ". ".join(notes)), *tables],
    )


def _counted(verdicts: Sequence[str]) -> list[str]:
    resolved = sum(verdict in ("better", "worse") for verdict in verdicts)
    alike, open_ = verdicts.count("equivalent"), verdicts.count("unresolved")
    return [f"Pairs told apart: {resolved}; equivalent: {alike}; unresolved: {open_}."]


def _difference_bar(one: Comparison, leader: str) -> charts.Bar:
    other, difference = (one.b, one.difference) if one.a == leader else (one.a, one.difference.flipped())
    inks = charts.inks((other,))
    open_ = str(one.verdict) == "unresolved"
    return charts.Bar(
        other,
        difference.value,
        difference.low,
        difference.high,
        ink=inks[other],
        faint=open_,
        tip=f"{leader} - {other}: {difference}, {one.verdict if one.a == leader else _turned(one.verdict)}",
    )


def _turned(verdict: object) -> str:
    return {"better": "worse", "worse": "better"}.get(str(verdict), str(verdict))


def lead_sentences(leader: str, own: Sequence[Comparison]) -> list[Verdict]:
    """What is known of the method with the best mean, against the others: a sentence for each kind of verdict."""
    groups: dict[str, list[tuple[str, Comparison]]] = {}
    for one in own:
        verdict = str(one.verdict) if one.a == leader else _turned(one.verdict)
        groups.setdefault(verdict, []).append((one.b if one.a == leader else one.a, one))
    words = {
        "better": f"{leader} is better than {{}} (mean {own[0].metric} under the prior, Holm-corrected)."
        if own
        else "",
        "worse": f"{leader} is worse than {{}}.",
        "equivalent": f"{leader} is equivalent to {{}}" + (f" within ±{brief(own[0].margin)}." if own else "."),
        "unresolved": f"{leader} cannot be told from {{}}.",
    }
    found = []
    for verdict, sentence in words.items():
        group = groups.get(verdict, [])
        if group:
            named = [f"{name} by {_apart(one)}" if verdict == "better" else name for name, one in group]
            text = sentence.format(listed(named))
            if verdict == "unresolved":
                text += f" Differences up to {max(one.mde for _, one in group):.2f} could hide from so few runs."
            found.append(Verdict(verdict, text))
    return found


def _apart(one: Comparison) -> str:
    difference = one.difference if one.difference.value >= 0 else one.difference.flipped()
    return str(difference)


def sensitivity_sentences(contrasts: Sequence[Any]) -> list[Verdict]:
    """Which methods are less sensitive to their knobs than others, as far as it is known."""
    found = []
    for one in contrasts:
        if str(one.verdict) in ("better", "worse"):
            low, high = (one.a, one.b) if str(one.verdict) == "better" else (one.b, one.a)
            difference = one.difference if one.difference.value < 0 else one.difference.flipped()
            found.append(
                Verdict("better", f"{low} is less sensitive to its knobs than {high}: S_hp differs by {difference}.")
            )
    if not found:
        open_ = [one for one in contrasts if not one.comparable]
        why = "no difference of S_hp is resolved" if open_ else "the priors hold different information"
        return [Verdict("unresolved", f"Which method is least sensitive to its knobs: {why}.")]
    return found[:MOST_NAMED]


def tuning(cards: Sequence[Scorecard], refused: str) -> Section:
    """What tuning buys: the best of n configs."""
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


# Sensitivity and importance ----------------------------------------------------------------------------------


def sensitivity(study: Study, found: list[Verdict]) -> Section:
    """What each knob does, within each method; heat maps where a method varies exactly two."""
    from automixsearch.analysis.sample import take_sample
    from automixsearch.analysis.sensitivity import curve, heat, isolation

    title = SENSITIVITY
    sample, refused = ask(lambda: take_sample(study))
    if sample is None:
        return Section("sensitivity", title, missing=[refused])
    inks = charts.inks(sample.methods)
    asked = [(knob, method) for method in charts.in_order(sample.methods) for knob in sample.varied(method)]
    if not asked:
        return Section("sensitivity", title, missing=[NO_KNOB])
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
        name = knob.removeprefix("knob.")
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
    found += knob_sentences([(knob, method, shown) for knob, method, _, shown in pictures])
    kinds = {shown.kind for *_, shown in pictures}
    how = "at the centre of all other knobs" if kinds == {"curve"} else "averaged over all other knobs"
    more = (
        ""
        if kinds == {"curve"}
        else "; dotted: the best over all other knobs (isolation plot), of equal numbers of tries, intervals in the CSV"
    )
    return Section(
        "sensitivity",
        title,
        about=f"{sample.metric} by the value of one knob, {how}{more}. Bars and bands: 95 %. All axes of scores alike.",
        figures=figures,
        numbers=tables,
        missing=list(dict.fromkeys(missing)),
    )


def knob_sentences(curves: Sequence[tuple[str, str, Curve]]) -> list[Verdict]:
    """For which methods each knob matters, Holm-corrected over all curves, and for which that cannot be told."""
    from automixsearch.analysis.compare import adjusted

    held = adjusted([shown.p for *_, shown in curves])
    said = []
    for knob in dict.fromkeys(knob for knob, *_ in curves):
        own = [(method, shown, p) for (name, method, shown), p in zip(curves, held, strict=True) if name == knob]
        known = [(method, shown) for method, shown, p in own if p < 0.05]
        name, unknown = knob.removeprefix("knob."), [method for method, _, p in own if not p < 0.05]
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
    tips = [
        f"{shown.knob.removeprefix('knob.')} = {brief(p.value)}: {p.estimate}, {what}, {p.n} runs" for p in shown.points
    ]
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
    names = [name.removeprefix("knob.") for name in (answer.knob_a, answer.knob_b)]
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


def importances(study: Study, found: list[Verdict]) -> Section:
    """Which knobs matter, over all methods and within each, beside what chance alone would show and the seed."""
    from automixsearch.analysis.importance import importances as ask_importances

    answer, refused = ask(lambda: ask_importances(study))
    local = answer is None and "sample of the search space" in refused
    if local:
        answer, more = ask(lambda: ask_importances(study, during_optimisation=True))
        refused = refused.partition("; what mattered")[0] + "." if answer else more
    if answer is None:
        return Section("importance", IMPORTANCE, missing=[refused])
    parts, without = answer
    where = " where the search went (not over the whole space)" if local else ""
    says = [text for one in parts for text in _importance_sentences(one)]
    for text in _importance_sentences(parts[0]):
        found.append(Verdict("note" if "more than" in text else "unresolved", f"Importance{where}: {text}"))
    notes = list(dict.fromkeys(note for one in parts for note in one.notes))
    missing = [f"{note[:1].upper()}{note[1:]}." for note in (*notes, *without)]
    if local:
        missing.insert(0, f"Over the whole space it cannot be said. {refused}")
    columns = [
        *([Column("method", lambda row: str(row["method"] or "all"))] if len(parts) > 1 else []),
        Column("knob", lambda row: str(row["knob"]).removeprefix("knob.")),
        Column("importance", estimate("value"), True),
        Column("floor (95 % of permutations)", plain("floor"), True),
        Column("p", p_text("p"), True),
        Column("told from noise", lambda row: "yes" if row["distinguishable"] else "no"),
    ]
    return Section(
        "importance",
        IMPORTANCE,
        says,
        f"{parts[0].evaluator}, by Optuna, of {parts[0].configs} configs{where}: each knob's share of all importance, "
        f"over all methods and within each. Floor: what no knob rises above in 95 % of {parts[0].permutations} "
        "permutations of the scores. (dummy) is a knob that does nothing; (seed) another share: what seeds alone "
        "make of the variance of single runs, with its 95 % interval.",
        [_importance_figure(one) for one in parts],
        [Table("importance", "", [row for one in parts for row in one.rows()], columns)],
        missing=missing,
    )


def _importance_sentences(one: Importance) -> list[str]:
    of = "" if one.method is None else f" of {one.method}"
    knobs = [bar for bar in one.bars if not bar.knob.startswith("(")]
    clear = [bar.knob.removeprefix("knob.") for bar in knobs if bar.distinguishable]
    unclear = [bar.knob.removeprefix("knob.") for bar in knobs if not bar.distinguishable]
    says = []
    if clear:
        says.append(f"{listed(clear)}{of} {'matters' if len(clear) == 1 else 'matter'} more than chance would show.")
    if unclear:
        says.append(f"{listed(unclear)}{of} cannot be told from noise.")
    return says


def _importance_figure(one: Importance) -> Figure:
    bars = []
    for bar in one.bars:
        name, seed = bar.knob.removeprefix("knob."), bar.knob == one.seed.knob
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


# Ablation and fidelity ---------------------------------------------------------------------------------------


def ablation(study: Study, found: list[Verdict]) -> Section:
    """What each part contributes, with interactions, Shapley credit, the declared path and aliases; of a curve, its
    values against its centre."""
    from automixsearch.analysis.ablation import ablation as ask_ablation

    answer, refused = ask(lambda: ask_ablation(study))
    if answer is None:
        return Section("ablation", "Ablation", missing=[refused])
    curve = answer.design == "curve"
    title, part = ("Values against the centre", "value") if curve else ("Ablation", "part")
    several = len({one.stratum for one in (*answer.effects, *answer.path)}) > 1
    for effect in answer.effects:
        if not curve or effect.word != "unresolved":  # a curve has many values, and a verdict of its own
            found.append(Verdict(effect.word, _effect_sentence(effect, answer, several)))
    figures, tables = [], []
    axis = charts.Axis(f"{answer.metric}, {'minus the centre' if curve else 'with minus without'}")
    what = title if curve else "Effects"
    for kind, effects, name in ((what, answer.effects, "effects"), ("Shapley credit", answer.shapley, "shapley")):
        for stratum in dict.fromkeys(effect.stratum for effect in effects):
            own = [effect for effect in effects if effect.stratum == stratum]
            label = f"{kind}, {stratum}" if several else kind
            bars = [
                charts.Bar(
                    e.name,
                    e.effect.value,
                    e.effect.low,
                    e.effect.high,
                    faint=e.word == "unresolved",
                    tip=f"{e.name}: {e.effect}, {e.word}",
                )
                for e in own
            ]
            svg = charts.intervals(label, axis, bars, answer.margin)
            caption = (
                f"Shaded: within ±{brief(answer.margin)}. Hollow: unresolved."
                if name == "effects"
                else "What each part adds, averaged over all orders in which the parts can be added."
            )
            figures.append(Figure(f"{name}-{file_name(stratum)}", label, svg, caption))
    for stratum in () if curve else dict.fromkeys(step.stratum for step in answer.path):
        own = [step for step in answer.path if step.stratum == stratum]
        parts = own[0].arm.split()
        first = "all off" if all(part.endswith("=off") for part in parts) else own[0].arm
        names = [first, *(_added(before.arm, step.arm) for before, step in pairwise(own))]
        bars = [
            charts.Bar(
                name,
                step.score.value,
                step.score.low,
                step.score.high,
                tip=f"{step.arm}: {step.score}, step {step.step}",
            )
            for name, step in zip(names, own, strict=True)
        ]
        label = f"Path, {stratum}" if several else "Path"
        svg = charts.intervals(label, charts.Axis(answer.metric), bars, zero=False)
        figures.append(
            Figure(f"path-{file_name(stratum)}", label, svg, "One order of many: the order decides the credit.")
        )
    columns = [
        Column(part, plain("factor")),
        *([Column("of", plain("stratum"))] if several else []),
        Column("verdict", plain("verdict"), kind="verdict"),
        Column("effect", estimate("effect"), True),
        Column("Holm p", p_text("p_holm"), True),
        Column("detectable (80 % power)", points("mde"), True),
        Column("runs", plain("runs"), True),
        Column("device-hours", plain("device_h"), True),
    ]
    against = Column("arms", lambda row: str(row["against"] or "-"))
    aliased = Column("cannot be told from", lambda row: str(row["aliases"] or "-"))
    for name, label, effects in (
        ("ablation", f"Effects of the {part}s", answer.effects),
        ("interactions", "What one part adds to another's effect, halved", answer.interactions),
        ("shapley", "Shapley credit", answer.shapley),
    ):
        if effects:
            rows = [effect.row() for effect in effects]
            more = [against] * (not curve and any(row["against"] for row in rows)) + [aliased] * any(
                row["aliases"] for row in rows
            )
            tables.append(Table(name, label, rows, [*columns, *more]))
    if answer.path:
        steps = [
            Column("arm", plain("arm")),
            *([Column("of", plain("stratum"))] if several else []),
            Column("score", estimate("score"), True),
            Column("against the centre" if curve else "step", estimate("step"), True),
        ]
        tables.append(Table("path", "All values" if curve else "Path", answer.path_rows(), steps))
    if answer.aliases:
        rows = [{"effect": effect, "aliases": " ".join(others)} for effect, others in answer.aliases.items()]
        columns = [Column("effect", plain("effect")), Column("cannot be told from", plain("aliases"))]
        tables.append(Table("aliases", "Aliases of the fraction that was run", rows, columns))
    difference = "Score of a value minus that of the centre" if curve else "Score with a part minus score without it"
    about = (
        f"{difference}, in {answer.metric}; runs of all arms share seeds and splits; "
        f"p-values are Holm's over the family; equivalent: within ±{brief(answer.margin)}. The other knobs stay as in "
        f"the base config: a claim about a {part} is one under them."
    )
    words = [effect.word for effect in answer.effects]
    says = [
        f"Of {len(words)} {part}s, {words.count('helps')} help, {words.count('hurts')} hurt, "
        f"{words.count('equivalent')} make no difference that matters, {words.count('unresolved')} are unresolved."
    ]
    missing = [f"{note[:1].upper()}{note[1:]}." for note in answer.notes]
    if not answer.shapley and not curve:
        missing.append("Shapley credit: it needs a full factorial of at most 5 factors (design: factorial).")
    return Section("ablation", title, says, about, figures, tables, missing=missing)


def _added(before: str, arm: str) -> str:
    """What the name of an arm says that the one before it does not: `ema=on` of `clean=on ema=on`."""
    known = before.split()
    return " ".join(part for part in arm.split() if part not in known) or arm


def _effect_sentence(effect: Any, answer: Any, several: bool) -> str:
    where = f" in {effect.stratum}" if several else ""
    if effect.word == "unresolved":
        found = f"; an effect of {effect.mde:.2f} could be found" if isfinite(effect.mde) else ""
        return f"{effect.name}{where}: what it does cannot be told: {effect.effect}{found} with {effect.runs} runs."
    if effect.word == "equivalent":
        return f"{effect.name}{where} makes no difference beyond ±{brief(answer.margin)}: {effect.effect}."
    return f"{effect.name}{where} {effect.word}: {effect.effect} {answer.metric}."


def fidelities(study: Study, found: list[Verdict]) -> Section:
    """Whether short schedules rank configs as the full one does."""
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
    found += [Verdict("note", text) for text in says[:2]]
    columns = [
        Column("method", lambda row: str(row["method"] or "all")),
        Column("epochs", plain("rung"), True),
        Column("of", plain("full"), True),
        Column("configs", plain("n"), True),
        Column("rank correlation", estimate("rho"), True),
        Column(
            "pairs in other order",
            lambda row: f"{100 * row['flipped']:.0f} %" if isfinite(_number(row["flipped"])) else "-",
            True,
        ),
        Column("regret of the best", plain("regret"), True),
    ]
    return Section("fidelity", title, says, tables=[Table("fidelity", "", rows, columns)])
