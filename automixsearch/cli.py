"""The command line: one function for each command, heavy imports inside."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from automixsearch import __version__
from automixsearch.commands import studies
from automixsearch.errors import AutoMixError, StudyError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pandas import DataFrame
    from rich.console import Console

    from automixsearch.spec import SearchSpace
    from automixsearch.studyfile import StudyFile
    from automixsearch.training.loop import EpochMetrics

RESULTS = "results"
MOST_EPOCHS = 8
"""Columns of epochs in a picture of masks that can still be looked at side by side."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit status: 0 done, 1 nothing succeeded, 2 refused, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    args = parse(words)
    try:
        return args.run(args)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader has left (`| head`); Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"automixsearch: {error.filename}: {error.strerror}; check the path", file=sys.stderr)
        return 2
    except AutoMixError as error:
        print(f"automixsearch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("automixsearch: interrupted; everything reported so far is kept", file=sys.stderr)
        return 130
    finally:
        for problem in args.study_opened.corrupt if hasattr(args, "study_opened") else ():
            print(f"automixsearch: warning: left out {problem}", file=sys.stderr)


def parse(words: list[str]) -> argparse.Namespace:
    """Parse a command line; key=value overrides may stand before, between and after the options."""
    top = parser()
    args, rest = top.parse_known_args(words)
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(overrides) < len(rest) or (overrides and not hasattr(args, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(rest)}; see automixsearch {words[0]} --help")
    if overrides:
        args.overrides = [*args.overrides, *overrides]
    args.words = words
    return args


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest command for a misspelt one."""

    def error(self, message: str) -> NoReturn:
        found = re.match(r"argument COMMAND: invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found:
            message = unknown("command", found[1], re.findall(r"\w+", found[2]))
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = Parser(prog="automixsearch", description="Search mixup policies on Ray; keep every trial in Parquet.")
    top.add_argument("--version", action="version", version=f"automixsearch {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        name = run.__name__.removesuffix("_command")
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def results(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--results", default=RESULTS, metavar="DIR_OR_URI", help="where studies lie (results)")

    def study(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("study", metavar="STUDY", help="a study's name, directory or URI")
        results(sub)

    def force(sub: argparse.ArgumentParser) -> None:
        text = "those too that failed three times of one cause"
        sub.add_argument("--force", action="store_true", help=text)

    sub = command(search_command, "Run a search, or go on with it.")
    sub.add_argument("space", metavar="SPACE", help="a YAML file, or the name of a space that comes along")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. trials=8 data.path=DIR lr=0.1")
    sub.add_argument("--trials", type=int, help="total number of trials of the study")
    sub.add_argument("--name", metavar="STUDY", help="name of the study (the space's name)")
    sub.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster; auto: the one on this machine")
    sub.add_argument("--seed", type=int, metavar="S", help="study seed")
    sub.add_argument("--retry-failed", action="store_true", help="run the trials that failed again")
    force(sub)
    sub.add_argument("--debug", action="store_true", help="in this process, without Ray: breakpoints work")
    sub.add_argument("--lines", action="store_true", help="a line for each trial that ends, instead of the live view")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    results(sub)

    studies.add(commands)

    def address(sub: argparse.ArgumentParser) -> None:
        text = "of the cluster's dashboard, http://HEAD:8265 (RAY_API_SERVER_ADDRESS)"
        sub.add_argument("--address", metavar="URL", help=text)

    def job(sub: argparse.ArgumentParser, what: str) -> None:
        sub.add_argument("job", metavar="JOB", help=what)
        address(sub)

    for run, text in ((submit_command, "Send a job to a Ray cluster, or run it here; a job that ran goes on."),
                      (resume_command, "Go on with a job that was stopped or has died."),
                      (retry_command, "Run the failed trials of a job again.")):  # fmt: skip
        sub = command(run, text)
        job(sub, "a job file, or a study file")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. trials=8 results=s3://bucket/mixup")
        sub.add_argument("--dry-run", action="store_true", help="show what would be sent and run")
        sub.add_argument(
            "--wait", action="store_true", help="show the job's output to its end; its exit status is ours"
        )
        sub.add_argument("--debug", action="store_true", help="run it in this process, without Ray: breakpoints work")
        if run is retry_command:
            sub.add_argument("--failed", action="store_true", required=True, help="those that failed (the only kind)")
            force(sub)
    sub = command(jobs_command, "List the jobs of a cluster.")
    address(sub)
    sub.add_argument("--json", action="store_true", help="print the jobs as JSON")
    sub = command(status_command, "Say how far a job is.")
    job(sub, "a job's name")
    sub.add_argument("-w", "--watch", action="store_true", help="until it ends; its exit status is ours")
    sub = command(logs_command, "Print what a job has said.")
    job(sub, "a job's name")
    sub.add_argument("-f", "--follow", action="store_true", help="until it ends; its exit status is ours")
    sub = command(stop_command, "Stop a job; what it has measured is kept.")
    job(sub, "a job's name")

    sub = command(train_command, "Train one config from start to end.")
    sub.add_argument("config", metavar="CONFIG", help="YAML file, as written by best --export")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.path=DIR seed=3 epochs=300")
    sub.add_argument("--device", help="cpu, cuda, cuda:1 ... (CUDA where there is one)")
    sub.add_argument("--threads", type=_positive, help="CPU threads (as many as a search gives a trial: 1)", default=1)
    sub.add_argument("--out", metavar="FILE", help="save the trained weights here (a state_dict)")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")

    sub = command(best_command, "Print the best trials of a study.")
    study(sub)
    sub.add_argument("-n", type=_positive, default=5, help="how many (5)")
    sub.add_argument("--per", metavar="COLUMN", help="the best for each value of a column, e.g. method")
    sub.add_argument("--metric", metavar="M", help="column to rank by (the study's objective)")
    sub.add_argument("--json", action="store_true", help="print the rows as JSON")
    sub.add_argument("--export", metavar="FILE", help="write the best config as YAML, ready to train")

    sub = command(query_command, "Ask a study in SQL: views trials and epochs.")
    study(sub)
    sub.add_argument("sql", metavar="SQL", help='e.g. "SELECT method, max(val_top1) FROM trials GROUP BY 1"')
    sub.add_argument("--json", action="store_true", help="print the rows as JSON")

    sub = command(show_command, "Show one trial: outcome, config, learning curve.")
    study(sub)
    sub.add_argument("trial", metavar="TRIAL", help="e.g. t00003, or 3")
    sub.add_argument("--json", action="store_true", help="print everything as JSON")

    from automixsearch.commands import report

    report.add(commands)

    sub = command(ls_command, "List the studies.")
    results(sub)
    sub.add_argument("--json", action="store_true", help="print the studies as JSON")

    sub = command(compact_command, "Merge the many small Parquet files of a study into few.")
    study(sub)

    sub = command(mixers_command, "Print the mixing methods, losses and their knobs.")
    sub.add_argument("--all", action="store_true", help="the training knobs too")
    sub.add_argument("--markdown", action="store_true", help="as Markdown")

    sub = command(gallery_command, "Draw what the mixing methods do with your images.")
    sub.add_argument("data", metavar="DATA", help="digits, or a directory: class folders, Parquet, CIFAR")
    sub.add_argument(
        "overrides", nargs="*", metavar="knob=value", help="e.g. fmix.decay=2; with --epochs also width=16 lr=0.05"
    )
    sub.add_argument("--methods", metavar="A,B", help="which methods (all that mix images)")
    sub.add_argument("--lams", metavar="L,L", help="own shares to show (0.25,0.5,0.75; with --epochs one, 0.5)")
    sub.add_argument(
        "--epochs",
        metavar="E,E",
        help="train automix for a while and draw its masks at the start and after these epochs, e.g. 1,4,12",
    )
    sub.add_argument("--pairs", type=_positive, default=2, help="pairs of images, 1 to 4 (2)")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="which images and draws (0)")
    sub.add_argument("--config", metavar="CONFIG", help="config of a trained network, for its saliency")
    sub.add_argument("--weights", metavar="FILE", help="its weights, as train --out saves them")
    sub.add_argument("--out", required=True, metavar="FILE", help="the picture, e.g. mixes.png")

    from automixsearch.commands import analysis, data, reproduce

    data.add(commands)
    reproduce.add(commands)
    analysis.add(commands)

    sub = command(doctor_command, "Check this machine, with a remedy for everything amiss.")
    sub.add_argument("--no-ray", action="store_true", help="leave out the start of a Ray cluster (seconds)")
    results(sub)
    return top


def search_command(args: argparse.Namespace) -> int:
    from automixsearch.reading import load_space

    overrides = list(args.overrides)
    overrides += [f"budget.trials={args.trials}"] if args.trials is not None else []
    overrides += [f"seeds.study={args.seed}"] if args.seed is not None else []
    overrides += [f"name={json.dumps(args.name)}"] if args.name is not None else []
    space = load_space(args.space, overrides)
    more = {"retry_failed": args.retry_failed, "force": args.force, "debug": args.debug}
    return run_and_report(space, args, args.results, args.address, lines=args.lines, as_json=args.json, **more)


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
    from automixsearch.search.driver import run_search, run_study
    from automixsearch.spec import SearchSpace
    from automixsearch.watch import Watch

    watch = Watch(console(stderr=True), lines=lines or debug)  # a live view would swallow a debugger's prompt
    try:
        if isinstance(what, SearchSpace):
            result = run_search(what, results, address, watch, retry_failed=retry_failed, force=force, debug=debug)
        else:
            result = run_study(what, results, address, watch, retry_failed=retry_failed, force=force, debug=debug)
    finally:
        watch.end()
    again = " ".join([program(), *map(_quote, args.words)])
    return report_search(result, again, as_json, watch)


def submit_command(args: argparse.Namespace, retry: bool = False) -> int:
    from automixsearch import jobs

    local = args.debug or args.address == jobs.LOCAL
    force = retry and args.force
    job = jobs.prepare(args.job, args.overrides, jobs.LOCAL if local else args.address or "", retry, force)
    if args.dry_run:
        for file in job.files:
            print(file)
        print(
            f"{len(job.files)} files, {job.size / 1e6:.2f} MB, and the file of the {job.kind}; "
            f"study {job.name} in {job.results}"
        )
        print(f"command: {' '.join(map(_quote, job.command(here=local)))}")
        return 0
    if args.debug:
        return run_and_report(job.what, args, job.results, debug=True, retry_failed=retry, force=force)
    if local:
        return jobs.run_local(job)
    client = jobs.connect(args.address)
    submission, new = jobs.submit(client, job)
    sent = f"sent {len(job.files)} files, {job.size / 1e6:.2f} MB" if new else "it runs already; nothing was sent"
    print(f"{submission}: {sent}; study {job.name} in {job.results}")
    if args.wait:
        return _follow(client, submission)
    where = f" --address {_quote(args.address)}" if args.address else ""
    print("Next:")
    for command, what in (("status {} -w", "how far it is"), ("logs {} -f", "what it says"), ("stop {}", "end it")):
        print(f"  {program()} {command.format(_quote(job.name)) + where}    {what}")
    return 0


def resume_command(args: argparse.Namespace) -> int:
    return submit_command(args)


def retry_command(args: argparse.Namespace) -> int:
    return submit_command(args, retry=True)


def jobs_command(args: argparse.Namespace) -> int:
    from automixsearch import jobs
    from automixsearch.show import make_table

    found = jobs.submissions(jobs.connect(args.address))
    rows = [
        {"job": job.metadata["job"], "state": job.status.value.lower(), "submission": job.submission_id,
         "started": _moment(job.start_time), "ended": _moment(job.end_time), "trials": job.metadata.get("trials"),
         "results": job.metadata.get("results")}
        for job in found if job.metadata
    ]  # fmt: skip
    if args.json:
        print(dump_json(rows))
    elif rows:
        table = make_table("Jobs", rows[0])
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        console().print(table)
    else:
        print("The cluster has no jobs of ours.")
    return 0


def status_command(args: argparse.Namespace) -> int:
    from automixsearch import jobs

    client = jobs.connect(args.address)
    said = ""
    while True:
        job = jobs.latest(client, args.job)
        line = f"{job.submission_id}: {job.status.value.lower()}{_progress(job.metadata or {})}"
        if jobs.is_over(job) and job.message and job.status.value != "SUCCEEDED":
            line += f"\n{job.message.strip()}"
        if line != said:
            print(line, flush=True)
            said = line
        if not args.watch:
            return 0
        if jobs.is_over(job):
            return _status_of(job)
        time.sleep(2)


def _progress(about: Mapping[str, str]) -> str:
    """How many trials have ended and what they took, as far as the results can be read from here."""
    from automixsearch.results.store import Store
    from automixsearch.show import spent

    total, place = about.get("trials", "?"), about.get("results", "")
    try:
        store = Store(place, about["job"])
        if not store.exists():
            return f"; no results of {about['job']} in {place} yet, as seen from here"
        rows = store.trial_rows(["state", "device_s", "energy_j"])
    except (AutoMixError, OSError):
        return f"; results in {place}, which cannot be read from here"
    states = [row["state"] for row in rows]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states
    )
    return f"; {len(states)} of {total} trials" + (f" ({counts}), {spent(rows)}" if counts else "")


def _moment(milliseconds: int | None) -> str | None:
    from datetime import UTC, datetime

    return None if not milliseconds else f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def logs_command(args: argparse.Namespace) -> int:
    from automixsearch import jobs

    client = jobs.connect(args.address)
    job = jobs.latest(client, args.job)
    if args.follow:
        return _follow(client, str(job.submission_id))
    print(client.get_job_logs(str(job.submission_id)), end="")
    return 0


def _follow(client: Any, submission: str) -> int:
    import asyncio

    async def tail() -> None:
        async for text in client.tail_job_logs(submission):
            print(text, end="", flush=True)

    asyncio.run(tail())
    while not (job := client.get_job_info(submission)).status.is_terminal():  # the log ends a moment before the job
        time.sleep(0.5)
    return _status_of(job)


def _status_of(job: Any) -> int:
    """The exit status of an ended job, as `main` says."""
    if job.status.value == "SUCCEEDED":
        return 0
    return 130 if job.status.value == "STOPPED" else job.driver_exit_code or 1


def stop_command(args: argparse.Namespace) -> int:
    from automixsearch import jobs

    client = jobs.connect(args.address)
    job = jobs.latest(client, args.job)
    if jobs.is_over(job):
        print(f"{job.submission_id} has ended: {job.status.value.lower()}")
        return 0
    client.stop_job(str(job.submission_id))
    print(f"{job.submission_id} stops; its trials are kept. To go on: {program()} resume JOB_FILE")
    return 0


def report_search(result: Any, again: str, as_json: bool, watch: Any) -> int:
    """Print how a search ended; see `main` for the exit status."""
    from automixsearch.results.study import open_study
    from automixsearch.show import failures, spent

    study = open_study(result.place)
    best = study.best_rows(5)
    counts = watch.counts()
    status = 130 if result.interrupted else 0 if counts["complete"] else 1
    if as_json:
        seconds, joules = watch.costs()
        summary = {
            "study": result.study, "place": result.place, "trials": result.finished, "total": result.total,
            "interrupted": result.interrupted, "states": {k: v for k, v in counts.items() if k != "running"},
            "device_s": seconds, "energy_j": joules, "notes": watch.notes, "best": best,
            "gate": gate_sentence(study),
        }  # fmt: skip
        print(dump_json(summary))
        return status
    out = console()
    print_best(out, study, best, None)
    said = gate_sentence(study)
    if said:
        out.print(said, highlight=False)
    for count, name, first, hint in failures(watch.rows):
        out.print(f"{count} failed with {name}: {first}" + (f"\n  -> {hint}" if hint else ""), style="red")
    ended = f"{result.finished} of {result.total} trials"
    states = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if counts[state])
    taken = f"; {spent(watch.rows)}" if counts["complete"] or counts["pruned"] else ""
    print(f"{ended} ({states or 'none yet'}) in {result.place}{taken}")
    if result.interrupted:
        print(f"Stopped early; nothing is lost. To go on: {again}")
        return status
    ask = f"{program()} {{}} {_study_words(result)}"
    print("Next:")
    for command, options, what in studies.next_steps(study.info.get("design") or {}):
        print(f"  {ask.format(command)}{options}    {what}")
    print(f"  {ask.format('best')} -n 1 --per method     the best of each method")
    print(f"  {ask.format('best')} --export best.yaml    the winning config; then: {program()} train best.yaml")
    print(f'  {ask.format("query")} "SELECT method, count(*), max(val_top1) FROM trials GROUP BY 1"')
    return status


def program() -> str:
    """How this program was called: by name where the path finds it, else by its place."""
    called = Path(sys.argv[0])
    found = shutil.which("automixsearch")
    if called.name != "automixsearch" or (found is not None and os.path.samefile(found, called)):
        return "automixsearch"
    return _quote(os.path.relpath(called))


def _study_words(result: Any) -> str:
    try:
        near = Path(RESULTS, result.study).absolute() == Path(result.place)
    except FileNotFoundError:  # the folder in which a job was started can be gone at its end
        near = False
    return _quote(result.study if near else result.place)


def train_command(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from automixsearch.reading import load_config

    config = load_config(args.config, args.overrides)
    import torch

    from automixsearch.data import load
    from automixsearch.errors import SpecError
    from automixsearch.training.loop import TrainingRun, pick_device

    torch.set_num_threads(args.threads)
    try:
        device = torch.device(args.device) if args.device else pick_device()
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise SpecError(f"--device {args.device!r} cannot be used here; use cpu, or see automixsearch doctor") from None
    if args.out:
        with open(args.out, "ab"):  # now, not after hours of training
            pass
    run = TrainingRun(config, load(config.data), device)
    for epoch in run.epochs():
        if not args.json:
            print(_epoch_line(epoch, run.recipe.epochs))
    outcome = run.finish()
    if args.out:
        torch.save(run.network.state_dict(), args.out)
    if args.json:
        print(dump_json({"config_id": config.config_id, **asdict(outcome)}))
    else:
        print(f"test top-1 {outcome.test.top1:.2f} %, top-5 {outcome.test.top5:.2f} %, "
              f"ECE {outcome.test.ece:.4f}; {outcome.parameters:,} parameters")  # fmt: skip
        if outcome.test_top1_median is not None:
            print(f"test top-1, median of the last {len(run.test_top1s)} epochs: {outcome.test_top1_median:.2f} %")
        if args.out:
            print(f"weights: {args.out}")
    return 0


def _epoch_line(epoch: EpochMetrics, of: int) -> str:
    return (
        f"epoch {epoch.epoch}/{of}  train_loss {epoch.train_loss:.4f}  val_top1 {epoch.val_top1:.2f} %  "
        f"{epoch.images_per_s:.0f} images/s"
    )


def best_command(args: argparse.Namespace) -> int:
    study = _open(args)
    rows = study.best_rows(args.n, per=args.per, metric=args.metric)
    if args.export:
        if not rows:
            raise StudyError(f"study {study.name} has no complete trial to export yet")
        head = (
            f"# Trial {rows[0]['trial_id']} of study {study.name}: val_top1 {rows[0]['val_top1']:.2f} %.\n"
            f"# Train it: automixsearch train {args.export}\n"
        )
        Path(args.export).write_text(head + study.config(rows[0]["trial_id"]).to_yaml(), encoding="utf-8")
    if args.json:
        print(dump_json(rows))
    else:
        out = console()
        print_best(out, study, rows, args.metric)
        said = gate_sentence(study, args.metric)
        if said:
            out.print(said, highlight=False)
        if args.export:
            print(f"{rows[0]['trial_id']} written to {args.export}; train it: automixsearch train {args.export}")
    return 0


def print_best(out: Console, study: Any, rows: list[dict[str, Any]], metric: str | None) -> None:
    """Print the table of best policies."""
    from automixsearch.show import best_table, unresolved

    by = metric or str(study.objective[0])
    if rows:
        out.print(best_table(rows, by, f"Best of {study.name} by {by}"), highlight=False)
        close = unresolved(rows, by)
        if close:
            print(
                f"Unresolved: {', '.join(close)} cannot be told from {rows[0]['trial_id']}: ± is the 95 % error of the "
                "number of images alone,\nand each trial is one seed."
            )
    else:
        out.print(f"{study.name}: no complete trial yet")


def gate_sentence(study: Any, metric: str | None = None) -> str:
    """Whether the winner of a search over methods beats the search-free baseline; empty for other studies."""
    from automixsearch.analysis.gate import gate

    return "" if study.info.get("design") else gate(study, metric).sentence


def query_command(args: argparse.Namespace) -> int:
    frame = _open(args).query(args.sql)
    if args.json:
        print(dump_json(frame.to_dict("records")))
        return 0
    print_frame(console(), frame)
    return 0


def print_frame(out: Console, frame: DataFrame) -> None:
    """Print the answer to a query, as many columns as fit."""
    from automixsearch.show import brief, make_table

    shown = frame.iloc[:, : max(1, out.width // 12)]
    table = make_table("", shown.columns)
    for row in shown.itertuples(index=False):
        table.add_row(*(brief(value) for value in row))
    out.print(table, highlight=False)
    if shown.shape[1] < frame.shape[1]:
        left = frame.shape[1] - shown.shape[1]
        print(f"{left} more columns do not fit: name the ones you want, or use --json")


def show_command(args: argparse.Namespace) -> int:
    trial = _open(args).show(args.trial)
    if args.json:
        print(dump_json(trial))
        return 0
    from automixsearch.show import brief, make_table, policy_of, score

    out, row = console(), trial["row"]
    out.print(f"{row['trial_id']} {policy_of(row)}: {row['state']}", style="bold", highlight=False)
    table = make_table("", ("column", "value"))
    for name, value in row.items():
        if value is not None and name != "config":
            table.add_row(name, brief(value) if isinstance(value, float) else str(value))
    out.print(table, highlight=False)
    curve = make_table("Epochs", ("epoch", "lr", "train_loss", "val_loss", "val_top1", "wall_s"))
    for epoch in trial["epochs"]:
        names = ("lr", "train_loss", "val_loss", "val_top1", "wall_s")
        curve.add_row(str(epoch["epoch"]), *(score(name, epoch[name]) for name in names))
    out.print(curve, highlight=False)
    return 0


def ls_command(args: argparse.Namespace) -> int:
    from automixsearch.results.study import list_studies

    studies = list_studies(args.results)
    if args.json:
        print(dump_json(studies))
        return 0
    if not studies and "://" not in args.results and args.results != RESULTS and not os.path.isdir(args.results):
        raise StudyError(f"{args.results}: there is no such directory; check --results")
    if not studies:
        print(f"no studies in {args.results}; start one: automixsearch search quickstart")
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
            f"{study['best_trial']} {study['best_method']}" if study["best_trial"] else "-",
        )
    console().print(table, highlight=False)
    return 0


def compact_command(args: argparse.Namespace) -> int:
    study = _open(args)
    with study.store.lock():
        study.store.compact()
    print(f"{study.name}: compacted")
    return 0


def mixers_command(args: argparse.Namespace) -> int:
    from automixsearch.show import knob_table, knob_table_markdown

    if args.markdown:
        print(knob_table_markdown(args.all))
    else:
        console().print(knob_table(args.all), highlight=False)
    return 0


def gallery_command(args: argparse.Namespace) -> int:
    from automixsearch.data import load
    from automixsearch.errors import SpecError
    from automixsearch.mixers import MIXERS
    from automixsearch.reading import build, load_config, parse_knobs
    from automixsearch.spec import Data, TrialConfig

    epochs = _epochs(args.epochs)
    learned = [name for name, mixer in MIXERS.items() if "mask" in mixer.needs]
    drawn = [name for name in MIXERS if name not in ("vanilla", "trivialmix", *learned)]
    methods = args.methods.split(",") if args.methods else [*drawn, *learned] if epochs else drawn
    given = parse_knobs(args.overrides)
    mixers = {}
    for method in methods:
        if method in learned:
            if not epochs:
                raise SpecError(f"--methods: {method} learns its masks while a network trains; say after which epochs "
                                "to draw them, e.g. --epochs 1,4,12")  # fmt: skip
            continue
        if method not in drawn:
            raise SpecError(f"--methods: {unknown('method', method, [*drawn, *learned])}")
        own = {name: value for name, value in given.items() if name.startswith(method + ".")}
        content = {"data": Data(), "knobs": {"method": method, **own}}
        mixers[method] = build(TrialConfig, content, "gallery").mixer
    trained = [method for method in learned if method in methods]
    if epochs and not trained:
        raise SpecError(f"--epochs {args.epochs} is for masks that are learned, and {', '.join(methods)} learns none; "
                        f"add {learned[0]} to --methods, or drop --epochs")  # fmt: skip
    of_training = {name: value for name, value in given.items() if name.partition(".")[0] not in ("method", *MIXERS)}
    for name in given:
        if name.partition(".")[0] not in methods and not (trained and name in of_training):
            raise SpecError(f"{name} belongs to none of the methods drawn: {', '.join(methods)}; drop it")
    if bool(args.config) != bool(args.weights):
        raise SpecError("--config and --weights go together; give both, or neither")
    if args.seed < 0:
        raise SpecError(f"--seed {args.seed} must be 0 or more, e.g. 0")
    lams = _lams(("0.5" if epochs else "0.25,0.5,0.75") if args.lams is None else args.lams)
    if epochs and len(lams) > 1:
        raise SpecError(f"--lams {args.lams} names {len(lams)} own shares, and with --epochs the columns are epochs; "
                        "give one share, e.g. 0.5")  # fmt: skip
    from automixsearch.gallery import data_at, load_network, make_gallery, make_masks, masks_config, picture_file

    out = picture_file(args.out)
    data = data_at(args.data)
    configs = []
    for method in trained:
        own = {name: value for name, value in given.items() if name.startswith(method + ".")}
        configs.append(masks_config(method, data, epochs, of_training | own, args.seed))
    images = load(data)
    network = load_network(load_config(args.config), args.weights, images) if args.config else None
    if epochs:

        def report(epoch: EpochMetrics) -> None:
            print(_epoch_line(epoch, epochs[-1]), file=sys.stderr)

        picture = make_masks(images, mixers, configs, epochs, lams[0], args.pairs, args.seed, network, report)
    else:
        picture = make_gallery(images, mixers, lams, args.pairs, args.seed, network)
    picture.save(out)
    print(f"picture: {out}")
    return 0


def _lams(text: str) -> list[float]:
    from automixsearch.errors import SpecError

    try:
        lams = [float(part) for part in text.split(",")]
    except ValueError:
        lams = []
    if not lams or not all(0 <= lam <= 1 for lam in lams):
        raise SpecError(f"--lams {text!r} must be shares from 0 to 1, e.g. 0.25,0.5,0.75") from None
    return lams


def _epochs(text: str | None) -> list[int]:
    """The epochs after which masks are drawn; none where the option is not given."""
    from automixsearch.errors import SpecError

    if text is None:
        return []
    parts = text.split(",")
    epochs = [int(part) for part in parts if part.isdecimal()]
    if len(epochs) < len(parts) or any(after <= before for before, after in pairwise([0, *epochs])):
        raise SpecError(f"--epochs {text!r} must be whole numbers from 1 on, each above the one before, e.g. 1,4,12; "
                        "the start is always drawn")  # fmt: skip
    if len(epochs) > MOST_EPOCHS:
        raise SpecError(f"--epochs names {len(epochs)} epochs, and a picture has room for {MOST_EPOCHS}; name fewer")
    return epochs


def doctor_command(args: argparse.Namespace) -> int:
    from automixsearch.doctor import checks

    out, worst = console(), 0
    for check in checks(args.results, ray=not args.no_ray):
        mark, style = ("ok  ", "green") if check.ok else ("FAIL", "red") if check.needed else ("note", "yellow")
        out.print(mark, style=style, end=" ")
        out.print(f"{check.name}: {check.found}", highlight=False)
        if not check.ok:
            out.print(f"     -> {check.remedy}", highlight=False)
            worst = max(worst, 1 if check.needed else 0)
    return worst


def _open(args: argparse.Namespace) -> Any:
    from automixsearch.results.study import open_study

    args.study_opened = open_study(args.study, args.results)
    return args.study_opened


def console(stderr: bool = False) -> Console:
    """A rich console; wide enough for a table when the output is piped."""
    from rich.console import Console

    # Messages of errors hold brackets, which must not be read as markup.
    made = Console(stderr=stderr, markup=False)
    return made if made.is_terminal else Console(stderr=stderr, markup=False, width=140)


def dump_json(value: object) -> str:
    """JSON of rows: times as ISO 8601, NaN as null."""
    return json.dumps(_plain(value), indent=1, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # a NumPy scalar or array
        return _plain(value.tolist())
    if isinstance(value, date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def _quote(word: str) -> str:
    return shlex.quote(word)


if __name__ == "__main__":
    sys.exit(main())
