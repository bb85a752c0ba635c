"""The command line. Each command has its function, and its options beside it, in `automixsearch/commands/`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import suppress
from typing import NoReturn

from automixsearch import __version__
from automixsearch.commands import (
    analysis,
    data,
    doctor,
    evaluate,
    files,
    jobs,
    mixers,
    predict,
    report,
    reproduce,
    results,
    search,
    studies,
)
from automixsearch.commands.terminal import is_gone, print_whatever_the_encoding, program, say, tell_damage
from automixsearch.errors import AutoMixError, remedy, unknown
from automixsearch.secrecy import redact
from automixsearch.stopping import as_interrupt, holds_up, last_signal

INTERRUPTED = 130
GROUPS = (search, studies, files, jobs, results, evaluate, predict, report, mixers, data, reproduce, analysis, doctor)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit status.

    0 done, 1 nothing succeeded, 2 refused; interrupted: 130, by SIGTERM 143, by SIGHUP 129.
    """
    print_whatever_the_encoding()
    words = sys.argv[1:] if argv is None else argv
    args = parse(words)
    program()  # while its place can be told: the working directory can be gone at the end
    with as_interrupt():
        status = _run(args)
    status = 128 + last_signal() if status == INTERRUPTED else status
    if holds_up():
        with suppress(OSError):  # a terminal that is gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return status


def _run(args: argparse.Namespace) -> int:
    try:
        return args.run(args)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader has left (`| head`); Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        where = f"{error.filename}: " if error.filename else ""
        told = "the working directory is gone: cd to one that exists"
        if not is_gone():
            told = f"{where}{error.strerror or error}; {remedy(error)}"
        say(redact(f"automixsearch: {told}"), file=sys.stderr)
        return 2
    except AutoMixError as error:
        say(f"automixsearch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("automixsearch: interrupted; everything reported so far is kept", file=sys.stderr)
        return INTERRUPTED
    finally:
        tell_damage(args.study_opened.corrupt if hasattr(args, "study_opened") else [])


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
    for group in GROUPS:
        group.add(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
