"""The Mix Block: from features of two images and a share, the mask that mixes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
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
            value only; multiply: A (1 + m g), B (1 + m g') with g = rescaled(lam, rescale), g' = 1 - g, m = lam_mul.
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
        lam_mul: float = 1.0,
        shared: bool = False,
        attend: str = "partner",
        attention: bool = True,
        neck: bool = False,
        dropout: float = 0.0,
        bilinear: bool = False,
        spread: float = 0.01,
    ) -> None:
        super().__init__()
        self.embedding, self.rescale, self.lam_mul = embedding, rescale, lam_mul
        self.attend, self.bilinear = attend, bilinear
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
            ours, theirs = [own * (1 + self.lam_mul * gain)], [partner * (1 + self.lam_mul * (1 - gain))]
            seen = theirs
        value = convolved(self.value, seen)
        if not self.attention:
            return value
        if self.attend == "both":
            ours = theirs = ours + theirs
        query, key = (convolved(*pair) for pair in ((self.query, ours), (self.key, theirs)))
        query, key, flat = (part.flatten(2).transpose(1, 2) for part in (query, key, value))
        return attended(query, key, flat).transpose(1, 2).view_as(value)


class GroupMixBlock(nn.Module):
    """Masks of n images at once, of sum 1 at every pixel, each from the attention of an image to all others.

    With F_k the features of image k, its share beside them with `concat`: q_k, v_k of F_k, and the keys of all others
    summed; u_k = softmax(q_k (sum over j != k of k_j)^T / sqrt(C')) v_k, masks = softmax over k of the upsampled u_k.

    Args: channels, reduction, bilinear, spread: as of `MixBlock`. concat: a channel with the share on every F_k.

    Source: Qin et al., arXiv 2312.11954; OpenMixup at dd292a2.
    """

    def __init__(
        self, channels: int, *, reduction: int = 2, concat: bool = False, bilinear: bool = True, spread: float = 0.01
    ) -> None:
        super().__init__()
        self.concat, self.bilinear = concat, bilinear
        inner, seen = max(channels // reduction, 1), channels + concat
        self.query, self.key, self.value = (nn.Conv2d(seen, width, 1) for width in (inner, inner, 1))
        for module in (self.query, self.key, self.value):
            nn.init.normal_(module.weight, 0.0, spread)
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor], shares: Tensor, size: tuple[int, int]) -> Tensor:
        """The masks [B, n, H, W], in float32; in float64 where the block is.

        Args:
            features: of each of the n images of every mix, [B, C, h, w]. shares: [n], of sum 1. size: (H, W).
        """
        with torch.autocast(features[0].device.type, enabled=False):
            exact = torch.promote_types(self.value.weight.dtype, torch.float32)
            told = shares.to(features[0].device, exact, non_blocking=True)[:, None, None, None, None]
            seen = [
                [part.to(exact), *([told[place].expand(len(part), 1, 1, 1)] if self.concat else [])]
                for place, part in enumerate(features)
            ]
            query, key, value = (
                [convolved(module, parts).flatten(2).transpose(1, 2) for parts in seen]
                for module in (self.query, self.key, self.value)
            )
            keys = torch.stack(key).sum(0)
            maps = [attended(q, keys - k, v) for q, k, v in zip(query, key, value, strict=True)]
            logits = torch.cat(maps, 2).transpose(1, 2).unflatten(2, features[0].shape[2:])
            if self.bilinear:
                return functional.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)
            return functional.interpolate(logits, size, mode="nearest").softmax(1)


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
    # Fused attention takes equal widths only, so the value is widened to C' channels, of which one counts.
    wide = functional.pad(value, (0, query.shape[-1] - 1))
    query, key, wide = (part[:, None].contiguous() for part in (query, key, wide))
    return functional.scaled_dot_product_attention(query, key, wide)[:, 0, :, :1]


def rescaled(lam: Tensor, k: float) -> Tensor:
    """lam with its contrast changed: ((4/3) lam^3 - 2 lam^2 + (k + 1) lam) / (k + 1/3); lam itself for k < 0."""
    return lam if k < 0 else (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)
