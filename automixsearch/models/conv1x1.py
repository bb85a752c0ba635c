"""The 1x1 convolution of shortcuts that halve the resolution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Conv1x1(nn.Conv2d):
    """A 1x1 convolution of every `step`-th pixel: [B, C, H, W] -> [B, C', ceil(H / step), ceil(W / step)].

    The function of `nn.Conv2d(C, C', 1, step)`, with its parameters; the pixels are taken first and convolved densely.
    oneDNN's own strided kernels write past the end of their memory on a CPU: automixsearch/models/README.md.
    """

    def __init__(self, in_channels: int, channels: int, step: int, bias: bool) -> None:
        super().__init__(in_channels, channels, 1, bias=bias)
        self.step = step

    def forward(self, input: Tensor) -> Tensor:
        # The mean of one pixel is that pixel; a slice would lose the memory format on the way back.
        return super().forward(functional.avg_pool2d(input, 1, self.step) if self.step > 1 else input)
