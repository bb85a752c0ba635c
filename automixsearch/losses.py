"""The losses of mixed batches: the only place that knows soft labels.

Shapes: B batch, K classes. Every loss takes logits [B, K], the own labels y_a and the partners' labels y_b
(int64 [B]), and lam [B], the share of the own label; it returns a scalar, the mean over the batch, in float32
or better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.knobs import Knobbed, knob
from automixsearch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Tensor


def mce(logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mixup cross-entropy per sample: -lam log p_a - (1 - lam) log p_b, float [B].

    With label smoothing s the target is (1 - s) times the two-hot label plus s / K everywhere.

    Source: Zhang et al., arXiv 1710.09412.
    """
    log_p = functional.log_softmax(logits.float() if logits.dtype.itemsize < 4 else logits, dim=1)
    lam = lam.to(log_p.dtype)
    # A class of weight zero may have log p = -inf; 0 * inf would be NaN.
    own, other = log_p.gather(1, y_a[:, None])[:, 0], log_p.gather(1, y_b[:, None])[:, 0]
    zero = torch.zeros_like(own)
    loss = -(torch.where(lam > 0, lam * own, zero) + torch.where(lam < 1, (1 - lam) * other, zero))
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_p.mean(dim=1)
    return loss


def competitor_free_nll(logits: Tensor, target: Tensor, competitor: Tensor) -> Tensor:
    """-log of the softmax probability of `target` when class `competitor` is struck from the denominator, [B].

    -log phi_{a|b} = logsumexp_{c != b} z_c - z_a. Where target == competitor nothing is struck.

    Source: Liu et al., arXiv 2203.10761, the decoupled softmax.
    """
    struck = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, competitor[:, None], True)
    struck &= (target != competitor)[:, None]
    rest = torch.logsumexp(logits.masked_fill(struck, -torch.inf), dim=1)
    return rest - logits.gather(1, target[:, None])[:, 0]


def decoupled(
    logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor, eta_a: Tensor | float, eta_b: Tensor | float
) -> Tensor:
    """The decoupled term per sample: eta_a (-log phi_{a|b}) + eta_b (-log phi_{b|a}), float [B].

    Zero where the image holds one class only: y_a == y_b, lam == 0 or lam == 1. Swapping the roles of the two
    samples, (y_a, y_b, lam, eta_a, eta_b) -> (y_b, y_a, 1 - lam, eta_b, eta_a), leaves it unchanged.

    Source: Liu et al., arXiv 2203.10761, DM(CE).
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    both = eta_a * competitor_free_nll(logits, y_a, y_b) + eta_b * competitor_free_nll(logits, y_b, y_a)
    two_hot = (y_a != y_b) & (lam > 0) & (lam < 1)
    return torch.where(two_hot, both, torch.zeros_like(both))


@dataclass(frozen=True)
class Loss(Knobbed, ABC):
    """A loss and its knobs."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The mean loss of the batch, a scalar."""


@dataclass(frozen=True)
class MCE(Loss):
    """Mixup cross-entropy: each label weighted by its share."""

    name: ClassVar[str] = "mce"

    def __call__(self, logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return mce(logits, y_a, y_b, lam, label_smoothing).mean()


@dataclass(frozen=True)
class Decoupled(Loss):
    """DM(CE): mixup cross-entropy plus eta times the decoupled term, which makes hard mixed samples confident.

    Source: Liu et al., arXiv 2203.10761; oracles from OpenMixup at 37e1372.
    Differs from the released code: both terms have weight eta (the paper's two-hot form; the release multiplies
    by lam); weights belong to (a, b), where the release ties them to the class order of the batch's first row;
    the term is kept at lam = 0.5 and down to lam > 0, where the release drops it.
    """

    name: ClassVar[str] = "decoupled"

    eta: float = knob(0.1, "weight of the decoupled term", low=0, high=100, search=(0.005, 2.0), log=True)

    def __call__(self, logits: Tensor, y_a: Tensor, y_b: Tensor, lam: Tensor, label_smoothing: float = 0.0) -> Tensor:
        base = mce(logits, y_a, y_b, lam, label_smoothing)
        return (base + decoupled(logits, y_a, y_b, lam, self.eta, self.eta)).mean()


LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (MCE, Decoupled)}
