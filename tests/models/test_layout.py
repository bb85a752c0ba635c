"""Channels last, where it is safe."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from automixsearch.models import build_model
from automixsearch.models.layout import pick_layout
from automixsearch.recipe import Recipe


@pytest.mark.parametrize(
    ("width", "side", "device", "safe"),
    [(4, 32, "cpu", True), (4, 64, "cpu", False), (64, 224, "cpu", True), (4, 64, "cuda", True)],
)
def test_narrow_networks_on_large_images_are_contiguous_on_a_cpu(width, side, device, safe):
    model = build_model(Recipe(width=width), 3, 10, 0, side)
    expected = torch.channels_last if safe else torch.contiguous_format
    assert pick_layout(model, torch.device(device), side, True) == expected
    assert pick_layout(model, torch.device(device), side, False) == torch.contiguous_format


def test_a_narrow_network_trains_on_large_images():
    """In a process of its own: it used to end with a broken heap."""
    code = """
import torch
from automixsearch.models import build_model
from automixsearch.models.layout import pick_layout
from automixsearch.recipe import Recipe
model = build_model(Recipe(width=4), 3, 10, 0, 64)
layout = pick_layout(model, torch.device("cpu"), 64, True)
model = model.to(memory_format=layout)
for _ in range(10):
    model(torch.randn(8, 3, 64, 64).to(memory_format=layout)).square().sum().backward()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
