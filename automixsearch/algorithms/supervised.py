"""Supervised training: one network, from labelled images that are mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from automixsearch.algorithms.base import Algorithm, Batch, Clock, Part, Setup, Term
from automixsearch.lazy import functional, torch
from automixsearch.losses import jensen_shannon
from automixsearch.mixers import Mixed, Mixer
from automixsearch.mixers.vanilla import Vanilla

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from automixsearch.mixers.base import Shape
    from automixsearch.models.base import Backbone


class Supervised(Algorithm):
    """The loss of mixed images, of one or several mixed copies of each batch; with it that of the clean images, where
    the method has a weight for it.
    """

    name: ClassVar[str] = "supervised"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.network = setup.network
        self.logits = self.compiled(self.network.forward)
        self.known = {"mean": setup.mean, "std": setup.std}

    def parts(self) -> list[Part]:
        return [Part(self.network)]

    def terms(self, batch: Batch, clock: Clock, generator: Generator) -> Iterator[Term]:
        (pixels,), y = batch.views, batch.y
        mixer = self.mixer_at(clock)
        yield from self.mixed_terms(self.normalise(pixels), y, mixer, generator, {"pixels": pixels, **self.known})

    def mixed_terms(
        self, x: Tensor, y: Tensor, mixer: Mixer, generator: Generator, supply: dict[str, Tensor]
    ) -> Iterator[Term]:
        """The terms of a batch x [B, C, H, W] of classes y [B]; `supply`: what a mixer may need, but for gradients."""
        size, channels, height, width = x.shape
        repeats = self.policy.repeats
        draws = [self.draw(mixer, (size, channels, height, width), generator) for _ in range(repeats)]
        needs = frozenset[str]().union(*(mixer.needs_of(draw) for draw in draws))
        clean_weight = sum(map(mixer.clean_weight_of, draws))
        gradient = None
        wanted = bool(needs & {"saliency", "gradient"})
        if clean_weight:  # its backward pass gives the gradient of the images too
            own = self.world.share(x).detach().requires_grad_(wanted)
            with self.autocast():
                logits = self.logits(own)
            weight = self.loss.clean_scale(logits.shape[1]) * clean_weight / repeats
            clean = functional.cross_entropy(logits.float(), self.world.share(y))
            yield Term(weight * clean, leaf=own if wanted else None)
            gradient = self.world.gather(own.grad.float()) if own.grad is not None else None
        elif wanted:
            gradient = self.gradient(x, y)
        made = {} if gradient is None else {"gradient": gradient, "saliency": gradient.square().mean(1).sqrt()}
        for draw in draws:
            supplied = {need: made[need] if need in made else supply[need] for need in mixer.needs_of(draw)}
            mixed = mixer.apply(x, draw, **supplied)
            yield Term(self.mixed_loss(mixed, y) / repeats)

    def mixed_logits(self, x: Tensor, *hidden: Any) -> Tensor:
        """The logits of mixed images, or of images that are mixed at a stage of the network."""
        return self.logits(x, *hidden)

    def draw(self, mixer: Mixer, shape: Shape, generator: Generator) -> Any:
        """What a mixer draws for a batch of `shape`."""
        return mixer.draw(shape, generator)

    def mixer_at(self, clock: Clock) -> Mixer:
        """What mixes at that time."""
        return self.mixer if clock.epoch < self.policy.mix_until * clock.epochs else Vanilla()

    def mixed_loss(self, mixed: Mixed, y: Tensor) -> Tensor:
        """The loss of this worker's share of a mixed batch."""
        share = self.world.share
        x, labels, shares = share(mixed.x), share(y[mixed.sources]), share(mixed.shares)
        views = [] if mixed.views is None else [share(view) for view in mixed.views]
        with self.autocast():
            if mixed.pasted is not None and mixed.attention:
                logits, attention = self.network.attended(x)
                shares = attended_shares(shares, share(mixed.pasted), attention, mixed.attention)
            elif mixed.stage == "input":
                logits = self.mixed_logits(torch.cat([x, *views]) if views else x)
            else:
                logits = self.mixed_logits(x, mixed.stage, self.world.hidden_mixing(mixed))
        loss = self.loss(logits[: len(x)], labels, shares, self.recipe.label_smoothing)
        if views:
            loss = loss + mixed.consistency * jensen_shannon(logits.unflatten(0, (-1, len(x)))).mean()
        return loss

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """d CE / d x [B, C, H, W] of the global batch, in eval mode; each worker computes its share."""
        self.network.eval()
        own = self.world.share(x).detach().requires_grad_()
        with self.autocast():
            logits = self.network(own)
        loss = functional.cross_entropy(logits.float(), self.world.share(y), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, own)
        self.network.train()
        return self.world.gather(gradient.float())

    def predict(self, x: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
        return {"network": self.network(x)}

    def reported(self) -> Backbone:
        return self.network

    @classmethod
    def upgraded(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Checkpoints of schema version 1 hold the network alone."""
        return (
            state
            if all(name.startswith("network.") for name in state)
            else {f"network.{k}": v for k, v in state.items()}
        )


def attended_shares(shares: Tensor, pasted: Tensor, attention: Tensor, weight: float) -> Tensor:
    """Shares [B, 2] of pairs, moved by `weight` in [0, 1] towards the shares of attention that each image gets.

    Args:
        pasted: bool [B, H, W], where the partner is shown. attention: >= 0, [B, h, w], on patches, each of which
            belongs to the image that its first pixel shows.

    Examples:
        >>> pasted = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> pasted[:, :, 2:] = True
        >>> attention = torch.tensor([[[3.0, 1.0], [3.0, 1.0]]])
        >>> attended_shares(torch.tensor([[0.5, 0.5]]), pasted, attention, 0.5).tolist()
        [[0.625, 0.375]]
    """
    height, width = attention.shape[1:]
    theirs = pasted[:, :: pasted.shape[1] // height, :: pasted.shape[2] // width].to(attention.dtype)
    there = ((attention * theirs).sum((1, 2)) / attention.sum((1, 2))).to(shares.dtype)
    return torch.lerp(shares, torch.stack([1 - there, there], 1), weight)
