"""What each part of a method contributes; of a curve, its values against its centre."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from typing import Any

from automixsearch.analysis.verdict import within
from automixsearch.report import charts
from automixsearch.report.parts import Column, Figure, Section, Table, Verdict
from automixsearch.report.wording import ask, estimate, file_name, p_text, plain, points
from automixsearch.results.study import Study
from automixsearch.show import brief


def section(study: Study) -> Section:
    """Effects, with interactions, Shapley credit, the declared path and aliases."""
    from automixsearch.analysis.ablation import ablation

    answer, refused = ask(lambda: ablation(study))
    if answer is None:
        return Section("ablation", "Ablation", missing=[refused])
    curve = answer.design == "curve"
    title, part = ("Values against the centre", "value") if curve else ("Ablation", "part")
    several = len({one.stratum for one in (*answer.effects, *answer.path)}) > 1
    verdicts = [
        Verdict(effect.word, _effect_sentence(effect, answer, several))
        for effect in answer.effects
        if not curve or effect.word != "unresolved"  # a curve has many values, and a verdict of its own
    ]
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
                (f"Shaded: within ±{brief(answer.margin)}. " if answer.margin else "") + "Hollow: unresolved."
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
        f"p-values are Holm's over the family; equivalent: {within(answer.margin, answer.metric)}. The other knobs "
        f"stay as in the base config: a claim about a {part} is one under them."
    )
    words = [effect.word for effect in answer.effects]
    says = [
        f"Of {len(words)} {part}s, {words.count('helps')} help, {words.count('hurts')} hurt, "
        f"{words.count('equivalent')} make no difference that matters, {words.count('unresolved')} are unresolved."
    ]
    missing = [f"{note[:1].upper()}{note[1:]}." for note in answer.notes]
    if not answer.shapley and not curve:
        missing.append("Shapley credit: it needs a full factorial of at most 5 factors (design: factorial).")
    return Section("ablation", title, says, about, figures, tables, missing=missing, verdicts=verdicts)


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
