"""`automixsearch reproduce`: what it lists."""

from __future__ import annotations

import json

import pytest

from automixsearch.cli import main
from automixsearch.reproduce.registry import TABLES


def test_all_tables_are_listed_with_what_is_missing(capsys):
    assert main(["reproduce", "--list", "--json"]) == 0
    rows = {row["table"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(TABLES)
    assert sum(row["cells"] for row in rows.values()) == 635
    assert rows["automix_small_scale"]["runnable"] == 77
    assert rows["dm_semi_supervised"]["missing"] == {}
    assert rows["automix_imagenet"]["published"]["top1"] == [68.95, 80.98]
    assert main(["reproduce", "--list"]) == 0
    assert "635 figures, 562 of which can be measured here" in capsys.readouterr().out


def test_cells_are_listed_with_conflicts_and_remarks(capsys):
    assert main(["reproduce", "--list", "automix_small_scale:CIFAR-100/RX-50/CutMix,FMix"]) == 0
    out = capsys.readouterr().out
    assert "OpenMixup has 78.32" in out
    assert "a preprint" in out
    assert out.count("epochs not printed") == 1  # what holds for all stands below
    assert main(["reproduce", "--list", "dm_toy:#13", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["published"], row["missing"], row["conflicts"]) == (81.67, "", ["OpenMixup has 78.32 (docs, readme)"])


@pytest.mark.parametrize("target", ["dm_toi", "dm_toy:Cutmx"])
def test_a_misspelt_target_is_told_the_nearest(target, capsys):
    assert main(["reproduce", "--list", target]) == 2
    assert "did you mean" in capsys.readouterr().err
