"""The training loop: exact losses, exact resumption, no look at the test set before the end."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import random
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from automixsearch.algorithms.base import Clock
from automixsearch.config.data import Data
from automixsearch.config.recipe import Recipe
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.data.base import ImageSet
from automixsearch.errors import DataError, Diverged, NonFiniteLoss, OtherConfig, SpecError, TrainingError
from automixsearch.evaluation.classification import ScoreSums
from automixsearch.losses import MCE
from automixsearch.mixers import MIXERS
from automixsearch.mixers.manifoldmix import ManifoldMixDraw
from automixsearch.training.run import TrainingRun, learning_rate, train


@pytest.fixture(scope="module")
def digits():
    return load(Data())


def config(seed=0, **knobs) -> TrialConfig:
    base = {"method": "mixup", "epochs": 2, "width": 4, "batch_size": 64, "lr": 0.05, "crop_pad": 1, "flip": False}
    return TrialConfig(data=Data(val_fraction=0.2), seed=seed, knobs={**base, **knobs})


def losses(run: TrainingRun) -> list[float]:
    return [loss for metrics in run.epochs() for loss in metrics.losses]


LED = {name for name, mixer in MIXERS.items() if mixer.algorithm != "supervised"}
"""The methods with a teacher."""
TWENTY_STEPS = Path(__file__).parents[1] / "golden" / "twenty_steps.json"
"""Losses of the first steps of every method; `python tests/training/test_run.py` rewrites them."""


ATTENDED = {"backbone": "deit_s", "batch_size": 32, "flip": False}
"""For methods that follow the attention of a class token."""


def twenty_steps(method: str, images: ImageSet) -> list[float]:
    if MIXERS[method].attends:
        return losses(TrainingRun(config(method=method, **ATTENDED), load(Data(size=16)), "cpu"))[:20]
    return losses(TrainingRun(config(method=method), images, "cpu"))[:20]


@pytest.mark.parametrize("method", list(MIXERS))
def test_twenty_seeded_steps_give_known_losses(digits, method):
    expected = json.loads(TWENTY_STEPS.read_text())[method]
    np.testing.assert_allclose(twenty_steps(method, digits), expected, rtol=2e-4)


@pytest.mark.parametrize("method", [*MIXERS, "mixup+cutmix", "puzzlemix+fmix"])
def test_every_method_learns_in_two_hundred_steps(digits, method):
    """The validation loss falls well below that of guessing, every step is finite, every weight has a gradient."""
    more = {"switch": "sample"} if "+" in method else {}
    if method in LED:  # the teacher follows as fast as so few steps need
        more = {f"{method}.ema_start": 0.9, f"{method}.ema_end": 0.99}
    attends = any(MIXERS[name].attends for name in method.split("+"))
    if attends:
        digits, more = load(Data(size=16)), {**ATTENDED, "optimizer": "adamw", "lr": 0.002}
    run = TrainingRun(config(**{"method": method, "epochs": 6, "batch_size": 32, **more}), digits, "cpu")
    steps = losses(run)
    assert len(steps) >= 200
    assert all(math.isfinite(loss) for loss in steps)
    assert run.last is not None
    assert run.last.val_loss < 0.8 * math.log(10)
    algorithm = run.algorithm
    network = algorithm.student.backbone if method in LED else algorithm.network
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def test_the_same_seed_trains_bitwise_the_same_network_and_another_seed_another(digits):
    first, again, other = (TrainingRun(config(seed), digits, "cpu") for seed in (1, 1, 2))
    assert losses(first) == losses(again) != losses(other)
    for name, value in first.algorithm.network.state_dict().items():
        assert torch.equal(value, again.algorithm.network.state_dict()[name])


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
    for name, value in whole.algorithm.network.state_dict().items():
        assert torch.equal(value, second.algorithm.network.state_dict()[name])
    assert second.wall_s > first.wall_s


TRUNK = {"method": "cutmix", "schedule": "trapezoid", "cooldown": 0.5}


@pytest.fixture(scope="module")
def trunk(digits):
    """A run of constant learning rate, a cool-down of an epoch branching off after the second; and its epochs."""
    run = TrainingRun(config(epochs=4, **TRUNK), digits, "cpu", branches=(2,))
    return run, [(metrics, metrics.losses) for metrics in run.epochs()]


def test_a_branch_leaves_its_trunk_bitwise_unchanged(digits, trunk):
    branched, epochs = trunk
    plain = TrainingRun(config(epochs=4, **TRUNK), digits, "cpu")
    assert losses(plain) == [loss for _, steps in epochs for loss in steps]
    for name, value in plain.algorithm.state_dict().items():
        assert torch.equal(value, branched.algorithm.state_dict()[name])
    assert plain.val_top1s == branched.val_top1s
    assert ["val_loss.cooled" in metrics.row() for metrics, _ in epochs] == [False, True, False, False]
    assert branched.finish().test == plain.finish().test


def test_a_branch_is_bitwise_a_complete_shorter_run(digits, trunk):
    short = TrainingRun(config(epochs=3, **TRUNK | {"cooldown": 1 / 3}), digits, "cpu")
    *_, last = short.epochs()
    cooled = trunk[1][1][0].row()
    for name in ("train_loss", "val_top1", "val_top5", "val_loss", "val_ece", "val_macro_f1"):
        assert cooled[f"{name}.cooled"] == getattr(last, name) != cooled[name] or name == "val_top5"
    assert cooled["rung"] == 0


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_run_that_is_resumed_around_a_branch_is_bitwise_the_same(digits, trunk, stop_after):
    first = TrainingRun(config(epochs=4, **TRUNK), digits, "cpu", branches=(2,))
    epochs = first.epochs()
    for _ in range(stop_after):
        next(epochs)
    second = TrainingRun(config(epochs=4, **TRUNK), digits, "cpu", branches=(2,))
    second.load(first.state())
    again = [*([] if second.last is None else [second.last]), *second.epochs()]
    for found, (expected, _) in zip(again, trunk[1][stop_after - 1 :], strict=True):
        times = ("wall_s", "device_s", "images_per_s", "energy_j")
        assert {k: v for k, v in found.row().items() if k not in times} == {
            k: v for k, v in expected.row().items() if k not in times
        }


def test_a_branch_and_a_run_that_is_not_tested_read_no_test_score(digits, monkeypatch):
    read = []
    tested = TrainingRun._tested
    monkeypatch.setattr(TrainingRun, "_tested", lambda run: read.append(run.epoch) or tested(run))
    made = config(epochs=2, schedule="trapezoid", test_median=True, median_epochs=2)
    list(TrainingRun(made, digits, "cpu", branches=(1,), tested=False).epochs())
    assert read == []
    run = TrainingRun(made, digits, "cpu", branches=())
    next(run.epochs())
    run.branch(1)
    assert read == [1]


def test_a_checkpoint_after_the_last_epoch_carries_its_metrics(digits):
    done = TrainingRun(config(), digits, "cpu")
    losses(done)
    again = TrainingRun(config(), digits, "cpu")
    again.load(done.state())
    assert list(again.epochs()) == []
    assert again.finish().last == done.last
    assert again.answers is not None
    assert (again.answers.right == done.answers.right).all()
    assert 100 * again.answers.right.mean() == done.last.val_top1


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
    with pytest.raises(OtherConfig, match="belongs to config"):
        TrainingRun(config(seed=2), digits, "cpu").load(state)


def test_a_loss_that_explodes_ends_the_run_with_its_step(digits):
    with pytest.raises(NonFiniteLoss, match=r"the loss was (nan|inf) in epoch \d+, step \d+; lower lr"):
        losses(TrainingRun(config(lr=100.0, momentum=0.99, epochs=6), digits, "cpu"))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_network_whose_outputs_are_no_numbers_has_diverged(digits, part):
    run = TrainingRun(config(), digits, "cpu")
    losses(run)
    with torch.no_grad():
        next(run.algorithm.parameters()).fill_(math.nan)
    with pytest.raises(NonFiniteLoss, match="diverged: an output of the network was NaN or infinite; lower lr"):
        run._evaluate(run.val, ["network"]) if part == "val" else run.finish()


def test_a_validation_loss_beyond_any_sense_is_divergence_at_the_end_and_not_before(digits, monkeypatch):
    factors, scores = iter([1e30, 1e2, 1e30, 1e30]), ScoreSums.scores

    def larger(sums):
        found = scores(sums)
        return dataclasses.replace(found, loss=found.loss * next(factors))

    monkeypatch.setattr(ScoreSums, "scores", larger)
    assert len(list(TrainingRun(config(lr=0.01), digits, "cpu").epochs())) == 2
    epochs = TrainingRun(config(lr=0.01), digits, "cpu").epochs()
    assert [next(epochs).epoch for _ in range(2)] == [1, 2]
    with pytest.raises(
        Diverged, match=r"diverged: the validation loss ended at .*e\+30, and guessing costs 2.3; lower lr"
    ):
        next(epochs)


def test_a_batch_larger_than_the_training_split_is_refused(digits):
    with pytest.raises(SpecError, match="batch_size = 5000 exceeds the 1150 training images"):
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
    *scores, auroc, _ = dataclasses.astuple(outcome.test)
    assert all(map(math.isfinite, scores))
    assert auroc is None


def test_saliency_is_the_size_of_each_sample_own_input_gradient(digits):
    run = TrainingRun(config(), digits, "cpu")
    next(run.epochs())
    x, y = next(run.train.in_order(5))
    before = [parameter.grad.clone() for parameter in run.algorithm.network.parameters()]
    found = run.algorithm.gradient(x, y).square().mean(1).sqrt()
    assert all(torch.equal(old, new.grad) for old, new in zip(before, run.algorithm.network.parameters(), strict=True))
    run.algorithm.network.eval()
    for n in range(5):
        one = x[n : n + 1].clone().requires_grad_()
        torch.nn.functional.cross_entropy(run.algorithm.network(one), y[n : n + 1]).backward()
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


class Watched:
    """A mixer that keeps what it is supplied with."""

    def __init__(self, mixer, seen):
        self.mixer, self.seen = mixer, seen

    def __getattr__(self, name):
        return getattr(self.mixer, name)

    def apply(self, x, draw, **supplied):
        self.seen.update(supplied)
        return self.mixer.apply(x, draw, **supplied)


def test_a_clean_pass_that_trains_also_gives_the_gradient(digits):
    run = TrainingRun(config(method="puzzlemix", **{"puzzlemix.clean_lam": 0.5}), digits, "cpu")
    batch, seen = next(run.batches(0)), {}
    x, y = run.normalised(batch.views[0]), batch.y
    run.algorithm.train()
    run.algorithm.mixer = Watched(run.algorithm.mixer, seen)
    terms = run.algorithm.terms(batch, Clock(0, 1, 0, 1), torch.Generator().manual_seed(0))
    loss = next(terms).loss
    loss.backward()
    trained = [parameter.grad.clone() for parameter in run.algorithm.network.parameters()]
    next(terms)
    run.optimizer.zero_grad()
    own = x.clone().requires_grad_()
    expected = 0.5 * torch.nn.functional.cross_entropy(run.algorithm.network(own), y)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item())
    torch.testing.assert_close(seen["saliency"], own.grad.square().mean(1).sqrt())
    for found, parameter in zip(trained, run.algorithm.network.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


class Counted(torch.nn.Module):
    """A network that counts its passes."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.passes = inner, 0

    def forward(self, *args):
        self.passes += 1
        return self.inner(*args)


@pytest.mark.parametrize(
    ("knobs", "passes"),
    [
        ({"method": "mixup"}, 1),
        ({"method": "mixup", "repeats": 3}, 3),
        ({"method": "manifoldmix"}, 1),
        ({"method": "puzzlemix"}, 2),
        ({"method": "puzzlemix", "repeats": 2}, 3),
        ({"method": "puzzlemix", "puzzlemix.clean_lam": 1.0}, 2),
        ({"method": "puzzlemix+mixup", "puzzlemix.weight": 0.0}, 1),
    ],
    ids=str,
)
def test_a_step_costs_no_more_passes_than_its_method_needs(digits, knobs, passes):
    run = TrainingRun(config(**knobs), digits, "cpu")
    counted = run.algorithm.logits = run.algorithm.network = Counted(run.algorithm.network)
    run.step(next(run.batches(0)), 0, torch.Generator().manual_seed(0))
    assert counted.passes == passes


def test_repeats_average_the_losses_of_fresh_draws(digits):
    once, twice = (TrainingRun(config(repeats=n), digits, "cpu") for n in (1, 2))
    batch, generator = next(once.batches(0)), torch.Generator().manual_seed(0)
    x, algorithm = once.normalised(batch.views[0]), once.algorithm
    parts = [algorithm.mixed_loss(algorithm.mixer(x, generator), batch.y).item() for _ in range(2)]
    found = twice.step(batch, 0, torch.Generator().manual_seed(0))[0].item()
    assert parts[0] != parts[1]
    assert found == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_mixing_stops_where_it_is_told_to(digits):
    plain = losses(TrainingRun(config(method="vanilla", epochs=3), digits, "cpu"))
    never = losses(TrainingRun(config(epochs=3, mix_until=0.0), digits, "cpu"))
    late = TrainingRun(config(epochs=3, mix_until=0.34), digits, "cpu")
    steps = late.steps_per_epoch
    found = losses(late)
    always = losses(TrainingRun(config(epochs=3), digits, "cpu"))
    assert never == plain
    assert found[: 2 * steps] == always[: 2 * steps]
    assert found[2 * steps :] != always[2 * steps :]


def test_a_probability_of_zero_is_no_mixing(digits):
    plain = losses(TrainingRun(config(method="vanilla"), digits, "cpu"))
    assert losses(TrainingRun(config(mix_prob=0.0), digits, "cpu")) == plain


def test_features_are_mixed_at_the_drawn_stage(digits):
    run = TrainingRun(config(method="manifoldmix"), digits, "cpu")
    next(run.epochs())  # untrained blocks are identities
    x, y = next(run.train.in_order(6))
    seen = {}
    for stage in ("stem", "stage1", "stage3", "stage4"):
        draw = ManifoldMixDraw(torch.tensor([1, 2, 3, 4, 5, 0]), 0.3, stage)
        mixed = run.algorithm.mixer.apply(x, draw)
        assert torch.equal(mixed.x, x)
        run.algorithm.network.eval()
        features = x
        for name, part in run.algorithm.network.stages():
            features = part(features)
            if name == stage:
                features = 0.3 * features + 0.7 * features[draw.partner]
        expected = MCE()(
            run.algorithm.network.head(run.algorithm.network.pooled(features)), y[mixed.sources], mixed.shares
        )
        assert run.algorithm.mixed_loss(mixed, y).item() == pytest.approx(expected.item(), rel=1e-6)
        seen[stage] = expected.item()
    assert len(set(seen.values())) == 4


def test_an_unknown_stage_is_refused(digits):
    run = TrainingRun(config(), digits, "cpu")
    x, _ = next(run.train.in_order(2))
    with pytest.raises(TrainingError, match="unknown stage 'stage5'; did you mean 'stage"):
        run.algorithm.network(x, "stage5", lambda features: features)


if __name__ == "__main__":
    torch.set_num_threads(1)
    images = load(Data())
    rows = (
        f'  "{method}": {json.dumps([round(loss, 5) for loss in twenty_steps(method, images)])}' for method in MIXERS
    )
    TWENTY_STEPS.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def test_no_flipped_bit_of_a_checkpoint_is_read_as_something_else(digits):
    run = TrainingRun(config(), digits, "cpu")
    next(run.epochs())
    state, chance = run.state(), random.Random(0)
    again, noticed = TrainingRun(config(), digits, "cpu"), 0
    for _ in range(500):
        flipped, bit = bytearray(state), chance.randrange(8 * len(state))
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            again.load(bytes(flipped))
        except TrainingError:
            noticed += 1
        else:  # a blank between two records
            assert_same(again, run)
    assert noticed > 250
    again.load(state)
    assert_same(again, run)


def assert_same(one: TrainingRun, other: TrainingRun) -> None:
    theirs = other.algorithm.state_dict()
    assert (one.epoch, one.wall_s, one.last) == (other.epoch, other.wall_s, other.last)
    assert all(torch.equal(value, theirs[name]) for name, value in one.algorithm.state_dict().items())
    moments = other.optimizer.state_dict()["state"]
    for key, state in one.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[key][name]) for name, value in state.items())


def test_a_checkpoint_that_contradicts_itself_is_refused(digits):
    run = TrainingRun(config(), digits, "cpu")
    content = torch.load(io.BytesIO(run.state()), weights_only=True)
    for damage in ({"epoch": 99}, {"epoch": "1"}, {"val_top1s": [1.0]}, {"last": {"epochs": 1}}, {"model": {}}):
        file = io.BytesIO()
        torch.save(content | damage, file)
        with pytest.raises(TrainingError, match="the checkpoint cannot be read"):
            TrainingRun(config(), digits, "cpu").load(file.getvalue())
