"""`cache`: where decoded images lie."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from automixsearch.commands.terminal import add_json, console, declare, dump_json

if TYPE_CHECKING:
    from automixsearch.data.cache import Entry


def cache_command(args: argparse.Namespace) -> int:
    from automixsearch.data import cache
    from automixsearch.show import make_table

    place = cache.folder()
    if place is None:
        print(dump_json({"place": None, "sets": []}) if args.json else f"off ({cache.VARIABLE}=off)")
        return 0
    gone, found = cache.clear(place) if args.clear else ([], cache.entries(place))
    taken = sum(entry.size for entry in found)
    limit = cache.limit(place)
    if args.json:
        content: dict[str, Any] = {"place": str(place), "bytes": taken, "limit_bytes": limit}
        content |= {"sets": [_row(entry) for entry in found], "removed": [_row(entry) for entry in gone]}
        print(dump_json(content))
        return 0
    if found:
        table = make_table("", ("set", "MB", "last opened (UTC)", "in use"))
        for entry in found:
            table.add_row(entry.name, f"{entry.size / 1e6:,.0f}", f"{_when(entry):%Y-%m-%d %H:%M}", _yes(entry.busy))
        console().print(table)
    if args.clear:
        print(f"removed {len(gone)} sets, {sum(entry.size for entry in gone) / 1e9:,.1f} GB")
    print(f"{taken / 1e9:,.1f} GB of {limit / 1e9:,.1f} GB at {place}")
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    return {"set": entry.name, "bytes": entry.size, "last_opened": _when(entry), "in_use": entry.busy}


def _when(entry: Entry) -> datetime:
    return datetime.fromtimestamp(entry.used_at, UTC)


def _yes(busy: bool) -> str:
    return "yes" if busy else ""


def add(commands: Any) -> None:
    """Add the command to a parser."""
    sub = declare(commands, cache_command, "Show the decoded images that the trials of this machine share.")
    sub.add_argument("--clear", action="store_true", help="remove what nobody has open")
    add_json(sub, "it")
