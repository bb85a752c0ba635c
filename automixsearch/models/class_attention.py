"""What the class token of a vision transformer looks at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WITHOUT = ("rope", "rel_pos_bias", "relative_position_bias_table")
"""Parts of attentions that change what is computed here."""


def attention_of(network: nn.Module) -> nn.Module | None:
    """The attention of the last block of a network with a class token: of torchvision's form, or of timm's.

    None where it has no class token, or attention of another form.
    """
    token = getattr(network, "cls_token", None)
    if token is None:
        token = next((value for name, value in network.named_parameters() if name.endswith("class_token")), None)
    if token is None or getattr(network, "rope", None) is not None:
        return None
    for module in reversed(list(network.modules())):
        if isinstance(module, nn.MultiheadAttention) and module.batch_first and module.in_proj_weight is not None:
            return module
        if all(hasattr(module, name) for name in ("qkv", "q_norm", "k_norm", "num_heads", "scale")):
            return None if any(getattr(module, name, None) is not None for name in WITHOUT) else module
    return None


def class_attention(module: Any, tokens: Tensor, patches: int) -> Tensor:
    """The attention of the first of `tokens` [B, N, D] on the last `patches` of them, mean over heads: [B, patches].

    It is computed anew from the inputs of the block's attention, for one query, without gradient.
    """
    with torch.no_grad():
        count, timms = module.num_heads, hasattr(module, "qkv")
        weight, bias = (module.qkv.weight, module.qkv.bias) if timms else (module.in_proj_weight, module.in_proj_bias)
        inner = weight.shape[0] // 3

        def heads(values: Tensor, part: int) -> Tensor:
            rows = slice(part * inner, (part + 1) * inner)
            made = functional.linear(values, weight[rows], None if bias is None else bias[rows])
            return made.unflatten(2, (count, -1)).transpose(1, 2)

        query, key = heads(tokens[:, :1], 0), heads(tokens, 1)
        if timms:
            query, key = module.q_norm(query), module.k_norm(key)
        scores = (query @ key.transpose(2, 3)).float() * (inner // count) ** -0.5
        return scores.softmax(3).mean(1)[:, 0, -patches:]


def attended(module: nn.Module, forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What `forward` returns, and the class token's attention [B, h, h] on its square of patches meanwhile."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], __: dict[str, Any]) -> None:
        seen.append(args[0])

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        output = forward()
    finally:
        handle.remove()
    side = math.isqrt(seen[-1].shape[1] - 1)  # a few tokens beside the patches are fewer than another row of them
    return output, class_attention(module, seen[-1], side**2).unflatten(1, (side, side))
