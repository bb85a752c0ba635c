"""Mistakes on the command line are answered with what was meant."""

from __future__ import annotations

import pytest

from automixsearch.cli import main


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
