"""The Mix Block: from features of two images and a share, the mask that mixes them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class MixBlock(nn.Module):
    """Where to show the partner: masks in (0, 1) from the cross attention of every image to its partner.

    With A the features of the image and B those of its partner, both with the share embedded: q = W_q A, k = W_k B,
    v = W_v B (one channel), u = softmax(q k^T / sqrt(C')) v, mask = sigmoid(upsampled u). AutoMix and SAMix are two
    settings of it.

    Args:
        channels: C of the features.
        reduction: C' = max(C // reduction, 1) channels of q and k.
        embedding: how the share enters. none; concat: a channel lam on A and 1 - lam on B; concat_v: on B for the
            value only; multiply: A (1 + g), B (1 + g') with g = rescaled(lam, rescale), g' = 1 - g.
        shared: one convolution makes q and k.
        attend: partner: q from A, k from B. both: q and k from A and B side by side, by a convolution each.
        attention: False: u = v, the value alone, for ablation.
        neck: the value is made by two convolutions with BatchNorm, ELU and dropout between, instead of one.
        bilinear: how u is upsampled; False: nearest.
        spread: standard deviation of the first weights.

    Source: Liu et al., arXiv 2103.13027, section 3.2 (AutoMix); Li et al., arXiv 2111.15454 (SAMix); numbers from
    OpenMixup at 37e1372.
    Differs: nothing is aborted or patched where numbers overflow: the block computes in float32 under autocast too.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 2,
        embedding: str = "concat",
        rescale: float = -1.0,
        shared: bool = False,
        attend: str = "partner",
        attention: bool = True,
        neck: bool = False,
        dropout: float = 0.0,
        bilinear: bool = False,
        spread: float = 0.01,
    ) -> None:
        super().__init__()
        self.embedding, self.rescale, self.attend, self.bilinear = embedding, rescale, attend, bilinear
        self.attention = attention
        inner = max(channels // reduction, 1)
        own = channels + (embedding == "concat")
        seen = channels + (embedding in ("concat", "concat_v"))
        pair = 2 * own if attend == "both" else own
        if attention:
            self.query = nn.Conv2d(pair, inner, 1)
            self.key = self.query if shared else nn.Conv2d(pair, inner, 1)
        self.value: nn.Module = nn.Conv2d(seen, 1, 1)
        if neck:
            half = max(seen // 2, 1)
            layers = [
                nn.Conv2d(seen, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ELU(),
                nn.Conv2d(half, 1, 1, bias=False),
            ]
            self.value = nn.Sequential(*layers, nn.Dropout(dropout))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, spread)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, own: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """The mask of the partner, [B, 1, H, W], in float32; in float64 where the block is.

        Args:
            own, partner: features [B, C, h, w] of every image and of its partner. lam: [B], share of the image itself.
            size: (H, W) of the images.
        """
        with torch.autocast(own.device.type, enabled=False):
            exact = torch.promote_types(next(self.parameters()).dtype, torch.float32)
            logits = self.logits(own.to(exact), partner.to(exact), lam.to(exact)[:, None, None, None])
            if self.bilinear:
                return functional.interpolate(logits, size, mode="bilinear", align_corners=False).sigmoid()
            return functional.interpolate(logits, size, mode="nearest").sigmoid()

    def logits(self, own: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
        """u, [B, 1, h, w]."""
        ours, theirs = [own], [partner]
        seen = theirs
        if self.embedding == "concat":
            ours, theirs = [own, lam], [partner, 1 - lam]
            seen = theirs
        elif self.embedding == "concat_v":
            seen = [partner, 1 - lam]
        elif self.embedding == "multiply":
            gain = rescaled(lam, self.rescale)
            ours, theirs = [own * (1 + gain)], [partner * (2 - gain)]
            seen = theirs
        value = convolved(self.value, seen)
        if not self.attention:
            return value
        if self.attend == "both":
            ours = theirs = ours + theirs
        query, key = (convolved(*pair) for pair in ((self.query, ours), (self.key, theirs)))
        query, key, flat = (part.flatten(2).transpose(1, 2) for part in (query, key, value))
        return attended(query, key, flat).transpose(1, 2).view_as(value)


def convolved(module: nn.Module, parts: list[Tensor]) -> Tensor:
    """`module`, which begins with a 1x1 convolution, on the channels of all `parts` side by side.

    Parts are maps [B, c, h, w] or constants [B, c, 1, 1]; they are convolved one by one and never copied together.
    """
    first, *rest = module if isinstance(module, nn.Sequential) else [module]
    assert isinstance(first, nn.Conv2d)
    weights = first.weight.split([part.shape[1] for part in parts], 1)
    pieces = [pointwise(part, weight) for part, weight in zip(parts, weights, strict=True)]
    if first.bias is not None:
        pieces.append(first.bias[:, None, None])
    small_first = sorted(pieces, key=Tensor.numel)  # so that a map is gone over once for all constants together
    out = small_first[0]
    for piece in small_first[1:]:
        out = out + piece
    for layer in rest:
        out = layer(out)
    return out


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """The 1x1 convolution of x [B, c, h, w] with weight [c', c, 1, 1].

    To one channel, or of one pixel, it is done as a product: convolutions have no fast path for these on CPUs.
    """
    if len(weight) == 1 or x[0, 0].numel() == 1:
        return functional.linear(x.movedim(1, 3), weight.flatten(1)).movedim(3, 1)
    return functional.conv2d(x, weight)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C')) v for q, k [B, n, C'] and v [B, n, 1], without ever storing the n x n weights."""
    query = query * query.shape[-1] ** -0.5
    if query.device.type == "cpu" and not torch.compiler.is_compiling():  # torch.compile sees into neither of the two
        if fits_tiles(query, key):
            from automixsearch.models.attention import TiledAttention  # Numba is loaded where it is needed only

            return TiledAttention.apply(query, key, value)
        return OneValueAttention.apply(query, key, value)
    # Fused attention takes equal widths only, so the value is widened to C' channels, of which one counts.
    wide = functional.pad(value, (0, query.shape[-1] - 1))
    query, key, wide = (part[:, None].contiguous() for part in (query, key, wide))
    return functional.scaled_dot_product_attention(query, key, wide, scale=1.0)[:, 0, :, :1]


SAFE = 60.0
"""Scores up to this size need no maximum taken off before exp, in float32."""
LOG2_E = math.log2(math.e)


@torch.no_grad()
def fits_tiles(query: Tensor, key: Tensor) -> bool:
    """Whether `TiledAttention` takes this, and whether there is enough of it to be faster so."""
    _, n, channels = query.shape
    right = query.dtype == torch.float32 and n >= 256 and n % 8 == 0 and channels % 8 == 0
    return right and bool(query.norm(dim=2).max() * key.norm(dim=2).max() <= SAFE)


class OneValueAttention(torch.autograd.Function):
    """softmax(q k^T) v on a CPU for values of one channel, in pieces that stay in the cache.

    Fused attention spends half of its products on the channels of the value, of which there is one here, and on
    d loss / d weights, which is an outer product here: d weights_ij = d_i (v_j - u_i).
    """

    PIECE = 2**18
    """Weights that one thread holds at a time, in elements."""

    @staticmethod
    def pieces(query: Tensor) -> list[tuple[slice, slice]]:
        """Which images and which of their queries are done at a time."""
        batch, n, _ = query.shape
        rows = min(n, max(16, OneValueAttention.PIECE // n // 16 * 16))  # multiples of 16 fill the vector units
        images = torch.get_num_threads() * max(1, OneValueAttention.PIECE // (rows * n))
        return [
            (slice(image, image + images), slice(row, row + rows))
            for image in range(0, batch, images)
            for row in range(0, n, rows)
        ]

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (
            query * LOG2_E,
            key.contiguous(),
            value.transpose(1, 2).contiguous(),
        )  # powers of two are faster than of e
        total, out = (query.new_empty((len(query), 1, query.shape[1])) for _ in range(2))
        shift = None
        if query.norm(dim=2).max() * key.norm(dim=2).max() > SAFE * LOG2_E:
            shift = torch.empty_like(total)
        for images, rows in OneValueAttention.pieces(query):
            place = images, slice(None), rows
            weights = torch.bmm(
                key[images], query[images, rows].transpose(1, 2)
            )  # keys by queries: sums over keys are the fast ones
            if shift is not None:
                shift[place] = weights.amax(1, keepdim=True)
                weights -= shift[place]
            weights.exp2_()
            total[place] = weights.sum(1, keepdim=True)
            out[place] = torch.bmm(value[images], weights)
        out /= total
        out, total, shift = (None if part is None else part.transpose(1, 2) for part in (out, total, shift))
        ctx.save_for_backward(query, key, value, out, total, shift)
        assert out is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, out, total, shift = ctx.saved_tensors
        share = grads[0] / total
        turned, seen = key.transpose(1, 2).contiguous(), query * (share / LOG2_E)
        d_query, d_turned, d_value = torch.empty_like(query), torch.zeros_like(turned), torch.zeros_like(value)
        for images, rows in OneValueAttention.pieces(query):
            place = images, rows
            weights = torch.bmm(query[place], turned[images])
            if shift is not None:
                weights -= shift[place]
            weights.exp2_()
            d_value[images] += torch.bmm(share[place].transpose(1, 2), weights)
            weights *= value[images] - out[place]
            d_query[place] = torch.bmm(weights, key[images])
            d_turned[images].baddbmm_(seen[place].transpose(1, 2), weights)
        return d_query * share, d_turned.transpose(1, 2), d_value.transpose(1, 2)


def rescaled(lam: Tensor, k: float) -> Tensor:
    """lam with its contrast changed: ((4/3) lam^3 - 2 lam^2 + (k + 1) lam) / (k + 1/3); lam itself for k < 0."""
    return lam if k < 0 else (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)
