"""`submit`, `resume`, `retry`, `jobs`, `status`, `logs`, `stop`: searches and studies as jobs of a Ray cluster."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from automixsearch.commands.search import run_and_report
from automixsearch.commands.terminal import (
    add_force,
    add_json,
    command_again,
    console,
    declare,
    dump_json,
    program,
    quote,
    say,
)
from automixsearch.config.knobs import whole_number
from automixsearch.errors import AutoMixError
from automixsearch.visible import without_colours

if TYPE_CHECKING:
    from collections.abc import Mapping


def submit_command(args: argparse.Namespace, again: bool = False, retry: bool = False) -> int:
    from automixsearch.cluster import jobs

    local = args.debug or args.address == jobs.LOCAL
    force = retry and args.force
    job = jobs.prepare(args.job, args.overrides, jobs.LOCAL if local else args.address or "", retry, force)
    job = replace(job, again=command_again(args.words))
    if job.untracked:
        some = ", ".join(map(str, job.untracked[:5])) + (", ..." if len(job.untracked) > 5 else "")
        remedy = "to send them git add them, or list what is sent in environment.files"
        say(f"git does not track {len(job.untracked)} files, which stay here: {some}; {remedy}", file=sys.stderr)
    if args.dry_run:
        for file in job.files:
            say(file)
        say(
            f"{len(job.files)} files, {job.size / 1e6:.2f} MB, and the file of the {job.kind}; "
            f"study {job.name} in {job.results}"
        )
        say(f"command: {' '.join(map(quote, job.command(here=local)))}")
        return 0
    idle = jobs.nothing_to_do(job) if again else ""
    if idle:
        say(idle)
        return 0
    if args.debug:
        return run_and_report(job.what, args, job.results, debug=True, retry_failed=retry, force=force)
    if local:
        return jobs.run_local(job)
    client = jobs.connect(args.address)
    submission, new = jobs.submit(client, job)
    sent = f"sent {len(job.files)} files, {job.size / 1e6:.2f} MB" if new else "it runs already; nothing was sent"
    say(f"{submission}: {sent}; study {job.name} in {job.results}")
    if args.wait:
        return _follow(client, submission)
    where = f" --address {quote(args.address)}" if args.address else ""
    say("Next:")
    for command, what in (("status {} -w", "how far it is"), ("logs {} -f", "what it says"), ("stop {}", "end it")):
        say(f"  {program()} {command.format(quote(job.name)) + where}    {what}")
    return 0


def resume_command(args: argparse.Namespace) -> int:
    return submit_command(args, again=True)


def retry_command(args: argparse.Namespace) -> int:
    return submit_command(args, again=True, retry=True)


def jobs_command(args: argparse.Namespace) -> int:
    from automixsearch.cluster import jobs
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
        say("The cluster has no jobs of ours.")
    return 0


def _moment(milliseconds: int | None) -> str | None:
    from datetime import UTC, datetime

    return None if not milliseconds else f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def status_command(args: argparse.Namespace) -> int:
    from automixsearch.cluster import jobs

    client = jobs.connect(args.address)
    said = ""
    while True:
        job = jobs.latest(client, args.job)
        found = _status(job)
        line = dump_json(found) if args.json else _line(found)
        if line != said:
            say(line, flush=True)
            said = line
        if not args.watch:
            return 0
        if jobs.is_over(job):
            return _status_of(job)
        time.sleep(2)


def _status(job: Any) -> dict[str, Any]:
    """Where a submission stands and, as far as the results can be read from here, how many trials have ended and what
    they took; `problem`: why not."""
    from automixsearch.results.store import Store
    from automixsearch.show import costs

    about: Mapping[str, str] = job.metadata or {}
    failed = job.status.is_terminal() and job.status.value != "SUCCEEDED"
    name, place, total = about.get("job", ""), about.get("results", ""), about.get("trials", "")
    found: dict[str, Any] = {
        "job": name,
        "submission": job.submission_id,
        "state": job.status.value.lower(),
        "message": (job.message or "").strip() if failed else "",
        "results": place,
        "total": whole_number(total),
    }
    try:
        store = Store(place, name)
        if not store.exists():
            return found | {"problem": f"no results of {name} in {place} yet, as seen from here"}
        rows = store.trial_rows(["state", "device_s", "energy_j"])
    except (AutoMixError, OSError) as error:
        told = " ".join(str(error).split())[:200]
        return found | {"problem": f"results in {place}, which cannot be read from here ({told})"}
    states = [row["state"] for row in rows]
    seconds, joules = costs(rows)
    counts = {state: states.count(state) for state in ("complete", "pruned", "failed")}
    if found["total"] is not None:
        found["total"] = max(found["total"], len(rows))  # it may have been lowered below what had ended
    return found | {"trials": len(rows), "states": counts, "device_s": seconds, "energy_j": joules, "problem": ""}


def _line(found: Mapping[str, Any]) -> str:
    """The same in a line, and below it why the job has failed."""
    from automixsearch.show import spent

    said = found["problem"] or f"{found['trials']} of {found['total'] or '?'} trials"
    if not found["problem"] and found["trials"]:
        counts = ", ".join(f"{count} {state}" for state, count in found["states"].items() if count)
        said += f" ({counts}), {spent([found])}"
    return f"{found['submission']}: {found['state']}; {said}" + (f"\n{found['message']}" if found["message"] else "")


def logs_command(args: argparse.Namespace) -> int:
    from automixsearch.cluster import jobs

    client = jobs.connect(args.address)
    job = jobs.latest(client, args.job)
    if args.follow:
        return _follow(client, str(job.submission_id))
    print(without_colours(client.get_job_logs(str(job.submission_id))), end="")
    return 0


def _follow(client: Any, submission: str) -> int:
    import asyncio

    async def tail() -> None:
        async for text in client.tail_job_logs(submission):
            print(without_colours(text), end="", flush=True)

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
    from automixsearch.cluster import jobs

    client = jobs.connect(args.address)
    job = jobs.latest(client, args.job)
    if jobs.is_over(job):
        say(f"{job.submission_id} has ended: {job.status.value.lower()}")
        return 0
    client.stop_job(str(job.submission_id))
    where = f" --address {quote(args.address)}" if args.address else ""
    say(f"{job.submission_id} stops; its trials are kept. To go on: {program()} resume JOB_FILE{where}")
    return 0


def add(commands: Any) -> None:
    """Declare the commands."""

    def address(sub: argparse.ArgumentParser) -> None:
        text = "of the cluster's dashboard, http://HEAD:8265 (RAY_API_SERVER_ADDRESS)"
        sub.add_argument("--address", metavar="URL", help=text)

    def job(sub: argparse.ArgumentParser, what: str) -> None:
        sub.add_argument("job", metavar="JOB", help=what)
        address(sub)

    for run, text in ((submit_command, "Send a job to a Ray cluster, or run it here; a job that ran goes on."),
                      (resume_command, "Go on with a job that was stopped or has died."),
                      (retry_command, "Run the failed trials of a job again.")):  # fmt: skip
        sub = declare(commands, run, text)
        job(sub, "a job file or a study file, or the name of one that comes along, e.g. search/quickstart")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. trials=8 results=s3://bucket/mixup")
        sub.add_argument("--dry-run", action="store_true", help="show what would be sent and run")
        sub.add_argument(
            "--wait", action="store_true", help="show the job's output to its end; its exit status is ours"
        )
        sub.add_argument("--debug", action="store_true", help="run it in this process, without Ray: breakpoints work")
        if run is retry_command:
            sub.add_argument("--failed", action="store_true", required=True, help="those that failed (the only kind)")
            add_force(sub)
    sub = declare(commands, jobs_command, "List the jobs of a cluster.")
    address(sub)
    add_json(sub, "the jobs")
    sub = declare(commands, status_command, "Say how far a job is.")
    job(sub, "a job's name")
    sub.add_argument("-w", "--watch", action="store_true", help="until it ends; its exit status is ours")
    add_json(sub, "it")
    sub = declare(commands, logs_command, "Print what a job has said.")
    job(sub, "a job's name")
    sub.add_argument("-f", "--follow", action="store_true", help="until it ends; its exit status is ours")
    sub = declare(commands, stop_command, "Stop a job; what it has measured is kept.")
    job(sub, "a job's name")
