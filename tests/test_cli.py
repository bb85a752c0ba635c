"""Mistakes on the command line are answered with what was meant."""

from __future__ import annotations

import json

import pytest

from automixsearch.cli import main
from automixsearch.commands.report import EXAMPLE
from automixsearch.show import varied


def test_a_misspelt_command_is_told_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["serch", "quickstart"])
    assert "unknown command 'serch'; did you mean 'search'?" in capsys.readouterr().err


def test_listing_a_directory_that_is_not_there_is_refused(capsys, tmp_path):
    assert main(["ls", "--results", str(tmp_path / "none")]) == 2
    assert "there is no such directory; check --results" in capsys.readouterr().err
    assert main(["ls", "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize("number", ["\u0663", "\u00b2", "010", "1_0", "1e1", "+3", " 3", "", "9" * 5000])
def test_a_whole_number_has_plain_digits_or_is_refused_by_name(capsys, number):
    for words in (["search", "quickstart", "--trials"], ["best", "s", "-n"], ["importance", "s", "--permutations"]):
        with pytest.raises(SystemExit, match="2"):
            main([*words[:-1], f"{words[-1]}={number}" if len(words[-1]) > 2 else f"{words[-1]}{number or ' '}"])
        assert "must be a whole number from" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["\u0663", "0_3", "nan", "inf"])
def test_a_number_has_plain_digits_or_is_refused_by_name(capsys, number):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(EXAMPLE), "--margin", number])
    assert f"argument --margin: {number!r} must be a number, in plain digits" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["mixers"], ["mixers", "--all"], ["mixers", "--markdown"]])
def test_every_knob_is_printed(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    for name in ("puzzlemix.", "METHOD.weight", "mix_until", "decoupled_bce.t"):
        assert name in out


def test_the_best_as_json_name_what_was_asked_and_the_verdict_of_the_gate(capsys):
    assert main(["best", str(EXAMPLE), "-n", "2", "--per", "method", "--metric", "val_loss", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["study"], found["n"], found["per"], found["metric"]) == ("example", 2, "method", "val_loss")
    methods = [row["method"] for row in found["best"]]
    assert {methods.count(method) for method in methods} == {2}
    assert min(row["worth"] for row in found["best"]) == found["best"][0]["worth"]
    assert set(found["unresolved"]) <= {row["trial_id"] for row in found["best"][1:]}
    gate = found["gate"]
    assert (gate["baseline"], gate["metric"]) == ("trivialmix", "val_loss")
    assert gate["winner"] in gate["sentence"]  # of those that a choice was made from: a confirmation run is none
    assert gate["difference_low"] < gate["difference"] < gate["difference_high"]
    assert gate["verdict"] in ("better", "worse", "equivalent", "unresolved")


def test_knobs_and_checks_are_printed_as_json(capsys, tmp_path):
    assert main(["mixers", "--all", "--json"]) == 0
    knobs = {row["knob"]: row for row in json.loads(capsys.readouterr().out)}
    assert (knobs["mixup.alpha"]["default"], knobs["mixup.alpha"]["search"]) == (1.0, [0.1, 4.0])
    assert (knobs["epochs"]["kind"], knobs["mixup.lams"]["choices"]) == ("int", ["batch", "sample"])
    assert main(["doctor", "--no-ray", "--results", str(tmp_path), "--json"]) in (0, 1)
    checks = json.loads(capsys.readouterr().out)
    assert {"Python", "packages", "disk", "cache"} <= {check["name"] for check in checks}
    assert all(check["found"] and (check["ok"] or check["remedy"]) for check in checks)


def test_a_table_has_columns_for_knobs_that_differ_within_a_method_or_in_all_rows():
    rows = [
        {"method": "mixup", "knob.lr": 0.1, "knob.lams": "batch", "knob.blocks": None, "knob.depth": None},
        {"method": "comixup", "knob.lr": 0.2, "knob.lams": None, "knob.blocks": 4, "knob.depth": 2},
        {"method": "comixup", "knob.lr": 0.2, "knob.lams": None, "knob.blocks": 8, "knob.depth": 2},
        {"method": "augmix", "knob.lr": 0.2, "knob.lams": None, "knob.blocks": None, "knob.depth": 3},
    ]
    assert varied(rows) == ["knob.lr", "knob.blocks"]
    assert varied([]) == []
