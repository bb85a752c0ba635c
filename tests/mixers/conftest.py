"""What several methods are tested for, in settings of their own; for all of them see `test_contract.py`."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def check_form():
    """Whether mixing keeps shape and layout, gives bitwise the same again, and touches neither input nor global state.

    `mix` mixes once, anew from the same seed; `inputs` are what it reads, the images first.
    """

    def check(mix, inputs, layout):
        before, state, x = [one.clone() for one in inputs], torch.random.get_rng_state(), inputs[0]
        first, again = mix(), mix()
        assert torch.equal(first.x, again.x)
        assert torch.equal(first.sources, again.sources)
        assert torch.equal(first.shares, again.shares)
        assert first.x.shape == x.shape
        assert first.x.is_contiguous(memory_format=layout)
        assert len(first.shares) == len(x)
        assert first.shares.dtype == torch.float64
        assert bool(((first.shares >= 0) & (first.shares <= 1)).all())
        assert all(map(torch.equal, inputs, before))
        assert torch.equal(torch.random.get_rng_state(), state)

    return check
