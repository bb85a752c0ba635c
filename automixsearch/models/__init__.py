"""Backbones, built by name with their own random initialisation."""

from __future__ import annotations

import torch
from torch import nn

from automixsearch.models.resnet import ResNet
from automixsearch.recipe import Recipe
from automixsearch.spec import derive_seed

__all__ = ["ResNet", "build_model", "count_parameters"]


def build_model(recipe: Recipe, in_channels: int, num_classes: int, seed: int) -> nn.Module:
    """Build the backbone of `recipe` with a linear head, initialised from `seed`; global random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        return ResNet((2, 2, 2, 2), recipe.width, in_channels, num_classes, recipe.stem)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
