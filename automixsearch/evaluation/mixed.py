"""Mixed samples: what a network says of two images that are mixed, from one to the other."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.evaluation.class_map import class_map
from automixsearch.evaluation.suite import Evaluation, Score, Subject
from automixsearch.lazy import functional, torch
from automixsearch.mixers import MIXERS, Mixed, Mixer, PairDraw

if TYPE_CHECKING:
    from torch import Generator, Tensor

METHODS = tuple(
    name for name, kind in MIXERS.items() if kind.mixes and kind.algorithm == "supervised" and not kind.attends
)
"""Those that mix without a Mix Block, and whose labels do not wait for the network."""
NUDGE = 2.0**-12
"""What is added to one image to see where it goes."""
PERCENT = ("top1", "top2", "neither")


@dataclass(frozen=True)
class MixedSamples(Evaluation):
    """Answers about pairs of test images of two classes, mixed by several methods at own shares from 0 to 1.

    top1: the answer is one of the two classes, in percent; top2: the best two are just these; neither: none of the
    best two is. own_confidence, partner_confidence: mean probabilities. own_share: the mean label weight of the own
    class, which can differ from the share that was asked for (`lam`). mismatch: the mean of |own_share - its share of
    the class evidence that is seen|, in 0..1: the evidence is the positive part of the class activation map of the
    clean images for this network, mixed as the images are. Methods that mix hidden features have none.
    Pairs and draws are the same at all shares. Of Co-Mixup, which takes no share, the two heaviest classes count.

    Source: Yun et al., arXiv 1905.04899 (top1); Liu et al., arXiv 2203.10761 (top2 of mixed images).

    Examples:
        >>> MixedSamples(methods="cutmix+mixup").methods
        'mixup+cutmix'
    """

    name: ClassVar[str] = "mixed"
    source: ClassVar[str] = "arXiv 1905.04899, 2203.10761"

    methods: str = knob("mixup+cutmix", "that mix, joined by +", choices=METHODS, several=True)
    steps: int = knob(10, "own shares that are tried: 0, 1/steps, ..., 1", low=1, high=100)
    images: int = knob(2000, "of the test set, drawn at random; 0: all", low=0)

    def passes(self, images: int) -> float:
        asked = min(self.images, images) if self.images else images
        return (len(self.methods.split("+")) * (self.steps + 1) + 3) * asked / images

    def scores(self, subject: Subject, generator: Generator) -> Iterator[Score]:
        mixers = [MIXERS[name]() for name in self.methods.split("+")]
        sums: dict[tuple[str, str], Any] = defaultdict(float)
        counts: dict[tuple[str, str], Any] = defaultdict(int)
        for pixels, labels in subject.test.shuffled(generator, self.images).batches():
            even = len(labels) // 2 * 2
            pairs = Pairs(subject, pixels[:even], labels[:even])
            for mixer in mixers if even else ():
                for lam, mixed, seen in pairs.mixed(mixer, self.steps, generator):
                    setting = f"method={mixer.name}" + ("" if lam is None else f" lam={lam:g}")
                    for name, values in pairs.answers(mixed, seen).items():
                        told = ~values.isnan()
                        sums[setting, name] += values.nansum()
                        counts[setting, name] += told.sum()
        for (setting, name), total in sums.items():
            count = int(counts[setting, name])
            scale = 100 if name in PERCENT else 1
            yield Score(name, scale * float(total) / count if count else float("nan"), count, setting)


class Pairs:
    """A batch of test images, each with its neighbour as partner.

    Args:
        pixels: float [B, C, H, W] in 0..1 units, B even. y: int64 [B].
    """

    def __init__(self, subject: Subject, pixels: Tensor, y: Tensor) -> None:
        self.subject, self.y = subject, y
        self.x = subject.normalise(pixels).detach()
        self.partner = torch.arange(len(y)) ^ 1
        part = subject.test.part
        self.supply = {
            "pixels": (255 * pixels).round().byte().permute(0, 2, 3, 1),
            "mean": part.mean,
            "std": part.std,
        }

    def needed(self, need: str) -> Tensor:
        """What a method takes beside the images."""
        if need not in self.supply:
            own = self.x.clone().requires_grad_()
            with torch.enable_grad():
                loss = functional.cross_entropy(self.subject.network(own).float(), self.y, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, own)
            self.supply |= {"gradient": gradient, "saliency": gradient.square().mean(1).sqrt()}
        return self.supply[need]

    def mixed(
        self, mixer: Mixer, steps: int, generator: Generator
    ) -> Iterator[tuple[float | None, Mixed, Tensor | None]]:
        """For each own share (None: the method takes none) the mixed batch, and what is seen of the evidence for the
        own class and for the partner's, [2, B]; None inside the network."""
        draw: Any = mixer.draw((len(self.x), *self.x.shape[1:]), generator)  # type: ignore[arg-type]
        supplied = {need: self.needed(need) for need in mixer.needs_of(draw)}
        if not isinstance(draw, PairDraw):
            yield None, mixer.apply(self.x, draw, **supplied), None
            return
        for step in range(steps + 1):
            one = dataclasses.replace(draw.with_lam(step / steps), partner=self.partner)
            mixed = mixer.apply(self.x, one, **supplied)
            yield step / steps, mixed, None if mixed.stage != "input" else self.seen(mixer, one, supplied)

    def seen(self, mixer: Mixer, draw: PairDraw, supplied: dict[str, Tensor]) -> Tensor:
        """How much of the evidence for the own class and the partner's is seen, of 1 each: [2, B]; NaN if one has none.

        Found by adding a little of it to every other image: mixing is linear in the images.
        """
        if "evidence" not in self.supply:
            found = class_map(self.subject.network, self.x, self.y).clamp(min=0)[:, None].double()
            found = functional.interpolate(found, self.x.shape[2:], mode="bilinear")
            total = found.sum((1, 2, 3), keepdim=True)
            self.supply |= {"evidence": NUDGE * found / total.where(total > 0, 1), "told": total.flatten() > 0}
        x, evidence = self.x.double(), self.supply["evidence"]
        clean = mixer.apply(x, draw, **supplied).x
        odd = torch.arange(len(x), device=x.device) % 2 == 1
        first, second = (
            (mixer.apply(x + evidence * which[:, None, None, None], draw, **supplied).x - clean).mean(1).sum((1, 2))
            for which in (~odd, odd)
        )
        made = torch.stack([torch.where(odd, second, first), torch.where(odd, first, second)]) / NUDGE
        return made.where(self.supply["told"] & self.supply["told"][self.partner], torch.nan)

    @torch.no_grad()
    def answers(self, mixed: Mixed, seen: Tensor | None) -> dict[str, Tensor]:
        """What is said of each mixed image, float64 [B]: NaN for those of one class, or of no evidence."""
        network = self.subject.network
        if mixed.stage == "input":
            logits = network(mixed.x)
        else:
            shares = mixed.shares.float()

            def change(h: Tensor) -> Tensor:
                return torch.einsum("bs,bs...->b...", shares.to(h.dtype), h[mixed.sources])

            logits = network(mixed.x, mixed.stage, change)
        own, partner = self.y[mixed.sources[:, 0]], self.y[mixed.sources[:, -1]]
        share = mixed.shares[:, 0]
        if mixed.sources.shape[1] > 2:  # of many images: the two heaviest classes
            weights = torch.zeros(len(own), logits.shape[1], dtype=share.dtype, device=own.device)
            weights.scatter_add_(1, self.y[mixed.sources], mixed.shares)
            (share, second), (own, other) = (values.unbind(1) for values in weights.topk(2))
            partner = torch.where(second > 0, other, own)
        found = told(logits, own, partner) | {"own_share": share}
        if seen is not None:
            found["mismatch"] = (share - seen[0] / seen.sum(0)).abs()
        return {name: torch.where(own == partner, torch.nan, values.double()) for name, values in found.items()}


def told(logits: Tensor, own: Tensor, partner: Tensor) -> dict[str, Tensor]:
    """What logits [B, K] say of images of classes own and partner, int64 [B]; see `MixedSamples`."""
    probabilities, best = logits.double().softmax(1), logits.topk(2).indices
    of_pair = (best == own[:, None]) | (best == partner[:, None])
    return {
        "top1": of_pair[:, 0],
        "top2": of_pair.all(1),
        "neither": ~of_pair.any(1),
        "own_confidence": probabilities.gather(1, own[:, None])[:, 0],
        "partner_confidence": probabilities.gather(1, partner[:, None])[:, 0],
    }
