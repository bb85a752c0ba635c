"""In which order images and weights lie in memory."""

from __future__ import annotations

import torch
from torch import nn

SAFE_SIDE, SAFE_CHANNELS = 32, 12


def pick_layout(model: nn.Module, device: torch.device, side: int, channels_last: bool) -> torch.memory_format:
    """Channels last where that is wanted and safe, else contiguous.

    On CPUs, torch 2.14 (oneDNN 3.12) writes past the end of its memory in the backward pass of strided 1x1 convolutions
    of few channels in channels_last: 8 of them at 64 pixels end the process, 16 do not, nor do 8 at 48 pixels.

    Args:
        side: of the images, in pixels.
    """
    narrow = any(
        isinstance(part, nn.Conv2d)
        and part.kernel_size == (1, 1)
        and part.stride != (1, 1)
        and part.in_channels < SAFE_CHANNELS
        for part in model.modules()
    )
    unsafe = device.type == "cpu" and narrow and side > SAFE_SIDE
    return torch.channels_last if channels_last and not unsafe else torch.contiguous_format
