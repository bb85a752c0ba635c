"""Attacks: how often a network is right about images that were changed a little, against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.evaluation.suite import Evaluation, Score, Subject
from automixsearch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Attack(Evaluation):
    """Accuracy on the test set, in percent: clean, after FGSM of `epsilon` and of half of it, and after PGD.

    Changes are made in pixel space, and gradients go through the real preprocessing.

    Source: Goodfellow et al., arXiv 1412.6572 (FGSM); Madry et al., arXiv 1706.06083 (PGD).

    Examples:
        >>> Attack(steps=3).steps
        3
    """

    name: ClassVar[str] = "attack"
    source: ClassVar[str] = "arXiv 1412.6572, 1706.06083"

    epsilon: float = knob(8.0, "largest change of a pixel, of 255", low=0, open_low=True, high=255)
    steps: int = knob(10, "of PGD; 0: none", low=0, high=1000)
    step_size: float = knob(2.0, "change of a pixel in one of them, of 255", low=0, open_low=True, high=255)
    random_start: bool = knob(False, "PGD begins at a random change")

    def passes(self, images: int) -> float:
        return 1 + 2 * (3 + 1) + (3 * self.steps + 1 if self.steps else 0)

    def scores(self, subject: Subject, generator: Generator) -> Iterator[Score]:
        names = ["clean", f"epsilon={self.epsilon / 2:g}/255", f"epsilon={self.epsilon:g}/255"]
        hits = {name: torch.zeros((), dtype=torch.int64) for name in (*names, "pgd")}
        for x, y in subject.test.batches():
            ways = {"clean": x}
            for share, name in zip((0.5, 1.0), names[1:], strict=True):
                ways[name] = fgsm(subject.logits, x, y, share * self.epsilon / 255)
            if self.steps:
                start = None
                if self.random_start:
                    noise = torch.rand(x.shape, generator=generator).to(x.device, non_blocking=True)
                    start = (2 * noise - 1) * self.epsilon / 255
                ways["pgd"] = pgd(subject.logits, x, y, self.epsilon / 255, self.step_size / 255, self.steps, start)
            with torch.no_grad():
                for name, changed in ways.items():
                    hits[name] = hits[name].to(x.device) + (subject.logits(changed).argmax(1) == y).sum()
        count = len(subject.test)
        accuracy = {name: 100 * int(number) / count for name, number in hits.items()}
        yield Score("clean_top1", accuracy["clean"], count)
        for name in names[1:]:
            yield Score("fgsm_top1", accuracy[name], count, name)
        if self.steps:
            setting = f"epsilon={self.epsilon:g}/255 steps={self.steps} step={self.step_size:g}/255"
            yield Score("pgd_top1", accuracy["pgd"], count, setting)


def fgsm(logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Images a step of `epsilon` up the gradient of their loss, in [0, 1].

    Args:
        logits: of images in 0..1 units. x: such images, [B, C, H, W]. y: their classes, int64 [B].
    """
    return (x + epsilon * _gradient(logits, x, y).sign()).clamp(0, 1)


def pgd(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    epsilon: float,
    size: float,
    steps: int,
    start: Tensor | None = None,
) -> Tensor:
    """Images after `steps` of `size` up the gradient, each time brought back to at most `epsilon` from x, in [0, 1].

    Args:
        start: what is added to x first; the others as in `fgsm`.
    """
    changed = x if start is None else (x + start).clamp(0, 1)
    for _ in range(steps):
        moved = changed + size * _gradient(logits, changed, y).sign()
        changed = (x + (moved - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return changed


def _gradient(logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    seen = x.detach().requires_grad_()
    loss = functional.cross_entropy(logits(seen).float(), y, reduction="sum")
    return torch.autograd.grad(loss, seen)[0]
