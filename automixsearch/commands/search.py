"""`search`, `train`: run a search, or one config."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automixsearch.commands.results import best_content, gate_sentence, next_steps, print_best
from automixsearch.commands.terminal import (
    add_json,
    add_running,
    command_again,
    console,
    declare,
    dump_json,
    is_gone,
    positive,
    program,
    say,
    whole,
)  # fmt: skip

if TYPE_CHECKING:
    from automixsearch.config.space import SearchSpace
    from automixsearch.studies.file import StudyFile
    from automixsearch.training.run import EpochMetrics


def search_command(args: argparse.Namespace) -> int:
    from automixsearch.config.files import load_space

    overrides = list(args.overrides)
    overrides += [f"budget.trials={args.trials}"] if args.trials is not None else []
    overrides += [f"seeds.study={args.seed}"] if args.seed is not None else []
    overrides += [f"name={json.dumps(args.name)}"] if args.name is not None else []
    space = load_space(args.space, overrides)
    return run_as_told(space, args)


def run_as_told(what: SearchSpace | StudyFile, args: argparse.Namespace) -> int:
    """Run a search or a study as the options of `add_running` say."""
    more = {"retry_failed": args.retry_failed, "force": args.force, "debug": args.debug}
    return run_and_report(what, args, args.results, args.address, lines=args.lines, as_json=args.json, **more)


def run_and_report(
    what: SearchSpace | StudyFile,
    args: argparse.Namespace,
    results: str,
    address: str | None = None,
    *,
    lines: bool = False,
    as_json: bool = False,
    retry_failed: bool = False,
    force: bool = False,
    debug: bool = False,
) -> int:
    """Run a search or a study and print how it ended; `args.words` go on with it."""
    # What the end needs is imported now: a job's package lies in a folder that is removed while the job is stopped.
    import automixsearch.analysis.baseline_gate
    import automixsearch.analysis.best
    import automixsearch.analysis.verdict
    import automixsearch.results.study  # noqa: F401
    from automixsearch.cluster.jobs import AGAIN
    from automixsearch.commands.watch import Watch
    from automixsearch.config.space import SearchSpace
    from automixsearch.search.driver import run_search, run_study
    from automixsearch.studies.design import enumerate_runs

    watch = Watch(console(stderr=True), lines=lines or debug)  # a live view would swallow a debugger's prompt
    try:
        if isinstance(what, SearchSpace):
            result = run_search(what, results, address, watch, retry_failed=retry_failed, force=force, debug=debug)
        else:
            watch.arms = {run.number: run.arm for run in enumerate_runs(what).runs}
            result = run_study(what, results, address, watch, retry_failed=retry_failed, force=force, debug=debug)
    finally:
        watch.end()
    if is_gone():  # the working directory of a job that is stopped is removed while the job ends
        os.chdir(os.sep)
    return report_search(result, os.environ.get(AGAIN) or command_again(args.words), as_json, watch)


def report_search(result: Any, again: str, as_json: bool, watch: Any) -> int:
    """Print how a search ended; see `main` for the exit status."""
    from automixsearch.analysis.best import best
    from automixsearch.results.study import open_study
    from automixsearch.show import failures, spent

    study = open_study(result.place)
    answer = best(study)
    counts = watch.counts()
    status = 130 if result.interrupted else 0 if counts["complete"] else 1
    if as_json:
        seconds, joules = watch.costs()
        summary = {
            "study": result.study, "place": result.place, "trials": result.finished, "total": result.total,
            "interrupted": result.interrupted, "states": {k: v for k, v in counts.items() if k != "running"},
            "device_s": seconds, "energy_j": joules, "notes": watch.notes, **best_content(study, answer),
        }  # fmt: skip
        print(dump_json(summary))
        return status
    out = console()
    print_best(out, study, answer)
    said = gate_sentence(study, answer)
    for sentence in filter(None, (said, study.halving)):
        out.print(sentence, highlight=False)
    for count, name, first, hint in failures(watch.rows):
        out.print(f"{count} failed with {name}: {first}" + (f"\n  -> {hint}" if hint else ""), style="red")
    ended = f"{result.finished} of {result.total} trials"
    states = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if counts[state])
    taken = f"; {spent(watch.rows)}" if counts["complete"] or counts["pruned"] else ""
    say(f"{ended} ({states or 'none yet'}) in {result.place}{taken}")
    if result.interrupted:
        say(f"Stopped early; nothing is lost. To go on: {again}")
        return status
    ask = f"{program()} {{}} {study.argument}"
    say("Next:")
    for command, options, what in next_steps(study.info.get("design") or {}):
        say(f"  {ask.format(command)}{options}    {what}")
    say(f"  {ask.format('best')} -n 1 --per method     the best of each method")
    say(f"  {ask.format('best')} --export best.yaml    the winning config; then: {program()} train best.yaml")
    say(f'  {ask.format("query")} "SELECT method, count(*), max(val_top1) FROM trials GROUP BY 1"')
    return status


def train_command(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from automixsearch.config.files import load_config
    from automixsearch.deploy.model import ENDING, save_model

    config = load_config(args.config, args.overrides)
    import torch

    from automixsearch.data import load
    from automixsearch.errors import SpecError
    from automixsearch.training.run import TrainingRun, pick_device

    torch.set_num_threads(args.threads)
    try:
        device = torch.device(args.device) if args.device else pick_device()
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise SpecError(f"--device {args.device!r} cannot be used here; use cpu, or see automixsearch doctor") from None
    if args.out:
        with open(args.out, "ab"):  # now, not after hours of training
            pass
    images = load(config.data, config.plugins)
    run = TrainingRun(config, images, device)
    for epoch in run.epochs():
        if not args.json:
            say(epoch_line(epoch, run.recipe.epochs))
    outcome = run.finish()
    if args.out:
        if args.out.endswith(ENDING):
            save_model(args.out, run, images.classes)
        else:
            Path(args.out).write_bytes(run.weights())
    if args.json:
        print(dump_json({"config_id": config.config_id, **asdict(outcome)}))
    else:
        say(f"test top-1 {outcome.test.top1:.2f} %, top-5 {outcome.test.top5:.2f} %, "
              f"ECE {outcome.test.ece:.4f}; {outcome.parameters:,} parameters")  # fmt: skip
        say(f"balanced accuracy {outcome.test.balanced_accuracy:.2f} %, macro F1 {outcome.test.macro_f1:.2f} %; "
            f"the largest class is {outcome.test_classes['majority']:.2f} % of the test set")  # fmt: skip
        if outcome.test_top1_median is not None:
            say(f"test top-1, median of the last {len(run.test_top1s)} epochs: {outcome.test_top1_median:.2f} %")
        if args.out:
            say(f"weights: {args.out}")
    return 0


def epoch_line(epoch: EpochMetrics, of: int) -> str:
    """What is said of an epoch."""
    return (
        f"epoch {epoch.epoch}/{of}  train_loss {epoch.train_loss:.4f}  val_top1 {epoch.val_top1:.2f} %  "
        f"{epoch.images_per_s:.0f} images/s"
    )


def add(commands: Any) -> None:
    """Declare the commands."""
    sub = declare(commands, search_command, "Run a search, or go on with it.")
    sub.add_argument("space", metavar="SPACE", help="a YAML file, or the name of a space that comes along")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. trials=8 data.path=DIR lr=0.1")
    sub.add_argument("--trials", type=positive, help="total number of trials of the study")
    sub.add_argument("--seed", type=whole(0), metavar="S", help="study seed")
    add_running(sub, "the space")
    sub = declare(commands, train_command, "Train one config from start to end.")
    sub.add_argument("config", metavar="CONFIG", help="YAML file, as written by best --export")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.path=DIR seed=3 epochs=300")
    sub.add_argument("--device", help="cpu, cuda, cuda:1 ... (CUDA where there is one)")
    sub.add_argument("--threads", type=positive, help="CPU threads (as many as a search gives a trial: 1)", default=1)
    sub.add_argument(
        "--out",
        metavar="FILE",
        help="save the trained weights here (a state_dict); FILE.safetensors: with all that predict needs",
    )
    add_json(sub, "the result")
