"""Published numbers of parameters, counted: they need no training."""

from __future__ import annotations

from functools import cache

import torch

from automixsearch.config.recipe import Recipe
from automixsearch.errors import SpecError
from automixsearch.mixers.automix import STAGE
from automixsearch.models import build_model, count_parameters
from automixsearch.models.mixblock import MixBlock
from automixsearch.reproduce.registry import Cell
from automixsearch.reproduce.settings import BACKBONES

CLASSES, SIDE = 200, 64
"""Of Tiny-ImageNet, the only table that has numbers of parameters."""


@cache
def count(cell: Cell) -> int:
    """The parameters that are trained: of the network, and for AutoMix of a second head and the Mix Block too.

    The published counts are those of a Mix Block with a convolution each for query and key and no channel for the
    share; by them, l1 and l2 of ResNeXt-50 are the stem and the first stage (`embedding: none` counts the same).

    Raises:
        SpecError: the cell is no number of parameters.
    """
    if cell.metric != "params_M":
        raise SpecError(f"{cell.table} #{cell.number} ({cell.name}) is no number of parameters")
    with torch.device("meta"):  # shapes are enough
        network = build_model(Recipe(backbone=BACKBONES[cell.backbone], stem="cifar"), 3, CLASSES, 0, SIDE)
    if not cell.method.startswith("AutoMix"):
        return count_parameters(network)
    layer = cell.method[-3:-1]
    stage = STAGE[layer]
    if cell.backbone.startswith("ResNeXt"):
        stage = {"l1": "stem", "l2": "stage1"}.get(layer, stage)
    with torch.device("meta"):
        block = MixBlock(network.widths[stage], embedding="none")
    return count_parameters(network) + count_parameters(network.head) + count_parameters(block)


def agrees(cell: Cell) -> bool:
    """Whether the count, in millions, has the published digits."""
    digits = len(cell.printed.partition(".")[2])
    return f"{count(cell) / 1e6:.{digits}f}" == cell.printed
