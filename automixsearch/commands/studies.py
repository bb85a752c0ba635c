"""`study`, `plan`, `ablate`: from a question in a file to its runs, and for ablations to the answer."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from automixsearch.commands.terminal import (
    add_json,
    add_results,
    add_running,
    console,
    declare,
    dump_json,
    number,
    say,
)

if TYPE_CHECKING:
    from automixsearch.analysis.ablation import Ablation
    from automixsearch.analysis.estimate import Estimate
    from automixsearch.config.space import SearchSpace
    from automixsearch.data.base import ImageSet
    from automixsearch.results.study import Study
    from automixsearch.studies.file import StudyFile
    from automixsearch.studies.plan import Plan


def study_command(args: argparse.Namespace) -> int:
    from automixsearch.commands.search import run_as_told

    return run_as_told(_load(args), args)


def _load(args: argparse.Namespace) -> StudyFile:
    from automixsearch.studies.file import load_study_file

    name = [f"name={json.dumps(args.name)}"] if getattr(args, "name", None) else []
    return load_study_file(args.file, [*args.overrides, *name])


def plan_command(args: argparse.Namespace) -> int:
    plan = _plan(args)
    if args.json:
        print(dump_json(plan.content()))
    else:
        _print_plan(plan)
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    """Read the file, time its methods here or take times from a ledger, and put the plan together."""
    from automixsearch.config.space import SearchSpace
    from automixsearch.results.study import open_study
    from automixsearch.studies import plan
    from automixsearch.studies.design import enumerate_runs

    what = _read(args)
    if isinstance(what, SearchSpace):
        settings = plan.method_settings(what)
        teachers, shortest = list(settings.values()), what.rungs[0]
    else:
        design = enumerate_runs(what)
        settings, teachers, shortest = plan.study_settings(design), plan.teacher_settings(design), what.budget.epochs
    metric = what.objective[0] if isinstance(what, SearchSpace) else what.metric
    noise, said = None, []
    ledger = open_study(args.ledger, args.results) if args.ledger else None
    if ledger is not None:
        args.study_opened = ledger
        ledger.check_comparable()
        costs, said = plan.costs_of(ledger, settings, what.budget.epochs, what.data)
        if what.evaluate:
            said = [*said, f"the times do not hold what networks are asked ({', '.join(what.evaluate)})"]
        noise = plan.noise_of(ledger, metric)
        images = plan.train_images(what.data, None) or plan.images_of(ledger, what.data)
    else:
        data = _load_data(what, said)
        passes = 0.0
        if data is not None and what.evaluate:
            from automixsearch.evaluation.run import asked_of

            passes = sum(one.passes(len(data.test)) for one, _ in asked_of(what.evaluate, what.plugins))
        costs = [] if data is None else [
            plan.probe(name, plan.config_of(what, values), data, what.resources.cpus, passes)
            for name, values in settings.items()
        ]  # fmt: skip
        images = plan.train_images(what.data, data)
    if args.sd is not None:
        noise = plan.Noise(args.sd, "as given")
    noise = noise or plan.least_noise(what.data, metric, images, None if args.error is None else args.error / 100)
    if noise is not None and ledger is not None:
        noise = dataclasses.replace(noise, unlike=plan.unlike_methods(ledger, metric, noise.sd))
    if images is not None:
        from automixsearch.training.checks import stale_teachers

        configs = [plan.config_of(what, values) for values in teachers]
        said = [*stale_teachers(configs, images, shortest), *said]
    if isinstance(what, SearchSpace):
        made = plan.plan_search(what, costs, noise, images)
    else:
        made = plan.plan_study(what, costs, noise, images)
    return dataclasses.replace(made, warnings=(*made.warnings, *said))


def _read(args: argparse.Namespace) -> SearchSpace | StudyFile:
    """A study file, or a search space."""
    from automixsearch.config.files import load_space, read_text
    from automixsearch.config.shipped import find_file
    from automixsearch.config.yaml import read_yaml
    from automixsearch.studies.file import load_study_file

    file = find_file(args.file, "search space or study file")
    content = read_yaml(read_text(file, "study file"), args.file)
    is_study = isinstance(content, dict) and "design" in content
    return (load_study_file if is_study else load_space)(args.file, args.overrides)


def _load_data(what: SearchSpace | StudyFile, said: list[str]) -> ImageSet | None:
    """The data, to time training on; None, and why, where they are not here."""
    from automixsearch.data import load
    from automixsearch.errors import DataError
    from automixsearch.registry import look_up

    try:
        data = load(what.data, what.plugins)
    except DataError as error:
        said.append(f"no times: {error}; or take times from a ledger with --from STUDY")
        return None
    for method in what.catalogue.methods:
        look_up("mixers", method, what.plugins).prepare()
    return data


def _print_plan(plan: Plan) -> None:
    from automixsearch.show import make_table

    out = console()
    out.print(f"{plan.name}: {plan.question}" if plan.question else plan.name, style="bold", highlight=False)
    runs = ", ".join(f"{count} {purpose}" for purpose, count in plan.runs.items())
    halved = plan.most_epochs > plan.epochs
    say(f"{sum(plan.runs.values())} runs ({runs}), {'about ' if halved else ''}{plan.epochs} epochs")
    if halved:
        lengths = ", ".join(
            f"{count:.0f} of {epochs} epoch{'s' if epochs > 1 else ''}" for epochs, count in plan.by_length().items()
        )
        say(f"expected: {lengths}; {plan.most_epochs} epochs if none were short or stopped")
    if plan.device_h is not None:
        names = ("method", "runs", "one in full" if halved else "one run", "95 %", "all", "from")
        table = make_table("", names)
        for row in plan.rows():
            if "device_s" in row:
                one, low, high, every = (_time(row[name]) for name in ("device_s", "low", "high", "all_s"))
                band = f"{low} to {high}" if math.isfinite(row["low"]) else "unknown"
                table.add_row(row["stratum"], f"{row['runs']:.0f}", one, band, every, row["source"])
        out.print(table, highlight=False)
        hours, low, high = plan.device_h
        most = f"; {plan.most_device_h[0]:.3g} if none were short or stopped" if halved and plan.most_device_h else ""
        short = f", {_time(3600 * hours)}" if hours < 1 else ""
        band = f" ({low:.3g} to {high:.3g})" if math.isfinite(low) else ""
        say(f"device-hours: {hours:.3g}{band}{short}{most}")
        if plan.settles is not None:
            (cheap, least), (dear, longest) = plan.settles
            say(
                f"  with as many runs of each method; {least:.3g} if all were {cheap}, {longest:.3g} if all were {dear}"
            )
    disk = f"disk: rows {plan.disk_mb:.3g} MB until they are merged"
    if plan.checkpoint_mb is not None:
        disk += f", checkpoints {plan.checkpoint_mb:.3g} MB for each run under way"
    say(disk)
    if plan.noise is not None:
        say(f"noise of a seed: {plan.noise.sd:.2g} ({plan.noise.source})")
    for one in plan.resolved:
        family = f", {one.mde_holm:.2g} after Holm over {one.comparisons}" if one.comparisons > 1 else ""
        sides = "one run" if one.runs == 1 else f"{one.runs} runs"
        say(f"can find, at 80 % power: {one.mde:.2g}{family} ({one.comparison}, {sides} on each side)")
    if plan.aliases:
        say("cannot be told apart: " + "; ".join(f"{name} = {' = '.join(same)}" for name, same in plan.aliases.items()))
    for warning in plan.warnings:
        out.print(f"warning: {warning}", style="yellow", highlight=False)


def _time(seconds: float) -> str:
    from automixsearch.show import duration

    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def ablate_report_command(args: argparse.Namespace) -> int:
    from automixsearch.analysis.ablation import ablation
    from automixsearch.errors import StudyError

    args.study_opened = study = _named(args)
    design = study.info.get("design") or {}
    if design.get("vary") and design["name"] != "curve":
        knob = str(design["vary"][0]).rpartition(".")[2]
        raise StudyError(
            f"study {study.name} varies {', '.join(design['vary'])} together and switches no parts on or off; use "
            f"automixsearch sensitivity {study.argument} --knob {knob}"
        )
    found = ablation(study, args.metric, args.margin)
    ended, total = len(study.store.finished()), study.info.get("total_trials")
    if args.json:
        effects = {"effects": found.rows(), "path": found.path_rows()}
        about = {"aliases": found.aliases, "notes": found.notes, "runs": ended, "total": total}
        print(dump_json({**effects, **about}))
        return 0
    _print_ablation(found, str(design.get("question", "")))
    if total is not None and ended < total:
        say(f"{ended} of {total} runs have ended: what is missing is left out.")
    return 0


def _named(args: argparse.Namespace) -> Study:
    """The study of a file, or the one that is named itself."""
    from automixsearch.config.shipped import find_shipped
    from automixsearch.results.study import open_study
    from automixsearch.studies.file import load_study_file

    of_file = args.file.endswith((".yaml", ".yml")) or find_shipped(args.file, "study file") is not None
    name = load_study_file(args.file, args.overrides).name if of_file else args.file
    return open_study(name, args.results)


def _print_ablation(found: Ablation, question: str) -> None:
    from automixsearch.analysis.estimate import unit_of
    from automixsearch.analysis.verdict import within
    from automixsearch.show import make_table

    out = console()
    many = len({one.stratum for one in (*found.effects, *found.path)}) > 1
    curve = found.design == "curve"
    what = "value, against the centre" if curve else "factor"
    columns = (what, "effect", "95 %", "p (Holm)", "can find", "runs", "device-h", "verdict")
    for title, effects in (
        (question or "Effects", found.effects), ("Interactions", found.interactions),
        ("Shapley: credit over all orders", found.shapley),
    ):  # fmt: skip
        if effects:
            table = make_table(
                f"{title} ({found.metric}{', points' if unit_of(found.metric) else ''})",
                (*(("stratum",) if many else ()), *columns),
            )
            for one in effects:
                mde = "" if math.isnan(one.mde) else f"{one.mde:.2f}"
                row = (
                    one.name,
                    *_estimate(one.effect),
                    _p(one.p_holm),
                    mde,
                    str(one.runs),
                    f"{one.device_h:.3g}",
                    one.word,
                )
                table.add_row(*((one.stratum,) if many else ()), *row)
            out.print(table, highlight=False)
    if found.path:
        title, change = ("The values", "against the centre") if curve else ("The path", "step")
        table = make_table(title, (*(("stratum",) if many else ()), "arm", found.metric, change, "95 %"))
        before: set[str] = set()
        for one in found.path:
            name = one.arm if curve else _new_of(one.arm, before)
            before = set(one.arm.split())
            table.add_row(*((one.stratum,) if many else ()), name, f"{one.score.value:.2f}", *_estimate(one.step))
        out.print(table, highlight=False)
    same = {name: alike for name, alike in found.aliases.items() if alike}
    if same:
        say("Cannot be told apart: " + "; ".join(f"{name} = {' = '.join(alike)}" for name, alike in same.items()))
    for note in found.notes:
        say(note)
    say(f"Unresolved means: not enough runs to say; equivalent: {within(found.margin, found.metric)}.")


def _new_of(arm: str, before: set[str]) -> str:
    """What an arm such as `ema=on clean=off` has that the one `before` it has not: whole names fill the line."""
    parts = arm.split()
    if all(part.endswith("=off") for part in parts):
        return "all off"
    return " ".join(part for part in parts if part not in before) or arm


def _estimate(estimate: Estimate) -> tuple[str, str]:
    """A difference and its interval; nothing where there is none."""
    value, low, high = (
        f"{end:+.2f}".replace("-0.00", "+0.00") for end in (estimate.value, estimate.low, estimate.high)
    )
    return "" if math.isnan(estimate.value) else value, "" if math.isnan(estimate.low) else f"{low} to {high}"


def _p(value: float) -> str:
    return "" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def add(commands: Any) -> None:
    """Declare the commands."""
    run_text, plan_text = "Run a study file, or go on with it.", "Say what a search or a study costs and can resolve."
    _file(sub := declare(commands, study_command, run_text))
    add_running(sub, "the file")
    _file(sub := declare(commands, plan_command, plan_text))
    _planning(sub)
    text = "Plan, run or report an ablation: a study of parts that are on or off."
    group = commands.add_parser("ablate", help=text, description=text)
    inner = group.add_subparsers(required=True, metavar="plan|run|report")
    _file(sub := declare(inner, plan_command, plan_text))
    _planning(sub)
    _file(sub := declare(inner, study_command, run_text, "run"))
    add_running(sub, "the file")
    sub = declare(inner, ablate_report_command, "What each part is worth, with what the runs cannot tell.", "report")
    _file(sub, "a study file, or the name, directory or URI of its study")
    add_results(sub)
    sub.add_argument("--metric", metavar="M", help="column to judge by (the study's)")
    sub.add_argument("--margin", type=number, metavar="POINTS", help="of equivalence (the study's)")
    add_json(sub, "everything")


def _file(
    sub: argparse.ArgumentParser,
    text: str = "a study file, or the name of one that comes along: sensitivity/alpha",
) -> None:
    sub.add_argument("file", metavar="FILE", help=text)
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. replicates=5 epochs=30 recipe=digits")


def _planning(sub: argparse.ArgumentParser) -> None:
    add_results(sub)
    source = sub.add_mutually_exclusive_group()
    source.add_argument(
        "--probe", action="store_true", help="time 20 steps of each method on this machine (the default)"
    )
    source.add_argument("--from", dest="ledger", metavar="STUDY", help="take times and the noise of seeds from a study")
    sub.add_argument("--sd", type=number, metavar="POINTS", help="standard deviation from seed to seed, if you know it")
    sub.add_argument("--error", type=number, metavar="%", help="error rate to guess it from, in %% (by data set)")
    add_json(sub, "everything")
