"""Co-Tuning: fine-tuning that keeps the head of the source, and teaches it what target classes look like to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.base import Part, Setup
from automixsearch.algorithms.fine_tuning import FineTuning, TuningKnobs
from automixsearch.config.knobs import Knobbed, knob
from automixsearch.lazy import functional, torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from torch import Tensor

WARMTH = 0.8840456604957581
"""What the released code multiplies source logits by before their softmax."""
STRENGTHS = tuple(base * 10.0**power for power in range(4, -5, -1) for base in (1, 0.3))[:-1]
"""Inverse regularisations of the full relation, tried in this order."""
HELD_OUT = 0.2
"""Share of the training images by which the full relation chooses and calibrates."""


@dataclass(frozen=True)
class CoTuningKnobs(TuningKnobs):
    """The settings of Co-Tuning."""

    source_weight: float = knob(
        2.3, "weight of the loss of the source's head", low=0, high=100, search=(0.3, 5.0), log=True
    )
    relation: str = knob(
        "simple",
        "how source classes belong to target classes: mean predictions of each class's images, or by a regression that "
        "is calibrated on a fifth of them",
        choices=("simple", "full"),
    )


class CoTuning(FineTuning):
    """L = CE(target head) + source_weight mean of -sum over source classes of R[y] log softmax(source head).

    R[y], the distribution over source classes that belongs to target class y, is fixed before the first step, and part
    of a checkpoint. Both heads are trained.

    Source: You et al., NeurIPS 2020, Co-Tuning for Transfer Learning; CoTuning at fc3eb54; simple: the
        Transfer-Learning-Library at c4aa59e.
    Differs (full): the images that choose and calibrate are a stratified fifth of the training images.
    """

    name: ClassVar[str] = "co_tuning"
    knobs: ClassVar[type[Knobbed]] = CoTuningKnobs
    pretrained: ClassVar[bool] = True
    relation: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        weight, bias = source_head(setup)
        with torch.random.fork_rng(devices=[]):
            self.source = torch.nn.Linear(weight.shape[1], weight.shape[0])
        self.source.load_state_dict({"weight": weight, "bias": bias})
        self.seed = setup.seed("relation")
        self.register_buffer("relation", torch.full((setup.classes, len(bias)), 1 / len(bias)))

    def parts(self) -> list[Part]:
        return [*super().parts(), Part(self.source)]

    def begin(self, images: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Relate the classes by the predictions of the source's head."""
        self.eval()
        logits, labels = [], []
        with torch.no_grad():
            for x, y in images():
                logits.append(self.source(self.network.embedded(x)).float())
                labels.append(y)
        seen, known, classes = torch.cat(logits), torch.cat(labels), len(self.relation)
        if self.settings.relation == "simple":
            self.relation.copy_(simple_relation(seen, known, classes))
        else:
            from automixsearch.data.base import stratified

            y = known.cpu().numpy()
            names = tuple(map(str, range(classes)))
            train, val = stratified(y, names, HELD_OUT, self.seed, "algorithm co_tuning with relation=full")
            parts = (seen[train].cpu(), y[train], seen[val].cpu(), y[val])
            self.relation.copy_(full_relation(*parts))
        self.train()

    def extra_term(self, features: Tensor, y: Tensor) -> Tensor:
        with self.autocast():
            logits = self.source(features).float()
        return self.settings.source_weight * functional.cross_entropy(logits, self.relation[y])


def source_head(setup: Setup) -> tuple[Tensor, Tensor]:
    """Weight [S, D] and bias [S] of the head of the weights that training starts from."""
    from automixsearch.models.weights import read_head

    weights, backbone = str(setup.config.knobs["weights"]), str(setup.config.knobs["backbone"])
    return read_head(setup.network, weights, backbone)


def simple_relation(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean prediction of each target class: [K, S] from source logits [N, S] and labels [N]."""
    chosen = functional.one_hot(labels, classes).to(logits.dtype)
    return chosen.T @ logits.softmax(dim=1) / chosen.sum(dim=0)[:, None]


def full_relation(logits: Tensor, labels: np.ndarray, val_logits: Tensor, val_labels: np.ndarray) -> Tensor:
    """p(source class | target class), [K, S], by a calibrated regression of target classes on source predictions.

    Args:
        logits: [N, S], labels: int64 [N], of the images that fit; val_logits, val_labels: of those that choose the
            regularisation by accuracy, and the scale by likelihood.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax
    from sklearn.linear_model import LogisticRegression

    train, val = ((WARMTH * part.double()).softmax(dim=1).numpy() for part in (logits, val_logits))
    best: tuple[float, np.ndarray] | None = None
    for strength in STRENGTHS:
        fitted = LogisticRegression(C=strength, fit_intercept=False, max_iter=10_000).fit(train, labels)
        score = float((fitted.predict(val) == val_labels).mean())
        if best is None or score > best[0]:
            best = score, fitted.coef_
    assert best is not None
    coefficients = best[1]

    def loss(scale: float) -> float:
        return -float(log_softmax(scale * (val @ coefficients.T), axis=1)[np.arange(len(val)), val_labels].mean())

    scale = minimize_scalar(loss, bounds=(1e-3, 1e3), method="bounded", options={"xatol": 1e-8}).x
    return relation_of(coefficients, float(scale), np.concatenate([train, val]).mean(axis=0))


def relation_of(coefficients: np.ndarray, scale: float, marginal: np.ndarray) -> Tensor:
    """p(s | t) in proportion to p(t | s) p(s), p(t | s) the softmax over t of scale coefficients [K, S]."""
    from scipy.special import softmax

    joint = softmax(scale * coefficients, axis=0) * marginal
    return torch.from_numpy(joint / joint.sum(axis=1, keepdims=True)).float()
