"""`files`: the search spaces, recipes, studies and jobs that come along."""

from __future__ import annotations

import argparse
from typing import Any

from automixsearch.commands.terminal import add_json, console, declare, dump_json


def files_command(args: argparse.Namespace) -> int:
    from automixsearch.config.files import read_text
    from automixsearch.config.shipped import find_shipped, shipped, shipped_root
    from automixsearch.config.yaml import read_yaml
    from automixsearch.errors import SpecError, unknown
    from automixsearch.show import make_table

    kinds = {"search space": "search", "recipe": "recipe=NAME", "study file": "study", "job": "submit"}
    if args.name is not None:
        for kind in kinds:
            if (file := find_shipped(args.name, kind)) is not None:
                print(read_text(file, kind), end="")
                return 0
        raise SpecError(unknown("file", args.name, (name for kind in kinds for name in shipped(kind))))
    rows: dict[str, dict[str, str]] = {}
    for kind, command in kinds.items():
        for file in shipped(kind).values():
            name = str(file.relative_to(shipped_root()).with_suffix(""))
            content: Any = read_yaml(read_text(file, kind), name)
            about = content.get("about") or content["question"]
            rows.setdefault(name, {"file": name, "for": command, "about": about})
    if args.json:
        print(dump_json(list(rows.values())))
        return 0
    table = make_table("Files that come along", ("file", "for", "about"))
    for row in rows.values():
        table.add_row(*row.values())
    console().print(table, highlight=False)
    return 0


def add(commands: Any) -> None:
    """Declare the command."""
    sub = declare(commands, files_command, "List the search spaces, recipes, studies and jobs that come along.")
    sub.add_argument("name", nargs="?", metavar="NAME", help="print this one, to start your own from: > mine.yaml")
    add_json(sub, "the list")
