"""ResNet and ResNeXt with the CIFAR or the ImageNet stem, of any width.

torchvision's have neither the CIFAR stem nor a width for basic blocks, hence our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from automixsearch.models.base import Chain
from automixsearch.models.conv1x1 import Conv1x1
from automixsearch.models.registry import stage_names


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(Conv1x1(in_channels, channels, stride, bias=False), nn.BatchNorm2d(channels))


class Conv7x7(nn.Conv2d):
    """The first convolution of the ImageNet stem, of stride 2, whose gradient for the images is fast on a CPU too.

    Where that gradient is asked for, blocks of 2x2 pixels become channels, over which the same weights are a 4x4
    convolution of stride 1; a stride of 2 and three channels leave most of the vector units idle on the way back.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, 7, 2, 3, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        wanted = input.requires_grad and torch.is_grad_enabled() and input.device.type == "cpu"
        if not wanted or input.shape[2] % 2 or input.shape[3] % 2:
            return super().forward(input)
        weight = functional.pixel_unshuffle(functional.pad(self.weight, (1, 0, 1, 0)), 2)
        return functional.conv2d(functional.pad(functional.pixel_unshuffle(input, 2), (2, 1, 2, 1)), weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, C, H, W] -> [B, width, H/stride, W/stride]."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: [B, C, H, W] -> [B, 4 width, H/stride, W/stride].

    With groups the 3x3 convolution has twice `width` channels, as in ResNeXt 32x4d.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        inner, channels = width * (2 if groups > 1 else 1), width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(Chain):
    """Stem, four stages, average pooling, linear head: [B, C, H, W] -> logits [B, K].

    The stem is a 3x3 convolution of stride 1 without pooling (cifar), or a 7x7 convolution and a 3x3 max-pooling, both
    of stride 2 (imagenet); stage i has `width` * 2^(i-1) channels, four times as many with bottlenecks, and halves the
    resolution from stage 2 on. The last BatchNorm of every block starts at zero, so blocks start as identities. ResNeXt
    has `width` / 2 groups of 4, 8, 16, 32 channels in stages 1 to 4.

    Source: He et al., arXiv 1512.03385; Xie et al., arXiv 1611.05431. ResNet-18 of width 64 with 3 channels has
    11,220,132 parameters for 100 classes with the CIFAR stem, 11,689,512 for 1000 classes with the ImageNet stem.
    """

    theirs = (
        (r"^conv1\.", "stem.0."),
        (r"^bn1\.", "stem.1."),
        (r"^layer(?=\d)", "stage"),
        (r"\.downsample\.", ".shortcut."),
        (r"^fc\.", "head."),
    )

    def __init__(
        self,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        in_channels: int = 3,
        num_classes: int = 10,
        stem: str = "cifar",
        bottlenecks: bool = False,
        grouped: bool = False,
    ) -> None:
        super().__init__()
        block, groups = Bottleneck if bottlenecks else BasicBlock, width // 2 if grouped else 1
        large = stem == "imagenet"
        first = Conv7x7(in_channels, width) if large else nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        layers = [first, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, 1)] if large else []))
        self.widths, channels = {"stem": width}, width
        for i, (name, count) in enumerate(zip(stage_names(len(blocks))[1:], blocks, strict=True)):
            stage = nn.Sequential()
            for j in range(count):
                stage.append(block(channels, width * 2**i, 2 if i and not j else 1, groups))
                channels = width * 2**i * block.expansion
            self.add_module(name, stage)
            self.widths[name] = channels
        self.head = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
        nn.init.normal_(self.head.weight, 0.0, 0.01)
        nn.init.zeros_(self.head.bias)
