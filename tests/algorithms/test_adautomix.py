"""AdAutoMix against its formulas, written out anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from automixsearch.algorithms.base import Batch, Clock
from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.data import load
from automixsearch.mixers.adautomix import AdAutoMix, AdAutoMixDraw
from automixsearch.models.mixblock import GroupMixBlock
from automixsearch.training.run import TrainingRun


@pytest.mark.parametrize(("count", "concat"), [(2, False), (3, True), (4, False)])
def test_masks_are_the_softmax_over_images_of_attention_to_all_others(count, concat):
    generator = torch.Generator().manual_seed(count)
    block = GroupMixBlock(6, concat=concat, bilinear=False, spread=0.5).double()
    features = [torch.randn(2, 6, 3, 5, generator=generator, dtype=torch.float64) for _ in range(count)]
    shares = torch.rand(count, generator=generator, dtype=torch.float64)
    masks = block(features, shares / shares.sum(), (6, 10)).detach().numpy()
    maps = []
    for row in range(2):
        seen = []
        for part, share in zip(features, shares / shares.sum(), strict=True):
            flat = part[row].numpy().reshape(6, -1)
            seen.append(np.concatenate([flat, np.full((1, 15), share.item())]) if concat else flat)
        weights = [(layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()[:, None])
                   for layer in (block.query, block.key, block.value)]  # fmt: skip
        made = [[w @ part + b for part in seen] for w, b in weights]
        logits = []
        for k in range(count):
            scores = sum(made[0][k].T @ made[1][j] for j in range(count) if j != k) / np.sqrt(3)
            attention = np.exp(scores - scores.max(1, keepdims=True))
            logits.append((attention / attention.sum(1, keepdims=True)) @ made[2][k][0])
        maps.append(np.stack(logits).reshape(count, 3, 5).repeat(2, 1).repeat(2, 2))
    exp = np.exp(np.stack(maps))
    np.testing.assert_allclose(masks, exp / exp.sum(1, keepdims=True), rtol=1e-10)


def run_of(**knobs) -> tuple[TrainingRun, Batch]:
    own = {f"adautomix.{name}": value for name, value in knobs.items()}
    base = {"method": "adautomix", "epochs": 1, "width": 4, "batch_size": 6, "adautomix.mixblock_init": 0.5}
    run = TrainingRun(TrialConfig(data=Data(val_fraction=0.2), knobs=base | own), load(Data()), "cpu")
    return run, next(iter(run.batches(0)))


@pytest.mark.parametrize("step", [0, 1, 4])
@pytest.mark.parametrize(
    "knobs", [{}, {"samples": 2, "beta": 0.1}, {"linear_share": 0.0, "adv_every": 4}, {"lam_margin": 0.5}], ids=str
)
def test_a_step_is_what_its_formulas_say(knobs, step):
    run, batch = run_of(**knobs)
    algorithm, mixer = run.algorithm.eval(), run.algorithm.mixer  # so that no pass changes what the next one sees
    terms = list(algorithm.terms(batch, Clock(step, 100, 0, 1), torch.Generator().manual_seed(8)))
    x, y = algorithm.normalise(batch.views[0]), batch.y
    generator = torch.Generator().manual_seed(8)
    for_block, for_student = (mixer.draw(tuple(x.shape), generator) for _ in range(2))
    features = algorithm.teacher.backbone.features(x, "stage3").detach()

    def mixed(draw: AdAutoMixDraw, block: bool) -> torch.Tensor:
        masks = algorithm.block([features[p] for p in draw.partners.T], draw.shares, (8, 8))
        if not block and draw.shares.min() <= mixer.lam_margin:
            masks = draw.shares.float()[None, :, None, None].expand_as(masks)
        return sum(masks[:, k, None] * x[draw.partners[:, k]] for k in range(mixer.samples))

    def ce(logits: torch.Tensor, draw: AdAutoMixDraw) -> torch.Tensor:
        log = logits.log_softmax(1)
        return -sum(s * log[torch.arange(6), y[draw.partners[:, k]]] for k, s in enumerate(draw.shares)).mean()

    student, teacher = algorithm.student, algorithm.teacher
    linear = sum(s.float() * x[for_student.partners[:, k]] for k, s in enumerate(for_student.shares))
    r = mixer.linear_share if mixer.samples > 2 else 0
    expected = [(1 - r) * functional.cross_entropy(student.clean(x), y)]
    if r:
        expected.append(r * ce(student.mix(linear), for_student))
    expected.append(ce(student.mix(mixed(for_student, block=False)), for_student))
    logits = teacher.mix(mixed(for_block, block=True))
    gen = ce(logits, for_block)
    if mixer.adv_every and step % mixer.adv_every == 0:
        clean = teacher.mix(x)
        alike = sum(s * functional.cosine_similarity(logits, clean[for_block.partners[:, k]])
                    for k, s in enumerate(for_block.shares)).mean()  # fmt: skip
        gen = -mixer.beta * gen + (1 - mixer.beta) * alike
    expected.append(gen)
    assert [term.loss.item() for term in terms] == pytest.approx([value.item() for value in expected], rel=1e-5)


def test_each_term_reaches_what_it_trains_and_nothing_else():
    run, batch = run_of()
    for term in run.algorithm.terms(batch, Clock(0, 10, 0, 1), torch.Generator().manual_seed(1)):
        run.algorithm.zero_grad()
        term.loss.backward()
        reached = {name.partition(".")[0] for name, parameter in run.algorithm.named_parameters()
                   if parameter.grad is not None and parameter.grad.abs().sum() > 0}  # fmt: skip
        assert reached == ({"block"} if "gen_loss" in term.told else {"student"})


def test_shares_near_nothing_are_blended_and_so_is_nearly_all_of_the_release():
    near, far = torch.tensor([0.01, 0.5, 0.49]).double(), torch.tensor([0.3, 0.4, 0.3]).double()
    assert AdAutoMix().linear(near)
    assert not AdAutoMix().linear(far)
    released = AdAutoMix(variant="released")
    assert released.linear(near)
    assert released.linear(far)  # of three images; its test is turned round
    assert not released.linear(torch.tensor([0.98, 0.01, 0.01]).double())
    assert not AdAutoMix(variant="released", samples=2).linear(torch.tensor([0.4, 0.6]).double())
    assert AdAutoMix().draw((5, 3, 8, 8), torch.Generator().manual_seed(0)).shares.sum() == pytest.approx(1)
