"""`data`: what a data set holds. `cache`: where decoded images lie."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from automixsearch.commands.terminal import add_json, console, declare, dump_json, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from automixsearch.config.data import Data
    from automixsearch.data.cache import Entry
    from automixsearch.registry import Plugin


def data_command(args: argparse.Namespace) -> int:
    from automixsearch.config.data import SEVERAL, Data
    from automixsearch.config.files import build, read_override
    from automixsearch.config.outside import by_name
    from automixsearch.show import make_table

    content: dict[str, Any] = {"source": args.source}
    for override in args.overrides:
        key, value = read_override(override, "data.path=DIR or data.size=64")
        content[key.removeprefix("data.")] = value
    named = by_name({"data": content})
    data = build(Data, named["data"], "data")
    shown = _scenes(data) if data.source in SEVERAL else _images(data, named.get("plugins", ()))
    if args.json:
        print(dump_json(shown))
        return 0
    rows = shown.pop("parts")
    table = make_table("", (name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    console().print(table)
    for name in ("skipped", "fingerprint"):
        if shown.get(name) is not None:
            say(f"{name}: {shown[name]}")
    for note in shown["notes"]:
        say(note)
    return 0


def _images(data: Data, plugins: tuple[Plugin, ...]) -> dict[str, Any]:
    """A set with one class for each image."""
    import numpy as np

    from automixsearch.data import load

    made = load(data, plugins)
    parts = []
    labelled = made.train if made.labelled is None else made.train.taken(made.labelled)
    for name, part in (("train", labelled), ("test", made.test)):
        height, width, channels = part.images.shape[1:]
        counts = np.bincount(part.labels, minlength=len(made.classes))
        row = {"part": name, "images": len(part), **_classes(counts, made.classes)}
        parts.append(row | {"pixels": f"{width}x{height}x{channels}"})
    if made.unlabelled is not None:
        beside = made.unlabelled
        count = len(beside.part) - (0 if beside.labelled_too else len(labelled))
        parts.append({**dict.fromkeys(parts[0], "-"), "part": "unlabelled", "images": count})
    about = {"name": made.name, "skipped": made.skipped, "fingerprint": made.fingerprint, "notes": made.notes}
    return {"parts": parts, "classes": made.classes, **about}


def _scenes(data: Data) -> dict[str, Any]:
    """A set with several objects in an image."""
    from automixsearch.data.detection import scenes

    made = scenes(data)
    parts = []
    for name, part in (("train", made.train), ("test", made.test)):
        objects, hard = sum(len(scene.labels) for scene in part), sum(int(scene.hard.sum()) for scene in part)
        row = {"part": name, "images": len(part), **_classes(made.present(part).sum(0), made.classes)}
        parts.append(row | {"objects": objects, "hard": hard})
    about = {"name": made.name, "skipped": made.skipped, "fingerprint": None, "notes": made.notes}
    return {"parts": parts, "classes": made.classes, **about}


def _classes(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """How many classes there are, and the images of the smallest and the largest of them."""
    least, most = int(counts.argmin()), int(counts.argmax())
    return {
        "classes": int((counts > 0).sum()),
        "fewest": f"{counts[least]:,} ({classes[least]})",
        "most": f"{counts[most]:,} ({classes[most]})",
    }


def cache_command(args: argparse.Namespace) -> int:
    from automixsearch.data import cache
    from automixsearch.show import make_table

    place = cache.folder()
    if place is None:
        print(dump_json({"place": None, "sets": []}) if args.json else f"off ({cache.VARIABLE}=off)")
        return 0
    gone, found = cache.clear(place) if args.clear else ([], cache.entries(place))
    taken = sum(entry.size for entry in found)
    room = int(cache.SHARE * cache.free(place))
    if args.json:
        content: dict[str, Any] = {"place": str(place), "bytes": taken, "room_bytes": room}
        content |= {"sets": [_row(entry) for entry in found], "removed": [_row(entry) for entry in gone]}
        print(dump_json(content))
        return 0
    if found:
        table = make_table("", ("set", "MB", "last opened (UTC)"))
        for entry in found:
            table.add_row(entry.name, f"{entry.size / 1e6:,.0f}", f"{_when(entry):%Y-%m-%d %H:%M}")
        console().print(table)
    if args.clear:
        say(f"removed {len(gone)} sets, {sum(entry.size for entry in gone) / 1e9:,.1f} GB")
    say(f"{taken / 1e9:,.1f} GB at {place}, and room for a set of {room / 1e9:,.1f} GB")
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    return {"set": entry.name, "bytes": entry.size, "last_opened": _when(entry)}


def _when(entry: Entry) -> datetime:
    return datetime.fromtimestamp(entry.used_at, UTC)


def add(commands: Any) -> None:
    """Add the commands to a parser."""
    sub = declare(commands, data_command, "Look at a data set: read it as a search does, and count.")
    sub.add_argument("source", metavar="SOURCE", help="e.g. cub200, or my.py:load: see search_spaces/README.md")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.path=DIR data.size=64")
    add_json(sub, "it")
    sub = declare(commands, cache_command, "Show the decoded images that the trials of this machine share.")
    sub.add_argument("--clear", action="store_true", help="remove all sets but those that are being built")
    add_json(sub, "it")
