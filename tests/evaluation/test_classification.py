"""Scores against published numbers and obvious implementations."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from automixsearch.evaluation.classification import ScoreSums


def scores(logits, labels, pieces=1):
    sums = ScoreSums()
    for part, answer in zip(logits.chunk(pieces), labels.chunk(pieces), strict=True):
        sums.add(part, answer)
    return sums.scores()


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_calibration_error_equals_the_reference(golden, case):
    file = golden("ece")
    logits, labels = torch.from_numpy(file[f"{case}_logits"]), torch.from_numpy(file[f"{case}_labels"])
    assert scores(logits, labels).ece == pytest.approx(float(file[f"{case}_ece_guo_15"]), abs=1e-6)


def test_scores_do_not_depend_on_how_the_set_is_cut():
    logits, labels = torch.randn(101, 7, generator=torch.Generator().manual_seed(0)), torch.arange(101) % 7
    whole, cut = scores(logits, labels), scores(logits, labels, 4)
    assert whole.top1 == cut.top1 == 100 * (logits.argmax(1) == labels).double().mean().item()
    assert whole.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), abs=1e-6)
    assert whole.ece == pytest.approx(cut.ece, abs=1e-9)
    assert whole.loss == pytest.approx(cut.loss, abs=1e-6)


def test_top_five_of_four_classes_is_everything():
    assert scores(torch.randn(10, 4), torch.zeros(10, dtype=torch.int64)).top5 == 100


def test_a_certain_and_correct_classifier_is_calibrated():
    found = scores(torch.eye(6) * 100, torch.arange(6))
    assert (found.top1, found.ece) == (100, pytest.approx(0, abs=1e-9))


def test_nothing_seen_is_nan():
    assert math.isnan(ScoreSums().scores().top1)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_one_output_that_is_no_number_leaves_no_score(odd):
    sums = ScoreSums()
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    sums.add(logits, torch.zeros(8, dtype=torch.int64))
    assert not sums.diverged
    logits[3, 2] = odd
    sums.add(logits, torch.zeros(8, dtype=torch.int64))
    assert sums.diverged
    assert all(math.isnan(value) for value in dataclasses.astuple(sums.scores()))
