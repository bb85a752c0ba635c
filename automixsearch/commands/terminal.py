"""How commands speak: consoles, JSON, words of a shell, and the options that many of them have."""

from __future__ import annotations

import argparse
import codecs
import io
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from automixsearch.config.knobs import whole_number
from automixsearch.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

    from automixsearch.results.study import Study

RESULTS = "results"


def declare(
    commands: Any, run: Callable[[argparse.Namespace], int], text: str, name: str | None = None
) -> argparse.ArgumentParser:
    """Declare the command that `run` is the function of, named as it is up to `_command` where no `name` is given."""
    sub = commands.add_parser(name or run.__name__.removesuffix("_command"), help=text, description=text)
    sub.set_defaults(run=run)
    return sub


def add_results(sub: argparse.ArgumentParser) -> None:
    """Declare --results."""
    sub.add_argument("--results", default=RESULTS, metavar="DIR_OR_URI", help="where studies lie (results)")


def add_study(sub: argparse.ArgumentParser) -> None:
    """Declare STUDY and --results, which `open_named` takes."""
    sub.add_argument("study", metavar="STUDY", help="a study's name, directory or URI")
    add_results(sub)


def add_force(sub: argparse.ArgumentParser) -> None:
    """Declare --force."""
    sub.add_argument("--force", action="store_true", help="those too that failed three times of one cause")


def add_running(sub: argparse.ArgumentParser, of: str) -> None:
    """Declare what a search and a study have in common when they run; `of` is what gives a study its name."""
    add_results(sub)
    sub.add_argument("--name", metavar="STUDY", help=f"name of the study ({of}'s)")
    sub.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster; auto: the one on this machine")
    sub.add_argument("--retry-failed", action="store_true", help="run the trials that failed again")
    add_force(sub)
    sub.add_argument("--debug", action="store_true", help="in this process, without Ray: breakpoints work")
    sub.add_argument("--lines", action="store_true", help="a line for each trial that ends, instead of the live view")
    add_json(sub, "the result")


def add_json(sub: argparse.ArgumentParser, what: str) -> None:
    """Declare --json."""
    sub.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def open_named(args: argparse.Namespace) -> Study:
    """The study that the arguments name; `main` tells of its damaged files."""
    from automixsearch.results.study import open_study

    args.study_opened = open_study(args.study, args.results)
    return args.study_opened


MOST = 20
"""As many damaged files are named one by one."""


def tell_damage(problems: list[str]) -> None:
    """Say on stderr what was left out of an answer because it is damaged."""
    for problem in problems[:MOST]:
        say(f"automixsearch: warning: left out {problem}", file=sys.stderr)
    if len(problems) > MOST:
        files = sorted(problem.partition(":")[0] for problem in problems[MOST:])
        say(
            f"automixsearch: warning: left out {len(files)} more files, {files[0]} to {files[-1]}; "
            "best --json names all of them",
            file=sys.stderr,
        )


def whole(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number from `least` on."""

    def read(text: str) -> int:
        value = whole_number(text)
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {least} on, in plain digits")
        return value

    return read


positive = whole(1)


def number(text: str) -> float:
    """A number in plain digits."""
    value = math.nan if "_" in text or not text.isascii() else float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, in plain digits")
    return value


def console(stderr: bool = False) -> Console:
    """A rich console that shows what stored text holds and obeys none of it.

    It is wide enough for a table when the output is piped, and does without our signs where the encoding lacks them.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            # Before cells are measured: what stands for a sign can be longer.
            return super().render_str(text.encode(self.encoding, PLAIN).decode(self.encoding), **options)

        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*(visible(one, lines=True) if isinstance(one, str) else one for one in objects), **how)

    # Messages of errors hold brackets, which must not be read as markup.
    plain: dict[str, Any] = {"stderr": stderr, "markup": False, "emoji": False}
    made = Plain(**plain)
    return made if made.is_terminal else Plain(**plain, width=140)


def say(text: object, file: TextIO | None = None, flush: bool = False) -> None:
    """Print a line, or several; escapes show what stored text holds for terminals."""
    print(visible(str(text), lines=True), file=file, flush=flush)


PLAIN = "automixsearch.plain"
SIGNS = {"±": "+/-", "…": ".", "─": "-", "→": "->"}
"""What stands for our signs where an encoding lacks them."""


def _plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking)
    return "".join(escaped), error.end


codecs.register_error(PLAIN, _plain_signs)


def print_whatever_the_encoding() -> None:
    """Let nothing that is printed fail for a character that the stream's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)


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
        say(f"{left} more columns do not fit: name the ones you want, or use --json")


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


@cache
def program() -> str:
    """How this program was called: by name where the path finds it, else by its place."""
    called = Path(sys.argv[0])
    found = shutil.which("automixsearch")
    if called.name != "automixsearch" or (found is not None and called.exists() and os.path.samefile(found, called)):
        return "automixsearch"
    return quote(str(called) if is_gone() else os.path.relpath(called))


def command_again(words: Sequence[str]) -> str:
    """The command line of this program, to be typed again."""
    return " ".join([program(), *map(quote, words)])


def is_gone() -> bool:
    """Whether the working directory was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def quote(word: str) -> str:
    """A word as a shell takes it."""
    return shlex.quote(word)
