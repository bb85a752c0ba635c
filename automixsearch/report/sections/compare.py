"""Every method against every other."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from automixsearch.analysis.verdict import within
from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Section, Table, Verdict
from automixsearch.report.wording import MOST_NAMED, ask, estimate, listed, p_text, plain, points
from automixsearch.results.study import Study
from automixsearch.show import brief

if TYPE_CHECKING:
    from automixsearch.analysis.compare import Comparison
    from automixsearch.analysis.robustness import Scorecard

PAIR = (
    Column("method", plain("a")),
    Column("against", plain("b")),
    Column("verdict", plain("verdict"), kind="verdict"),
)


def section(study: Study, cards: Sequence[Scorecard]) -> Section:
    """Differences of means, and of sensitivities, with the best mean in front."""
    from automixsearch.analysis.compare import compare, compare_sensitivity, most_apart

    title = "Methods compared"
    answer, refused = ask(lambda: compare(study))
    if not answer:
        return Section("comparison", title, missing=[refused or "One method: nothing to compare."])
    leader = max(cards, key=lambda card: study.sign(card.metric) * card.mean.value).method if cards else answer[0].a
    own, margin = [one for one in answer if leader in (one.a, one.b)], answer[0].margin
    verdicts = lead_sentences(leader, own)
    contrasts, _ = ask(lambda: compare_sensitivity(study, cards=cards))
    tables = []
    if contrasts:
        verdicts += sensitivity_sentences(contrasts)
        rows = [row for one in contrasts for row in one.rows()]
        columns = [
            *PAIR,
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
        *PAIR,
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
            f"{leader} minus each other method", charts.Axis(f"{answer[0].metric}, difference"), bars, margin
        ),
        (f"Shaded: within the margin of ±{brief(margin)}, of no interest. " if margin else "") + "Hollow: unresolved.",
    )
    notes = list(dict.fromkeys(one.note for one in answer if one.note and not one.images))
    pictured = [one for one in own if one.images]
    most = max(pictured, key=lambda one: abs(one.difference.value), default=None)
    if most and most.images:
        notes.append(f"{most.a} and {most.b}, {most.images.sentence}. {most_apart(study, most).sentence}".rstrip(". "))
    how = "paired on splits and seeds" if answer[0].paired else "unpaired"
    about = (
        f"Mean differences of {answer[0].metric} under the prior, {how}; p-values are Holm's over all {len(answer)} "
        f"pairs; equivalent: {'two one-sided tests ' if margin else ''}{within(margin, answer[0].metric)}. Unresolved "
        "is a result: it asks for more runs."
    )
    return Section(
        "comparison",
        title,
        _counted([str(one.verdict) for one in answer]),
        about,
        [figure],
        [Table("comparisons", "", rows, columns, ". ".join(notes)), *tables],
        verdicts=verdicts,
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
            hidden = [one.mde for _, one in group if isfinite(one.mde)]
            if verdict == "unresolved" and hidden:
                text += f" Differences up to {max(hidden):.2f} could hide from so few runs."
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
