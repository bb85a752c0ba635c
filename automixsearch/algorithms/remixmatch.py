"""ReMixMatch: MixMatch with strong views, guesses aligned to the classes' frequencies, and a task of rotations."""

from __future__ import annotations

from collections.abc import Generator as Steps
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.across import Guess
from automixsearch.algorithms.base import Batch, Clock, Needs, Part, Setup, Term
from automixsearch.algorithms.mixmatch import MixMatch, MixMatchKnobs
from automixsearch.algorithms.semi import SemiKnobs, ramp, sharpened
from automixsearch.config.knobs import Knobbed, knob, redeclared
from automixsearch.errors import SpecError
from automixsearch.lazy import functional, torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Generator, Tensor

KEPT = 0.999
"""Of the running mean of predictions, at each step."""


@dataclass(frozen=True)
class ReMixMatchKnobs(MixMatchKnobs):
    """The settings of ReMixMatch."""

    unlabelled_weight: float = redeclared(SemiKnobs, "unlabelled_weight", 1.5)
    own_alpha: float = redeclared(MixMatchKnobs, "own_alpha", 0.75)
    ramp_up: float = redeclared(MixMatchKnobs, "ramp_up", 1 / 64)
    strong_weight: float = knob(0.5, "weight of the loss of the first strong view, unmixed", low=0, high=100)
    rotation_weight: float = knob(0.5, "weight of the loss of rotations", low=0, high=100)


class ReMixMatch(MixMatch):
    """L = CE(mixed labelled) + r(t) (unlabelled_weight CE(mixed others) + strong_weight CE(strong view))
    + rotation_weight CE(which quarter turns the strong view was given).

    The target of an unlabelled image is the prediction of its weak view times the classes' frequencies over the
    running mean of predictions, sharpened; the rows that are mixed are [x; strong 1; strong 2; weak].

    Source: Berthelot et al., arXiv 1911.09785; TorchSSL at f26e1d4.
    Differs: the running mean is part of a checkpoint.
    """

    name: ClassVar[str] = "remixmatch"
    knobs: ClassVar[type[Knobbed]] = ReMixMatchKnobs
    frequency: Tensor
    predictions: Tensor
    begun: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed("rotation head"))
            self.rotation = torch.nn.Linear(setup.network.head.in_features, 4)
        self.embedded = self.compiled(self.network.embedded)
        self.register_buffer("frequency", torch.full((setup.classes,), 1 / setup.classes))
        self.register_buffer("predictions", torch.zeros(setup.classes))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def parts(self) -> list[Part]:
        return [*super().parts(), Part(self.rotation)]

    @property
    def needs(self) -> Needs:
        return Needs(unlabelled=("cropped", "strong", "strong"), ratio=self.settings.ratio)

    def begin(self, images: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Count the classes of the labelled images."""
        counts = torch.zeros_like(self.frequency)
        for _, y in images():
            counts += functional.one_hot(y, len(counts)).sum(0)
        self.frequency.copy_(counts / counts.sum())

    def own_terms(
        self, batch: Batch, x: Tensor, views: Sequence[Tensor], clock: Clock, generator: Generator
    ) -> Steps[Term, None, Guess]:
        settings, share = self.settings, self.world.share
        weak, first, second = views
        q = self.aligned(self.predicted(weak))
        guess = self.guess_of(q)
        y = functional.one_hot(batch.y, q.shape[1]).to(q.dtype)
        rise = ramp(clock.progress, settings.ramp_up)
        rows, targets = torch.cat([x, first, second, weak]), torch.cat([y, q, q, q])
        weight, told = settings.unlabelled_weight * rise, guess.told(batch.truth)
        yield from self.mixed_rows(rows, targets, len(x), weight, generator, told)
        with self.apart(self.network), self.autocast():
            logits = self.logits(share(first)).float()
        yield Term(settings.strong_weight * rise * functional.cross_entropy(logits, share(q)))
        turned, turns = self.turned(first, generator)
        with self.apart(self.network), self.autocast():
            logits = self.rotation(self.embedded(share(turned))).float()
        yield Term(settings.rotation_weight * functional.cross_entropy(logits, share(turns)))
        return guess

    def aligned(self, p: Tensor) -> Tensor:
        """Targets [M, K] from predictions [M, K], whose mean enters the running one before it is used."""
        mean = p.mean(dim=0)
        self.predictions.copy_(torch.where(self.begun, torch.lerp(mean, self.predictions, KEPT), mean))
        self.begun.fill_(True)
        q = p * self.frequency / self.predictions
        return sharpened(q / q.sum(dim=1, keepdim=True), self.settings.temperature)

    def unlabelled_each(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(logits, target, reduction="none")

    def turned(self, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Images [M, C, H, W], each after a number of counter-clockwise quarter turns, and that number, int64 [M].

        Raises:
            SpecError: the images are not square.
        """
        if images.shape[2] != images.shape[3]:
            raise SpecError(
                f"algorithm remixmatch turns images, which must be square and are {images.shape[2]} x "
                f"{images.shape[3]}; use data.size={min(images.shape[2:])}"
            )
        turns = torch.randint(4, (len(images),), generator=generator).to(images.device, non_blocking=True)
        out = images
        for count in (1, 2, 3):
            out = torch.where((turns == count)[:, None, None, None], torch.rot90(images, count, (2, 3)), out)
        return out, turns
