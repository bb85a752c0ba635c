"""Backbones, built by name with their own random initialisation or the weights of a file."""

from __future__ import annotations

import torch
from torch import nn

from automixsearch.models.base import Backbone
from automixsearch.models.resnet import BasicBlock, Bottleneck, ResNet
from automixsearch.models.weights import load_weights
from automixsearch.models.wide_resnet import WideResNet
from automixsearch.recipe import Recipe, check_sides
from automixsearch.spec import derive_seed

__all__ = ["Backbone", "build_model", "count_parameters"]

RESNETS = {
    "resnet18": ((2, 2, 2, 2), BasicBlock),
    "resnet34": ((3, 4, 6, 3), BasicBlock),
    "resnet50": ((3, 4, 6, 3), Bottleneck),
    "resnet101": ((3, 4, 23, 3), Bottleneck),
    "resnext50": ((3, 4, 6, 3), Bottleneck),
    "resnext101": ((3, 4, 23, 3), Bottleneck),
}


def build_model(recipe: Recipe, in_channels: int, num_classes: int, seed: int, side: int) -> Backbone:
    """Build the backbone of `recipe` with a linear head, for images of side x side pixels.

    It is initialised from `seed`, then from `recipe.weights`; global random state stays.

    Raises:
        SpecError: the images do not fit the backbone, or the weights do not.
    """
    check_sides(recipe.backbone, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        model = _build(recipe, in_channels, num_classes, side)
    if recipe.weights:
        load_weights(model, recipe.weights, recipe.backbone)
    return model


def _build(recipe: Recipe, in_channels: int, num_classes: int, side: int) -> Backbone:
    name, common = recipe.backbone, (recipe.width, in_channels, num_classes)
    if name in RESNETS:
        blocks, block = RESNETS[name]
        return ResNet(blocks, *common, recipe.stem, block, recipe.width // 2 if name.startswith("resnext") else 1)
    if name.startswith("wrn28_"):
        return WideResNet(int(name.removeprefix("wrn28_")), *common)
    from automixsearch.models.transformers import DeiT, Swin  # torchvision takes a second to import

    if name == "deit_s":
        return DeiT(side, *common, recipe.drop_path)
    return Swin(*common, recipe.drop_path)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
