"""`robustness`, `compare`, `sensitivity`, `importance`, `fidelity`: what a study says, the verdict first."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from automixsearch.commands.terminal import (
    add_json,
    add_study,
    console,
    declare,
    dump_json,
    number,
    open_named,
    whole,
)

Rows = Sequence[Mapping[str, Any]]


def add(commands: Any) -> None:
    """Declare the commands."""
    sub = _command(commands, robustness_command, "Print the robustness scorecard of every method of a study.")
    sub.add_argument("--delta", type=number, metavar="POINTS", help="what counts as close to the best (the study's)")
    sub.add_argument(
        "--tasks", nargs="+", metavar="STUDY", default=[], help="the same design on other data: what one setting costs"
    )
    sub = _command(commands, compare_command, "Compare the methods of a study with each other.")
    sub.add_argument("--by", default="method", metavar="COLUMN", help="what to compare: method, stratum, arm, a knob")
    sub.add_argument("--against", metavar="NAME", help="compare all with this one only")
    sub.add_argument("--images", action="store_true", help="name the classes and images on which they differ most")
    sub.add_argument(
        "--margin", type=number, metavar="M", help="differences that do not matter (the study's, 0.3 points)"
    )
    sub = _command(commands, sensitivity_command, "Print what one knob does, or two do together.")
    sub.add_argument("--knob", action="append", required=True, metavar="KNOB", help="e.g. alpha; twice for a heat map")
    sub.add_argument("--method", metavar="M", help="one method (all that vary the knob)")
    sub = _command(commands, importance_command, "Print which knobs matter, beside what chance alone shows.")
    sub.add_argument("--method", metavar="M", help="within this method only (over all, and within each)")
    sub.add_argument("--evaluator", choices=("ped_anova", "fanova"), default="ped_anova", help="(ped_anova)")
    sub.add_argument(
        "--permutations", type=whole(20), metavar="N", help="behind the floor (200; of fanova, which is slow, 50)"
    )
    sub.add_argument("--during-optimisation", action="store_true", help="where a search went, which is all it can say")
    sub = _command(commands, fidelity_command, "Print how well short schedules rank configs as the full one does.")


def _command(commands: Any, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    sub = declare(commands, run, text)
    add_study(sub)
    sub.add_argument("--metric", metavar="M", help="column to look at (the study's objective)")
    add_json(sub, "everything")
    return sub


def robustness_command(args: argparse.Namespace) -> int:
    from automixsearch.analysis.compare import compare, compare_sensitivity
    from automixsearch.analysis.robustness import BEST_OF, cross_task, scorecards
    from automixsearch.results.study import open_study

    study = open_named(args)
    cards = scorecards(study, args.metric, args.delta)
    several = len(cards) > 1
    sensitivity = compare_sensitivity(study, args.metric, cards) if several else []
    comparisons = compare(study, args.metric) if several else []
    others = [open_study(name, args.results) for name in args.tasks]
    prices = cross_task([study, *others], args.metric) if others else []
    said = [one.sentence for one in (*comparisons, *sensitivity)]
    if args.json:
        return _json(said, scorecards=cards, comparisons=comparisons, sensitivity=sensitivity, cross_task=prices)
    _say(_few(said))
    metric = cards[0].metric
    fails = any(c.failed.value for c in cards)
    counted = ("failed", "mean with failures") if fails else ()
    names = ("method", "configs", *counted, "mean", "worst fifth", "S_hp", "seed sd", "share of configs")
    _table(f"Robustness of {study.name} by {metric}, under its prior (95 % intervals)", names,
           ((c.method, c.configs, *(getattr(c, name) for name in ("failed", "mean_counted") if fails),
             c.mean, c.cvar, c.s_hp, c.noise, c.icc) for c in cards))  # fmt: skip
    names = ("method", *(f"best of {n}" for n in BEST_OF[1:]), f"worth (best of {BEST_OF[-2]})", "best", "within delta")
    _table("Tuning: what a search of n configs shows, and what its winner is worth on a fresh seed", names,
           ((c.method, *(c.best_of.get(n, "-") for n in BEST_OF[1:]), c.worth.get(BEST_OF[-2], "-"), c.top,
             f"{c.share}, {c.delta:.2f}") for c in cards))  # fmt: skip
    if prices:
        title = "One setting for all tasks: how far it is below the best of each, in shares of the range of scores"
        rows = [(price.method, ", ".join(price.tasks), price.configs, price.phi) for price in prices]
        _table(title, ("method", "tasks", "configs", "phi"), rows)
    _say(dict.fromkeys(f"{note}." for card in cards for note in card.notes))
    return 0


def compare_command(args: argparse.Namespace) -> int:
    from automixsearch.analysis.compare import compare, most_apart
    from automixsearch.analysis.selection import take_sample
    from automixsearch.analysis.verdict import within
    from automixsearch.errors import StudyError
    from automixsearch.results.schema import column_named

    study = open_named(args)
    family = None
    if args.against is not None:
        frame, by = take_sample(study, args.metric).frame, column_named(args.by, study.plugins)
        names = [str(name) for name in dict.fromkeys(frame[by].dropna())] if by in frame.columns else []
        family = [(name, args.against) for name in names if name != args.against]
    found = compare(study, args.metric, args.by, args.margin, family)
    if args.images and not any(one.images for one in found):
        raise StudyError(f"study {study.name}: no comparison has pairs whose outcomes are in the ledger; drop --images")
    apart = [most_apart(study, one) for one in found if one.images] if args.images else []
    if args.json:
        more: dict[str, Any] = {"apart": apart} if args.images else {}
        return _json([one.sentence for one in found], comparisons=found, **more)
    _say(_few([one.sentence for one in found]))
    fails = any(one.failed for c in found for one in c.failed)
    counted = ("failed", "a - b with failures") if fails else ()
    names = ("a", "b", "a - b", *counted, "Holm p", "equiv. p", "n", "a wins", "finds (80 %)", "verdict")
    alike = within(found[0].margin, found[0].metric)
    _table(f"{study.name} by {found[0].metric}: differences; equivalent: {alike}", names,
           ((c.a, c.b, c.difference, *((_failures(c), c.counted) if fails else ()), _p(c.p_holm),
             _p(c.p_equivalent), c.n, f"{c.wins:.0%}", c.mde, c.verdict)
            for c in found))  # fmt: skip
    _say(dict.fromkeys(f"{one.note}." for one in found if one.note))
    _say(one.sentence for one in apart if one.sentence)
    return 0


def _p(value: float) -> str:
    """A p-value under a head that says that it is one: `0.012`, `<0.001`."""
    from automixsearch.analysis.estimate import p_text

    return p_text(value).removeprefix("p ").removeprefix("= ").replace(" ", "")


def _failures(comparison: Any) -> str:
    return ", ".join(f"{one.failed}/{one.units}" for one in comparison.failed)


def sensitivity_command(args: argparse.Namespace) -> int:
    from automixsearch.analysis.selection import take_sample
    from automixsearch.analysis.sensitivity import curve, heat, isolation, together, varies
    from automixsearch.errors import StudyError

    study = open_named(args)
    if len(args.knob) > 2:
        raise StudyError(f"--knob was given {len(args.knob)} times; one gives a curve, two a heat map")
    methods = [args.method] if args.method else varies(study, args.knob, args.metric)
    if len(args.knob) == 2:
        maps = [heat(study, args.knob[0], args.knob[1], method, args.metric) for method in methods]
        if args.json:
            return _json([one.sentence for one in maps], heat=maps)
        _say(one.sentence for one in maps)
        for one in maps:
            columns = (f"{one.knob_a.removeprefix('knob.')} \\ {one.knob_b.removeprefix('knob.')}", *map(_brief, one.b))
            _table(f"{one.method}: mean {one.metric}", columns,
                   ((_brief(value), *(f"{cell.value:.2f}" if n else "-" for cell, n in zip(row, counts, strict=True)))
                    for value, row, counts in zip(one.a, one.cells, one.counts, strict=True)))  # fmt: skip
        return 0
    curves = together([curve(study, args.knob[0], method, args.metric) for method in methods])
    blind = "curve" not in {one.kind for one in curves}
    bests = together([isolation(study, args.knob[0], method, args.metric) for method in methods]) if blind else []
    if args.json:
        return _json([one.sentence for one in (*curves, *bests)], curves=curves, isolation=bests)
    _say(one.sentence for one in (*curves, *bests))
    for place, one in enumerate(curves):
        also = bests[place].points if bests else ()
        kind = {"curve": "all else at the centre", "mean": "averaged over all else"}[one.kind]
        best = ("with all else at its best",) if also else ()
        gaps = ("against the centre",) if any(point.gap.known for point in one.points) else ()
        fails = ("failed",) if any(point.failed.failed for point in (*one.points, *one.lost)) else ()
        names = (one.knob.removeprefix("knob."), "runs", *fails, f"mean {one.metric}", *gaps, *best)
        _table(f"{one.method}: {kind}", names,
               ((point.at, point.n, *((point.failed,) if fails else ()), point.estimate,
                 *((point.gap,) if gaps else ()), *((also[i].estimate if i < len(also) else "-",) if also else ()))
                for i, point in enumerate((*one.points, *one.lost))))  # fmt: skip
    left = take_sample(study, args.metric).left_out
    _say(f"{count} trials are left out: {state}." for state, count in left.items())
    return 0


def importance_command(args: argparse.Namespace) -> int:
    from automixsearch.analysis.importance import importance, importances

    study = open_named(args)
    permutations = args.permutations or (50 if args.evaluator == "fanova" else 200)
    options = {"during_optimisation": args.during_optimisation, "permutations": permutations,
               "metric": args.metric, "evaluator": args.evaluator}  # fmt: skip
    found, refused = ([importance(study, args.method, **options)], []) if args.method else importances(study, **options)
    said = [one.sentence for one in found]
    notes = list(dict.fromkeys([*(note for one in found for note in one.notes), *refused]))
    if args.json:
        return _json(said, notes, importance=found)
    _say(said)
    where = " where the search went" if args.during_optimisation else ""
    names = ("knob", "importance", "chance (95 %)", "p", "")
    for one in found:
        _table(f"{one.method or 'All methods'}: importance{where} by {one.evaluator} for {one.metric}", names,
               (_bar(bar) for bar in one.bars), grey=[not bar.distinguishable for bar in one.bars])  # fmt: skip
    _say(f"{note}." for note in notes)
    return 0


def _bar(bar: Any) -> Sequence[str]:
    from automixsearch.analysis.estimate import p_text
    from automixsearch.analysis.importance import SEED

    if bar.knob == SEED:
        known = bar.value == bar.value
        span = f"{bar.value:.0%} [{bar.low:.0%}, {bar.high:.0%}]" if known else "-"
        return "(seed)", span, "", "-", "of the variance of single runs" if known else "unknown without replicates"
    grey = "" if bar.distinguishable else "not distinguishable from noise"
    return bar.knob.removeprefix("knob."), f"{bar.value:.1%}", f"{bar.floor:.1%}", p_text(bar.p), grey


def fidelity_command(args: argparse.Namespace) -> int:
    from automixsearch.analysis.fidelity import fidelity

    study = open_named(args)
    found = fidelity(study, args.metric)
    said = [one.sentence for one in found if one.method is None] or [one.sentence for one in found]
    said += filter(None, [study.halving])
    if args.json:
        return _json(said, fidelity=found)
    _say(said)
    names = ("method", "epochs", "of", "configs", "rank correlation", "pairs flipped", "regret")
    _table(f"{study.name}: how short schedules rank configs", names,
           ((one.method or "all", one.rung, one.full, one.n, one.rho, f"{one.flipped:.0%}", f"{one.regret:.2f}")
            for one in found))  # fmt: skip
    return 0


def _json(verdicts: Sequence[str], notes: Sequence[str] = (), **answers: Sequence[Any]) -> int:

    content: dict[str, Any] = {"verdicts": list(verdicts)} | ({"notes": list(notes)} if notes else {})
    for name, found in answers.items():
        content[name] = [row for one in found for row in one.rows()]
    print(dump_json(content))
    return 0


MOST_SENTENCES = 12


def _few(sentences: Sequence[str]) -> Iterable[str]:
    """What is resolved comes first; of very many, what is not is counted."""
    known = [one for one in sentences if not one.startswith("Unresolved")]
    open_ones = [one for one in sentences if one.startswith("Unresolved")]
    if len(sentences) <= MOST_SENTENCES:
        return [*known, *open_ones]
    shown = known[:MOST_SENTENCES]
    more = (
        [f"{len(known) - len(shown)} more differences are resolved: see the table."] if len(known) > len(shown) else []
    )
    return [*shown, *more, *([f"Unresolved: {len(open_ones)} others."] if open_ones else [])]


def _say(sentences: Iterable[str]) -> None:

    out = console()
    for sentence in sentences:
        out.print(sentence, highlight=False)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], grey: Sequence[bool] = ()) -> None:
    from automixsearch.show import make_table

    table = make_table(title, columns)
    for place, row in enumerate(rows):
        cells = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row]
        table.add_row(*("-" if cell == "nan" else cell for cell in cells),
                      style="dim" if grey and grey[place] else None)  # fmt: skip
    console().print(table, highlight=False)


def _brief(value: Any) -> str:
    from automixsearch.show import brief

    return brief(value)
