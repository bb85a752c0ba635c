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
        """The mask of the partner, float32 [B, 1, H, W].

        Args:
            own, partner: features [B, C, h, w] of every image and of its partner. lam: [B], share of the image itself.
            size: (H, W) of the images.
        """
        with torch.autocast(own.device.type, enabled=False):
            logits = self.logits(own.float(), partner.float(), lam.float()[:, None, None, None])
            if self.bilinear:
                return functional.interpolate(logits, size, mode="bilinear", align_corners=False).sigmoid()
            return functional.interpolate(logits, size, mode="nearest").sigmoid()

    def logits(self, own: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
        """u, [B, 1, h, w]."""
        share = lam.expand(-1, 1, *own.shape[2:])
        seen = partner
        if self.embedding == "concat":
            own, partner = torch.cat([own, share], 1), torch.cat([partner, 1 - share], 1)
            seen = partner
        elif self.embedding == "concat_v":
            seen = torch.cat([partner, 1 - share], 1)
        elif self.embedding == "multiply":
            gain = rescaled(lam, self.rescale)
            own, partner = own * (1 + gain), partner * (2 - gain)
            seen = partner
        value = self.value(seen)
        if not self.attention:
            return value
        both = torch.cat([own, partner], 1) if self.attend == "both" else None
        query = self.query(own if both is None else both).flatten(2).transpose(1, 2)
        key = self.key(partner if both is None else both).flatten(2).transpose(1, 2)
        return attended(query, key, value.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(value)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C')) v for q, k [B, n, C'] and v [B, n, 1], without ever storing the n x n weights.

    The value is widened to C' channels, of which one counts, because fused attention takes equal widths only.
    """
    wide = functional.pad(value, (0, query.shape[-1] - 1))
    query, key, wide = (part[:, None].contiguous() for part in (query, key, wide))
    return functional.scaled_dot_product_attention(query, key, wide)[:, 0, :, :1]


def rescaled(lam: Tensor, k: float) -> Tensor:
    """lam with its contrast changed: ((4/3) lam^3 - 2 lam^2 + (k + 1) lam) / (k + 1/3); lam itself for k < 0."""
    return lam if k < 0 else (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


def mask_loss(mask: Tensor, lam: Tensor, mode: str, margin: float, per: str, mean: Tensor | None = None) -> Tensor:
    """How far partner masks [B, 1, H, W] are from their share 1 - lam, beyond `margin`: a scalar.

    mode: l1: max(|1 - m - lam| - margin, 0), m the mean of a mask; l1_variance: that minus twice the variance;
    l2_variance: max((1 - m - lam)^2 - margin^2, 0) minus twice the variance;
    sparsity: max(mean(s (1 - s)) - margin, 0).

    Args:
        lam: [B]. per: `sample`: m, and the loss, of each mask, then their mean; `batch`: m over all masks.
        mean: m of the global batch, where `mask` is a worker's share of it; for `batch` only.

    Source: arXiv 2103.13027, eq. 8 (l1); OpenMixup at 37e1372.
    """
    dims = (1, 2, 3) if per == "sample" else (0, 1, 2, 3)
    if mode == "sparsity":
        return ((mask * (1 - mask)).mean(dims) - margin).clamp(min=0).mean()
    centre = mask.mean(dims, keepdim=True) if mean is None else mean.view(1, 1, 1, 1)
    share = lam.to(mask) if per == "sample" else lam.to(mask).mean()
    gap = 1 - centre.flatten() - share
    if mode == "l2_variance":
        off = (gap.square() - margin**2).clamp(min=0)
    else:
        off = (gap.abs() - margin).clamp(min=0)
    spread = 2 * (mask - centre).square().mean(dims) if mode.endswith("variance") else 0.0
    return (off - spread).mean()


def adjusted_mask(mask: Tensor, lam: Tensor) -> Tensor:
    """Partner masks [B, 1, H, W] scaled so that the mean of each is 1 - lam, lam [B]."""
    keep = (1 - mask).clamp(1e-8, 1 - 1e-8)
    mean = keep.mean((1, 2, 3), keepdim=True)
    lam = lam.to(mask)[:, None, None, None]
    lower, higher = keep * lam / mean, 1 - (1 - keep) * (1 - lam) / (1 - mean)
    return 1 - torch.where(mean > lam, lower, higher)
