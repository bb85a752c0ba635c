"""Self-Tuning: fine-tuning with unlabelled images, whose guessed classes are pulled together with the labelled ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator as Steps
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from automixsearch.algorithms.across import Across, AcrossKnobs, Guess, half_cosine
from automixsearch.algorithms.base import Batch, Clock, Needs, Part, Setup, Term
from automixsearch.algorithms.fine_tuning import TuningKnobs, rest, tuned_parts
from automixsearch.config.knobs import Knobbed, knob, redeclared
from automixsearch.lazy import functional, torch
from automixsearch.mixers.vanilla import Vanilla
from automixsearch.results.columns import Column

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class SelfTuningKnobs(AcrossKnobs, TuningKnobs):
    """The settings of Self-Tuning."""

    ratio: int = redeclared(AcrossKnobs, "ratio", 1)
    keys: int = knob(32, "keys that are kept of each class", low=1, high=10_000, search=(8, 64))
    projection: int = knob(1024, "length of a key", low=2, high=65_536)
    key_decay: float = knob(
        0.999, "share of the key network's weights that each of its two passes keeps", low=0, high=1
    )
    temperature: float = knob(0.07, "of similarities", low=0, open_low=True, high=10, search=(0.05, 0.5), log=True)
    contrast_weight: float = knob(1.0, "weight of both losses of similarities", low=0, high=100, search=(0.1, 3.0))
    variant: str = knob(
        "paper",
        "of the terms of mixed images: as in the paper of decoupled mixup, or as its authors' code has them",
        choices=("paper", "released"),
    )


class SelfTuning(Across):
    """L = CE(labelled) + PGC(labelled) + PGC(unlabelled, guessed class), the latter two times contrast_weight.

    PGC, the pseudo group contrast: a query is to be like its own key and the kept keys of its class, among the kept
    keys of all classes; here the divergence of softmax(similarities / temperature) from the uniform distribution over
    these. Keys are of another view, by a network that follows slowly; guesses are of the query's own view, and all of
    them count. With a mixing method, the terms of `Across`.

    `variant: released` mixes as the authors' code: clean and mixed images have passes of their own that move the
    running statistics, mixed ones a head of their own, and `side` holds for labelled pairs too (auto: max).

    Source: Wang et al., arXiv 2102.12903; Self-Tuning at 1010a19. Mixed images: Liu et al., arXiv 2203.10761; released:
        OpenMixup at 37e1372, semisup/dmix_tuning.py.
    """

    name: ClassVar[str] = "self_tuning"
    knobs: ClassVar[type[Knobbed]] = SelfTuningKnobs
    columns: ClassVar[tuple[Column, ...]] = (
        *Across.columns,
        Column("contrast_loss", float, "divergence of the similarities of labelled images from their class's"),
    )
    queue: Tensor
    next_key: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        settings, features = self.settings, setup.network.head.in_features
        self._parts = tuned_parts(self.network, settings)
        self.released = settings.variant == "released" and not isinstance(self.mixer, Vanilla)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed("projector"))
            self.projector = torch.nn.Linear(features, settings.projection)
            keys = torch.randn(settings.projection, setup.classes * settings.keys)
            self.mix_head = torch.nn.Linear(features, setup.classes) if self.released else None
        self.key_network = copy.deepcopy(self.network).requires_grad_(False)
        for module in self.key_network.modules():
            if hasattr(module, "reset_running_stats"):
                module.reset_running_stats()  # type: ignore[operator]
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.embedded = self.compiled(self.network.embedded)
        self.key_embedded = self.compiled(self.key_network.embedded)
        self.register_buffer("queue", functional.normalize(keys, dim=0))
        self.register_buffer("next_key", torch.zeros(setup.classes, dtype=torch.int64))

    @property
    def needs(self) -> Needs:
        return Needs(("tuned", "tuned"), ("tuned", "tuned"), self.settings.ratio)

    def parts(self) -> list[Part]:
        heads = [] if self.mix_head is None else [Part(self.mix_head, self.settings.head_lr)]
        return [*self._parts, Part(self.projector), *heads]

    def train(self, mode: bool = True) -> SelfTuning:
        """As any module; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            rest(self.network, self.settings)
        return self

    def own_terms(
        self, batch: Batch, x: Tensor, views: Sequence[Tensor], clock: Clock, generator: Generator
    ) -> Steps[Term, None, Guess]:
        share, weight = self.world.share, self.settings.contrast_weight
        with self.autocast():
            features = self.embedded(share(x))
            logits = self.network.head(features).float()
        contrast = self.contrast(features, self.normalise(batch.views[1]), batch.y)
        labelled = functional.cross_entropy(logits, share(batch.y), label_smoothing=self.recipe.label_smoothing)
        losses = {"labelled_loss": labelled.detach(), "contrast_loss": contrast.detach()}
        yield Term(labelled + weight * contrast, losses)
        guess = self.guessed(views[0])
        with self.autocast():
            features = self.embedded(share(views[0]))
        unlabelled = self.contrast(features, views[1], guess.label)
        yield Term(weight * unlabelled, {"unlabelled_loss": unlabelled.detach(), **guess.told(batch.truth)})
        return guess

    def guessed(self, view: Tensor) -> Guess:
        """The classes of images [M, C, H, W]: a pass of its own, which moves the running statistics; all count."""
        with torch.no_grad(), self.autocast():
            label = self.logits(self.world.share(view)).argmax(dim=1)
        label = self.world.gather(label)
        return Guess(label, torch.ones_like(label, dtype=torch.float32))

    def contrast(self, features: Tensor, other: Tensor, label: Tensor) -> Tensor:
        """The loss of this worker's query features [m, D], against the keys of another view [M, C, H, W] of all images
        with their classes [M], which are kept afterwards."""
        settings, share = self.settings, self.world.share
        query = functional.normalize(self.projector(features.float()), dim=1)
        with torch.no_grad():
            for key, leader in ((self.key_network, self.network), (self.key_projector, self.projector)):
                for follower, moved in zip(key.parameters(), leader.parameters(), strict=True):
                    follower.lerp_(moved, 1 - settings.key_decay)
            with self.autocast():
                seen = self.key_embedded(share(other))
            own = functional.normalize(self.key_projector(seen.float()), dim=1)
        loss = group_contrast(query, own, self.queue, share(label), settings.keys, settings.temperature).mean()
        self.keep(self.world.gather(own), label)
        return loss

    def keep(self, keys: Tensor, label: Tensor) -> None:
        """Put keys [M, D] into the places of their classes [M], one after the other, the oldest first."""
        size, classes = self.settings.keys, len(self.next_key)
        same = (label[:, None] == label).tril(diagonal=-1)
        place = label * size + (self.next_key[label] + same.sum(dim=1)) % size
        latest = torch.full((classes * size,), -1, device=keys.device)
        latest.scatter_reduce_(0, place, torch.arange(len(label), device=keys.device), "amax")
        # Not in place: the loss that was computed from the queue is still to go backward.
        self.queue = torch.where(latest >= 0, keys[latest.clamp(min=0)].T, self.queue)
        counts = functional.one_hot(label, classes).sum(dim=0)
        self.next_key.copy_((self.next_key + counts) % size)

    def predict(self, x: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
        return {"network": self.network(x)}

    # The released variant ---------------------------------------------------------------------------------------

    def mixed_logits(self, x: Tensor, *hidden: Any) -> Tensor:
        return super().mixed_logits(x, *hidden) if self.mix_head is None else self.mix_head(self.embedded(x))

    def terms(self, batch: Batch, clock: Clock, generator: Generator) -> Iterator[Term]:
        if not self.released:
            yield from super().terms(batch, clock, generator)
            return
        assert batch.unlabelled is not None
        share, weight, mixer = self.world.share, self.settings.contrast_weight, self.mixer_at(clock)
        (x, other), (query, key) = (map(self.normalise, one.views) for one in (batch, batch.unlabelled))
        with self.autocast():
            features = self.embedded(share(x))
        contrast = self.contrast(features, other, batch.y)
        yield Term(weight * contrast, {"contrast_loss": contrast.detach()})
        with self.autocast():
            logits = self.logits(share(x)).float()
        labelled = functional.cross_entropy(logits, share(batch.y), label_smoothing=self.recipe.label_smoothing)
        yield Term(labelled, {"labelled_loss": labelled.detach()})
        yield from self.mixed_terms(x, batch.y, mixer, generator, {"pixels": batch.views[0], **self.known})
        guess = self.guessed(query)
        with self.autocast():
            features = self.embedded(share(query))
        unlabelled = self.contrast(features, key, guess.label)
        yield Term(weight * unlabelled, {"unlabelled_loss": unlabelled.detach(), **guess.told(batch.truth)})
        pixels = torch.cat([batch.views[0], batch.unlabelled.views[0][: len(x)]])
        across = self.across_loss(x, batch.y, query, guess, mixer, generator, pixels)
        yield Term(self.settings.across_weight * half_cosine(clock.progress) * across, {"across_loss": across.detach()})

    def draw(self, mixer: Any, shape: Any, generator: Generator) -> Any:
        """Where it is released, `side` holds for labelled pairs too."""
        draw = super().draw(mixer, shape, generator)
        return self.sided(draw) if self.released else draw


def group_contrast(query: Tensor, own: Tensor, queue: Tensor, label: Tensor, keys: int, temperature: float) -> Tensor:
    """Divergence of the softmax of similarities from what is uniform over a query's own key and its class's: [m].

    Args:
        query, own: of length 1, [m, D]. queue: [D, K keys], the keys of class c in columns c keys to (c + 1) keys - 1.
            label: int64 [m].
    """
    similarity = torch.cat([(query * own).sum(dim=1, keepdim=True), query @ queue], dim=1) / temperature
    log_p = functional.log_softmax(similarity, dim=1)
    column = torch.arange(queue.shape[1], device=queue.device) // keys
    like = (log_p[:, 1:] * (column == label[:, None])).sum(dim=1)
    return -(log_p[:, 0] + like) / (keys + 1) - math.log(keys + 1)
