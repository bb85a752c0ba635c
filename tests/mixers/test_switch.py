"""Several methods in one run, and the baseline that draws them all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from automixsearch.config.data import Data
from automixsearch.config.trial import TrialConfig
from automixsearch.errors import SpecError
from automixsearch.losses import smoothed, soft_labels
from automixsearch.mixers import MIXERS
from automixsearch.mixers.base import paste
from automixsearch.mixers.cutmix import CutMix, CutMixDraw
from automixsearch.mixers.mixup import MixUp, MixUpDraw
from automixsearch.mixers.switch import Switch, SwitchDraw, switched
from automixsearch.mixers.trivialmix import TrivialMix
from automixsearch.mixers.vanilla import Vanilla

SHAPE = (24, 3, 16, 16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(shape=SHAPE, seed=1):
    return torch.randn(shape, generator=generator(seed))


def config(**knobs) -> TrialConfig:
    return TrialConfig(data=Data(), knobs=knobs)


def mixer_of(**knobs):
    return config(**knobs).mixer


def supply(x):
    pixels = (x.permute(0, 2, 3, 1) * 40 + 128).clamp(0, 255).to(torch.uint8)
    channels = torch.full((x.shape[1],), 0.5)
    return {"pixels": pixels, "saliency": x.square().mean(1), "gradient": x, "mean": channels, "std": channels}


def test_joined_methods_keep_their_own_knobs_and_one_spelling():
    made = config(**{"method": "cutmix+mixup", "mixup.alpha": 0.8, "cutmix.alpha": 1.0, "cutmix.weight": 3.0})
    assert made.method == "mixup+cutmix"
    mixer = made.mixer
    assert isinstance(mixer, Switch)
    assert mixer.members[:2] == (MixUp(alpha=0.8), CutMix(alpha=1.0))
    np.testing.assert_allclose(mixer.weights, [0.25, 0.75, 0])


def test_a_single_method_that_always_mixes_needs_no_switch():
    assert mixer_of(method="mixup") == MixUp()
    assert isinstance(mixer_of(method="mixup", mix_prob=0.5), Switch)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"method": "mixup+mixup"}, "names a value twice"),
        ({"method": "mixup+cutmux"}, "unknown value 'cutmux'; did you mean 'cutmix'"),
        ({"method": "mixup", "mixup.weight": 1.0}, "mixup.weight has no effect with method mixup"),
        ({"method": "vanilla", "repeats": 2}, "repeats has no effect with method vanilla"),
        ({"method": "manifoldmix+mixup", "switch": "sample"}, "manifoldmix part of a batch, and it takes a whole one"),
        ({"method": "manifoldmix", "switch": "half", "mix_prob": 0.5}, "use switch: batch"),
        ({"method": "mixup+cutmix", "mixup.weight": 0.0, "cutmix.weight": 0.0}, "all weights of mixup[+]cutmix are 0"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        config(**knobs)


@pytest.mark.parametrize("per", ["batch", "half", "sample"])
def test_methods_are_drawn_as_often_as_their_weights_say(per):
    mixer = switched([MixUp(), CutMix()], [1, 3], per, 0.8)
    assert isinstance(mixer, Switch)
    g, rows = generator(), torch.zeros(3)
    for _ in range(600):
        for part in mixer.draw(SHAPE, g).parts:
            rows[part.member] += SHAPE[0] if part.rows is None else len(part.rows)
    expected = torch.tensor([0.2, 0.6, 0.2])
    assert ((rows / rows.sum() - expected).abs() < (0.02 if per == "sample" else 0.06)).all()


@pytest.mark.parametrize("per", ["half", "sample"])
def test_every_row_is_mixed_by_the_method_it_drew_with_a_row_of_the_same(per):
    x, mixer = batch(), switched([MixUp(), CutMix()], [1, 1], per, 0.7)
    draw = mixer.draw(SHAPE, generator(3))
    assert isinstance(draw, SwitchDraw)
    mixed = mixer.apply(x, draw)
    seen = torch.cat([part.rows for part in draw.parts])
    assert sorted(seen.tolist()) == list(range(24))
    for part in draw.parts:
        member = mixer.members[part.member]
        alone = member.apply(x[part.rows], part.draw)
        assert torch.equal(mixed.x[part.rows], alone.x)
        assert torch.equal(mixed.sources[part.rows], part.rows[alone.sources])
        assert torch.equal(mixed.shares[part.rows], alone.shares)
        if isinstance(member, Vanilla):
            assert torch.equal(mixed.x[part.rows], x[part.rows])


@pytest.mark.parametrize("per", ["half", "sample"])
def test_needs_are_handed_out_by_row(per):
    x = batch()
    members = [MIXERS["puzzlemix"](max_blocks=4), MIXERS["saliencymix"](boxes="sample"), MixUp()]
    mixer = switched(members, [1, 1, 1], per, 1.0)
    for seed in range(4):
        draw = mixer.draw(SHAPE, generator(seed))
        needs = mixer.needs_of(draw)
        given = supply(x)
        mixed = mixer.apply(x, draw, **{need: given[need] for need in needs})
        for part in draw.parts:
            member = mixer.members[part.member]
            own = supply(x[part.rows])
            alone = member.apply(x[part.rows], part.draw, **{need: own[need] for need in member.needs_of(part.draw)})
            torch.testing.assert_close(mixed.x[part.rows], alone.x)


def test_only_what_was_drawn_is_needed():
    mixer = switched([MIXERS["puzzlemix"](), MixUp()], [1, 1], "batch", 1.0)
    needs = {mixer.needs_of(mixer.draw(SHAPE, generator(seed))) for seed in range(20)}
    assert needs == {frozenset(), frozenset({"saliency", "std"})}


def test_the_clean_loss_weighs_as_much_as_the_rows_that_ask_for_it():
    mixer = switched([MIXERS["puzzlemix"](clean_lam=0.5), MixUp()], [1, 1], "half", 1.0)
    weights = {mixer.clean_weight_of(mixer.draw(SHAPE, generator(seed))) for seed in range(20)}
    assert weights == {0.0, 0.25, 0.5}


@pytest.mark.parametrize("pool", ["cheap", "all"])
def test_trivialmix_draws_every_method_of_its_pool_equally_with_uniform_alphas(pool):
    mixer, g = TrivialMix(pool=pool), generator()
    names, alphas = [], []
    for _ in range(1200):
        draw = mixer.draw((4, 3, 8, 8), g)
        names.append(draw.mixer.name)
        if draw.mixer.name == "mixup":
            alphas.append(draw.mixer.alpha)
    cheap, dear = {"vanilla", "mixup", "cutmix", "resizemix", "saliencymix", "fmix"}, {"manifoldmix", "puzzlemix"}
    assert set(names) == cheap | (dear | {"comixup"} if pool == "all" else set())
    assert set().union(*(MIXERS[name].needs for name in names)) <= mixer.needs  # whoever trains supplies these
    counts = np.unique(names, return_counts=True)[1]
    assert counts.min() > 0.6 * counts.max()
    assert 0.1 <= min(alphas) < 0.4
    assert 3.6 < max(alphas) <= 4.0
    assert abs(np.mean(alphas) - 2.05) < 0.35


@pytest.mark.parametrize("case", [f"c{number}" for number in range(4)])
def test_mixup_and_cutmix_per_batch_pair_and_sample_equal_timm(golden, case):
    """With timm's partners (N - 1 - i), shares, switches and boxes handed over."""
    file = golden("timm_mixup")
    x, y, count = torch.from_numpy(file["x"]), torch.from_numpy(file["y"]), len(file["x"])
    lams, cut = torch.from_numpy(file[f"{case}_lam_drawn"]), torch.from_numpy(file[f"{case}_use_cutmix"]).bool()
    mirrored = torch.arange(count).flip(0)
    draw_of = (torch.arange(count).minimum(mirrored) if len(lams) < count else torch.arange(count)) % len(lams)
    inside, boxes = torch.zeros(count, 32, 32, dtype=torch.bool), iter(file[f"{case}_boxes_yl_yh_xl_xh_lam"])
    for number in range(len(lams)):
        if cut[number]:
            top, bottom, left, right = next(boxes)[:4].astype(int)
            inside[draw_of == number, top:bottom, left:right] = True
    blends = MixUp(lams="sample").apply(x, MixUpDraw(mirrored, lams[draw_of]))
    cuts, chosen = paste(x, mirrored, inside), cut[draw_of][:, None]
    mixed = torch.where(chosen[..., None, None], cuts.x, blends.x)
    np.testing.assert_allclose(mixed, file[f"{case}_mixed"], atol=1e-6)
    shares = torch.where(chosen, cuts.shares, blends.shares)
    target = smoothed(soft_labels(y[blends.sources], shares, 100), float(file[f"{case}_label_smoothing"]))
    np.testing.assert_allclose(target, file[f"{case}_target"], atol=1e-6)


def test_boxes_per_sample_are_those_of_single_samples():
    mixer, x = CutMix(boxes="sample", alpha=1.0), batch((12, 3, 20, 14))
    draw = mixer.draw((12, 3, 20, 14), generator(5))
    mixed = mixer.apply(x, draw)
    assert len(set(mixed.lam.tolist())) > 4
    for row in range(12):
        centre = (int(draw.centre[row, 0]), int(draw.centre[row, 1]))
        assert 0 <= centre[0] < 20
        assert 0 <= centre[1] < 14
        alone = CutMix().apply(x, CutMixDraw(draw.partner, float(draw.lam[row]), centre))
        assert torch.equal(mixed.x[row], alone.x[row])
        assert mixed.lam[row] == alone.lam[row]


def test_lams_per_sample_follow_the_pixels():
    mixer = MixUp(lams="sample", alpha=1.0)
    x = torch.eye(8, dtype=torch.float64)[:, :, None, None].expand(8, 8, 4, 4)
    mixed = mixer(x, generator(2))
    assert len(set(mixed.lam.tolist())) == 8
    shown = torch.zeros(8, 8, dtype=torch.float64).scatter_add_(1, mixed.sources, mixed.shares)
    np.testing.assert_allclose(mixed.x.mean((2, 3)), shown, atol=1e-12)


def test_mixers_refuse_wrong_choices():
    with pytest.raises(SpecError, match="stages"):
        MIXERS["manifoldmix"](stages="stage9")
    assert MIXERS["manifoldmix"](stages="stage2+input").stages == "input+stage2"
