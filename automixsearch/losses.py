"""The losses of mixed batches: the only place that knows soft labels.

Shapes: B batch, K classes, S sources of a mixed sample (2 for pairs). Every loss takes logits [B, K], the labels of
the sources (int64 [B, S]) and their shares (float [B, S], rows sum to 1), as `y[mixed.sources]` and `mixed.shares`
give them, and returns a scalar, the mean over the batch, in float32 or better. Shares are per sample, and a class of
share zero has no effect, whatever its logit is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import Knobbed, Scalar, knob
from automixsearch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "LOSSES",
    "MCE",
    "Decoupled",
    "DecoupledBCE",
    "Loss",
    "SoftmaxBCE",
    "smoothed",
    "soft_labels",
    "weighted_mean",
]


def mce(logits: Tensor, labels: Tensor, shares: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mixup cross-entropy per sample: -sum over sources of share log p[label], float [B].

    With label smoothing s the target is (1 - s) times the soft label plus s / K everywhere.

    Source: Zhang et al., arXiv 1710.09412.
    """
    log_p = functional.log_softmax(_wide(logits), dim=1)
    loss = -_weighted(log_p.gather(1, labels), shares)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_p.mean(dim=1)
    return loss


def competitor_free_nll(logits: Tensor, labels: Tensor, present: Tensor | None = None) -> Tensor:
    """-log of the softmax probability of each label when all its competitors are struck from the denominator, [B, S].

    The competitors of a label are the other classes in the same row, where `present` (bool [B, S]; default: all).
    For a pair, -log phi_{a|b} = logsumexp_{c != b} z_c - z_a; its gradient with respect to z_b is zero.

    Source: Liu et al., arXiv 2203.10761, the decoupled softmax; for more than two labels ours.
    """
    logits = _wide(logits)
    here: Tensor = torch.ones_like(labels, dtype=torch.bool) if present is None else present
    own, others = labels[:, :, None], labels[:, None, :]
    struck = torch.zeros(*labels.shape, logits.shape[1], dtype=torch.bool, device=logits.device)
    struck.scatter_(2, torch.where(here[:, None, :], others, own), True).scatter_(2, own, False)
    remaining = torch.logsumexp(logits[:, None].masked_fill(struck, -torch.inf), dim=2)
    return remaining - logits.gather(1, labels)


def decoupled(logits: Tensor, labels: Tensor, shares: Tensor, weights: Tensor | float) -> Tensor:
    """The decoupled term per sample: sum over sources of weight (-log phi), float [B].

    Zero where the image holds one class only. Of several sources of one class the first speaks for all.

    Args:
        weights: [B, S] or one number for all; where a share is zero the weight is taken as zero.

    Source: Liu et al., arXiv 2203.10761, DM(CE).
    """
    present = by_class(labels, shares) > 0
    chosen = torch.as_tensor(weights, device=logits.device) * (present & (present.sum(dim=1, keepdim=True) > 1))
    return _weighted(competitor_free_nll(logits, labels, present), chosen)


def by_class(labels: Tensor, shares: Tensor) -> Tensor:
    """The shares with those of one class added up at its first source, and zero at the others: [B, S]."""
    same = labels[:, :, None] == labels[:, None, :]
    first = ~torch.tril(same, diagonal=-1).any(dim=2)
    return (same * shares[:, None, :]).sum(dim=2) * first


def jensen_shannon(logits: Tensor) -> Tensor:
    """Divergence of the predictions of V views of the same images from their mean: [V, B, K] -> [B], 0 to log V.

    The mean over views of KL(p_v || M), M the mean of p_v.

    Source: Hendrycks et al., arXiv 1912.02781, eq. 1.
    Differs: log M is exact, where the released code raises M to 1e-7; the loss is zero where predictions are equal.
    """
    log_p = functional.log_softmax(_wide(logits), dim=2)
    log_mean = log_p.logsumexp(dim=0) - math.log(len(log_p))
    return functional.kl_div(log_mean.expand_as(log_p), log_p, reduction="none", log_target=True).sum(dim=2).mean(dim=0)


def adjusted(share: Tensor, t: float, xi: float) -> Tensor:
    """The share as a weight: 1 from `t` on, (share / t)^xi below; 0 stays 0, so that nothing absent counts.

    Source: Liu et al., arXiv 2203.10761; as released, OpenMixup at 37e1372.
    """
    return torch.where(share > 0, (share / t).clamp(max=1) ** xi, torch.zeros_like(share))


def chosen_sides(shares: Tensor, weighting: str) -> Tensor:
    """Which sources the decoupled term works on, 0 or 1 [B, S]: all present, those of least share, or of most.

    Where all shares are equal neither is less or more: each counts half, so that the order of a pair never matters.
    """
    present = shares > 0
    if weighting == "both":
        return present.to(shares.dtype)
    if weighting == "less":
        bound = shares.masked_fill(~present, torch.inf).min(dim=1, keepdim=True).values
    else:
        bound = shares.max(dim=1, keepdim=True).values
    chosen = ((shares - bound).abs() < 1e-9) & present
    return chosen / chosen.sum(dim=1, keepdim=True)


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype.itemsize < 4 else logits


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Sum of weight times value along the last axis, where 0 times infinity is 0."""
    weights = weights.to(values.dtype)
    # The value is replaced, not the product: else the gradient of the product would be NaN.
    return (weights * torch.where(weights > 0, values, torch.zeros_like(values))).sum(dim=1)


@dataclass(frozen=True)
class Loss(Knobbed, ABC):
    """A loss and its knobs.

    Examples:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> @dataclass(frozen=True)
        ... class Brier(Loss):
        ...     name: ClassVar[str] = "brier"
        ...     def __call__(self, logits, labels, shares, label_smoothing=0.0, labelled=None, weights=None):
        ...         p = logits.softmax(dim=1)
        ...         target = smoothed(soft_labels(labels, shares, p.shape[1]), label_smoothing)
        ...         return weighted_mean((p - target).square().sum(dim=1), weights)
        >>> Brier()(torch.zeros(1, 2), torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]])).item()
        0.0
    """

    name: ClassVar[str]
    published: ClassVar[Mapping[str, Mapping[str, Mapping[str, Scalar]]]] = {}
    """Knob values used for published tables, of the loss and of the method, by family of data sets (or
    family/backbone) and method."""

    @abstractmethod
    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        shares: Tensor,
        label_smoothing: float = 0.0,
        labelled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The mean loss of the batch, a scalar.

        Args:
            labelled: bool [B, S], which labels are known; the others are guessed (pseudo labels), and the decoupled
                weights apply to the known ones only, the asymmetric strategy of arXiv 2203.10761. None: all.
            weights: float [B], what the loss of each image is multiplied by before the mean over all of them is taken;
                None: 1.
        """

    def clean_scale(self, num_classes: int) -> float:
        """What a cross-entropy of clean images must be multiplied by to be of the size of this loss."""
        return 1.0


@dataclass(frozen=True)
class MCE(Loss):
    """Mixup cross-entropy: each label weighted by its share.

    Source: Zhang et al., arXiv 1710.09412.

    Examples:
        >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0, 1]])
        >>> round(MCE()(logits, labels, torch.tensor([[0.75, 0.25]])).item(), 4)
        0.7395
    """

    name: ClassVar[str] = "mce"

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        shares: Tensor,
        label_smoothing: float = 0.0,
        labelled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        return weighted_mean(mce(logits, labels, shares, label_smoothing), weights)


@dataclass(frozen=True)
class Decoupled(Loss):
    """DM(CE): mixup cross-entropy plus eta times the decoupled term, which makes hard mixed samples confident.

    The term has weight eta for every class of the image, as in the paper. `xi` > 0 weighs it by (share / t)^xi, at
    most 1, and `weighting` restricts it to the class of the smaller (less) or larger (more) share, as the released
    settings do.

    Source: Liu et al., arXiv 2203.10761; oracles from OpenMixup at 37e1372.
    Differs from the released code: the default has no share in the weights (the paper's two-hot form); weights
    belong to the sources, where the release ties them to the class order of the batch's first row and so trains the
    wrong term in half of the batches; shares are per sample; the term is kept at a share of 0.5 (less and more: half
    of each) and down to any share > 0, where the release drops it.

    Examples:
        >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0, 1]])
        >>> round(Decoupled(eta=0.1)(logits, labels, torch.tensor([[0.75, 0.25]])).item(), 4)
        0.8216
    """

    name: ClassVar[str] = "decoupled"
    published: ClassVar = {
        "cifar": {  # OpenMixup at 37e1372, ResNet-18 on CIFAR-100, 800 epochs
            "mixup": {"eta": 0.01, "weighting": "more", "xi": 0.5, "alpha": 0.2},
            "cutmix": {"eta": 0.1, "weighting": "less", "xi": 0.5, "alpha": 0.2},
            "manifoldmix": {"eta": 0.01, "weighting": "more", "xi": 0.0, "alpha": 0.5},
            "fmix": {"eta": 0.01, "weighting": "less", "xi": 0.0, "alpha": 0.2},
            "resizemix": {"eta": 0.1, "weighting": "less", "xi": 0.5, "alpha": 0.2},
            "saliencymix": {"eta": 0.01, "weighting": "less", "xi": 0.0, "alpha": 0.2},
        },
        "cifar/resnext50": {  # likewise
            "mixup": {"eta": 0.01, "weighting": "both", "xi": 1.0, "alpha": 0.2},
            "cutmix": {"eta": 0.1, "weighting": "both", "xi": 1.0, "alpha": 0.2},
            "manifoldmix": {"eta": 0.05, "weighting": "both", "xi": 1.0, "alpha": 2.0},
            "fmix": {"eta": 0.5, "weighting": "both", "xi": 0.0, "alpha": 0.2},
            "resizemix": {"eta": 0.01, "weighting": "less", "xi": 0.0, "alpha": 0.2},
            "saliencymix": {"eta": 0.1, "weighting": "both", "xi": 1.0, "alpha": 0.2},
        },
        "imagenet": {
            name: {"eta": 0.1, "weighting": "both", "xi": 1.0, "alpha": 1.0}
            for name in ("mixup", "cutmix", "manifoldmix", "fmix", "resizemix", "saliencymix")
        },
    }

    eta: float = knob(0.1, "weight of the decoupled term", low=0, high=100, search=(0.005, 2.0), log=True)
    weighting: str = knob(
        "both",
        "which class it works on: both, that of less or of more share",
        choices=("both", "less", "more"),
        search=("both", "less", "more"),
    )
    xi: float = knob(0.0, "power of the share in its weight; 0: unweighted, as in the paper", low=0, high=10)
    t: float = knob(1.0, "share from which the weight is full", low=0, high=1, open_low=True)

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        shares: Tensor,
        label_smoothing: float = 0.0,
        labelled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        whole = by_class(labels, shares)
        by_source = self.eta * chosen_sides(whole, self.weighting) * adjusted(whole, self.t, self.xi)
        if labelled is not None:
            by_source = by_source * labelled
        base = mce(logits, labels, shares, label_smoothing)
        return weighted_mean(base + decoupled(logits, labels, shares, by_source), weights)


@dataclass(frozen=True)
class DecoupledBCE(Loss):
    """DM(BCE): binary cross-entropy, summed over classes, whose targets call a class present before its share is 1.

    The target of a class is 1 from share t on and (share / t)^xi below; t = xi = 1 is the plain mixup BCE.

    Source: Liu et al., arXiv 2203.10761; oracles from OpenMixup at 37e1372.
    Differs from the released code: sources of one class are added before they are scaled (the release adds the scaled
    ones, to targets up to 2); shares are per sample.

    Examples:
        >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0, 1]])
        >>> round(DecoupledBCE(t=0.5)(logits, labels, torch.tensor([[0.75, 0.25]])).item(), 4)
        1.5132
    """

    name: ClassVar[str] = "decoupled_bce"

    t: float = knob(0.8, "share from which a class counts as present", low=0, high=1, open_low=True, search=(0.3, 1.0))
    xi: float = knob(1.0, "power of the share below it", low=0, high=10, search=(0.25, 2.0))

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        shares: Tensor,
        label_smoothing: float = 0.0,
        labelled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        soft = soft_labels(labels, shares, logits.shape[1])
        target = adjusted(soft, self.t, self.xi)
        if labelled is not None:
            known = soft_labels(labels, labelled.to(shares), logits.shape[1]) > 0
            target = torch.where(known, target, soft)
        return weighted_mean(bce(logits, smoothed(target, label_smoothing)), weights)


@dataclass(frozen=True)
class SoftmaxBCE(Loss):
    """Binary cross-entropy of the softmax probabilities, the mean over classes: about 2 / K of the cross-entropy.

    What the authors of Manifold Mixup, Puzzle Mix and Co-Mixup trained with; it needs a learning rate of its own.

    Source: authors' code PuzzleMix at e2dbf3a, Co-Mixup at 2a76816, manifold_mixup at 870ef77.
    Differs: 1 - p is summed in the log domain, where the released code clamps its logarithm at -100.

    Examples:
        >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0, 1]])
        >>> round(SoftmaxBCE()(logits, labels, torch.tensor([[0.75, 0.25]])).item(), 4)
        0.4411
    """

    name: ClassVar[str] = "softmax_bce"

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        shares: Tensor,
        label_smoothing: float = 0.0,
        labelled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        target = smoothed(soft_labels(labels, shares, logits.shape[1]), label_smoothing)
        log_p = functional.log_softmax(_wide(logits), dim=1)
        p = log_p.exp()
        # log(1 - p) without cancellation, and finite where p rounds to 1
        log_rest = torch.log1p(-p.clamp(max=1 - torch.finfo(p.dtype).eps))
        by_image = -(_weighted(log_p, target) + _weighted(log_rest, 1 - target))
        return weighted_mean(by_image, weights) / logits.shape[1]

    def clean_scale(self, num_classes: int) -> float:
        return 2 / num_classes


def soft_labels(labels: Tensor, shares: Tensor, num_classes: int) -> Tensor:
    """The shares by class: [B, K], rows sum to 1.

    Examples:
        >>> soft_labels(torch.tensor([[0, 2]]), torch.tensor([[0.75, 0.25]]), 3).tolist()
        [[0.75, 0.0, 0.25]]
    """
    return shares.new_zeros(len(shares), num_classes).scatter_add_(1, labels, shares)


def smoothed(target: Tensor, label_smoothing: float) -> Tensor:
    """(1 - s) target + s / K, for a target [B, K].

    Examples:
        >>> smoothed(torch.tensor([[1.0, 0.0]]), 0.5).tolist()
        [[0.75, 0.25]]
    """
    return (1 - label_smoothing) * target + label_smoothing / target.shape[1] if label_smoothing else target


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of logits [B, K] against targets [B, K], summed over classes: [B]."""
    logits, target = _wide(logits), target.to(_wide(logits).dtype)
    zero = torch.zeros_like(logits)
    # softplus(z) - target z; an impossible class (logit -inf) of target 0 costs nothing
    return (functional.softplus(logits) - torch.where(target > 0, target * logits, zero)).sum(dim=1)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of values [B] times their weights, over all B; a value of weight 0 has no effect, whatever it is.

    Examples:
        >>> weighted_mean(torch.tensor([2.0, torch.inf]), torch.tensor([1.0, 0.0])).item()
        1.0
    """
    if weights is None:
        return values.mean()
    return _weighted(values[:, None], weights[:, None]).mean()


LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (MCE, Decoupled, DecoupledBCE, SoftmaxBCE)}
