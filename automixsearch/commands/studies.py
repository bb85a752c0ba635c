"""`study`, `plan`, `ablate`: from a question in a file to its runs, and for ablations to the answer."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automixsearch.studyfile import StudyFile


def study_command(args: argparse.Namespace) -> int:
    from automixsearch.cli import run_and_report

    more = {"retry_failed": args.retry_failed, "force": args.force, "debug": args.debug}
    study = _load(args)
    return run_and_report(study, args, args.results, args.address, lines=args.lines, as_json=args.json, **more)


def _load(args: argparse.Namespace) -> StudyFile:
    from automixsearch.studyfile import load_study_file

    name = [f"name={json.dumps(args.name)}"] if getattr(args, "name", None) else []
    return load_study_file(args.file, [*args.overrides, *name])


def add(commands: Any) -> None:
    """Declare the commands."""
    text = "Run a study file, or go on with it."
    sub = commands.add_parser("study", help=text, description=text)
    sub.set_defaults(run=study_command)
    _file(sub)
    _running(sub)


def _file(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", metavar="FILE", help="a study file, e.g. jobs/sensitivity/alpha.yaml")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. replicates=5 epochs=30 recipe=digits")


def _running(sub: argparse.ArgumentParser) -> None:
    from automixsearch.cli import RESULTS

    sub.add_argument("--name", metavar="STUDY", help="name of the study (the file's)")
    sub.add_argument("--results", default=RESULTS, metavar="DIR_OR_URI", help="where studies lie (results)")
    sub.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster; auto: the one on this machine")
    sub.add_argument("--retry-failed", action="store_true", help="run what failed again")
    sub.add_argument("--force", action="store_true", help="that too which failed three times of one cause")
    sub.add_argument("--debug", action="store_true", help="in this process, without Ray: breakpoints work")
    sub.add_argument("--lines", action="store_true", help="a line for each run that ends, instead of the live view")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
