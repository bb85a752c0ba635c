"""The optimiser of a recipe, and its learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from automixsearch.algorithms.base import Part
from automixsearch.config.recipe import Recipe


def make_optimizer(recipe: Recipe, parts: Sequence[Part], fused: bool) -> torch.optim.Optimizer:
    """The optimiser of the `parts`. Every group holds, beside what torch knows, `scale` and `min_lr` for `set_lr`.

    Args:
        fused: use the kernels that update all parameters at once, on a GPU.
    """
    groups = [group for part in parts for group in _groups(recipe, part)]
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused, **common)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(recipe.momentum, 0.999), fused=fused, **common)
    from timm.optim.lamb import Lamb  # seconds to import

    return Lamb(groups, betas=(recipe.momentum, 0.999), **common)


def _groups(recipe: Recipe, part: Part) -> Iterator[dict[str, Any]]:
    rate = {"scale": part.scale, "min_lr": recipe.min_lr if part.min_lr is None else part.min_lr}
    if part.momentum is not None:
        rate |= {"momentum": part.momentum} if recipe.optimizer == "sgd" else {"betas": (part.momentum, 0.999)}
    decayed, spared = [], []
    for name, parameter in part.module.named_parameters():
        spare = not recipe.decay_norms and (parameter.ndim < 2 or "pos_embed" in name or "class_token" in name)
        (spared if spare else decayed).append(parameter)
    if decayed:
        yield {"params": decayed, **rate}
    if spared:
        yield {"params": spared, "weight_decay": 0.0, **rate}


def set_lr(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps_per_epoch: int) -> None:
    """Give every group its learning rate at `step`, from 0 on."""
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * learning_rate(recipe, step, steps_per_epoch, group["min_lr"])


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, min_lr: float | None = None) -> float:
    """Linear warm-up, then the recipe's schedule from lr to lr * min_lr over all remaining steps; `step` counts from 0.

    A trapezoid is constant until its cool-down, a straight line over the last `cooldown` share of all epochs
    (Hägele et al., arXiv 2405.18392). `cosine_7_16` is lr cos(7 pi / 16 progress) (Sohn et al., arXiv 2001.07685), with
    no floor.

    Args:
        min_lr: floor as a share of lr; None: the recipe's.
    """
    floor = recipe.min_lr if min_lr is None else min_lr
    total, warm = recipe.epochs * steps_per_epoch, round(recipe.warmup_epochs * steps_per_epoch)
    if step < warm:
        return recipe.lr * (step + 1) / warm
    if recipe.lr_per == "epoch":
        step -= step % steps_per_epoch
    start = warm if recipe.schedule != "trapezoid" else max(warm, total - round(recipe.cooldown * total))
    progress = max(step - start, 0) / max(total - start, 1)
    if recipe.schedule == "cosine_7_16":
        return recipe.lr * math.cos(7 / 16 * math.pi * progress)
    height = (1 + math.cos(math.pi * progress)) / 2 if recipe.schedule == "cosine" else 1 - progress
    return recipe.lr * (floor + (1 - floor) * height)
