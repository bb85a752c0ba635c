"""A report as files: one HTML page that needs no other, Markdown, a picture of each figure, and CSV."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from automixsearch import __version__
from automixsearch.report.parts import Report, Section, Table
from automixsearch.visible import visible

if TYPE_CHECKING:
    from automixsearch.results.study import Study

HERE = Path(__file__).parent
LARGEST_LINK = 100_000
"""Letters of CSV that a link of the page holds by itself; longer tables are linked as files."""


def write_report(report: Report, study: Study, out: str | Path) -> Path:
    """Write `report.html`, `report.md`, `figures/*.svg` and `csv/*.csv` into a folder; returns the page.

    Args:
        study: the report's, whose whole rows go into `csv/trials.csv` and `csv/epochs.csv`.
    """
    from automixsearch.results.exports import write_csv

    out = Path(out)
    for folder in ("csv", "figures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_csv(study, out / "csv")
    for table in report.tables:
        (out / "csv" / f"{table.name}.csv").write_text(table.csv, encoding="utf-8")
    for section in report.sections:
        for figure in section.figures:
            (out / "figures" / f"{figure.name}.svg").write_text(alone(figure.svg), encoding="utf-8")
    (out / "report.md").write_text(to_markdown(report), encoding="utf-8")
    page = out / "report.html"
    page.write_text(to_html(report), encoding="utf-8")
    return page


def to_html(report: Report) -> str:
    """The page: styles, script and data inside, nothing is fetched."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    how: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    templates = Environment(loader=FileSystemLoader(HERE), finalize=_shown, **how)
    templates.filters["svg"] = Markup  # drawings escape what they are given
    templates.filters["link"] = _link
    templates.filters["slug"] = lambda text: re.sub(r"\W+", "-", text.lower())
    return templates.get_template("page.html").render(
        report=report,
        version=__version__,
        payload=Markup(json.dumps(report.trials, separators=(",", ":")).replace("<", "\\u003c")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        style=Markup(style()),
    )


def style() -> str:
    """The style sheet, with the dark colours both for systems that are dark and for the button."""
    text = (HERE / "style.css").read_text(encoding="utf-8")
    dark = re.search(r"/\* dark \*/\n(.*?)/\* end \*/\n", text, re.DOTALL)
    assert dark is not None
    return text.replace(dark[0], "") + (
        f"@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{\n{dark[1]}}} }}\n"
        f"@media screen {{ :root[data-theme=dark] {{\n{dark[1]}}} }}\n"
    )


def _link(table: Table) -> str:
    """Where the CSV of a table is: in the link itself, or in a file beside the page."""
    if len(table.csv) > LARGEST_LINK:
        return f"csv/{quote(table.name)}.csv"
    return "data:text/csv;charset=utf-8," + quote(table.csv)


def alone(svg: str) -> str:
    """A drawing with the part of the style sheet that it needs, to stand in a file of its own."""
    rules = re.search(r"/\* figures \*/\n(.*?)/\* end of figures \*/", style(), re.DOTALL)
    colours = re.search(r":root \{\n(.*?)\n\}", style(), re.DOTALL)
    dark = re.search(r":root\[data-theme=dark\] \{\n(.*?)\}", style(), re.DOTALL)
    assert rules is not None
    assert colours is not None
    assert dark is not None
    sheet = (
        f":root {{ {colours[1]} background: var(--ground); font-family: system-ui, sans-serif }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark[1]} }} }}\n{rules[1]}"
    )
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    head = f'<svg width="{size[1]}" height="{size[2]}" '
    return svg.replace("<svg ", head, 1).replace('">', f'"><style>{sheet}</style>', 1)


# Markdown ----------------------------------------------------------------------------------------------------


def to_markdown(report: Report) -> str:
    """The report as Markdown: sentences, tables, links to the figures and the CSV files."""
    lines = [f"# {_md(report.question)}", "", f"Study `{report.study}`. {_md(report.about)}".rstrip(), ""]
    lines += [f"* **{verdict.kind}**: {_md(verdict.sentence)}" for verdict in report.verdicts]
    lines += ["", *_md_table(["", ""], [[label, value] for label, value in report.facts])]
    for section in report.answered:
        lines += ["", *_md_section(section)]
    if report.unanswered:
        lines += ["", "## What this study cannot say", ""]
        for sections, reason in report.unanswered:
            lines.append(f"* **{', '.join(_md(section.title) for section in sections)}**: {_md(reason)}")
    return "\n".join(lines) + "\n"


def _md_section(section: Section) -> list[str]:
    lines = [f"## {_md(section.title)}", ""]
    lines += [_md(text) + "\n" for text in (*section.says, section.about) if text]
    lines += [f"*{_md(text)}*\n" for text in section.missing]
    for figure in section.figures:
        lines += [f"![{_md(figure.title)}](figures/{quote(figure.name)}.svg)", "", _md(figure.caption), ""]
    for table in section.tables:
        if table.columns:
            shown = table.rows[: table.shown]
            cells = [[column.text(row) for column in table.columns] for row in shown]
            lines += [f"**{_md(table.title)}**", ""] if table.title else []
            lines += _md_table([column.label for column in table.columns], cells)
            left = len(table.rows) - len(shown)
            lines += ["", f"{left} more rows in the CSV." if left else "", _md(table.note)]
        lines += [f"[{table.name}.csv](csv/{quote(table.name)}.csv)", ""]
    for table in section.numbers:
        lines += [f"[{table.name}.csv](csv/{quote(table.name)}.csv)", ""]
    return lines


def _md_table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(map(_md, cells)) + " |" for cells in (head, ["---"] * len(head), *rows)]


def _shown(value: Any) -> Any:
    return visible(value, lines=True) if type(value) is str else value  # what is marked as HTML was made here


def _md(value: Any) -> str:
    text = escape(visible(" ".join(str(value).split("\n"))), quote=False)
    return re.sub(r"([\\|*_`~#\[\]])", r"\\\1", text) if text != "---" else text
