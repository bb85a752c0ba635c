"""DeiT-S and Swin-T: torchvision's transformers, cut into stages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.ops import StochasticDepth

from automixsearch.errors import TrainingError
from automixsearch.models.base import Chain
from automixsearch.models.class_attention import attended

ENDS = (2, 4, 6, 12)
"""After how many blocks of DeiT its stages end."""


class PatchTokens(nn.Module):
    """Patches and a class token, with their positions: [B, C, H, W] -> [B, 1 + H/16 W/16, D]."""

    def __init__(self, in_channels: int, whole: VisionTransformer) -> None:
        super().__init__()
        width, patch = whole.hidden_dim, whole.patch_size
        self.conv: Any = nn.Conv2d(in_channels, width, patch, patch)
        nn.init.trunc_normal_(self.conv.weight, std=(in_channels * patch**2) ** -0.5)
        nn.init.zeros_(self.conv.bias)
        self.class_token = whole.class_token
        self.position = whole.encoder.pos_embedding
        self.side = whole.image_size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != self.side or x.shape[3] != self.side:
            raise TrainingError(
                f"the network was built for images of {self.side} x {self.side} pixels, not {x.shape[2]} x {x.shape[3]}"
            )
        patches = self.conv(x).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(x), -1, -1), patches], 1) + self.position


class DeiT(Chain):
    """The ViT of DeiT-S, of patches of 16 pixels: [B, C, side, side] -> logits [B, K].

    12 blocks of `width` * 6 channels (384 at 64) and 6 heads; the stem embeds the patches, stages 1 to 4 end after
    blocks 2, 4, 6, 12. Stages hand on tokens; their map is that of the patch tokens [B, D, side/16, side/16], and a
    change of it leaves the class token as it is. The head reads the class token alone, so that a change after stage 4
    does nothing. drop_path grows linearly to its value in the last block.

    Source: Touvron et al., arXiv 2012.12877, without distillation; 22,050,664 parameters for 1000 classes, 224 pixels.
    """

    theirs = (
        (r"^class_token$", "stem.class_token"),
        (r"^conv_proj\.", "stem.conv."),
        (r"^encoder\.pos_embedding$", "stem.position"),
        *(
            (rf"^encoder\.layers\.encoder_layer_{i}\.", f"stage{stage}.{i - start}.")
            for stage, (start, end) in enumerate(zip((0, *ENDS), ENDS, strict=False), 1)
            for i in range(start, end)
        ),
        (r"^encoder\.ln\.", "norm."),
        (r"^heads\.head\.", "head."),
    )

    def __init__(
        self, side: int, width: int = 64, in_channels: int = 3, num_classes: int = 10, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        channels = 6 * width
        whole = VisionTransformer(side, 16, 12, 6, channels, 4 * channels, num_classes=num_classes)
        self.grid = (side // 16, side // 16)
        self.stem = PatchTokens(in_channels, whole)
        self.widths = dict.fromkeys(("stem", *(f"stage{i}" for i in range(1, len(ENDS) + 1))), channels)
        blocks: list[Any] = list(whole.encoder.layers)
        for i, block in enumerate(blocks):
            # The dropouts at the ends of both branches: no weights, and rate 0.
            block.dropout = StochasticDepth(drop_path * i / (len(blocks) - 1), "row")
            block.mlp[-1] = block.dropout
        for name, start, end in zip(list(self.widths)[1:], (0, *ENDS), ENDS, strict=False):
            self.add_module(name, nn.Sequential(*blocks[start:end]))
        self.norm = whole.encoder.ln
        self.head = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def as_map(self, state: Tensor) -> Tensor:
        return state[:, 1:].transpose(1, 2).unflatten(2, self.grid)

    def with_map(self, state: Tensor, features: Tensor) -> Tensor:
        return torch.cat([state[:, :1], features.flatten(2).transpose(1, 2)], 1)

    def pooled(self, state: Tensor) -> Tensor:
        return self.norm(state[:, 0])

    def check_attended(self) -> None:
        """It has one."""

    # Hooks come and go, which compiled code does not see.
    @torch.compiler.disable()
    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        blocks: Any = self.stage4
        return attended(blocks[-1].self_attention, lambda: self(x))


class ChannelsLast(nn.Sequential):
    """Modules that take [B, H, W, C], on maps [B, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Swin(Chain):
    """Swin-T of windows of 7 patches of 4 pixels: [B, C, H, W] -> logits [B, K].

    The stem embeds the patches; stages of 2, 2, 6, 2 blocks have `width` * 1.5 channels (96 at 64) times 1, 2, 4, 8,
    and begin with the merging of patches that halves the resolution, but for the first. drop_path grows linearly to
    its value in the last block.

    Source: Liu et al., arXiv 2103.14030; 28,288,354 parameters for 1000 classes.
    """

    theirs = (
        (r"^features\.0\.", "stem.0."),
        (r"^features\.1\.", "stage1.0."),
        *((rf"^features\.{2 * i + j}\.", f"stage{i + 1}.{j}.") for i in (1, 2, 3) for j in (0, 1)),
        (r"^norm\.(?=weight|bias)", "norm.0."),
    )

    def __init__(self, width: int = 64, in_channels: int = 3, num_classes: int = 10, drop_path: float = 0.0) -> None:
        super().__init__()
        channels = 3 * width // 2
        whole = SwinTransformer(
            [4, 4], channels, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7],
            stochastic_depth_prob=drop_path, num_classes=num_classes,
        )  # fmt: skip
        features: Any = whole.features
        embed, first, *rest = features
        if in_channels != 3:
            embed[0] = nn.Conv2d(in_channels, channels, 4, 4)
        self.stem = nn.Sequential(embed, whole.permute)
        self.stage1 = ChannelsLast(first)
        self.stage2, self.stage3, self.stage4 = (ChannelsLast(*rest[i : i + 2]) for i in (0, 2, 4))
        self.widths = {"stem": channels} | {f"stage{i}": channels * 2 ** (i - 1) for i in (1, 2, 3, 4)}
        self.norm = ChannelsLast(whole.norm)
        self.head = whole.head

    def pooled(self, state: Tensor) -> Tensor:
        return super().pooled(self.norm(state))
