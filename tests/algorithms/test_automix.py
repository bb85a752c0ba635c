"""The momentum pipeline: who learns from what, and that it learns."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from automixsearch.algorithms.base import Clock, Term
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.losses import mce
from automixsearch.mixers.automix import AutoMix, gamma_at, never_learned, random_grid, teacher_momentum
from automixsearch.models import count_parameters
from automixsearch.training.run import TrainingRun


@pytest.fixture(scope="module")
def digits():
    return load(Data())


def config(**knobs) -> TrialConfig:
    base = {"method": "automix", "epochs": 2, "width": 4, "batch_size": 32, "lr": 0.05, "crop_pad": 1, "flip": False}
    plain = {*base, "loss"}
    own = {name if name in plain or "." in name else f"automix.{name}": value for name, value in knobs.items()}
    return TrialConfig(data=Data(val_fraction=0.2), knobs=base | own)


def terms(run) -> list[Term]:
    """The terms of the first step, nothing backward yet."""
    run.algorithm.train()
    return list(run.algorithm.terms(next(run.batches(0)), Clock(0, 70, 0, 2), torch.Generator().manual_seed(0)))


def step(run):
    """Loss of one batch, nothing backward yet, and what its terms tell."""
    made = terms(run)
    return torch.stack([term.loss for term in made]).sum(), {k: v for term in made for k, v in term.told.items()}


def touched(module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def all_touched(module) -> bool:
    return all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def test_the_generating_loss_reaches_the_mix_block_only(digits):
    run = TrainingRun(config(clean_lam=0.0, gamma=0.0), digits, "cpu")
    next(run.epochs())  # at first the blocks of the network are identities
    run.optimizer.zero_grad()
    run.algorithm.loss = lambda *args, **kwargs: torch.zeros(())
    loss, terms = step(run)
    loss.backward()
    assert terms["gen_loss"] == pytest.approx(loss.item())
    assert touched(run.algorithm.block)
    assert not touched(run.algorithm.student)
    assert not touched(run.algorithm.teacher)
    assert all(p.grad is None for p in run.algorithm.teacher.parameters())


def test_the_mask_loss_reaches_the_mix_block_only(digits):
    run = TrainingRun(config(clean_lam=0.0, gen_lam=0.0, gamma=1.0, epsilon=0.0), digits, "cpu")
    run.algorithm.loss = lambda *args, **kwargs: torch.zeros(())
    step(run)[0].backward()
    assert touched(run.algorithm.block)
    assert not touched(run.algorithm.student)


def test_the_losses_of_the_student_do_not_reach_the_mix_block(digits):
    run = TrainingRun(config(gen_lam=0.0, gamma=0.0), digits, "cpu")
    next(run.epochs())
    run.optimizer.zero_grad()
    step(run)[0].backward()
    assert not touched(run.algorithm.block)
    assert all_touched(run.algorithm.student)


def test_a_batch_that_is_switched_off_trains_the_mix_block_by_its_mask_loss_alone(digits):
    run = TrainingRun(config(switch_off=1.0, gamma=1.0, epsilon=0.0), digits, "cpu")
    loss, terms = step(run)
    assert "gen_loss" not in terms
    assert loss.item() == pytest.approx((terms["clean_loss"] + terms["mix_loss"] + terms["mask_loss"]).item())
    loss.backward()
    assert touched(run.algorithm.block)


def test_each_head_sees_its_own_images(digits):
    run = TrainingRun(config(clean_lam=0.0), digits, "cpu")
    step(run)[0].backward()
    assert touched(run.algorithm.student.mix_head)
    assert not touched(run.algorithm.student.backbone.head)


def test_the_teacher_follows_by_its_momentum_and_keeps_its_own_statistics(digits):
    run = TrainingRun(config(ema_start=0.75, ema_end=0.75), digits, "cpu")
    before = copy.deepcopy(run.algorithm.teacher)
    with torch.no_grad():
        for parameter in run.algorithm.student.parameters():
            parameter.add_(1.0)
    run.algorithm.student.backbone.get_submodule("stem")[1].running_mean.add_(5)
    run.algorithm.after_step(Clock(0, 70, 0, 2))
    for old, new in zip(before.parameters(), run.algorithm.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
    for old, new in zip(before.buffers(), run.algorithm.teacher.buffers(), strict=True):
        assert torch.equal(old, new)


def test_without_a_moving_average_the_teacher_is_a_copy(digits):
    run = TrainingRun(config(ema=False), digits, "cpu")
    next(run.epochs())
    for own, other in zip(run.algorithm.teacher.parameters(), run.algorithm.student.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("source", ["random_grid", "mixup", "cutmix"])
def test_a_teacher_that_sees_no_images_has_statistics_to_predict_with(digits, source):
    run = TrainingRun(config(mask_source=source, ema_start=0.5, ema_end=0.5, batch_size=256), digits, "cpu")
    before = copy.deepcopy(dict(run.algorithm.teacher.named_buffers()))
    next(run.epochs())
    student = dict(run.algorithm.student.named_buffers())
    for name, now in run.algorithm.teacher.named_buffers():
        if name.endswith("running_mean"):
            assert not torch.equal(now, before[name]), name
            assert (now - student[name]).norm() < 0.8 * student[name].norm(), name


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.05, 0.999), (0.1, 0.99902423), (0.25, 0.99914498), (0.5, 0.999495), (0.75, 0.99984502), (1.0, 0.99999)],
)
def test_the_momentum_has_the_known_values(progress, expected):
    assert teacher_momentum(AutoMix(), progress) == pytest.approx(expected, abs=1e-8)


def test_gamma_decays_as_it_is_told_to():
    ways = ("constant", "linear", "cosine")
    values = {way: [gamma_at(AutoMix(gamma_decay=way), p) for p in (0.0, 0.5, 1.0)] for way in ways}
    assert values["constant"] == [0.1, 0.1, 0.1]
    assert values["linear"] == pytest.approx([0.1, 0.05, 0.0])
    assert values["cosine"] == pytest.approx([0.1, 0.05, 0.0])


def test_auto_means_what_the_variant_and_the_image_size_say():
    paper, released = AutoMix().resolved(32), AutoMix(variant="released").resolved(32)
    assert (paper.embedding, paper.query_key, paper.mask_mean, paper.gamma_decay) == (
        "concat",
        "separate",
        "sample",
        "cosine",
    )
    assert (released.embedding, released.query_key, released.mask_mean, released.gamma_decay) == (
        "none",
        "shared",
        "batch",
        "constant",
    )
    assert AutoMix(variant="released").resolved(224).embedding == "concat"
    assert AutoMix(variant="released", embedding="multiply").resolved(32).embedding == "multiply"


@pytest.mark.parametrize(("layer", "million"), [("l1", 11.38), ("l2", 11.39), ("l3", 11.44), ("l4", 11.64)])
def test_resnet18_has_the_parameters_of_the_layer_table(layer, million):
    """200 classes: the network, one more head, the Mix Block with two convolutions and no share in the features."""
    import numpy as np

    from automixsearch.data.base import ImageSet, Part

    part = Part(np.zeros((400, 4, 4, 3), np.uint8), np.arange(400) % 200)
    images = ImageSet("none", part, part, tuple(str(k) for k in range(200)))
    made = config(layer=layer, embedding="none", width=64, batch_size=2)
    assert round(count_parameters(TrainingRun(made, images, "cpu").algorithm) / 1e6, 2) == million


@pytest.mark.parametrize(
    "knobs",
    [
        {"layer": "l1"},
        {"layer": "l4", "variant": "released"},
        {"mask_source": "random_grid"},
        {"mask_source": "mixup"},
        {"mask_source": "cutmix"},
        {"attention": False},
        {"ema": False, "clean_lam": 0.0},
        {"embedding": "multiply", "attend": "both", "neck": True, "upsampling": "bilinear", "rescale": 0.25},
        {"mask_loss": "l1_variance", "mask_adjust": 1.0},
        {"shared_forward": True},
        {"mixblock_every": 3, "switch_off": 0.5},
        {"loss": "decoupled", "decoupled.eta": 0.5},
    ],
    ids=str,
)
def test_every_switch_trains(digits, knobs):
    made = config(**knobs)
    run = TrainingRun(made, digits, "cpu")
    for metrics in run.epochs():
        assert metrics.train_loss < 1e3
    assert {f"val_top1.{who}_{head}" for who in ("teacher", "student") for head in ("clean", "mix")} <= set(
        metrics.extra
    )
    assert metrics.val_top1 == metrics.extra["val_top1.teacher_clean"]
    assert ("gen_loss" in metrics.extra) == (made.knobs["automix.mask_source"] == "mixblock")


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(digits):
    made = config()
    whole, first, second = (TrainingRun(made, digits, "cpu") for _ in range(3))
    expected = [run_epoch.extra for run_epoch in whole.epochs()][-1]
    next(first.epochs())
    second.load(first.state())
    assert next(second.epochs()).extra == expected
    for name, value in whole.algorithm.state_dict().items():
        assert torch.equal(value, second.algorithm.state_dict()[name])


@pytest.mark.parametrize("report", ["teacher_clean", "student_clean", "teacher_mix", "student_mix"])
def test_the_reported_network_predicts_what_was_reported(digits, report):
    run = TrainingRun(config(report=report, epochs=1), digits, "cpu")
    metrics = next(run.epochs())
    network = run.network.eval()
    x, _ = next(run.val.in_order(16))
    assert metrics.val_top1 == metrics.extra[f"val_top1.{report}"]
    torch.testing.assert_close(network(x), run.algorithm.predict(x, [report])[report])


def test_a_random_grid_shows_the_partner_in_its_share_of_the_cells():
    noise = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = random_grid(noise, 0.25, (32, 32))
    assert mask.shape == (5, 1, 32, 32)
    torch.testing.assert_close(mask.mean((1, 2, 3)), torch.full((5,), 0.25))
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"mix_prob": 0.5}, "mix_prob = 0.5 does not go with automix"),
        ({"repeats": 2}, "repeats = 2 does not go with automix"),
        ({"method": "automix+mixup"}, "cannot be joined"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        TrialConfig(data=Data(), knobs={"method": "automix", **knobs})


def test_automix_learns_masks_that_keep_their_share_and_depend_on_the_images(digits):
    """A seeded run: L_gen falls, masks come close to their shares, and they are neither constant nor a grid."""
    made = config(layer="l2", width=8, epochs=12, batch_size=64, ema_start=0.9, ema_end=0.99, gamma=1.0,
                  gamma_decay="constant", mixblock_init=0.3)  # fmt: skip
    run = TrainingRun(made, digits, "cpu")
    history = [metrics.extra for metrics in run.epochs()]
    assert history[-1]["gen_loss"] < 0.75 * history[0]["gen_loss"]
    assert history[-1]["mask_error"] < 0.1  # epsilon: what is beyond it costs
    assert history[-1]["mask_variance"] > 1e-5
    assert run.last is not None
    assert run.last.val_top1 > 80

    run.algorithm.eval()
    x, y = next(run.val.in_order(256))
    partner, lam = torch.arange(len(x)).roll(1), torch.full((len(x),), 0.5)
    with torch.no_grad():
        features = run.algorithm.teacher.backbone.features(x, "stage2")
        masks = run.algorithm.block(features, features[partner], lam, (8, 8))
        others = run.algorithm.block(features, features[partner.roll(5)], lam, (8, 8))
    assert (masks - others).abs().mean() > 0.01  # another partner, another mask
    assert masks.std(0).mean() > 0.01  # and another image

    def gen_loss(masks):
        pictures = torch.lerp(x, x[partner], masks)
        pair = torch.stack([y, y[partner]], 1), torch.stack([lam, 1 - lam], 1).double()
        with torch.no_grad():
            return mce(run.algorithm.teacher.mix(pictures), *pair, 0.0)

    grid = random_grid(torch.rand(len(x), 4, 4, generator=torch.Generator().manual_seed(0)), 0.5, (8, 8))
    worse = gen_loss(grid) - gen_loss(masks)
    assert worse.mean() > 4 * worse.std() / len(x) ** 0.5  # the teacher knows more of what learned masks leave


def test_what_a_teacher_never_learned_is_the_product_of_its_momenta():
    settings = AutoMix()
    exact = math.prod(teacher_momentum(settings, step / 3000) for step in range(3000))
    assert never_learned(settings, 3000) == pytest.approx(exact, rel=1e-3)
    assert never_learned(settings, 300) > 0.8
    assert never_learned(AutoMix(ema_start=0.9, ema_end=0.99), 300) < 1e-3
    assert never_learned(AutoMix(ema=False), 300) == 0
    assert never_learned(settings, 0) == 1
