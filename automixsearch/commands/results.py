"""`best`, `query`, `show`, `ls`, `compact`: what a ledger holds."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch.commands.terminal import (
    RESULTS,
    add_json,
    add_results,
    add_study,
    console,
    declare,
    dump_json,
    open_named,
    positive,
    print_frame,
    program,
    quote,
    say,
    tell_damage,
)
from automixsearch.errors import StudyError

if TYPE_CHECKING:
    from rich.console import Console

    from automixsearch.analysis.best import Best


def next_steps(design: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What to ask a study of a design: command, options after the study's name, and what they tell."""
    if not design:
        return
    if design.get("factors"):
        yield "ablate report", "", "what each part is worth"
    elif design["name"] == "sobol":
        yield "robustness", "", "which method forgives a bad choice"
    else:
        knobs = list(dict.fromkeys(name.rpartition(".")[2] for name in design.get("vary", ())))
        for knob in knobs[:1]:
            yield "sensitivity", f" --knob {knob}", "how much it matters"
    yield "report", "", "all of it, as a page"


def best_command(args: argparse.Namespace) -> int:
    from automixsearch.analysis.best import best
    from automixsearch.results.exports import write_config
    from automixsearch.show import score

    study = open_named(args)
    if args.pareto is not None:
        return _print_front(args, study)
    answer = best(study, args.n, args.per, args.metric)
    first = answer.winner
    if first is None and (args.export or args.weights):
        raise StudyError(f"study {study.name} has no complete trial to export yet")
    if args.weights and args.weights.endswith(".safetensors"):
        raise StudyError(
            f"--weights {args.weights}: a study keeps a state_dict, for FILE.pt; such a file is written by train --out"
        )
    if first and args.weights:
        Path(args.weights).write_bytes(study.weights(first.trial_id))
    if first and args.export:
        runs = f"mean of {first.runs} runs" if first.runs > 1 else "one run"
        head = (
            f"# Trial {first.trial_id} of study {study.name}: "
            f"{answer.metric} {score(answer.metric, first.mean)}, {runs}.\n"
            f"# Train it: automixsearch train {quote(args.export)}\n"
        )
        write_config(study, first.trial_id, Path(args.export), head)
    if args.json:
        asked = {"study": study.name, "place": study.store.uri, "n": args.n, "per": args.per}
        print(dump_json(asked | best_content(study, answer) | {"left_out": study.corrupt}))
    else:
        out = console()
        print_best(out, study, answer)
        said = gate_sentence(study, answer)
        if said:
            out.print(said, highlight=False)
        if first and args.export:
            train = f"{program()} train {quote(args.export)}"
            say(f"{first.trial_id} written to {args.export}; train it: {train}")
        if first and args.weights:
            say(f"weights of {first.trial_id} written to {args.weights}")
    return 0


def _print_front(args: argparse.Namespace, study: Any) -> int:
    """The trials that no other beats in all of several metrics."""
    from automixsearch.show import make_table, policy_of, score

    if args.per or args.metric or args.export or args.weights:
        raise StudyError("--pareto lists trials; --per, --metric, --export and --weights are of the best by one metric")
    names = args.pareto.split(",") if args.pareto else study.objective
    for name in names:
        study.sign(name)  # refuses what there is not
        if name not in study.catalogue.metrics:
            raise StudyError(f"--pareto {name}: test scores choose nothing; use {name.replace('test_', 'val_', 1)}")
    if len(set(names)) < 2:
        raise StudyError(f"--pareto takes several metrics, e.g. --pareto val_top1,val_ece; got {', '.join(names)}")
    rows = study.pareto_rows(names)
    if args.json:
        print(dump_json({"study": study.name, "place": study.store.uri, "pareto": names, "front": rows}))
        return 0
    table = make_table(f"Pareto front of {study.name}", ("trial", "policy", *names))
    for row in rows:
        table.add_row(row["trial_id"], policy_of(row), *(score(name, row[name]) for name in names))
    console().print(table, highlight=False)
    return 0


def best_content(study: Any, answer: Best) -> dict[str, Any]:
    """The best configs as plain values, those of them that cannot be told from the first, and the gate."""
    from automixsearch.analysis.baseline_gate import gate
    from automixsearch.show import class_notes

    (verdict,) = gate(study, answer.metric, answer).rows()
    rows = [place.content() for place in answer.places]
    unresolved = [place.trial_id for place in answer.places[1:] if place.alike]
    notes = class_notes(place.row for place in answer.places)
    content = {"metric": answer.metric, "best": rows, "unresolved": unresolved, **answer.content()}
    return content | {"class_notes": notes, "gate": verdict}


def print_best(out: Console, study: Any, answer: Best) -> None:
    """Print the table of best policies, and what is known of their order."""
    from automixsearch.show import best_table, class_notes

    if answer.places:
        out.print(best_table(answer, f"Best of {study.name} by {answer.metric}"), highlight=False)
        for said in (answer.sentence, *class_notes(place.row for place in answer.places)):
            out.print(said, highlight=False)
    else:
        out.print(f"{study.name}: no complete trial yet")


def gate_sentence(study: Any, answer: Best) -> str:
    """Whether the winner beats the search-free baseline; empty for studies of another question that never ran it."""
    from automixsearch.analysis.baseline_gate import gate

    found = gate(study, answer.metric, answer)
    return found.sentence if found.answered or not study.info.get("design") else ""


def query_command(args: argparse.Namespace) -> int:
    frame = open_named(args).query(args.sql)
    if args.json:
        print(dump_json(frame.to_dict("records")))
        return 0
    print_frame(console(), frame)
    return 0


def show_command(args: argparse.Namespace) -> int:
    trial = open_named(args).show(args.trial)
    if args.json:
        print(dump_json(trial))
        return 0
    from automixsearch.show import brief, class_notes, make_table, not_cleared, policy_of, score, with_error

    out, row = console(), trial["row"]
    policy = f" {policy_of(row)}" if row.get("method") else ""  # of a running trial there are epochs only
    out.print(f"{row['trial_id']}{policy}: {row['state']}", style="bold", highlight=False)
    table = make_table("", ("column", "value"))
    for name, value in row.items():
        if value is not None and name != "config":
            plain = brief(value) if isinstance(value, float) else str(value)
            table.add_row(name, plain if not_cleared(row, name) is None else with_error(row, name))
    out.print(table, highlight=False)
    for note in class_notes([row]):
        out.print(note, highlight=False)
    curve = make_table("Epochs", ("epoch", "lr", "train_loss", "val_loss", "val_top1", "wall_s"))
    for epoch in trial["epochs"]:
        names = ("lr", "train_loss", "val_loss", "val_top1", "wall_s")
        curve.add_row(brief(epoch.get("epoch")), *(score(name, epoch.get(name)) for name in names))
    out.print(curve, highlight=False)
    return 0


def ls_command(args: argparse.Namespace) -> int:
    from automixsearch.results.study import list_studies

    studies = list_studies(args.results)
    tell_damage([problem for study in studies for problem in study.get("left_out", ())])
    if args.json:
        print(dump_json(studies))
        return 0
    if not studies and "://" not in args.results and args.results != RESULTS and not os.path.isdir(args.results):
        raise StudyError(f"{args.results}: there is no such directory; check --results")
    if not studies:
        there = "" if args.results == RESULTS else f" --results {quote(args.results)}"
        say(f"no studies in {args.results}; start one: {program()} search quickstart{there}")
        return 0
    from automixsearch.show import make_table, score

    table = make_table("", ("study", "trials", "complete", "pruned", "failed", "objective", "best", "policy"))
    for study in studies:
        if "error" in study:
            table.add_row(study["study"], study["error"])
            continue
        metric = study["objective"][0]
        table.add_row(
            study["study"],
            f"{study['ended']}/{study['total'] or '?'}",
            *(str(study[state]) for state in ("complete", "pruned", "failed")),
            metric,
            score(metric, study["best"]),
            f"{study['best_trial']} {study['best_method']}"
            if study["best_trial"]
            else "several data sets"
            if study["note"]
            else "-",
        )
    console().print(table, highlight=False)
    return 0


def compact_command(args: argparse.Namespace) -> int:
    study = open_named(args)
    study.store.note = lambda text: say(f"automixsearch: {text}", file=sys.stderr)
    with study.store.lock():
        study.store.compact()
    say(f"{study.name}: compacted")
    return 0


def add(commands: Any) -> None:
    """Declare the commands."""
    sub = declare(commands, best_command, "Print the best trials of a study.")
    add_study(sub)
    sub.add_argument("-n", type=positive, default=5, help="how many (5)")
    sub.add_argument("--per", metavar="COLUMN", help="the best for each value of a column, e.g. method")
    sub.add_argument("--metric", metavar="M", help="column to rank by (the study's objective)")
    sub.add_argument(
        "--pareto",
        nargs="?",
        const="",
        metavar="METRICS",
        help="instead the trials that no other beats in all of several, e.g. val_top1,val_ece (the study's objectives)",
    )
    add_json(sub, "what was asked, the rows and the verdict against the search-free baseline")
    sub.add_argument("--export", metavar="FILE", help="write the best config as YAML, ready to train")
    sub.add_argument("--weights", metavar="FILE", help="write its trained weights (a state_dict), if they were kept")
    sub = declare(commands, query_command, "Ask a study in SQL: views trials and epochs.")
    add_study(sub)
    sub.add_argument("sql", metavar="SQL", help='e.g. "SELECT method, max(val_top1) FROM trials GROUP BY 1"')
    add_json(sub, "the rows")
    sub = declare(commands, show_command, "Show one trial: outcome, config, learning curve.")
    add_study(sub)
    sub.add_argument("trial", metavar="TRIAL", help="e.g. t00003, or 3")
    add_json(sub, "everything")
    sub = declare(commands, ls_command, "List the studies.")
    add_results(sub)
    add_json(sub, "the studies")
    sub = declare(commands, compact_command, "Merge the many small Parquet files of a study into few.")
    add_study(sub)
