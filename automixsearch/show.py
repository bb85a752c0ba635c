"""Rows as people read them: tables that fit a terminal, policies in words."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from automixsearch.analysis.best import Best
    from automixsearch.config.knobs import Knob

from automixsearch.config.catalogue import Catalogue, catalogue
from automixsearch.config.knobs import knobs_of
from automixsearch.config.policy import WEIGHT, methods_of
from automixsearch.mixers import MIXERS
from automixsearch.registry import Plugin
from automixsearch.results.schema import in_percent
from automixsearch.visible import visible


def policy_of(row: Mapping[str, Any]) -> str:
    """The mixing policy of a ledger row: `cutmix alpha=0.2, decoupled eta=0.1`."""
    knobs = [f"{name}={brief(row[name])}" for name in ("alpha", "gamma", "layer") if row.get(name) is not None]
    methods = methods_of(row.get("method") or "unknown method")
    if len(methods) > 1:
        alphas = [brief(row.get(f"knob.{name}.alpha")) for name in methods]
        knobs = [f"alpha={','.join(alphas)}", *knobs]
    loss = row.get("knob.loss")
    if loss not in (None, "mce"):
        eta = "" if row.get("eta") is None else f" eta={brief(row['eta'])}"
        knobs.append(f"+ {loss}{eta}")
    return visible(" ".join(["+".join(methods), *knobs]))


def brief(value: object) -> str:
    """A value in few characters: three significant digits for numbers (just below 1: six), `-` for nothing."""
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.{6 if 0.9995 <= value < 1 else 3}g}"
    return visible(str(value)) or "-"


def score(name: str, value: Any) -> str:
    """A metric with the digits that mean something."""
    if value is None or value != value:
        return "-"
    return f"{value:.2f}" if in_percent(name) else f"{value:.4g}"


def error_of(row: Mapping[str, Any], name: str) -> float | None:
    """Half the 95 % interval of an accuracy, in points, from the number of images alone (Wilson); None for others.

    Another seed or split moves results further; it needs runs of its own.
    """
    images = row.get(f"{name.split('_')[0]}_images")
    value = row.get(name)
    if not images or value is None or not name.endswith(("top1", "top5")):
        return None
    share, z = value / 100, 1.96
    spread = share * (1 - share) / images + z**2 / (4 * images**2)
    return 100 * z * spread**0.5 / (1 + z**2 / images)


def with_error(row: Mapping[str, Any], name: str, runs: int = 1) -> str:
    """A metric, with the error of a single run where that is known, and the share that an accuracy does not clear."""
    error, share = error_of(row, name), not_cleared(row, name)
    text = score(name, row.get(name)) + (f" ±{error:.1f}" if error is not None and runs == 1 else "")
    return text + (f" (majority {share:.2f})" if share is not None else "")


def not_cleared(row: Mapping[str, Any], name: str) -> float | None:
    """The share of the largest class, in percent, where a top-1 accuracy is not above it by more than its error."""
    value, share = row.get(name), row.get(f"{name.split('_')[0]}_majority")
    if "top1" not in name or value is None or share is None or value - (error_of(row, name) or 0.0) > share:
        return None
    return share


FEW = 10
"""Images of a class below which its accuracy says next to nothing."""


def class_notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What to know of accuracies where classes are unequal: that guessing does as well, that a class has few images."""
    rows, notes = list(rows), []
    unclear = [row["trial_id"] for row in rows if any(not_cleared(row, f"{part}_top1") for part in ("val", "test"))]
    if unclear:
        who = visible(", ".join(unclear[:3])) + (f" and {len(unclear) - 3} more" if len(unclear) > 3 else "")
        notes.append(
            f"An accuracy of {who} is no better, for all that its images tell, than always answering the class of most "
            "images (majority, its share in percent); see val_balanced_accuracy and val_class_accuracy."
        )
    rarest = {part: [n for row in rows if (n := row.get(f"{part}_rarest")) is not None] for part in ("val", "test")}
    return notes + few_images(*(min(counts, default=None) for counts in rarest.values()))


def few_images(val: int | None, test: int | None) -> list[str]:
    """A note where the rarest class has few images in the validation split or in the test set."""
    parts = [f"{count} in the {part}" for part, count in (("validation split", val), ("test set", test))
             if count is not None and count < FEW]  # fmt: skip
    if not parts:
        return []
    return [f"The rarest class has fewer than {FEW} images ({', '.join(parts)}): what is said of it rests on each one."]


def duration(seconds: float) -> str:
    """`42 s`, `3:05 min`, `1:02:03 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h"


def energy(joules: float) -> str:
    """`850 J`, `12.3 Wh`, `3.4 kWh`."""
    if joules < 3600:
        return f"{joules:.3g} J"
    return f"{joules / 3600:.3g} Wh" if joules < 3.6e6 else f"{joules / 3.6e6:.4g} kWh"


def costs(rows: Iterable[Mapping[str, Any]]) -> tuple[float, float | None]:
    """Device-seconds of trials, and joules as far as their devices tell; None where none does."""
    rows = list(rows)
    told = [row["energy_j"] for row in rows if row.get("energy_j") is not None]
    return sum(row.get("device_s") or 0.0 for row in rows), sum(told) if told else None


def spent(rows: Iterable[Mapping[str, Any]]) -> str:
    """What trials took: `1:02:03 h of device time, 3.4 kWh`."""
    seconds, joules = costs(rows)
    return f"{duration(seconds)} of device time" + (f", {energy(joules)}" if joules is not None else "")


def varied(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The `knob.` columns that are worth a column of a table: they differ between rows that all have them, or between
    rows of one method; what only tells one method from another is left out."""

    def differ(values: Iterable[Any]) -> bool:
        return len({str(value) for value in values if value is not None}) > 1

    methods: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        methods.setdefault(row.get("method"), []).append(row)
    names = [name for name in (rows[0] if rows else {}) if name.startswith("knob.") and name != "knob.loss"]
    return [
        name
        for name in names
        if any(differ(row.get(name) for row in same) for same in methods.values())
        or (all(row.get(name) is not None for row in rows) and differ(row[name] for row in rows))
    ]


def best_table(answer: Best, title: str) -> Table:
    """The best configs: policy, varied knobs, runs, the mean that they rank by, what they are worth, test top-1."""
    rows, metric = [place.row for place in answer.places], answer.metric
    table = make_table(title)
    table.add_column("#", justify="right")
    table.add_column("trial")
    table.add_column("policy", overflow="fold")
    knobs = varied(rows)[:4]
    for name in knobs:
        table.add_column(name.removeprefix("knob."), justify="right")
    table.add_column("runs", justify="right")
    metrics = list(dict.fromkeys([metric, "val_top1", "test_top1"]))
    for name in metrics:
        style = "bold" if name == metric else ""
        table.add_column(name + (" %" if in_percent(name) else ""), justify="right", style=style)
    worth = any(place.worth.known for place in answer.places)
    if worth:
        table.add_column("worth", justify="right")
    table.add_column("wall", justify="right")
    for rank, (place, row) in enumerate(zip(answer.places, rows, strict=True), 1):
        cells = [f"{rank} {'=' if place.alike and answer.alike > 1 else ' '}", row["trial_id"], policy_of(row)]
        cells += [*(brief(row.get(name)) for name in knobs), str(place.runs)]
        cells += [with_error(row, name, place.runs) for name in metrics]
        cells += [str(place.worth)] if worth else []
        table.add_row(*cells, duration(row["wall_s"]) if row.get("wall_s") is not None else "-")
    return table


WORD, NARROW = 14, 100
"""Letters of a word that a table keeps whole where it is narrow; columns of a terminal below which it is."""


def make_table(title: str, columns: Iterable[str] = ()) -> Table:
    """A plain table with thin lines, whose cells show what stored text holds and obey none of it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    class Cells(Table):
        def add_row(self, *cells: Any, **how: Any) -> None:
            super().add_row(*(visible(cell) if isinstance(cell, str) else cell for cell in cells), **how)

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            if options.max_width < NARROW:
                self._narrow()
            yield from super().__rich_console__(console, options)

        def _narrow(self) -> None:
            """Columns stand closer, words stay whole, and columns of sentences give way."""
            self.collapse_padding = True
            for column in self.columns:
                words = [str(cell).split() or [""] for cell in column.cells]
                if all(len(cell) == 1 for cell in words):
                    column.no_wrap = True
                    column.header = str(column.header).replace(" ", "\n")
                column.min_width = min(max((len(word) for cell in words for word in cell), default=0), WORD)

    look: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": SIMPLE_HEAD, "pad_edge": False}
    table = Cells(title=visible(title), **look)
    for column in columns:
        table.add_column(visible(column), overflow="fold")
    return table


HINTS = {
    "NonFiniteLoss": "lower lr, or the upper end of eta",
    "Diverged": "lower lr, or the upper end of eta",
    "OutOfMemory": "it had all that one trial can have: lower batch_size or width",
    "WorkerDied": "nothing is known of its end: see Ray's logs of its node",
    "SIGKILL": "killed from outside; if by the kernel for want of memory (dmesg), lower batch_size or width",
    **dict.fromkeys(
        ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"),
        "a fault of compiled code that the config or this build of torch meets: try another version of torch",
    ),
    "StorageError": "check the place of the results, and its room: automixsearch doctor",
    "DataError": "check the data set: automixsearch doctor, data.path",
}


def failures(rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, str, str, str]]:
    """Failed trials grouped by cause: (count, error class, first line of the message, hint)."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["state"] == "failed":
            groups.setdefault(row.get("error_class") or "unknown", []).append(row)
    found = [
        (len(group), visible(name), _first_line(group[0].get("error_message")), HINTS.get(name, ""))
        for name, group in groups.items()
    ]
    return sorted(found, reverse=True)


def _first_line(message: str | None) -> str:
    return visible((message or "").split("\n")[0][:200])


KNOB_COLUMNS = ("knob", "default", "legal", "searched with auto", "published", "meaning")


def knobs(everything: bool, plugins: tuple[Plugin, ...] = ()) -> list[tuple[str, Knob, str]]:
    """The declared knobs of methods, losses and policies (with `everything`, of training too), those of `plugins`
    included: their names in a space, and what is published of them."""
    named: list[tuple[str, Knob, str]] = []
    known = catalogue(plugins)
    for name, entry in known.items():
        if entry.policy and not any(row[0] == "METHOD.weight" for row in named):
            named.append(("METHOD.weight", WEIGHT, ""))
        ours = entry.method or entry.loss or entry.policy
        if not entry.joint and (everything or ours or entry.algorithm in {plugin.name for plugin in plugins}):
            named.append((name, entry.knob, published_of(known, entry.method, entry.knob.name)))
    return named


def knob_rows(everything: bool, plugins: tuple[Plugin, ...] = ()) -> list[tuple[str, ...]]:
    """The declared knobs in words, as `KNOB_COLUMNS`."""
    declared = knobs(everything, plugins)
    return [(n, brief(k.default), k.legal, k.searched or "-", known or "-", k.note) for n, k, known in declared]


def knob_content(everything: bool = False, plugins: tuple[Plugin, ...] = ()) -> list[dict[str, Any]]:
    """The declared knobs as plain values; `search` is what a space gets that says auto."""
    names = ("default", "low", "high", "open_low", "choices", "search", "log", "note")
    return [
        {"knob": name, "kind": knob.kind.__name__, **{key: getattr(knob, key) for key in names}, "published": known}
        for name, knob, known in knobs(everything, plugins)
    ]


def published_of(known: Catalogue, method: str | None, knob: str) -> str:
    """The values of a knob in published tables: one where all families agree, else by family or backbone."""
    settings = known.published(method) if method else {}
    values = {family: brief(setting[knob]) for family, setting in settings.items() if knob in setting}
    families = [key for key in settings if "/" not in key]
    shared = {values.get(family) for family in families}
    common = shared.pop() if len(shared) == 1 else None
    by_value: dict[str, list[str]] = {} if common is None else {common: []}
    for key, value in values.items():
        if key not in families or common is None:
            by_value.setdefault(value, []).append(key)
    return "; ".join(value if value == common else f"{value} ({', '.join(keys)})" for value, keys in by_value.items())


def knob_table(everything: bool = False, plugins: tuple[Plugin, ...] = ()) -> Table:
    """The declared knobs as a terminal table."""
    table = make_table("Knobs of mixing methods, losses and policies", KNOB_COLUMNS)
    for row in knob_rows(everything, plugins):
        table.add_row(*row)
    return table


def method_rows() -> list[tuple[str, ...]]:
    """Every mixing method: name, what it does, its knobs, where it comes from."""
    rows = []
    for name, mixer in MIXERS.items():
        doc = (sys.modules[mixer.__module__].__doc__ or "").strip().partition("\n")[0]
        rows.append((name, doc.partition(": ")[2].rstrip("."), ", ".join(knobs_of(mixer)) or "-", mixer.source))
    return rows


def method_table_markdown() -> str:
    """The mixing methods as a Markdown table."""
    return markdown(("method", "what it does", "knobs", "source"), method_rows())


def knob_table_markdown(everything: bool = False, plugins: tuple[Plugin, ...] = ()) -> str:
    """The declared knobs as a Markdown table."""
    return markdown(KNOB_COLUMNS, knob_rows(everything, plugins))


def markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Rows as a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))
