"""`doctor`: what may be amiss on this machine."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from automixsearch.commands.terminal import add_json, add_results, console, declare, dump_json


def doctor_command(args: argparse.Namespace) -> int:
    from automixsearch.doctor import checks

    out, found = console(), []
    for check in checks(args.results, ray=not args.no_ray):
        found.append(check)
        if args.json:
            continue
        mark, style = ("ok  ", "green") if check.ok else ("FAIL", "red") if check.needed else ("note", "yellow")
        out.print(mark, style=style, end=" ")
        out.print(f"{check.name}: {check.found}", highlight=False)
        if not check.ok:
            out.print(f"     -> {check.remedy}", highlight=False)
    if args.json:
        print(dump_json([asdict(check) for check in found]))
    return int(any(check.needed and not check.ok for check in found))


def add(commands: Any) -> None:
    """Declare the command."""
    sub = declare(commands, doctor_command, "Check this machine, with a remedy for everything amiss.")
    sub.add_argument("--no-ray", action="store_true", help="leave out the start of a Ray cluster (seconds)")
    add_results(sub)
    add_json(sub, "the checks")
