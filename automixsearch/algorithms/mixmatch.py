"""MixMatch: labelled images and sharpened guesses of unlabelled ones, all mixed with each other by MixUp."""

from __future__ import annotations

from collections.abc import Generator as Steps
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.algorithms.across import Guess
from automixsearch.algorithms.base import Batch, Clock, Needs, Term
from automixsearch.algorithms.semi import SemiKnobs, SemiSupervised, ramp, sharpened
from automixsearch.config.knobs import Knobbed, knob, redeclared
from automixsearch.lazy import functional, torch
from automixsearch.mixers.base import draw_beta

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class MixMatchKnobs(SemiKnobs):
    """The settings of MixMatch. threshold: of the guesses that are mixed by `method`; its own terms use all."""

    ratio: int = redeclared(SemiKnobs, "ratio", 1)
    unlabelled_weight: float = redeclared(SemiKnobs, "unlabelled_weight", 100.0)
    temperature: float = knob(0.5, "of the targets", low=0, open_low=True, high=10, search=(0.25, 1.0))
    own_alpha: float = knob(
        0.5, "Beta(own_alpha, own_alpha) of its own mixing", low=0, open_low=True, high=100, search=(0.1, 2.0), log=True
    )
    ramp_up: float = knob(0.4, "share of the run over which unlabelled_weight rises", low=0, open_low=True, high=1)


class MixMatch(SemiSupervised):
    """L = CE(mixed labelled rows) + unlabelled_weight r(t) mean over classes and other rows of (softmax - target)^2.

    The target of an unlabelled image is the sharpened mean of the predictions of two weak views. The rows [x; u1; u2]
    are mixed with a permutation of themselves, with one share of at least 1/2, and pass the network in chunks as large
    as the labelled batch, between which rows are exchanged; the first chunk alone moves the running statistics.

    Source: Berthelot et al., arXiv 1905.02249; TorchSSL at f26e1d4.
    """

    name: ClassVar[str] = "mixmatch"
    knobs: ClassVar[type[Knobbed]] = MixMatchKnobs

    @property
    def needs(self) -> Needs:
        return Needs(unlabelled=("cropped", "cropped"), ratio=self.settings.ratio)

    def own_terms(
        self, batch: Batch, x: Tensor, views: Sequence[Tensor], clock: Clock, generator: Generator
    ) -> Steps[Term, None, Guess]:
        p = torch.stack([self.predicted(view) for view in views]).mean(0)
        q = sharpened(p, self.settings.temperature)
        guess = self.guess_of(q)
        y = functional.one_hot(batch.y, q.shape[1]).to(q.dtype)
        weight = self.settings.unlabelled_weight * ramp(clock.progress, self.settings.ramp_up)
        rows, targets = torch.cat([x, *views]), torch.cat([y, q, q])
        yield from self.mixed_rows(rows, targets, len(x), weight, generator, guess.told(batch.truth))
        return guess

    def predicted(self, view: Tensor) -> Tensor:
        """Probabilities of all images [M, K], by a pass that neither learns nor moves running statistics."""
        with torch.no_grad(), self.apart(self.network), self.autocast():
            logits = self.logits(self.world.share(view))
        return self.world.gather(logits.float().softmax(dim=1))

    def guess_of(self, q: Tensor) -> Guess:
        """The guesses that mixing by `method` uses, of targets [M, K]."""
        confidence, label = q.max(dim=1)
        return Guess(label, (confidence >= self.settings.threshold).float())

    def own_draw(self, rows: int, generator: Generator) -> tuple[float, Tensor]:
        """The share of its own mixing, 1/2 to 1, and the permutation, int64 [rows] on the CPU."""
        lam = draw_beta(self.settings.own_alpha, generator)
        return max(lam, 1 - lam), torch.randperm(rows, generator=generator)

    def unlabelled_each(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each unlabelled row, [B]."""
        return (logits.softmax(dim=1) - target).square().mean(dim=1)

    def mixed_rows(
        self, x: Tensor, y: Tensor, size: int, weight: float, generator: Generator, told: dict[str, Tensor]
    ) -> Iterator[Term]:
        """A term for each chunk of rows x [n size, C, H, W] with targets y [n size, K], the first `size` labelled."""
        lam, permutation = self.own_draw(len(x), generator)
        partner = permutation.to(x.device, non_blocking=True)
        x, y = torch.lerp(x[partner], x, lam), torch.lerp(y[partner], y, lam)
        labelled = unlabelled = x.new_zeros(())
        chunks = interleaved(len(x) // size, size)
        others = len(x) - size
        for number, places in enumerate(chunks):
            own = self.world.share(places)
            here = own.to(x.device, non_blocking=True)
            known = (own < size).to(x.device, non_blocking=True)
            with self.apart(self.network) if number else self.autocast(), self.autocast():
                logits = self.logits(x[here]).float()
            target = y[here]
            first = functional.cross_entropy(logits, target, reduction="none")
            # A mean over this worker's rows stands for the sum over the chunk's, which are `size`.
            supervised = torch.where(known, first, torch.zeros_like(first)).mean()
            each = self.unlabelled_each(logits, target)
            consistent = torch.where(known, torch.zeros_like(each), each).mean() * size / others
            labelled, unlabelled = labelled + supervised.detach(), unlabelled + consistent.detach()
            losses = {"labelled_loss": labelled, "unlabelled_loss": unlabelled}
            yield Term(supervised + weight * consistent, losses | told)


def interleaved(chunks: int, size: int) -> Tensor:
    """Which rows stand in each chunk when the j-th slices of chunk 0 and of chunk j have been exchanged, for all j:
    int64 [chunks, size].

    Slices are size // chunks long, and the last of them one longer where there is a remainder.

    Examples:
        >>> interleaved(2, 3).tolist()
        [[0, 4, 5], [3, 1, 2]]
    """
    order = torch.arange(chunks * size).view(chunks, size)
    lengths = [size // chunks + (j >= chunks - size % chunks) for j in range(chunks)]
    start = lengths[0]
    for j in range(1, chunks):
        part = slice(start, start + lengths[j])
        order[0, part], order[j, part] = order[j, part].clone(), order[0, part].clone()
        start += lengths[j]
    return order
