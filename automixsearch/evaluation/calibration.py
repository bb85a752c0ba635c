"""Calibration: whether a network is right as often as it is sure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from automixsearch.config.knobs import knob
from automixsearch.evaluation.suite import Evaluation, Pictures, Score, Subject
from automixsearch.lazy import torch

if TYPE_CHECKING:
    from torch import Generator


@dataclass(frozen=True)
class Calibration(Evaluation):
    """Errors of confidence on the test set, as they are and after temperature scaling, fitted on the validation split.

    ece, adaptive_ece, classwise_ece, mce: see the functions of these names, in 0..1. nll: mean negative log-likelihood.
    brier: the mean over images of the sum over classes of (p - target)^2. temperature: by which logits are divided for
    the names that end in `_scaled`. bin_images, bin_confidence, bin_accuracy: the reliability diagram, by bin.

    Source: Guo et al., arXiv 1706.04599.
    Differs: the temperature is the minimum of the NLL, found by a bracketing search (released: a few steps of LBFGS).

    Examples:
        >>> Calibration(bins=10).bins
        10
    """

    name: ClassVar[str] = "calibration"
    source: ClassVar[str] = "arXiv 1706.04599"

    bins: int = knob(15, "of equal width, of confidence", low=2, high=1000)

    def passes(self, images: int) -> float:
        return 2.0

    def scores(self, subject: Subject, generator: Generator) -> Iterator[Score]:
        logits, labels = answers(subject, subject.test)
        scale = temperature(*answers(subject, subject.validation))
        count = len(labels)
        yield Score("temperature", scale, len(subject.validation))
        for end, divided in (("", logits), ("_scaled", logits / scale)):
            probabilities = softmax(divided)
            for name, value in {
                "ece": ece(probabilities, labels, self.bins),
                "adaptive_ece": adaptive_ece(probabilities, labels, self.bins),
                "classwise_ece": classwise_ece(probabilities, labels, self.bins),
                "mce": mce(probabilities, labels, self.bins),
                "nll": nll(divided, labels),
                "brier": brier(probabilities, labels),
            }.items():
                yield Score(name + end, value, count)
            confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
            images, sure, hits = binned(confidence, right, np.linspace(0, 1, self.bins + 1))
            for place in np.flatnonzero(images):
                setting, within = f"bin={place + 1}/{self.bins}", int(images[place])
                yield Score("bin_images" + end, float(within), within, setting)
                yield Score("bin_confidence" + end, float(sure[place] / within), within, setting)
                yield Score("bin_accuracy" + end, float(hits[place] / within), within, setting)


def answers(subject: Subject, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """Logits float64 [n, K] and labels int64 [n] of images."""
    with torch.no_grad():
        parts = [(subject.logits(x).double().cpu(), y.cpu()) for x, y in pictures.batches()]
    logits, labels = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return logits, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [n, K]."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def binned(sure: np.ndarray, right: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many images lie in each bin (a, b] of confidence, the sum of their confidence, and how many are right."""
    place = np.searchsorted(edges, sure, side="left") - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    weights = (None, sure[inside], right[inside].astype(float))
    images, confidence, hits = (np.bincount(place[inside], each, len(edges) - 1) for each in weights)
    return images, confidence, hits


def _gaps(sure: np.ndarray, right: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of the images in each bin that has some, and how far accuracy and confidence are apart there."""
    images, confidence, hits = binned(sure, right, edges)
    full = images > 0
    return images[full] / len(sure), np.abs(hits[full] - confidence[full]) / images[full]


def ece(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Expected calibration error: the mean gap of accuracy and confidence over bins of equal width, by images.

    Examples:
        >>> round(ece(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]), 10), 4)
        0.35
    """
    weights, gaps = _top_gaps(probabilities, labels, np.linspace(0, 1, bins + 1))
    return float((weights * gaps).sum())


def mce(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Maximum calibration error: the largest gap of a bin."""
    return float(_top_gaps(probabilities, labels, np.linspace(0, 1, bins + 1))[1].max())


def adaptive_ece(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """The same over bins of equally many images; the least sure one lies in none, as in the code that is compared with.

    Source: Mukhoti et al., arXiv 2002.09437; authors' code focal_calibration at 475422a.
    """
    sure = np.sort(probabilities.max(1))
    edges = np.interp(np.linspace(0, len(sure), bins + 1), np.arange(len(sure)), sure)
    weights, gaps = _top_gaps(probabilities, labels, edges)
    return float((weights * gaps).sum())


def classwise_ece(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """The mean over classes of the error of the probability of each; classes above the largest label do not count.

    Source: as `adaptive_ece`.
    """
    edges, errors = np.linspace(0, 1, bins + 1), []
    for label in range(labels.max() + 1):
        weights, gaps = _gaps(probabilities[:, label], labels == label, edges)
        errors.append((weights * gaps).sum())
    return float(np.mean(errors))


def _top_gaps(probabilities: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _gaps(probabilities.max(1), probabilities.argmax(1) == labels, edges)


def nll(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood."""
    top = logits.max(1, keepdims=True)
    log = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return float(-log[np.arange(len(labels)), labels].mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared error of the probabilities, summed over classes."""
    return float((probabilities**2).sum(1).mean() - 2 * probabilities[np.arange(len(labels)), labels].mean() + 1)


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """What logits are divided by so that the NLL is least, from e^-6 to e^6."""
    from scipy.optimize import minimize_scalar

    found: Any = minimize_scalar(lambda log: nll(logits / np.exp(log), labels), bounds=(-6, 6), method="bounded",
                            options={"xatol": 1e-8})  # fmt: skip
    return float(np.exp(found.x))
