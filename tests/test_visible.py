"""Stored text that would steer a terminal, a spreadsheet or a page is shown instead."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from automixsearch.cli import main
from automixsearch.commands.report import EXAMPLE
from automixsearch.results.store import Store
from automixsearch.results.study import open_study
from automixsearch.visible import csv_text, visible, without_colours

sys.path.insert(0, str(Path(__file__).parent))
from ledgers import write_study

EVIL = (
    "a\x1b[2J\x1b]0;pwned\x07\x9b31m\u202eb\u2066\r\n[red]c[/red] [link=http://x]d[/link] :warning: | `e` <b>f</b> "
    "\x00\x7f\u2028"
)
"""Escapes, C1, bidi overrides, line breaks, markup of rich, of Markdown and of HTML."""
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", "\rx", "'quoted", "=", "-"]


def steers(text: str) -> set[str]:
    """The characters of an output that a terminal acts upon."""
    return {
        letter for letter in text if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 画像", "plain ü 画像"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb", r"a\u202eb"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\udc80", r"\udc80"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_what_is_not_printed_is_shown_as_an_escape(text, shown):
    assert visible(text) == shown
    assert visible(text).isprintable()


def test_lines_stay_lines_where_a_text_has_several():
    assert visible("a\n\tb\x1b[m\r", lines=True) == "a\n\tb\\x1b[m\\r"
    assert without_colours("\x1b[36m(pid=1)\x1b[0m a\r\n\x1b[2J") == "(pid=1) a\n\\x1b[2J"


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_a_mark_that_can_be_taken_away(text):
    assert csv_text(text) == f"'{text}"
    assert csv_text(text)[1:] == text


@pytest.mark.parametrize("text", ["-1.5", "+3", "1e-5", "-inf", "", "a=1", "mixup"])
def test_numbers_and_other_texts_stay_what_they_are(text):
    assert csv_text(text) == text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A study whose texts are all hostile."""
    place = tmp_path_factory.mktemp("results")
    rows = [
        {"knobs": {"method": "mixup", "mixup.alpha": 0.5 + number}, "score": 50.0 + number, "method": method,
         "device": EVIL, "host": EVIL, "stop_reason": FORMULAS[number], "knob.crop": FORMULAS[number]}
        for number, method in enumerate([EVIL, "=cmd|' /C calc'!A0", "mixup", "@x", "-2+3"])
    ]  # fmt: skip
    write_study(place, "s", rows)
    file = place / "s" / "study.json"
    info = json.loads(file.read_text())
    environment = {"hash": EVIL, "automixsearch": EVIL, "python": EVIL, "packages": {EVIL: EVIL}}
    design = {"name": "grid", "question": EVIL, "about": EVIL, "factors": {}}
    file.write_text(json.dumps(info | {"environments": [environment], "design": design}))
    now = datetime.now(UTC)
    Store(place, "s").write_trial(
        {"trial_id": "t00099", "number": 99, "state": "failed", "error_class": EVIL, "error_message": EVIL,
         "method": EVIL, "started_at": now, "ended_at": now}
    )  # fmt: skip
    return place


@pytest.mark.parametrize(
    "words",
    [
        ["best", "s"],
        ["best", "s", "--per", "method"],
        ["best", "s", "--json"],
        ["show", "s", "t00000"],
        ["show", "s", "t00099"],
        ["show", "s", "t00099", "--json"],
        ["query", "s", "SELECT method, device, error_message FROM trials"],
        ["query", "s", "SELECT device AS \"\x1b[2J\" FROM trials"],
        ["query", "s", "SELECT * FROM trials WHERE \x1b[2J"],
        ["ls"],
        ["compare", "s"],
        ["importance", "s"],
        ["show", "s", "t\x1b[2J"],
        ["best", "\x1b[2J"],
        ["best", "s", "--metric", "\u202e"],
    ],
    ids=lambda words: " ".join(map(ascii, words)),
)  # fmt: skip
def test_no_command_lets_stored_text_steer_the_terminal(hostile, capsys, words, monkeypatch):
    main([*words, "--results", str(hostile)])
    said = capsys.readouterr()
    assert steers(said.out + said.err) == set()
    assert said.out + said.err


def test_the_live_view_shows_what_stored_text_holds(hostile):
    from io import StringIO

    from rich.console import Console

    from automixsearch.commands.watch import Watch
    from automixsearch.config.files import parse_space

    out = StringIO()
    watch = Watch(Console(file=out, markup=False, width=140))
    watch.begin(parse_space({"name": "s", "knobs": {}}, "test"), Store(hostile, "s").trial_rows())
    watch.last = EVIL
    watch.console.print(watch.render())
    assert steers(out.getvalue()) == set()
    assert r"\x1b[2J" in out.getvalue()


def test_a_report_shows_what_stored_text_holds(hostile, tmp_path):
    assert main(["report", "s", "--results", str(hostile), "--out", str(tmp_path / "r")]) == 0
    for name in ("report.html", "report.md"):
        text = (tmp_path / "r" / name).read_text()
        assert steers(text) <= set("\t"), name
        assert r"\x1b[2J" in text or r"\\x1b\[2J" in text
    table = [line for line in (tmp_path / "r" / "report.md").read_text().splitlines() if "pwned" in line]
    assert table
    assert all("<b>" not in line and " `e` " not in line and " | `" not in line for line in table)
    for path in (tmp_path / "r").rglob("*.svg"):
        assert steers(path.read_text()) == set()
    for path in (tmp_path / "r" / "csv").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            assert [
                cell for row in csv.reader(file) for cell in row if cell != csv_text(cell) and cell[:1] != "'"
            ] == []


def test_an_export_holds_no_formula_and_gives_back_every_text(hostile, tmp_path):
    assert main(["export", "s", "--results", str(hostile), "--csv", str(tmp_path / "t.csv")]) == 0
    read = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, na_values=[""])
    told = open_study("s", hostile).trials()
    assert len(read) == len(told) == 6
    for name in told.columns:
        if told[name].dtype == object or str(told[name].dtype) in ("str", "string"):
            cells = [None if pd.isna(cell) else str(cell) for cell in read[name]]
            assert [cell for cell in cells if cell and csv_text(cell) != cell and cell[0] != "'"] == [], name
            if name in ("method", "stop_reason", "device", "error_message"):
                back = [cell.removeprefix("'") if cell else cell for cell in cells]
                assert back == [None if pd.isna(cell) else cell for cell in told[name]], name
    assert read["val_top1"].tolist()[:5] == [50.0, 51.0, 52.0, 53.0, 54.0]


@pytest.mark.parametrize(("command", "words"), [
    (["compare"], ("manifoldmix", "saliencymix", "unresolved", "equiv.", "<0.001")),
    (["best", "-n", "3"], ("test_top1", "val_top1", "vanilla")),
    (["robustness"], ("manifoldmix", "configs")),
    (["importance"], ("importance", "not distinguishable from noise")),
])  # fmt: skip
def test_a_table_of_80_columns_breaks_no_word_and_cuts_none(command, words, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", out)
    assert main([command[0], str(EXAMPLE), *command[1:]]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for word in words:
        assert any(word in line for line in shown.splitlines()), word
