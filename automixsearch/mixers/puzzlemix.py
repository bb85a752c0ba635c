"""Puzzle Mix: a block mask that keeps what is salient in both images, and salient blocks moved into it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import functional, torch
from automixsearch.mixers.base import Mixed, Mixer, PairDraw, Shape, alpha_knob, draw_beta, pairs

if TYPE_CHECKING:
    from torch import Generator, Tensor

GRIDS = (2, 4, 8, 16)


@dataclass(frozen=True)
class PuzzleMixDraw(PairDraw):
    """lam: the own share that the prior leans to, in [0, 1]. blocks: b, the mask having b x b blocks.

    attacked: whether own images and partners are shown perturbed. start: float [B, C, H, W] in [-1, 1], where the
    perturbation starts, or None where there is none. strength: in [0, 1], the part of it that is added.
    """

    lam: float
    blocks: int
    attacked: tuple[bool, bool] = (False, False)
    start: Tensor | None = None
    strength: float = 0.0


@dataclass(frozen=True)
class PuzzleMix(Mixer):
    """Show each image where it is salient: x <- z T1(x) + (1 - z) T2(x[partner]), one block mask z for every sample.

    z takes n_labels values from 0 to 1 on a b x b grid, b drawn per batch from 2, 4, 8, 16, and has the least energy:
    the saliency it hides, plus jumps between unlike images at block borders, plus differences of neighbouring
    blocks, plus -prior/b^2 log of the binomial probability of each value given lam ~ Beta(alpha, alpha). T1 and T2
    move salient blocks to where z shows them. The own label weighs mean(z), per sample; lam is only a prior.

    With probability `adv_p` each, own images and partners are shown with an adversarial perturbation: uniform noise
    plus a signed gradient step, within adv_eps / 255, times a factor uniform in [0, 1].

    Source: Kim et al., arXiv 2009.06962, eq. 1-6; authors' code PuzzleMix at e2dbf3a.
    Differs: the mask is an exact optimum (alpha-beta swap: local, on integer costs that overflow int32 where a block
    holds more than 21.47/b^2 of the saliency, with 1/9 and 4/9 rounded to 0.11 and 0.44). Probabilities in the prior
    have no floor of 1e-8, so lam = 1 gives the sample back. The transport runs to its end (released: T rounds).
    Borders are pooled by the largest divisor of the block side up to neigh_size (released: min of both, which fails
    for 4 and 14 pixels). Any H and W: a block is the pixels y with floor(y b / H) = row, columns likewise; borders are
    compared on the image averaged to whole blocks of H // b by W // b pixels. Negative pair costs, possible only for
    pixels outside [0, 1], count as 0, saliency that is not finite (an overflowing scaled gradient) too. Grids finer
    than the image are not drawn. Perturbations take the gradient
    at the image (released: at the image plus the random start, which saliency is then taken from too).

    Examples:
        >>> x, std = torch.rand(4, 3, 32, 32), torch.ones(3)
        >>> saliency = x.square().mean(1).sqrt()
        >>> PuzzleMix()(x, torch.Generator().manual_seed(0), saliency=saliency, std=std).shares.shape
        torch.Size([4, 2])
    """

    name: ClassVar[str] = "puzzlemix"
    source: ClassVar[str] = "arXiv 2009.06962"
    needs: ClassVar[frozenset[str]] = frozenset({"saliency", "std", "mean", "gradient"})
    published: ClassVar = {
        "cifar": {"alpha": 1.0},
        "tiny": {"alpha": 1.0, "max_blocks": 8, "t_size": 0},
        "imagenet": {"alpha": 1.0, "max_blocks": 8, "t_size": 0},
        "fine_grained": {"alpha": 1.0, "max_blocks": 8, "t_size": 0},
    }

    alpha: float = alpha_knob(1.0, "Beta(alpha, alpha) of the share that the prior leans to")
    n_labels: int = knob(3, "values of the mask, from 0 to 1", choices=(2, 3, 4), search=(2, 3))
    max_blocks: int = knob(16, "finest of the grids 2, 4, 8, 16 that are drawn", choices=GRIDS, search=(4, 8, 16))
    label_smoothness: float = knob(1.2, "beta: cost of unlike neighbours", low=0, high=100, search=(0.4, 2.4))
    data_smoothness: float = knob(0.5, "gamma: share of it that follows the pixels", low=0, high=1)
    prior: float = knob(0.2, "eta: how much lam matters", low=0, high=1000)
    neigh_size: int = knob(4, "pixels pooled at block borders", low=1, high=64)
    transport: bool = knob(True, "move salient blocks to where they are seen")
    t_eps: float = knob(0.8, "cost of moving across the image, in saliency", low=0, high=1000)
    t_size: int = knob(4, "largest side in pixels of the blocks that move; 0: the mask's", low=0, high=64)
    clean_lam: float = knob(
        0.0, "weight of the loss of the clean images; > 0: their pass gives the saliency", low=0, high=100
    )

    adv_p: float = knob(0.0, "probability that own images (partners) are shown perturbed", low=0, high=1)
    adv_eps: float = knob(10.0, "size of the perturbation, in 255ths of the brightness", low=0, high=255)

    def needs_of(self, draw: PuzzleMixDraw) -> frozenset[str]:
        return self.needs if any(draw.attacked) else frozenset({"saliency", "std"})

    def clean_weight_of(self, draw: PuzzleMixDraw) -> float:
        return self.clean_lam

    def draw(self, shape: Shape, generator: Generator) -> PuzzleMixDraw:
        """Draw the permutation, lam, the grid, then (with adv_p > 0) who is perturbed, the start and the strength."""
        partner = torch.randperm(shape[0], generator=generator)
        lam = draw_beta(self.alpha, generator)
        grids = [blocks for blocks in GRIDS if blocks <= min(self.max_blocks, *shape[2:])] or [1]
        draw = PuzzleMixDraw(partner, lam, grids[int(torch.randint(len(grids), (), generator=generator))])
        if not self.adv_p:
            return draw
        own, other, strength = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        attacked = (own < self.adv_p, other < self.adv_p)
        start = torch.rand(shape, generator=generator) * 2 - 1 if any(attacked) else None
        return dataclasses.replace(draw, attacked=attacked, start=start, strength=strength)

    def apply(
        self,
        x: Tensor,
        draw: PuzzleMixDraw,
        *,
        saliency: Tensor,
        std: Tensor,
        mean: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> Mixed:
        """Mix `x` [B, C, H, W] by its saliency.

        Args:
            saliency: [B, H, W], sqrt(mean over channels of (d CE / d x)^2) of `x`; any scale.
            std: [C], the standard deviations by which `x` was divided, for pixels in [0, 1] (the mean cancels).
            mean: [C], what was subtracted before, and gradient: [B, C, H, W], d CE / d x of `x`; for perturbations.
        """
        height, width = x.shape[2:]
        if draw.blocks > min(height, width):
            raise ValueError(f"a grid of {draw.blocks} blocks does not fit an image of {height} x {width} pixels")
        partner = draw.partner.to(x.device, non_blocking=True)
        side = transport_side(draw.blocks, min(height, width), self.t_size) if self.transport else draw.blocks
        salient = pooled_saliency(saliency, side)
        mask = self.mask(x, salient, draw, std)
        plans = self.plans(salient, mask, partner) if self.transport else None
        area = pixel_counts(height, draw.blocks).outer(pixel_counts(width, draw.blocks))
        lam = (mask * area).sum((1, 2)) / (height * width)
        own, other = x, x
        if draw.start is not None:
            assert mean is not None
            assert gradient is not None
            attack = perturbed(x, draw, gradient, mean, std, self.adv_eps / 255)
            own, other = (attack if on else x for on in draw.attacked)
        return pairs(compose(own, other, partner, mask.to(x), plans), partner, lam.to(x.device, non_blocking=True))

    def mask(self, x: Tensor, salient: Tensor, draw: PuzzleMixDraw, std: Tensor) -> Tensor:
        """The mask, float64 [B, b, b] on the CPU, from saliency pooled to [B, T, T], T a multiple of b."""
        if draw.lam in (0.0, 1.0):  # every other value has probability 0
            return torch.full((len(x), draw.blocks, draw.blocks), draw.lam, dtype=torch.float64)
        strength = self.label_smoothness / draw.blocks / 16
        costs = block_costs(
            functional.avg_pool2d(salient, salient.shape[-1] // draw.blocks, divisor_override=1),
            border_jumps(x, draw.partner.to(x.device, non_blocking=True), std, draw.blocks, self.neigh_size),
            draw.partner.to(x.device, non_blocking=True),
            strength * self.data_smoothness,
        )
        return best_mask(costs, strength, label_prior(self.n_labels, draw.lam, self.prior / draw.blocks**2))

    def plans(self, salient: Tensor, mask: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """The block that own images and partners show at every place: two int64 [B, T, T] on the device."""
        from automixsearch.mixers.transport import transport_plan  # SciPy and NumPy only when mixing

        factor = salient.shape[-1] // mask.shape[-1]
        seen = torch.cat([mask > 0, mask < 1]).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        both = torch.cat([salient, salient[partner]]).cpu().numpy()
        plans = torch.from_numpy(transport_plan(both, seen.numpy(), self.t_eps)).to(salient.device, non_blocking=True)
        own, other = plans.chunk(2)
        return own, other


def transport_side(blocks: int, length: int, largest: int) -> int:
    """The side T of the transport grid: as many times `blocks` as pieces of `largest` pixels fit a block (0: once)."""
    return blocks * max(1, length // blocks // largest) if largest else blocks


def pooled_saliency(saliency: Tensor, side: int) -> Tensor:
    """Average [B, H, W] to float32 [B, side, side] of sum 1 (uniform where there is no saliency at all)."""
    finite = torch.nan_to_num(saliency.float(), 0.0, 0.0, 0.0)
    pooled = functional.adaptive_avg_pool2d(finite, side)
    total = pooled.sum((1, 2), keepdim=True)
    return torch.where(total > 0, pooled / total, 1 / side**2)


@dataclass(frozen=True)
class Jumps:
    """Mean absolute differences of pixels in [0, 1] across block borders, float32 [2, 2, B, b, b-1 or b-1, b].

    Entry [i, j]: from image i in the first block (upper, left) to image j in the second; 0 partner, 1 own.
    """

    below: Tensor
    right: Tensor


def border_jumps(x: Tensor, partner: Tensor, std: Tensor, blocks: int, neigh_size: int) -> Jumps:
    """Compare the cells, of up to `neigh_size` pixels a side, on both sides of every block border."""

    def cells_per_block(length: int) -> int:
        block = length // blocks
        return block // max(size for size in range(1, neigh_size + 1) if block % size == 0)

    rows, columns = cells_per_block(x.shape[2]), cells_per_block(x.shape[3])
    cells = functional.adaptive_avg_pool2d(x.float(), (blocks * rows, blocks * columns))
    cells = (cells * std.to(cells)[:, None, None]).unflatten(3, (blocks, columns)).unflatten(2, (blocks, rows))

    def jumps(first: Tensor, second: Tensor) -> Tensor:
        first, second = torch.stack([first[partner], first]), torch.stack([second[partner], second])
        return (first[:, None] - second[None]).abs().mean((3, 6))

    return Jumps(
        below=jumps(cells[:, :, :-1, -1], cells[:, :, 1:, 0]),
        right=jumps(cells[..., :-1, -1].transpose(3, 4), cells[..., 1:, 0].transpose(3, 4)),
    )


@dataclass(frozen=True)
class BlockCosts:
    """own, other: [B, b, b], cost of showing the own image, the partner. below, right: data term to that neighbour."""

    own: Tensor
    other: Tensor
    below: Tensor
    right: Tensor


def block_costs(salient: Tensor, jumps: Jumps, partner: Tensor, strength: float) -> BlockCosts:
    """The saliency [B, b, b] that each image hides, and the jumps at block borders times `strength`.

    For binary z the jump between two blocks is a quadratic in both; its linear part goes to the blocks.
    """
    own, other = salient[partner].clone(), salient.clone()
    pairs = []
    for axis, phi in ((1, jumps.below * strength), (2, jumps.right * strength)):
        inner = own.shape[axis] - 1
        for image, cost in ((1, own), (0, other)):
            cost.narrow(axis, 0, inner).add_(phi[image].sum(0) / 2)
            cost.narrow(axis, 1, inner).add_(phi[:, image].sum(0) / 2)
        pairs.append((phi[1, 0] + phi[0, 1] - phi[1, 1] - phi[0, 0]) / 2)
    return BlockCosts(own, other, *pairs)


def label_prior(n_labels: int, lam: float, weight: float) -> Tensor:
    """-weight log P(label j) of j = 0 (own) to L-1 (partner), j ~ Binomial(L-1, 1 - lam), 0 < lam < 1: float64 [L]."""
    last = n_labels - 1
    logs = [math.log(math.comb(last, j)) + (last - j) * math.log(lam) + j * math.log1p(-lam) for j in range(n_labels)]
    return -weight * torch.tensor(logs, dtype=torch.float64)


def best_mask(costs: BlockCosts, smoothness: float, prior: Tensor) -> Tensor:
    """The mask z of least energy, float64 [B, b, b] on the CPU; 1 shows the own image.

    Energy: sum over blocks of z own + (1 - z) other + prior(z), over neighbours of (data term + smoothness) (z - z')^2.
    """
    from automixsearch.mixers.mincut import least_energy_labels  # SciPy and NumPy only when mixing

    own, other, below, right = (
        term.double().cpu() for term in (costs.own, costs.other, costs.below + smoothness, costs.right + smoothness)
    )
    share = torch.linspace(0, 1, len(prior), dtype=torch.float64)
    unary = own[..., None] * (1 - share) + other[..., None] * share + prior
    labels = least_energy_labels(unary.numpy(), below.clamp(min=0).numpy(), right.clamp(min=0).numpy())
    return 1 - torch.from_numpy(labels).double() / (len(prior) - 1)


def perturbed(x: Tensor, draw: PuzzleMixDraw, gradient: Tensor, mean: Tensor, std: Tensor, size: float) -> Tensor:
    """`x` plus the perturbation of `draw`, at most `size` for pixels in [0, 1], which they stay within."""
    assert draw.start is not None
    step = size + 2 / 255  # beyond the bound, so that the signed step outweighs a start on the other side
    change = (draw.start.to(x.device, non_blocking=True) * size + step * gradient.sign()).clamp(
        -size, size
    ) * draw.strength
    mean, std = mean[:, None, None], std[:, None, None]
    return (((x * std + mean + change).clamp(0, 1) - mean) / std).to(x.dtype)


def compose(
    own: Tensor, other: Tensor, partner: Tensor, mask: Tensor, plans: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """z T1(own) + (1 - z) T2(other[partner]) for the mask z [B, b, b], and plans as `PuzzleMix.plans` returns them."""
    x = own
    index = torch.arange(len(x), device=x.device)
    own, other = (moved(own, index, plans[0]), moved(other, partner, plans[1])) if plans else (own, other[partner])
    rows, columns = (
        (torch.arange(length, device=x.device) * mask.shape[-1]).div(length, rounding_mode="floor")
        for length in x.shape[2:]
    )
    return torch.lerp(other, own, mask[:, None, rows[:, None], columns])


def moved(x: Tensor, image: Tensor, plan: Tensor) -> Tensor:
    """Copy x[image] with block plan[n, t] of its image shown at place t of sample n; only moved blocks are touched.

    Where blocks differ in size, by at most one pixel a side, a larger one is cut and a smaller one repeats its end.
    """
    out, side = x[image], plan.shape[-1]
    sample, place = (plan.flatten(1) != torch.arange(side**2, device=x.device)).nonzero(as_tuple=True)
    block = plan.flatten(1)[sample, place]

    def pixels(length: int, to: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        count = pixel_counts(length, side).to(x.device, non_blocking=True)
        start = (count.cumsum(0) - count)[:, None]
        offset = torch.arange(int(count.max()), device=x.device).minimum(count[to, None] - 1)
        return start[to] + offset, start[source] + offset.minimum(count[source, None] - 1)

    to_rows, from_rows = pixels(x.shape[2], place // side, block // side)
    to_columns, from_columns = pixels(x.shape[3], place % side, block % side)
    sample = sample[:, None, None]
    pasted = x[image[sample], :, from_rows[:, :, None], from_columns[:, None]]
    out[sample, :, to_rows[:, :, None], to_columns[:, None]] = pasted
    return out


def pixel_counts(length: int, side: int) -> Tensor:
    """How many of `length` pixels y have floor(y side / length) = i, for i = 0 to side - 1: int64 [side]."""
    return (torch.arange(length) * side).div(length, rounding_mode="floor").bincount(minlength=side)
