"""Scores against published numbers and obvious implementations."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from sklearn import metrics
from torch.nn import functional

from automixsearch.evaluation.classification import ScoreSums


def scores(logits, labels, pieces=1):
    sums = ScoreSums(*logits.shape)
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
    assert math.isnan(ScoreSums(0, 3).scores().top1)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_one_output_that_is_no_number_leaves_no_score(odd):
    sums = ScoreSums(16, 4)
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    sums.add(logits, torch.zeros(8, dtype=torch.int64))
    assert not sums.diverged
    logits[3, 2] = odd
    sums.add(logits, torch.zeros(8, dtype=torch.int64))
    assert sums.diverged
    *numbers, auroc, _ = dataclasses.astuple(sums.scores())
    assert all(map(math.isnan, numbers))
    assert auroc is None


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.filterwarnings("ignore:y_pred contains classes:UserWarning")
def test_scores_of_unequal_classes_equal_those_of_scikit_learn(classes):
    g = torch.Generator().manual_seed(classes)
    labels = torch.multinomial(0.3 ** torch.arange(classes, dtype=torch.float64), 301, True, generator=g)
    labels[labels == 5] = 4  # a class without images
    logits = torch.randn(301, classes, generator=g) + torch.nn.functional.one_hot(labels, classes)
    logits = (2 * logits).round() / 2 + torch.arange(classes) / 16  # ties of images, none of classes
    sums = [ScoreSums(301, classes, rank=rank, size=3) for rank in range(3)]  # as three workers share them
    for rank, one in enumerate(sums):
        for start in (0, 40):
            places = torch.arange(301)[rank::3][start : 40 if start == 0 else None]
            one.add(logits[places], labels[places])
    whole = sums[0]
    for one in sums[1:]:
        whole.sums += one.sums
        whole.images += one.images
    found, predicted, answers = whole.scores(), logits.argmax(1), whole.answers()
    assert (answers.labels == labels.numpy()).all()
    assert (answers.right == (predicted == labels).numpy()).all()
    assert found.balanced_accuracy == pytest.approx(100 * metrics.balanced_accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(100 * metrics.f1_score(labels, predicted, average="macro", zero_division=0))
    auroc = 100 * metrics.roc_auc_score(labels, logits.softmax(1)[:, 1]) if classes == 2 else None
    assert found.auroc == (auroc and pytest.approx(auroc))
    told, counts = answers.columns(), torch.bincount(labels, minlength=classes)
    per_class = metrics.recall_score(labels, predicted, average=None, labels=range(classes), zero_division=math.nan)
    expected = [None if math.isnan(value) else pytest.approx(100 * value, abs=1e-4) for value in per_class]
    assert json.loads(told["class_accuracy"]) == expected
    assert (told["majority"], told["rarest"]) == (pytest.approx(100 * counts.max().item() / 301), counts.min())


def test_one_class_alone_has_no_roc_curve():
    assert scores(torch.randn(9, 2), torch.zeros(9, dtype=torch.int64)).auroc is None
