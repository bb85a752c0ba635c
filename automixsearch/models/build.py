"""Backbones are built by name, with their own random initialisation or the weights of a file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import torch
from torch import nn

from automixsearch.config.recipe import Recipe
from automixsearch.models.base import Backbone
from automixsearch.models.registry import check_sides, network_of
from automixsearch.models.weights import load_weights
from automixsearch.registry import Plugin
from automixsearch.seeds import derive_seed


def build_model(
    recipe: Recipe, in_channels: int, num_classes: int, seed: int, side: int, plugins: Iterable[Plugin] = ()
) -> Backbone:
    """Build the backbone of `recipe` with a linear head, for images of side x side pixels.

    It can be one of `plugins`. It is initialised from `seed`, then from `recipe.weights`; global random state stays.

    Raises:
        SpecError: the images do not fit the backbone, or the weights do not.
    """
    check_sides(recipe.backbone, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        model = _build(recipe, in_channels, num_classes, side, plugins)
    if recipe.weights:
        load_weights(model, recipe.weights, recipe.backbone)
    return model


def _build(recipe: Recipe, in_channels: int, num_classes: int, side: int, plugins: Iterable[Plugin]) -> Backbone:
    network = network_of(recipe.backbone, plugins)
    file, _, name = network.built.partition(":")
    made = getattr(import_module(f"automixsearch.models.{file}"), name)  # torchvision takes a second to import
    obeyed = {knob: getattr(recipe, knob) for knob in ("stem", "drop_path") if getattr(network, knob)}
    sized = {"side": side} if network.sized else {}
    wide = {"width": recipe.width} if network.wide else {}
    return made(in_channels=in_channels, num_classes=num_classes, **network.given, **wide, **obeyed, **sized)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
