"""The WRN-28 of semi-supervised learning: wide, pre-activated, with leaky units and slow batch statistics."""

from __future__ import annotations

from torch import Tensor, nn

from automixsearch.models.base import Chain
from automixsearch.models.conv1x1 import Conv1x1

SLOPE = 0.1
"""Of leaky units for negative values."""


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels, eps=0.001, momentum=0.001), nn.LeakyReLU(SLOPE, inplace=True))


class WideBlock(nn.Module):
    """Twice BatchNorm, LeakyReLU, 3x3 convolution, and a shortcut: [B, C, H, W] -> [B, C', H/stride, W/stride].

    activated: the shortcut, too, starts after the first activation. raw: where it does not, neither does the main path.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, activated: bool, raw: bool = False) -> None:
        super().__init__()
        self.activated = activated
        self.norm1 = nn.Identity() if raw else _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1)
        self.norm2 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else Conv1x1(in_channels, channels, stride, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm1(x)
        kept = out if self.activated else x
        return self.conv2(self.norm2(self.conv1(out))) + self.shortcut(kept)


class WideResNet(Chain):
    """Stem, three stages of four blocks, BatchNorm, LeakyReLU, average pooling, linear head: [B, C, H, W] -> [B, K].

    The 3x3 stem has `width` / 4 channels (16 at 64), stage i `factor` * 2^(i-1) times as many; stages 2 and 3 halve
    the resolution. The first block of all has its shortcut after the activation. The map of a stage is the sum that its
    last block puts out, before any BatchNorm. BatchNorm counts a batch as one thousandth of its running statistics, so
    evaluation lags behind in runs of fewer than some thousand steps.

    With `released_quirk` it is the network of the released code of semi-supervised learning: in the first block of
    stages 2 and 3 main path and shortcut both start before the activation (a BatchNorm that nobody reads is left
    out), and the first weights are drawn as there.

    Source: Zagoruyko and Komodakis, arXiv 1605.07146; the variant of Oliver et al., arXiv 1804.09170, with biases in
    the convolutions; released: TorchSSL at f26e1d4. With 10 classes WRN-28-2 has 1.47 million parameters, WRN-28-8 with
    100 classes 23.4 million.
    """

    def __init__(
        self,
        factor: int,
        width: int = 64,
        in_channels: int = 3,
        num_classes: int = 10,
        released_quirk: bool = False,
    ) -> None:
        super().__init__()
        channels = width // 4
        self.widths = {"stem": channels} | {f"stage{i}": channels * factor * 2 ** (i - 1) for i in (1, 2, 3)}
        self.stem = nn.Conv2d(in_channels, channels, 3, 1, 1)
        for i in (1, 2, 3):
            stage = nn.Sequential()
            for j in range(4):
                first, wide = j == 0, self.widths[f"stage{i}"]
                raw = released_quirk and first and i > 1
                stage.append(WideBlock(channels, wide, 2 if i > 1 and first else 1, i == 1 and first, raw))
                channels = self.widths[f"stage{i}"]
            self.add_module(f"stage{i}", stage)
        self.norm = _norm(channels)
        self.head = nn.Linear(channels, num_classes)
        if released_quirk:
            self._draw_as_released()
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE, "fan_out", "leaky_relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, 0.0, 0.01)
        nn.init.zeros_(self.head.bias)

    def _draw_as_released(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # biases stay as torch draws them
                nn.init.kaiming_normal_(module.weight, 0, "fan_out", "leaky_relu")
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def pooled(self, state: Tensor) -> Tensor:
        return super().pooled(self.norm(state))
