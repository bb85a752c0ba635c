"""Mistakes on the command line are answered with what was meant."""

from __future__ import annotations

import pytest

from automixsearch.cli import main
from automixsearch.show import varied


def test_a_misspelt_command_is_told_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["serch", "quickstart"])
    assert "unknown command 'serch'; did you mean 'search'?" in capsys.readouterr().err


def test_listing_a_directory_that_is_not_there_is_refused(capsys, tmp_path):
    assert main(["ls", "--results", str(tmp_path / "none")]) == 2
    assert "there is no such directory; check --results" in capsys.readouterr().err
    assert main(["ls", "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize("words", [["mixers"], ["mixers", "--all"], ["mixers", "--markdown"]])
def test_every_knob_is_printed(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    for name in ("puzzlemix.", "METHOD.weight", "mix_until", "decoupled_bce.t"):
        assert name in out


def test_a_table_has_columns_for_knobs_that_differ_within_a_method_or_in_all_rows():
    rows = [
        {"method": "mixup", "knob.lr": 0.1, "knob.lams": "batch", "knob.blocks": None, "knob.depth": None},
        {"method": "comixup", "knob.lr": 0.2, "knob.lams": None, "knob.blocks": 4, "knob.depth": 2},
        {"method": "comixup", "knob.lr": 0.2, "knob.lams": None, "knob.blocks": 8, "knob.depth": 2},
        {"method": "augmix", "knob.lr": 0.2, "knob.lams": None, "knob.blocks": None, "knob.depth": 3},
    ]
    assert varied(rows) == ["knob.lr", "knob.blocks"]
    assert varied([]) == []
