"""What a network says of mixed images, and where it sees their classes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from automixsearch.errors import SpecError
from automixsearch.evaluation import Attack, Corruption, MixedSamples, Occlusion, Pictures, Subject
from automixsearch.evaluation.class_map import class_map
from automixsearch.evaluation.mixed import METHODS, Pairs, told
from automixsearch.evaluation.run import evaluated
from automixsearch.mixers import CutMix, ManifoldMix
from automixsearch.models.resnet import ResNet
from automixsearch.models.transformers import DeiT
from automixsearch.training.batches import Batches


def test_answers_about_mixed_images_are_those_of_the_reference(golden):
    file = golden("attacks_occlusion")
    logits, a, b = (torch.from_numpy(file[f"mix_{name}"]) for name in ("logits", "y_a", "y_b"))
    found = {name: values.double().mean().item() for name, values in told(logits, a, b).items()}
    assert found["top1"] == pytest.approx(float(file["mix_top1"]))
    assert found["top2"] == pytest.approx(float(file["mix_top2"]))
    two = logits.topk(2).indices
    missed = [not {*pair} & {int(one), int(other)} for pair, one, other in zip(two.tolist(), a, b, strict=True)]
    assert found["neither"] == pytest.approx(np.mean(missed))
    assert found["own_confidence"] == pytest.approx(logits.double().softmax(1)[torch.arange(len(a)), a].mean().item())


@pytest.fixture(scope="module")
def subject():
    """A narrow network and 23 images of 4 classes; a third of the pairs are of one class."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (23, 16, 16, 3), generator=generator).byte().numpy()
    labels = np.repeat([0, 0, 1, 2, 3], 5)[:23].astype(np.int64)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    pictures = Pictures(Batches(images, labels, mean, std, torch.device("cpu")), batch=10)
    torch.manual_seed(0)
    network = ResNet((1, 1, 1, 1), width=4, num_classes=4).eval().requires_grad_(False)
    shift, scale = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    return Subject(network, pictures, pictures, tuple("abcd"), lambda x: (x - shift) / scale)


def pairs(subject):
    x, y = next(dataclasses.replace(subject.test, batch=8).batches())
    return Pairs(subject, x, y)


def test_the_evidence_that_is_seen_is_that_of_the_pixels_that_are(subject):
    batch = pairs(subject)
    maps = class_map(subject.network, batch.x, batch.y).clamp(min=0)[:, None].double()
    maps = functional.interpolate(maps, batch.x.shape[2:], mode="bilinear")[:, 0]
    maps /= maps.sum((1, 2), keepdim=True)
    lams = []
    for lam, mixed, seen in batch.mixed(CutMix(), 4, torch.Generator().manual_seed(3)):
        theirs = (mixed.x != batch.x).any(1)
        expected = torch.stack([(maps * ~theirs).sum((1, 2)), (maps[batch.partner] * theirs).sum((1, 2))])
        expected[:, expected.isnan().any(0)] = torch.nan
        torch.testing.assert_close(seen, expected, atol=1e-6, rtol=0, equal_nan=True)
        share = 1 - theirs.double().mean((1, 2))
        torch.testing.assert_close(mixed.lam, share)
        answers = batch.answers(mixed, seen)
        mismatch = (share - expected[0] / expected.sum(0)).abs()
        mismatch[batch.y == batch.y[batch.partner]] = torch.nan
        torch.testing.assert_close(answers["mismatch"], mismatch, atol=1e-6, rtol=0, equal_nan=True)
        lams.append(lam)
    assert lams == [0, 0.25, 0.5, 0.75, 1]


def test_every_method_is_asked_at_every_share(subject):
    found = list(MixedSamples(methods="+".join(METHODS), steps=2).scores(subject, torch.Generator().manual_seed(0)))
    by_name = {(score.setting, score.name): score for score in found}
    methods = {score.setting.partition(" ")[0].removeprefix("method=") for score in found}
    assert methods == set(METHODS)
    assert methods >= {"mixup", "cutmix", "manifoldmix", "resizemix", "saliencymix", "fmix", "puzzlemix", "comixup"}
    for name in ("mixup", "fmix", "manifoldmix"):
        ends = [by_name[f"method={name} lam={lam}", "own_share"].value for lam in (0, 1)]
        assert ends == [pytest.approx(0, abs=0.02), 1]
    assert by_name["method=mixup lam=0.5", "mismatch"].value == pytest.approx(0, abs=1e-6)
    assert by_name["method=puzzlemix lam=0.5", "mismatch"].value > 0
    assert ("method=manifoldmix lam=0.5", "mismatch") not in by_name
    clean = (
        by_name["method=mixup lam=1", "own_confidence"].value,
        by_name["method=cutmix lam=1", "own_confidence"].value,
    )
    assert clean[0] == pytest.approx(clean[1])
    swapped = by_name["method=mixup lam=0", "partner_confidence"].value  # the pairs are the same the other way round
    assert swapped == pytest.approx(clean[0])
    images = {score.images for score in found if score.name == "top1"}
    assert all(0 < count < 22 for count in images)  # pairs of one class are left out
    again = list(MixedSamples(methods="+".join(METHODS), steps=2).scores(subject, torch.Generator().manual_seed(0)))
    assert str(again) == str(found)


@pytest.mark.parametrize(
    "evaluation",
    [Attack(), Corruption(severity=1), Occlusion(patch=4), MixedSamples(images=0)],
    ids=lambda one: one.name,
)
def test_evaluations_say_how_far_they_are(subject, evaluation):
    shares: list[float] = []
    evaluated(evaluation, "", subject, "t00000", 0, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] > 0.85
    assert sum(share < 1 for share in shares) > 0.85 * len(shares)  # not at the end long before the end


def test_hidden_features_are_mixed_where_the_method_says(subject):
    batch, mixer = pairs(subject), ManifoldMix(stages="stage1")
    (_, mixed, _), *_ = batch.mixed(mixer, 1, torch.Generator())  # lam 0: the partner
    network, told_of = subject.network, batch.answers(mixed, None)
    expected = network(batch.x[batch.partner]).double().softmax(1).gather(1, batch.y[batch.partner][:, None])[:, 0]
    other = batch.y != batch.y[batch.partner]
    torch.testing.assert_close(told_of["partner_confidence"][other], expected[other], atol=1e-6, rtol=0)


def test_a_class_token_that_reads_no_map_gives_no_evidence():
    network = DeiT(width=8, num_classes=4, side=32).eval().requires_grad_(False)
    assert class_map(network, torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).count_nonzero() == 0


def test_methods_that_cannot_be_asked_are_refused():
    with pytest.raises(SpecError, match=r"MixedSamples\.methods: unknown value 'automix'"):
        MixedSamples(methods="automix")
