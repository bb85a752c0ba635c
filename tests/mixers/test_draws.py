"""The distributions that are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from automixsearch.mixers.base import draw_beta
from automixsearch.mixers.cutmix import CutMix
from automixsearch.mixers.resizemix import ResizeMix


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_lam_follows_the_beta_distribution(alpha):
    generator = torch.Generator().manual_seed(0)
    draws = [draw_beta(alpha, generator) for _ in range(2000)]
    assert stats.kstest(draws, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_the_same_seed_gives_the_same_rank_at_every_alpha():
    def ranks(alpha):
        return [stats.beta(alpha, alpha).cdf(draw_beta(alpha, torch.Generator().manual_seed(s))) for s in range(20)]

    np.testing.assert_allclose(ranks(0.5), ranks(3.0), atol=1e-9)


def test_resizemix_at_alpha_one_draws_tau_uniformly_from_a_tenth_to_eight_tenths():
    generator = torch.Generator().manual_seed(0)
    taus = [ResizeMix(alpha=1.0).draw((2, 3, 32, 32), generator).tau for _ in range(2000)]
    assert stats.kstest(taus, stats.uniform(0.1, 0.7).cdf).pvalue > 0.01


def test_cutmix_at_alpha_one_keeps_seventy_percent_on_average_because_boxes_are_clipped():
    generator, x = torch.Generator().manual_seed(0), torch.zeros(1, 1, 32, 32)
    mean = np.mean([CutMix(alpha=1.0)(x, generator).lam.item() for _ in range(4000)])
    assert mean == pytest.approx(0.70, abs=0.015)


def test_centres_cover_every_pixel_of_a_non_square_image():
    generator = torch.Generator().manual_seed(0)
    centres = {CutMix().draw((2, 3, 3, 5), generator).centre for _ in range(400)}
    assert centres == {(row, column) for row in range(3) for column in range(5)}
