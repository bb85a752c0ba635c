"""The training loop: exact losses, exact resumption, no look at the test set before the end."""

from __future__ import annotations

import dataclasses
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch

from automixsearch.data import load
from automixsearch.errors import DataError, NonFiniteLoss, TrainingError
from automixsearch.mixers import MIXERS
from automixsearch.models import build_model, count_parameters
from automixsearch.models.resnet import ResNet
from automixsearch.recipe import Recipe
from automixsearch.spec import Data, TrialConfig
from automixsearch.training.loop import TrainingRun, learning_rate, train


@pytest.fixture(scope="module")
def digits():
    return load(Data())


def config(seed=0, **knobs) -> TrialConfig:
    base = {"method": "mixup", "epochs": 2, "width": 4, "batch_size": 64, "lr": 0.05, "crop_pad": 1, "flip": False}
    return TrialConfig(data=Data(val_fraction=0.2), seed=seed, knobs={**base, **knobs})


def losses(run: TrainingRun) -> list[float]:
    return [loss for _ in run.epochs() for loss in run.step_losses]


TWENTY_STEPS = {
    "vanilla": [
        2.30827,
        2.30853,
        2.31573,
        2.29883,
        2.30130,
        2.29880,
        2.30535,
        2.27360,
        2.30644,
        2.29000,
        2.29525,
        2.28523,
        2.20817,
        2.28272,
        2.33223,
        2.27488,
        2.24367,
        2.19028,
        2.19493,
        2.27672,
    ],
    "mixup": [
        2.30638,
        2.30910,
        2.31399,
        2.29933,
        2.30671,
        2.30856,
        2.30380,
        2.29888,
        2.32245,
        2.28482,
        2.29285,
        2.29603,
        2.25690,
        2.30967,
        2.33116,
        2.32426,
        2.28639,
        2.21754,
        2.23689,
        2.29542,
    ],
    "cutmix": [
        2.30667,
        2.30394,
        2.31690,
        2.30255,
        2.30943,
        2.30892,
        2.30266,
        2.30257,
        2.29654,
        2.29963,
        2.32329,
        2.27938,
        2.29434,
        2.31816,
        2.35181,
        2.31111,
        2.28575,
        2.23114,
        2.25842,
        2.34162,
    ],
    "resizemix": [
        2.30497,
        2.30821,
        2.31628,
        2.30443,
        2.30533,
        2.30768,
        2.31353,
        2.30262,
        2.31033,
        2.29379,
        2.29093,
        2.26722,
        2.22678,
        2.29311,
        2.32238,
        2.29053,
        2.25444,
        2.25629,
        2.22910,
        2.28156,
    ],
    "saliencymix": [
        2.30190,
        2.30863,
        2.30993,
        2.31066,
        2.31499,
        2.32335,
        2.30973,
        2.29190,
        2.33008,
        2.28743,
        2.29648,
        2.30698,
        2.27583,
        2.31338,
        2.32748,
        2.33420,
        2.26578,
        2.24931,
        2.24553,
        2.28758,
    ],
    "fmix": [
        2.30732,
        2.30832,
        2.31835,
        2.30895,
        2.30373,
        2.30124,
        2.29956,
        2.26684,
        2.31062,
        2.30372,
        2.31849,
        2.30967,
        2.29247,
        2.32227,
        2.35544,
        2.30223,
        2.28129,
        2.29735,
        2.23743,
        2.32162,
    ],
    "puzzlemix": [
        2.30829,
        2.30886,
        2.31970,
        2.30041,
        2.29756,
        2.29829,
        2.31804,
        2.31343,
        2.30937,
        2.29230,
        2.27483,
        2.29598,
        2.28840,
        2.33309,
        2.32941,
        2.28204,
        2.28553,
        2.28561,
        2.29342,
        2.30764,
    ],
}


@pytest.mark.parametrize("method", list(MIXERS))
def test_twenty_seeded_steps_give_known_losses(digits, method):
    found = losses(TrainingRun(config(method=method), digits, "cpu"))[:20]
    np.testing.assert_allclose(found, TWENTY_STEPS[method], rtol=2e-4)


def test_the_same_seed_trains_bitwise_the_same_network_and_another_seed_another(digits):
    first, again, other = (TrainingRun(config(seed), digits, "cpu") for seed in (1, 1, 2))
    assert losses(first) == losses(again) != losses(other)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(digits, stop_after):
    made = config(epochs=3, method="cutmix", loss="decoupled")
    whole = TrainingRun(made, digits, "cpu")
    all_losses = losses(whole)
    first = TrainingRun(made, digits, "cpu")
    epochs = first.epochs()
    for _ in range(stop_after):
        next(epochs)
    second = TrainingRun(made, digits, "cpu")
    second.load(first.state())
    rest = losses(second)
    assert rest == all_losses[len(all_losses) - len(rest) :]
    assert second.finish().test == whole.finish().test
    assert second.last is not None
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
    assert second.wall_s > first.wall_s


def test_a_checkpoint_after_the_last_epoch_carries_its_metrics(digits):
    done = TrainingRun(config(), digits, "cpu")
    losses(done)
    again = TrainingRun(config(), digits, "cpu")
    again.load(done.state())
    assert list(again.epochs()) == []
    assert again.finish().last == done.last


def test_test_scores_are_read_after_the_last_epoch_only(digits):
    run = TrainingRun(config(), digits, "cpu")
    next(run.epochs())
    with pytest.raises(TrainingError, match="epoch 1 of 2: test scores are read at the end only"):
        run.finish()


def test_validation_and_training_images_are_apart_and_the_test_set_is_not_among_them(digits):
    run = TrainingRun(config(), digits, "cpu")
    assert len(run.train) + len(run.val) == len(digits.train)
    assert not set(run.split.train) & set(run.split.val)
    assert len(run.test) == len(digits.test)


@pytest.mark.parametrize(("state", "message"), [(b"", "cannot be read"), (b"PK\x03\x04 truncated", "cannot be read")])
def test_a_damaged_checkpoint_is_refused(digits, state, message):
    with pytest.raises(TrainingError, match=message):
        TrainingRun(config(), digits, "cpu").load(state)


def test_a_checkpoint_of_another_config_is_refused(digits):
    state = TrainingRun(config(seed=1), digits, "cpu").state()
    with pytest.raises(TrainingError, match="belongs to config"):
        TrainingRun(config(seed=2), digits, "cpu").load(state)


def test_a_loss_that_explodes_ends_the_run_with_its_step(digits):
    with pytest.raises(NonFiniteLoss, match=r"the loss was (nan|inf) in epoch \d+, step \d+; lower lr"):
        losses(TrainingRun(config(lr=100.0, momentum=0.99, epochs=6), digits, "cpu"))


def test_a_batch_larger_than_the_training_split_is_refused(digits):
    with pytest.raises(DataError, match="batch_size = 5000 exceeds the 1150 training images"):
        TrainingRun(config(batch_size=5000), digits, "cpu")


def test_other_data_than_the_config_was_made_for_are_refused(digits):
    made = config().model_copy(update={"data_fingerprint": "0123456789abcdef"})
    with pytest.raises(DataError, match="the config was made for 0123456789abcdef"):
        TrainingRun(made, digits, "cpu")


def test_global_random_state_has_no_say(digits):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = losses(TrainingRun(config(), digits, "cpu"))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert losses(TrainingRun(config(), digits, "cpu")) == first


@pytest.mark.parametrize(
    "knobs",
    [
        {"amp": "bf16"},
        {"channels_last": False},
        {"nesterov": True, "label_smoothing": 0.1, "warmup_epochs": 1, "min_lr": 0.1},
        {"flip": True, "crop_pad": 2, "pad_mode": "reflect"},
        {"crop_pad": 0},
        {"method": "resizemix", "resizemix.interpolation": "bilinear", "loss": "decoupled", "decoupled.eta": 1.0},
    ],
    ids=str,
)
def test_every_switch_trains(digits, knobs):
    outcome = train(config(epochs=10, lr=0.1, **knobs), digits, "cpu")
    assert outcome.last.val_top1 > 15
    assert all(math.isfinite(value) for value in dataclasses.asdict(outcome.test).values())


def test_saliency_is_the_size_of_each_sample_own_input_gradient(digits):
    run = TrainingRun(config(), digits, "cpu")
    next(run.epochs())
    x, y = next(run.train.in_order(5))
    before = [parameter.grad.clone() for parameter in run.model.parameters()]
    found = run._saliency(x, y)
    assert all(torch.equal(old, new.grad) for old, new in zip(before, run.model.parameters(), strict=True))
    run.model.eval()
    for n in range(5):
        one = x[n : n + 1].clone().requires_grad_()
        torch.nn.functional.cross_entropy(run.model(one), y[n : n + 1]).backward()
        torch.testing.assert_close(found[n], one.grad[0].square().mean(0).sqrt())
    assert found.shape == (5, 8, 8)


def test_memory_formats_agree(digits):
    first, other = (losses(TrainingRun(config(channels_last=on), digits, "cpu"))[:5] for on in (True, False))
    np.testing.assert_allclose(first, other, rtol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compile_trains_the_same_network(digits):
    plain, compiled = (losses(TrainingRun(config(epochs=1, compile=on), digits, "cpu"))[:4] for on in (False, True))
    np.testing.assert_allclose(plain, compiled, rtol=1e-3)


def test_the_learning_rate_warms_up_and_follows_a_cosine_to_its_floor():
    recipe = Recipe(epochs=10, lr=0.4, min_lr=0.1, warmup_epochs=2)
    rates = [learning_rate(recipe, step, 5) for step in range(50)]
    np.testing.assert_allclose(rates[:10], 0.4 * np.arange(1, 11) / 10)
    assert rates[10] == pytest.approx(0.4)
    assert rates[30] == pytest.approx(0.4 * 0.55)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert 0.04 < rates[-1] < 0.05


def test_resnet18_has_the_published_number_of_parameters():
    assert count_parameters(build_model(Recipe(), 3, 100, 0)) == 11_220_132
    assert count_parameters(build_model(Recipe(), 3, 200, 0)) == 11_271_432


def test_the_network_keeps_resolution_in_the_stem_and_halves_it_three_times():
    model, sizes = ResNet(width=4), []
    for name in ("stem", "stage1", "stage2", "stage3", "stage4"):
        getattr(model, name).register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == [(4, 32, 32), (4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]


def test_initialisation_depends_on_the_seed_and_leaves_global_state_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (build_model(Recipe(width=4), 3, 10, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.stem[0].weight, again.stem[0].weight)
    assert not torch.equal(first.stem[0].weight, other.stem[0].weight)
