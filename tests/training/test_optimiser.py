"""Optimisers: parameter groups, learning rates, and that each of them trains."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from automixsearch.config.recipe import Recipe
from automixsearch.training.optimiser import Part, learning_rate, make_optimizer, set_lr


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_norms_and_biases_are_spared_the_decay_where_the_recipe_says_so():
    whole = make_optimizer(Recipe(weight_decay=0.05), [Part(network())], False)
    assert [group["weight_decay"] for group in whole.param_groups] == [0.05]
    split = make_optimizer(Recipe(weight_decay=0.05, decay_norms=False), [Part(network())], False)
    assert [group["weight_decay"] for group in split.param_groups] == [0.05, 0.0]
    assert [[p.ndim for p in group["params"]] for group in split.param_groups] == [[4, 2], [1, 1, 1, 1]]


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_every_optimiser_reduces_a_loss(name):
    model = network()
    recipe = Recipe(optimizer=name, lr={"sgd": 0.1, "adamw": 0.01, "lamb": 0.05}[name], epochs=1)
    optimizer = make_optimizer(recipe, [Part(model)], False)
    x, y = torch.randn(32, 1, 8, 8), torch.randint(3, (32,))
    losses = []
    for step in range(20):
        set_lr(optimizer, recipe, step, 20)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_part_has_its_own_rate_floor_and_momentum():
    recipe = Recipe(lr=0.2, min_lr=0.5, epochs=10)
    parts = [Part(network()), Part(nn.Linear(2, 2), scale=0.5, min_lr=0.0, momentum=0.0)]
    optimizer = make_optimizer(recipe, parts, False)
    first, second = optimizer.param_groups
    assert (first["momentum"], second["momentum"]) == (0.9, 0.0)
    for step, rates in ((0, (0.2, 0.1)), (5, (0.15, 0.05)), (10, (0.1, 0.0))):
        set_lr(optimizer, recipe, step, 1)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates)
    adam = make_optimizer(dataclasses.replace(recipe, optimizer="adamw"), parts, False)
    assert [group["betas"] for group in adam.param_groups] == [(0.9, 0.999), (0.0, 0.999)]


def test_the_rate_moves_on_with_every_step_or_every_epoch():
    steps, epochs = (Recipe(lr=1.0, epochs=4, warmup_epochs=1, lr_per=per) for per in ("step", "epoch"))
    assert [learning_rate(steps, step, 4) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    found = [learning_rate(epochs, step, 4) for step in range(4, 16)]
    expected = [(1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3) for _ in range(4)]
    assert found == pytest.approx(expected)
    assert learning_rate(steps, 5, 4) < learning_rate(steps, 4, 4) == 1.0


def test_a_trapezoid_is_constant_and_cools_down_in_a_straight_line():
    recipe = Recipe(lr=0.4, min_lr=0.1, epochs=10, warmup_epochs=1.5, schedule="trapezoid", cooldown=0.3)
    rates = np.array([learning_rate(recipe, step, 4) for step in range(40)])
    np.testing.assert_allclose(rates[:6], 0.4 * np.arange(1, 7) / 6)
    np.testing.assert_allclose(rates[6:28], 0.4)
    np.testing.assert_allclose(rates[28:], 0.4 * (0.1 + 0.9 * (1 - np.arange(12) / 12)))
    whole = Recipe(lr=0.4, epochs=10, schedule="trapezoid", cooldown=1.0, warmup_epochs=2)
    assert [learning_rate(whole, step, 4) for step in (7, 8, 24)] == pytest.approx([0.4, 0.4, 0.2])
