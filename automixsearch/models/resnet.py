"""ResNet with the CIFAR stem, of any width.

torchvision's ResNet has neither the CIFAR stem nor a width for basic blocks, hence our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from automixsearch.models.base import Backbone


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, C, H, W] -> [B, C', H/stride, W/stride]."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(Backbone):
    """Stem, four stages, average pooling, linear head: [B, C, H, W] -> logits [B, K].

    The stem is a 3x3 convolution of stride 1 without pooling (cifar), or a 7x7 convolution and a 3x3 max-pooling, both
    of stride 2 (imagenet); stage i has `width` * 2^(i-1) channels and halves the resolution from stage 2 on. The last
    BatchNorm of every block starts at zero, so blocks start as identities.

    Source: He et al., arXiv 1512.03385; at width 64 with 3 channels 11,220,132 parameters for 100 classes with the
    CIFAR stem, 11,689,512 for 1000 classes with the ImageNet stem.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        in_channels: int = 3,
        num_classes: int = 10,
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        large = stem == "imagenet"
        kernel, stride = (7, 2) if large else (3, 1)
        first = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
        layers = [first, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, 1)] if large else []))
        widths = [width, *(width * 2**i for i in range(len(blocks)))]
        self.widths = {"stem": width} | {f"stage{i}": widths[i] for i in range(1, len(widths))}
        stages = (self._stage(widths[i], widths[i + 1], count, 1 if i == 0 else 2) for i, count in enumerate(blocks))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], num_classes)
        self._initialise()

    @staticmethod
    def _stage(in_channels: int, channels: int, count: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(count - 1)))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
        nn.init.normal_(self.head.weight, 0.0, 0.01)
        nn.init.zeros_(self.head.bias)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        for name in ("stem", "stage1", "stage2", "stage3", "stage4"):
            yield name, self.get_submodule(name)

    def pooled(self, features: Tensor) -> Tensor:
        return self.pool(features).flatten(1)
