"""AugMix: views of each image, mixed from chains of image operations, that shall be predicted alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from automixsearch.config.knobs import knob
from automixsearch.lazy import torch
from automixsearch.mixers.base import Draw, Mixed, Mixer, Shape
from automixsearch.mixers.image_ops import OPERATIONS, STANDARD

if TYPE_CHECKING:
    from torch import Generator, Tensor

LONGEST = 3
"""The most operations of a chain of random depth."""


@dataclass(frozen=True)
class AugMixDraw(Draw):
    """V views of B images, each of K chains of at most D operations; all on the CPU.

    shares: float64 [V, B, K], of the chains within their mix; they sum to 1. strength: float64 [V, B], the share of
    that mix in the view, against the clean image. operations: int64 [V, B, K, D], places in OPERATIONS, -1 where a
    chain has ended. level: float64 [V, B, K, D], 0 to 10. sign: float64 [V, B, K, D], 1 or -1.
    """

    shares: Tensor
    strength: Tensor
    operations: Tensor
    level: Tensor
    sign: Tensor


@dataclass(frozen=True)
class AugMix(Mixer):
    """Train on the clean images, and make the predictions of two augmented views of each agree with theirs.

    A view is (1 - m) x + m sum_k w_k chain_k(x), m ~ Beta(alpha, alpha), w ~ Dirichlet(alpha, ...), drawn for every
    image and view. A chain applies a few random operations one after the other, each at a level ~ U(0.1, severity)
    of 10. The loss is the loss of the clean images plus `consistency` times the Jensen-Shannon divergence between
    the three predictions of an image. Labels are never mixed. With `consistency = 0` there is no divergence to
    compute: one view takes the place of the clean image, AugMix as plain augmentation.

    Operations see the values 0 to 255 before normalisation and equal Pillow's, but run on whole batches on the
    device. The standard nine leave out colour, contrast, brightness and sharpness, which occur in the benchmarks of
    corrupted images.

    Source: Hendrycks et al., arXiv 1912.02781; authors' code augmix at 9b9824c (CIFAR: 3 chains, severity 3).
    Differs: translations are relative to the height or width of the image and normalisation is that of the data set
    (the authors' code has constants of CIFAR for both). The divergence is not clamped. OpenMixup's copy, whose
    operations see normalised values and whose loss has no divergence, is not followed.

    Examples:
        >>> pixels = torch.randint(256, (4, 32, 32, 3), dtype=torch.uint8)
        >>> half = torch.full((3,), 0.5)
        >>> x = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        >>> mixed = AugMix()(x, torch.Generator().manual_seed(0), pixels=pixels, mean=half, std=half)
        >>> mixed.views.shape, torch.equal(mixed.x, x)
        (torch.Size([2, 4, 3, 32, 32]), True)
    """

    name: ClassVar[str] = "augmix"
    crosses: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    whole: ClassVar[bool] = True  # all of a batch has views, or none of it
    source: ClassVar[str] = "arXiv 1912.02781"
    needs: ClassVar[frozenset[str]] = frozenset({"pixels", "mean", "std"})
    published: ClassVar = {"cifar": {"severity": 3, "chains": 3, "depth": -1, "alpha": 1.0, "consistency": 12.0}}

    severity: int = knob(3, "highest level of an operation, of 10", low=1, high=10, search=(1, 10))
    chains: int = knob(3, "chains per view", low=1, high=10)
    depth: int = knob(-1, "operations per chain; -1: 1 to 3 at random", choices=(-1, 1, 2, 3, 4))
    alpha: float = knob(
        1.0,
        "Beta and Dirichlet parameter of the shares",
        low=0.01,
        high=100,
        search=(0.1, 4.0),
        log=True,
    )
    consistency: float = knob(
        12.0,
        "weight of the Jensen-Shannon divergence; 0: one view replaces the image",
        low=0,
        high=1000,
        search=(1.0, 30.0),
        log=True,
    )
    ops: str = knob("standard", "the nine of the paper, or four more on colours", choices=("standard", "all"))

    def draw(self, shape: Shape, generator: Generator) -> AugMixDraw:
        """Draw depths, operations, levels, signs, then the shares of the chains and of their mix."""
        chains = (2 if self.consistency else 1, shape[0], self.chains)
        longest = LONGEST if self.depth == -1 else self.depth
        depth = torch.randint(1, LONGEST + 1, chains, generator=generator) if self.depth == -1 else longest
        known = len(OPERATIONS) if self.ops == "all" else STANDARD
        operations = torch.randint(known, (*chains, longest), generator=generator)
        ended = torch.arange(longest) >= torch.as_tensor(depth)[..., None]
        level = torch.rand(operations.shape, generator=generator, dtype=torch.float64)
        sign = 1.0 - 2 * torch.randint(2, operations.shape, generator=generator).double()
        uniform = torch.rand(chains, generator=generator, dtype=torch.float64)
        strength = beta_quantile(self.alpha, self.alpha, uniform[..., -1])
        shares = dirichlet(self.alpha, uniform[..., :-1])
        operations = operations.masked_fill(ended, -1)
        return AugMixDraw(shares, strength, operations, 0.1 + (self.severity - 0.1) * level, sign)

    def apply(self, x: Tensor, draw: AugMixDraw, *, pixels: Tensor, mean: Tensor, std: Tensor) -> Mixed:
        """Return `x` with its views, or the only view in its place where `consistency` is 0.

        Args:
            pixels: uint8 [B, H, W, C], what `x` was before it was normalised; C = 1 or 3 (RGB).
            mean: float [C], in 0..1 units.
            std: float [C], likewise; x = (pixels / 255 - mean) / std.
        """
        expected = (x.shape[0], *x.shape[2:], x.shape[1])
        if pixels.dtype != torch.uint8 or pixels.shape != expected:
            raise ValueError(f"pixels are {pixels.dtype} {tuple(pixels.shape)} and must be torch.uint8 {expected}")
        views = augmented(x, draw, pixels, mean, std)
        sources = torch.arange(len(x), device=x.device)[:, None]
        shares = torch.ones(sources.shape, dtype=torch.float64, device=x.device)
        if self.consistency:
            return Mixed(x, sources, shares, views=views, consistency=self.consistency)
        return Mixed(views[0], sources, shares)


def augmented(x: Tensor, draw: AugMixDraw, pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The views that `draw` describes, in the type of `x`: [V, B, C, H, W]."""
    chains = chained(pixels.permute(0, 3, 1, 2), draw).unflatten(0, draw.shares.shape)
    precise = torch.promote_types(x.dtype, torch.float32)
    strength = draw.strength[..., None].to(x.device, precise, non_blocking=True)
    weights = strength * draw.shares.to(x.device, precise, non_blocking=True)
    mean, std = (values.to(x.device, precise, non_blocking=True)[:, None, None] for values in (mean, std))
    strength, weights = strength[..., None, None], weights[..., None, None, None]
    views = (1 - strength) * x - strength * mean / std
    for chain in range(chains.shape[2]):
        # in the type of x first: products of mixed types are several times slower
        views += chains[:, :, chain].to(precise) * (weights[:, :, chain] / (255 * std))
    return views.to(x.dtype)


def chained(images: Tensor, draw: AugMixDraw) -> Tensor:
    """Every chain applied to its image of `images`, uint8 [B, C, H, W]: uint8 [V * B * K, C, H, W].

    One call does an operation on all the images that have it at the same place of a chain.
    """
    views, _, width, longest = draw.operations.shape
    images = images[None, :, None].expand(views, -1, width, -1, -1, -1).flatten(0, 2)
    operations, level, sign = (drawn.flatten(0, 2) for drawn in (draw.operations, draw.level, draw.sign))
    for place in range(longest):
        order = operations[:, place].argsort(stable=True)
        counts = torch.bincount(operations[:, place] + 1, minlength=len(OPERATIONS) + 1).tolist()
        ended, *groups = images.index_select(0, order.to(images.device, non_blocking=True)).split(counts)
        levels, signs = (drawn[order, place].split(counts)[1:] for drawn in (level, sign))
        changed = [
            operation(*group)
            for operation, *group in zip(OPERATIONS.values(), groups, levels, signs, strict=True)
            if len(group[0])
        ]
        images = torch.cat([ended, *changed]).index_select(0, order.argsort().to(images.device, non_blocking=True))
    return images


def beta_quantile(a: float, b: float, uniform: Tensor) -> Tensor:
    """Beta(a, b) where its distribution function is `uniform`, float64 on the CPU; see `draw_beta`."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(a, b, uniform.numpy()))


def dirichlet(alpha: float, uniform: Tensor) -> Tensor:
    """Dirichlet(alpha, ..., alpha) of K shares from K - 1 uniform draws [..., K - 1]: [..., K].

    Shares are broken off one by one: the next is a Beta(alpha, l alpha) of the rest where l others follow. Whatever
    alpha is they sum to 1; normalised Gamma draws would all vanish for a small one.
    """
    rest, shares = torch.ones(uniform.shape[:-1], dtype=uniform.dtype), []
    for place in range(uniform.shape[-1]):
        share = beta_quantile(alpha, (uniform.shape[-1] - place) * alpha, uniform[..., place])
        shares.append(rest * share)
        rest = rest * (1 - share)
    return torch.stack([*shares, rest], -1)
