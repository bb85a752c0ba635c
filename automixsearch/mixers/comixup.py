"""Co-Mixup: as many outputs as inputs, each made of the salient blocks of several, unlike one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import Draw, Mixed, Mixer, Shape, alpha_knob
from automixsearch.mixers.puzzlemix import pixel_counts, pooled_saliency

if TYPE_CHECKING:
    from torch import Generator, Tensor

WINDOW = 8
"""Pixels a side that are averaged to find where an image is most salient."""


@dataclass(frozen=True)
class CoMixupDraw(Draw):
    """The batch falls into consecutive parts; the inputs of a part are numbered from 0.

    parts: the sizes of the parts. prior: float64 [B], of sum 1 in each part, the share of every input that the prior
    leans to. start: int64 [B, b, b], the input that every block of every output shows before the first sweep.
    """

    parts: tuple[int, ...]
    prior: Tensor
    start: Tensor


@dataclass(frozen=True)
class CoMixup(Mixer):
    """Show in each block of each output one input of its part, or two half and half, so that the objective is small.

    The objective, over the outputs j of a part of n inputs on a b x b grid, with the share z_jk of input k:
    sum z (cost - eta/b^2 log prior_k) + beta/(2 b^2) sum over neighbouring blocks of |z - z'|^2
    + gamma/b^2 sum_jk n_jk [o_jk > tau b^2] o_jk; the cost is minus the saliency (of sum 1 per image), n_jk = blocks of
    output j that show input k, o_jk = blocks of the other outputs that do, the prior is Dirichlet(alpha). So outputs
    show what is salient, in connected pieces, and no input is in most of the outputs. Every input of an output lends
    its label the share of the pixels that it has.

    `sweeps` times each output is labelled anew, the others given (see `supermodular.assign_inputs`). Where two outputs
    would end up with the same set of inputs, `resolve` gives one of them another set.

    Source: Kim et al., arXiv 2102.03065, eq. 4-7 and algorithm 1; authors' code Co-Mixup at 2a76816.
    Differs: the solver, and what it minimises (see there); the sweeps stop when no label changes (released: when the
    objective without the threshold changes by less than 1e-6, which is not what the sweeps minimise). The costs keep
    their values (released: the prior is added to them in place). Costs are not rounded (released: to whole numbers,
    by which 1.25 becomes 1 where there are 16 blocks a side). Half and half has no bonus of 5e-4. Parts are nearly
    equal, of any size (released: a last, smaller batch fails). `soft` charges what is above the threshold. Any H and W:
    blocks as in Puzzle Mix, which counts saliency that is not finite as none. The loss is whatever the loss knobs say
    (released: binary cross-entropy of the softmax, plus 2 clean_lam / classes of the clean one).

    Examples:
        >>> x = torch.rand(4, 3, 32, 32)
        >>> mixed = CoMixup()(x, torch.Generator().manual_seed(0), saliency=x.mean(1))
        >>> [round(total, 6) for total in mixed.shares.sum(1).tolist()]  # over all inputs that an output shows
        [1.0, 1.0, 1.0, 1.0]
    """

    name: ClassVar[str] = "comixup"
    crosses: ClassVar[bool] = False
    source: ClassVar[str] = "arXiv 2102.03065"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency"})
    published: ClassVar = {
        "cifar": {"alpha": 2.0},
        "tiny": {"alpha": 2.0},
        "imagenet": {"alpha": 2.0, "sweeps": 3},
    }

    alpha: float = alpha_knob(
        2.0, "Dirichlet(alpha, alpha, ...) of the shares that the prior leans to", search=(0.5, 4.0)
    )
    blocks: int = knob(4, "blocks along a side of the image", choices=(2, 4, 8, 16), search=(2, 4, 8))
    part: int = knob(20, "largest number of images that are mixed with one another", low=1, high=64)
    label_smoothness: float = knob(
        0.32, "beta: cost of unlike neighbours", low=0, high=100, search=(0.1, 1.0), log=True
    )
    diversity: float = knob(1.0, "gamma: cost of an input that is shown too often", low=0, high=1000)
    threshold: float = knob(
        0.83, "tau: how often the other outputs may show it, in images", low=0, high=64, search=(0.5, 1.5)
    )
    prior: float = knob(0.05, "eta: how much the drawn shares matter", low=0, high=1000, search=(0.01, 0.5), log=True)
    distance: float = knob(0.001, "omega: how much inputs salient in far places repel each other", low=0, high=1)
    sweeps: int = knob(4, "how often every output is labelled", low=1, high=100)
    kind: str = knob("hard", "above the threshold all that is shown counts, or the excess", choices=("hard", "soft"))
    resolve: bool = knob(True, "no two outputs of the same inputs")
    clean_lam: float = knob(
        1.0, "weight of the loss of the clean images; > 0: their pass gives the saliency", low=0, high=100
    )

    @classmethod
    def prepare(cls) -> None:
        """Let Numba compile the solver into its cache."""
        import automixsearch.mixers.supermodular  # noqa: F401

    def clean_weight_of(self, draw: CoMixupDraw) -> float:
        return self.clean_lam

    def draw(self, shape: Shape, generator: Generator) -> CoMixupDraw:
        """Draw the prior, by inversion as `draw_beta` does, then the start."""
        from scipy.special import gammaincinv

        samples = shape[0]
        count = -(-samples // self.part)
        parts = tuple(samples // count + (number < samples % count) for number in range(count))
        uniform = torch.rand(samples, generator=generator, dtype=torch.float64)
        gamma = torch.from_numpy(gammaincinv(self.alpha, uniform.numpy()))
        prior = [values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) for values in gamma.split(parts)]
        side = min(self.blocks, *shape[2:])
        sizes = torch.tensor(parts).repeat_interleave(torch.tensor(parts))[:, None, None]
        start = (torch.rand(samples, side, side, generator=generator, dtype=torch.float64) * sizes).long()
        return CoMixupDraw(parts, torch.cat(prior), start.minimum(sizes - 1))

    def apply(self, x: Tensor, draw: CoMixupDraw, *, saliency: Tensor) -> Mixed:
        """Mix `x` [B, C, H, W] by its saliency.

        Args:
            saliency: [B, H, W], sqrt(mean over channels of (d CE / d x)^2) of `x`; any scale.
        """
        side = draw.start.shape[-1]
        height, width = x.shape[2:]
        if side > min(height, width):
            raise ValueError(f"a grid of {side} blocks does not fit an image of {height} x {width} pixels")
        costs = block_costs(saliency, side) - prior_gain(draw.prior, self.prior / side**2)
        places = peaks(saliency)
        first = torch.cat([torch.full((size,), sum(draw.parts[:n])) for n, size in enumerate(draw.parts)])
        labels = [
            self.assign(*values)
            for values in zip(*(tensor.split(draw.parts) for tensor in (costs, places, draw.start)), strict=True)
        ]
        one, two = (torch.cat(half) + first[:, None, None] for half in zip(*labels, strict=True))
        sources, shares = label_shares(one, two, (height, width))
        return Mixed(
            compose(x, one, two), sources.to(x.device, non_blocking=True), shares.to(x.device, non_blocking=True)
        )

    def assign(self, costs: Tensor, places: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The two inputs of which every block is made half and half (mostly the same one): two int64 [n, b, b].

        Args:
            costs: [n, b, b] of the inputs of one part, prior included. places: [n, 2], see `peaks`.
            start: int64 [n, b, b].
        """
        from automixsearch.mixers.supermodular import assign_inputs  # NumPy and Numba only when mixing

        area = costs.shape[-1] ** 2
        labels = assign_inputs(
            costs.numpy(),
            likeness(places, self.distance).numpy(),
            start.numpy(),
            (self.label_smoothness / area, self.diversity / area, self.threshold * area),
            excess=self.kind == "soft",
            resolve=self.resolve,
            sweeps=self.sweeps,
        )
        one, two = (torch.from_numpy(half) for half in labels)
        return one, two


def block_costs(saliency: Tensor, side: int) -> Tensor:
    """Minus the share of the saliency [B, H, W] of each image that a block has: float64 [B, b, b] on the CPU."""
    return -pooled_saliency(saliency, side).double().cpu()


def prior_gain(prior: Tensor, weight: float) -> Tensor:
    """What a block gains by showing each input: weight log(prior + 1e-8), float64 [B, 1, 1]."""
    return weight * (prior + 1e-8).log()[:, None, None]


def peaks(saliency: Tensor) -> Tensor:
    """Where [B, H, W] is greatest, averaged over 8 x 8 pixels (4, 2 or 1 a side if smaller): float64 [B, 2] on the CPU.

    A place is the row and the column of the upper left pixel.
    """
    sums = saliency.float()
    for axis in (1, 2):
        pixels = 1
        while pixels < WINDOW and pixels < sums.shape[axis]:  # doubling: far faster than pooling
            left = sums.shape[axis] - pixels
            sums = sums.narrow(axis, 0, left) + sums.narrow(axis, pixels, left)
            pixels *= 2
    place = sums.flatten(1).argmax(1).cpu()
    return torch.stack([place // sums.shape[2], place % sums.shape[2]], 1).double()


def likeness(places: Tensor, distance: float) -> Tensor:
    """A = (1 - omega) I + omega n D / sum(D), D the L1 distances of the peaks [n, 2]: float64 [n, n]."""
    far = torch.cdist(places, places, p=1)
    return (1 - distance) * torch.eye(len(places)) + distance * len(places) * far / far.sum().clamp(min=1)


def label_shares(one: Tensor, two: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The inputs of every output by falling share of its pixels, and the shares: [B, S], int64 and float64.

    S is the largest number of inputs of an output; where there are fewer, the first is repeated with share 0.
    """
    samples, side = len(one), one.shape[-1]
    pixels = pixel_counts(size[0], side).outer(pixel_counts(size[1], side)).double().flatten() / (2 * size[0] * size[1])
    shares = torch.zeros(samples, samples, dtype=torch.float64)
    for half in (one, two):
        shares.scatter_add_(1, half.flatten(1), pixels.expand(samples, -1))
    shares, sources = shares.sort(dim=1, descending=True, stable=True)
    used = int((shares > 0).sum(1).max())
    shares, sources = shares[:, :used], sources[:, :used]
    return torch.where(shares > 0, sources, sources[:, :1]), shares.contiguous()


def compose(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """Put the outputs together: block p of output j is half x[one[j, p]], half x[two[j, p]]; both int64 [B, b, b]."""
    side, out = one.shape[-1], torch.empty_like(x)
    rows, columns = ([0, *pixel_counts(length, side).cumsum(0).tolist()] for length in x.shape[2:])
    one, two = one.to(x.device, non_blocking=True), two.to(x.device, non_blocking=True)
    for row in range(side):
        for column in range(side):
            block = (..., slice(rows[row], rows[row + 1]), slice(columns[column], columns[column + 1]))
            halves = (x[block].index_select(0, half[:, row, column]) for half in (one, two))
            out[block] = torch.lerp(*halves, 0.5)  # of an image with itself: exactly that image
    return out
