"""RegMixup is MixUp beside the clean images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from automixsearch.algorithms.base import Batch, Clock
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.training.run import TrainingRun


def cross_entropy(logits, target) -> float:
    logits = logits.detach().double().numpy()
    return -(target * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1).mean()


@pytest.mark.parametrize("clean_lam", [1.0, 0.25])
def test_the_loss_is_that_of_the_clean_images_plus_that_of_the_mixed_ones(clean_lam):
    knobs = {"method": "regmixup", "regmixup.clean_lam": clean_lam, "width": 4, "epochs": 1, "batch_size": 7}
    run = TrainingRun(TrialConfig(data=Data(val_fraction=0.2), knobs=knobs), load(Data()), "cpu")
    run.algorithm.eval()  # so that no pass changes what the next one sees
    batch: Batch = next(iter(run.batches(0)))
    terms = list(run.algorithm.terms(batch, Clock(0, 10, 0, 1), torch.Generator().manual_seed(5)))
    x, y = run.algorithm.normalise(batch.views[0]), np.eye(10)[batch.y.numpy()]
    draw = run.algorithm.mixer.draw((7, *x.shape[1:]), torch.Generator().manual_seed(5))
    assert 0.2 < draw.lam < 0.8
    mixed = draw.lam * x + (1 - draw.lam) * x[draw.partner]
    target = draw.lam * y + (1 - draw.lam) * y[draw.partner.numpy()]
    network = run.algorithm.network
    expected = [clean_lam * cross_entropy(network(x), y), cross_entropy(network(mixed), target)]
    np.testing.assert_allclose([term.loss.item() for term in terms], expected, rtol=1e-5)
