"""Accuracy, loss and calibration of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15


@dataclass(frozen=True)
class Scores:
    """top1, top5: percent. loss: mean cross-entropy. ece: expected calibration error, 0 to 1, 15 equal bins."""

    top1: float
    top5: float
    loss: float
    ece: float


class ScoreSums:
    """Sums from which `Scores` follow; they add up over batches and, by all_reduce, over workers.

    Layout of `sums`, float64 [4 + 3 BINS]: images, correct, correct in the top 5, loss; then for each bin of
    top-1 confidence its images, confidence and correct answers.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(4 + 3 * BINS, dtype=torch.float64, device=device)
        self.edges = torch.linspace(0, 1, BINS + 1, device=device)[1:-1]

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch of logits [B, K] with labels int64 [B]."""
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

    @property
    def diverged(self) -> bool:
        """Whether a logit was NaN or infinite, or the loss is."""
        return not self.sums[3].isfinite().item()

    def scores(self) -> Scores:
        """The scores of everything added so far; NaN where nothing was, or a logit was NaN or infinite."""
        sums = self.sums.cpu()
        count, correct, correct5, loss = sums[:4].tolist()
        if not count or self.diverged:
            return Scores(*[float("nan")] * 4)
        _, confidence, hits = sums[4:].view(3, BINS)
        ece = float((hits - confidence).abs().sum()) / count
        return Scores(100 * correct / count, 100 * correct5 / count, loss / count, ece)
