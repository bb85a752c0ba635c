"""Accuracy, loss and calibration of a classifier, over all images and by class."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from automixsearch.evaluation.metric import Metric

BINS = 15


@dataclass(frozen=True)
class Scores:
    """Percent, but for loss, the mean cross-entropy, and ece, the expected calibration error, 0 to 1, of 15 equal bins.

    balanced_accuracy: the mean accuracy of the classes that have images. macro_f1: the mean F1 of the classes that have
    images or were answered. auroc: the area under the ROC curve; None where there are not two classes with images.
    own: those of metrics from outside, by name.
    """

    top1: float
    top5: float
    loss: float
    ece: float
    balanced_accuracy: float
    macro_f1: float
    auroc: float | None
    own: Mapping[str, float] = field(default_factory=dict)

    def columns(self, part: str) -> dict[str, Any]:
        """The columns of the ledger, as of the `part` val or test."""
        named = {**vars(self), **self.own}
        del named["own"]
        return {f"{part}_{name}": value for name, value in named.items()}


@dataclass(frozen=True)
class Answers:
    """What a classifier answered: labels and predicted classes, int64 [n] each, in the order of the images."""

    labels: np.ndarray
    predicted: np.ndarray
    classes: int

    @property
    def right(self) -> np.ndarray:
        """bool [n]: whether the answer is the label."""
        return self.labels == self.predicted

    def columns(self) -> dict[str, str | float | int]:
        """What the ledger holds of the classes: the accuracy of each, and how unequal they are."""
        images, hits, _ = self._counts()
        accuracy = [round(100 * h / n, 4) if n else None for h, n in zip(hits.tolist(), images.tolist(), strict=True)]
        return {
            "class_accuracy": json.dumps(accuracy),
            "majority": 100 * float(images.max()) / len(self.labels),
            "rarest": int(images.min()),
        }

    @property
    def balanced_accuracy(self) -> float:
        """See `Scores`."""
        images, hits, _ = self._counts()
        return 100 * float((hits[images > 0] / images[images > 0]).mean())

    @property
    def macro_f1(self) -> float:
        """See `Scores`."""
        images, hits, answered = self._counts()
        both = images + answered
        return 100 * float((2 * hits[both > 0] / both[both > 0]).mean())

    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 [K] each: the images of every class, those answered rightly, and how often it was answered."""
        of = (self.labels, self.labels[self.right], self.predicted)
        images, hits, answered = (np.bincount(each, minlength=self.classes) for each in of)
        return images, hits, answered


class ScoreSums:
    """Sums from which `Scores` follow; they add up over batches and, by all_reduce, over workers.

    Layout of `sums`, float64 [4 + 3 BINS]: images, correct, correct in the top 5, loss; then for each bin of
    top-1 confidence its images, confidence and correct answers. Layout of `images`, float64 [3, n]: of each image its
    label, the predicted class, and for two classes by how much the logit of the second is larger. `own` holds the
    sums of the metrics from outside.

    Args:
        images, classes: how many there are. rank, size: of the worker, which sees every size-th image from rank on.
        metrics: from outside.
    """

    def __init__(
        self,
        images: int,
        classes: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        size: int = 1,
        metrics: Sequence[Metric] = (),
    ) -> None:
        self.classes, self.rank, self.size, self.seen = classes, rank, size, 0
        self.sums = torch.zeros(4 + 3 * BINS, dtype=torch.float64, device=device)
        self.images = torch.zeros(3, images, dtype=torch.float64, device=device)
        self.metrics = metrics
        nothing = torch.zeros(0, classes, device=device), torch.zeros(0, dtype=torch.int64, device=device)
        self.own = [torch.zeros_like(metric.sums(*nothing)) for metric in metrics]
        self.edges = torch.linspace(0, 1, BINS + 1, device=device)[1:-1]

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add the next batch of logits [B, K] with labels int64 [B]."""
        logits = logits.float()
        finite = logits.isfinite().all()
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = top == labels[:, None]
        correct = hits[:, 0].double()
        confidence = functional.softmax(logits, dim=1).amax(dim=1)
        # Bins are (b/15, (b+1)/15], as in Guo et al., arXiv 1706.04599.
        bins = torch.bucketize(confidence, self.edges, right=False)
        per_bin = torch.zeros(3, BINS, dtype=torch.float64, device=self.sums.device)
        values = torch.stack([torch.ones_like(correct), confidence.double(), correct])
        per_bin.index_add_(1, bins, values)
        loss = functional.cross_entropy(logits, labels, reduction="sum").double()
        loss = loss.where(finite, torch.nan)  # infinite ones can leave it finite
        totals = torch.stack([values[0].sum(), correct.sum(), hits.any(dim=1).sum().double(), loss])
        self.sums += torch.cat([totals, per_bin.flatten()])
        margin = logits[:, 1] - logits[:, 0]  # as the softmax ranks images, but never rounded to 1
        end = self.seen + len(labels)
        self.images[:, self.rank :: self.size][:, self.seen : end] = torch.stack([labels, top[:, 0], margin]).double()
        self.seen = end
        for metric, total in zip(self.metrics, self.own, strict=True):
            total += metric.sums(logits, labels)

    @property
    def diverged(self) -> bool:
        """Whether a logit was NaN or infinite, or the loss is."""
        return not self.sums[3].isfinite().item()

    def answers(self) -> Answers:
        """The answers to all images."""
        labels, predicted = self.images[:2].cpu().numpy().astype(np.int64)
        return Answers(labels, predicted, self.classes)

    def scores(self) -> Scores:
        """The scores of everything added so far; NaN where nothing was, or a logit was NaN or infinite."""
        sums = self.sums.cpu()
        count, correct, correct5, loss = sums[:4].tolist()
        if not count or self.diverged:
            return Scores(*[math.nan] * 6, auroc=None, own={metric.name: math.nan for metric in self.metrics})
        _, confidence, hits = sums[4:].view(3, BINS)
        ece = float((hits - confidence).abs().sum()) / count
        answers = self.answers()
        return Scores(
            top1=100 * correct / count,
            top5=100 * correct5 / count,
            loss=loss / count,
            ece=ece,
            balanced_accuracy=answers.balanced_accuracy,
            macro_f1=answers.macro_f1,
            auroc=self._auroc(answers.labels),
            own={metric.name: float(metric.value(total)) for metric, total in zip(self.metrics, self.own, strict=True)},
        )

    def _auroc(self, labels: np.ndarray) -> float | None:
        if self.classes != 2 or len(np.unique(labels)) < 2:
            return None
        from sklearn.metrics import roc_auc_score

        return 100 * float(roc_auc_score(labels, self.images[2].cpu().numpy()))
