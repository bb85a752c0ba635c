"""Each mixer against its authors' own numbers, with their draws handed over."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from automixsearch.losses import SoftmaxBCE, soft_labels
from automixsearch.mixers.base import clipped_box, own_share
from automixsearch.mixers.cutmix import CutMix, CutMixDraw
from automixsearch.mixers.manifoldmix import ManifoldMix, ManifoldMixDraw
from automixsearch.mixers.mixup import MixUp, MixUpDraw
from automixsearch.mixers.resizemix import ResizeMix, ResizeMixDraw
from automixsearch.training.world import HiddenMixing, World


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_mixup_equals_the_authors(golden, case):
    file = golden("mixup")
    draw = MixUpDraw(tensor(file[f"{case}_index"]), float(file[f"{case}_lam"]))
    mixed = MixUp().apply(tensor(file["x"]), draw)
    np.testing.assert_allclose(mixed.x, file[f"{case}_mixed"], atol=1e-6)
    assert torch.equal(tensor(file["y"])[mixed.partner], tensor(file[f"{case}_y_b"]))
    assert mixed.lam[0].item() == float(file[f"{case}_lam"])


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_cutmix_equals_the_authors(golden, case):
    file = golden("cutmix")
    centre = tuple(int(v) for v in file[f"{case}_center"])
    draw = CutMixDraw(tensor(file[f"{case}_index"]), float(file[f"{case}_lam"]), centre)
    mixed = CutMix().apply(tensor(file["x"]), draw)
    np.testing.assert_array_equal(mixed.x, file[f"{case}_mixed"])
    assert mixed.lam[0].item() == pytest.approx(float(file[f"{case}_lam_adjusted"]), abs=1e-12)


def test_cutmix_boxes_equal_the_authors(golden):
    file = golden("cutmix")
    for row in range(len(file["box_lam"])):
        size = (int(file["box_height"][row]), int(file["box_width"][row]))
        centre = (int(file["box_center_dim2"][row]), int(file["box_center_dim3"][row]))
        box = clipped_box(size, np.sqrt(1 - file["box_lam"][row]), centre)
        names = ("start_dim2", "end_dim2", "start_dim3", "end_dim3")
        assert (box.top, box.bottom, box.left, box.right) == tuple(file[f"box_{name}"][row] for name in names)
        assert own_share(box, size) == pytest.approx(file["box_lam_adjusted"][row], abs=1e-12)


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3"])
def test_resizemix_equals_its_release(golden, case):
    file = golden("resizemix")
    bilinear = bool(file[f"{case}_interpolate_bilinear"])
    centre = (int(file[f"{case}_center_dim2"]), int(file[f"{case}_center_dim3"]))
    draw = ResizeMixDraw(tensor(file[f"{case}_index"]), float(file[f"{case}_tau"]), centre)
    mixed = ResizeMix(interpolation="bilinear" if bilinear else "nearest").apply(tensor(file["x"]), draw)
    np.testing.assert_allclose(mixed.x, file[f"{case}_mixed"], atol=1e-5 if bilinear else 0)
    assert mixed.lam[0].item() == pytest.approx(float(file[f"{case}_lam_adjusted"]), abs=1e-12)


def test_resizemix_boxes_equal_its_release(golden):
    file = golden("resizemix")
    for row in range(len(file["box_tau"])):
        size = (int(file["box_size"][row]),) * 2
        centre = (int(file["box_center_dim2"][row]), int(file["box_center_dim3"][row]))
        box = clipped_box(size, float(file["box_tau"][row]), centre)
        names = ("start_dim2", "end_dim2", "start_dim3", "end_dim3")
        assert (box.top, box.bottom, box.left, box.right) == tuple(file[f"box_{name}"][row] for name in names)
        assert own_share(box, size) == pytest.approx(file["box_lam_adjusted"][row], abs=1e-12)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_manifold_mixup_equals_the_authors(golden, case):
    file = golden("manifoldmix")
    hidden, y = tensor(file[f"{case}_hidden"]), tensor(file[f"{case}_y"])
    draw = ManifoldMixDraw(tensor(file[f"{case}_index"]), float(file[f"{case}_lam"]), "stage1")
    mixed = ManifoldMix().apply(hidden, draw)
    found = HiddenMixing(mixed, World())(hidden)
    np.testing.assert_allclose(found, file[f"{case}_mixed_hidden"], atol=1e-6)
    target = soft_labels(y[mixed.sources], mixed.shares, int(file[f"{case}_num_classes"]))
    np.testing.assert_allclose(target, file[f"{case}_mixed_target"], atol=1e-6)
    logits = tensor(file[f"{case}_logits"]).requires_grad_()
    loss = SoftmaxBCE()(logits, y[mixed.sources], mixed.shares)
    loss.backward()
    assert loss.item() == pytest.approx(float(file[f"{case}_bce_on_softmax_loss"]), rel=1e-5)
    np.testing.assert_allclose(logits.grad, file[f"{case}_bce_on_softmax_grad"], atol=1e-6)
