"""The Mix Block against its authors' numbers, and what must hold for any mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from automixsearch.algorithms.automix import mix_block
from automixsearch.config.recipe import Recipe
from automixsearch.mixers.automix import AutoMix, adjusted_mask, mask_loss
from automixsearch.mixers.samix import SAMix
from automixsearch.models import build_model, count_parameters
from automixsearch.models.mixblock import MixBlock, attended, rescaled

MODES = ("l1", "sparsity", "l1_variance", "l2_variance")
NAMES = {
    "query_conv_": "query.",
    "key_conv_": "key.",
    "value_conv_0_conv_": "value.0.",
    "value_conv_0_bn_": "value.1.",
    "value_conv_1_conv_": "value.3.",
    "value_": "value.",
}


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def authors_block(file, case) -> MixBlock:
    """The block of a golden case, with the authors' settings and weights."""

    def read(name):
        return file.get(f"{case}_cfg_{name}", np.array(0)).item()

    samix = f"{case}_weight_key_conv_weight" in file
    embedding = "concat" if read("lam_concat") else "concat_v" if read("lam_concat_v") else "none"
    upsampling = "bilinear" if read("bilinear") else "nearest"
    if samix:
        mixer = SAMix(rescale=read("lam_mul_k"), lam_mul=read("lam_mul"), upsampling=upsampling)
    else:
        mixer = AutoMix(variant="released", embedding=embedding, upsampling=upsampling)
    block = mix_block(mixer.resolved(32), file[f"{case}_features"].shape[1])
    state = {}
    for key, value in file.items():
        name = key.removeprefix(f"{case}_weight_")
        if name != key:
            prefix = next(prefix for prefix in NAMES if name.startswith(prefix))
            state[NAMES[prefix] + name.removeprefix(prefix)] = tensor(value)
    if not samix:
        state |= {name.replace("query", "key"): value for name, value in state.items() if "query" in name}
    missing = block.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all("running" in name or "num_batches" in name for name in missing.missing_keys)
    return block


CASES = [("automix_mixblock", f"c{n}") for n in range(4)] + [("samix_mixblock", f"c{n}") for n in range(2)]


def masks_of(file, case):
    block = authors_block(file, case)
    features = tensor(file[f"{case}_features"]).requires_grad_()
    lam = torch.full((len(features),), float(file[f"{case}_lam"]))
    side = features.shape[-1] * int(file[f"{case}_scale_factor"])
    return block, features, lam, block(features, features[tensor(file[f"{case}_index"])], lam, (side, side))


@pytest.mark.parametrize(("name", "case"), CASES)
def test_masks_and_their_gradients_equal_the_authors(golden, name, case):
    file = golden(name)
    block, features, _, mask = masks_of(file, case)
    np.testing.assert_allclose(mask[:, 0].detach(), file[f"{case}_mask"][:, -1], atol=1e-5)
    (mask[:, 0] * tensor(file[f"{case}_grad_probe"])).sum().backward()
    np.testing.assert_allclose(features.grad, file[f"{case}_grad_features"], atol=2e-6)
    for name_, parameter in block.named_parameters():
        old = next((o + name_.removeprefix(n) for o, n in NAMES.items() if name_.startswith(n)), None)
        expected = file.get(f"{case}_grad_{old}")
        if expected is not None:
            np.testing.assert_allclose(parameter.grad, expected, atol=2e-5)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_mask_losses_equal_the_authors(golden, name, case):
    file = golden(name)
    _, _, lam, mask = masks_of(file, case)
    mode = MODES[int(file[f"{case}_cfg_mask_loss_mode"])]
    for margin, expected in zip(file[f"{case}_mask_loss_margins"], file[f"{case}_mask_loss"], strict=True):
        found = mask_loss(mask, lam, mode, float(margin), per="batch")
        assert found.item() == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("case", [f"c{n}" for n in range(3)])
def test_mixed_images_and_adjusted_masks_equal_the_authors(golden, case):
    """The authors adjust with the share of the other masks; handed over, it gives their numbers."""
    file = golden("automix_pixel_mixup")
    block = MixBlock(32, embedding="none", shared=True)
    state = {
        f"{name}.{part}": tensor(file[f"{case}_{part}_{name}"])
        for name in ("query", "value")
        for part in ("weight", "bias")
    }
    state |= {name.replace("query", "key"): value for name, value in state.items() if "query" in name}
    block.load_state_dict(state)
    x, features = tensor(file["x"]), tensor(file[f"{case}_features"])
    for name in ("mixblock", "backbone"):
        partner, lam = tensor(file[f"{case}_index_{name}"]), float(file[f"{case}_lam_{name}"])
        lams = torch.full((4,), lam)
        mask = block(features, features[partner], lams, (32, 32))
        if name == "mixblock":
            loss = mask_loss(mask, lams, "l1", float(file[f"{case}_mask_loss_margin"]), "batch")
            weighted = float(file[f"{case}_mask_loss_weight"]) * loss.item()
            assert weighted == pytest.approx(float(file[f"{case}_mask_loss_weighted"]), abs=1e-6)
        else:
            if file[f"{case}_mask_adjust"] > file[f"{case}_uniform_draw"]:
                mask = adjusted_mask(mask, torch.full((4,), float(file[f"{case}_lam_mixblock"])))
            if float(file[f"{case}_lam_margin"]) >= min(lam, 1 - lam):
                mask = torch.full_like(mask, 1 - lam)
        mixed = torch.lerp(x, x[partner], mask)
        np.testing.assert_allclose(mixed.detach(), file[f"{case}_mixed_{name}"], atol=1e-5)


@pytest.mark.parametrize(
    ("width", "count"), [(64, 4225), (128, 16641), (256, 66049), (512, 263169), (1024, 1050625), (2048, 4198401)]
)
def test_parameters_are_those_of_the_paper(width, count):
    """With two convolutions and no share in the features; added to the networks they give the paper's layer table."""
    assert sum(parameter.numel() for parameter in MixBlock(width, embedding="none").parameters()) == count


def test_attention_over_equal_features_is_uniform():
    features = torch.randn(3, 8, 1, 1).expand(3, 8, 4, 4)
    block = MixBlock(8)
    mask = block(features, features[[1, 2, 0]], torch.full((3,), 0.3), (8, 8))
    np.testing.assert_allclose(mask.detach(), mask[:, :, :1, :1].expand_as(mask).detach(), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["small scores", "scores that overflow exp"])
@pytest.mark.parametrize(("n", "channels"), [(9, 5), (256, 16), (33, 1)])
def test_attention_equals_its_definition(n, channels, scale):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(2, n, width, dtype=torch.float64, generator=generator) for width in (channels, channels, 1)]
    query, key, value = inputs = [part.requires_grad_() for part in made]
    expected = (scale * query @ key.transpose(1, 2) / channels**0.5).softmax(2) @ value
    found = attended(scale * query, key, value)
    np.testing.assert_allclose(found.detach(), expected.detach(), atol=1e-12 * scale)
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    for ours, theirs in zip(*(torch.autograd.grad(out, inputs, direction) for out in (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10 * scale)


@pytest.mark.parametrize(
    ("k", "lam", "expected"), [(0, 0.1, 0.244), (0.25, 0.1, 0.182286), (1, 0.25, 0.296875), (-1, 0.3, 0.3)]
)
def test_rescaled_shares_have_the_known_values(k, lam, expected):
    assert rescaled(torch.tensor(lam, dtype=torch.float64), k).item() == pytest.approx(expected, abs=1e-6)
    for fixed in (0.0, 0.5, 1.0):
        assert rescaled(torch.tensor(fixed, dtype=torch.float64), k).item() == pytest.approx(fixed)


@pytest.mark.parametrize(("mean", "lam", "expected"), [(0.5, 0.2, 0.2), (0.5, 0.65, 0.05), (0.5, 0.55, 0.0)])
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_the_mask_loss_has_the_known_values(mean, lam, expected, per):
    mask = torch.full((2, 1, 4, 4), mean)
    assert mask_loss(mask, torch.full((2,), lam), "l1", 0.1, per).item() == pytest.approx(expected, abs=1e-6)


def test_the_mean_over_each_mask_sees_what_the_mean_over_all_hides():
    mask = torch.cat([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)])
    assert mask_loss(mask, torch.full((2,), 0.5), "l1", 0.1, "batch").item() == 0
    assert mask_loss(mask, torch.full((2,), 0.5), "l1", 0.1, "sample").item() == pytest.approx(0.4)


def test_adjusted_masks_have_their_share():
    mask = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    lam = torch.linspace(0.05, 0.95, 6)
    adjusted = adjusted_mask(mask, lam)
    np.testing.assert_allclose(1 - adjusted.mean((1, 2, 3)), lam, atol=1e-6)
    assert bool(((adjusted >= 0) & (adjusted <= 1)).all())


@pytest.mark.parametrize("lam_mul", [0.0, 0.5, 2.0])
def test_the_share_multiplies_the_features_of_both_images_as_often_as_it_says(lam_mul):
    """On another shape than the authors' numbers, in NumPy: no share at all with 0."""
    rng = np.random.default_rng(0)
    block = mix_block(SAMix(lam_mul=lam_mul, rescale=0.5, mixblock_init=0.5).resolved(32), 6).eval().double()
    own, partner, lam = rng.normal(size=(2, 6, 3, 5)), rng.normal(size=(2, 6, 3, 5)), np.array([0.2, 0.9])
    g = ((4 / 3 * lam**3 - 2 * lam**2 + 1.5 * lam) / (1.5 - 2 / 3))[:, None, None]
    a, b = (part.reshape(2, 6, 15).copy() for part in (own, partner))
    a, b = a * (1 + lam_mul * g), b * (1 + lam_mul * (1 - g))
    weights = {name: value.detach().numpy() for name, value in block.state_dict().items()}
    pair = np.concatenate([a, b], 1)
    query, key = (
        np.einsum("oc,bcn->bon", weights[f"{name}.weight"][:, :, 0, 0], pair) + weights[f"{name}.bias"][:, None]
        for name in ("query", "key")
    )
    hidden = np.einsum("oc,bcn->bon", weights["value.0.weight"][:, :, 0, 0], b) / np.sqrt(1 + 1e-5)
    hidden = np.where(hidden > 0, hidden, np.expm1(hidden))
    value = np.einsum("oc,bcn->bon", weights["value.3.weight"][:, :, 0, 0], hidden)[:, 0]
    scores = np.einsum("bcn,bcm->bnm", query, key) / np.sqrt(3)
    attention = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    expected = 1 / (1 + np.exp(-np.einsum("bnm,bm->bn", attention, value)))
    mask = block(*map(tensor, (own, partner, lam)), (3, 5))
    np.testing.assert_allclose(mask.detach().numpy().reshape(2, 15), expected, atol=1e-12)


def test_the_block_computes_in_float32_under_autocast():
    block, features = MixBlock(8), torch.randn(2, 8, 4, 4)
    lam = torch.full((2,), 0.4)
    plain = block(features, features.flip(0), lam, (8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = block(features, features.flip(0), lam, (8, 8))
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


@pytest.mark.parametrize("knobs", [{}, {"embedding": "multiply", "attend": "both", "neck": True, "bilinear": True}])
def test_gradients_of_a_block_of_doubles_are_exact(knobs):
    features = torch.randn(2, 6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block, lam = MixBlock(6, spread=0.5, **knobs).double(), torch.tensor([0.3, 0.8], dtype=torch.float64)
    own, partner = (part.requires_grad_() for part in (features.clone(), features.flip(0)))
    assert torch.autograd.gradcheck(lambda own, partner: block(own, partner, lam, (6, 10)), (own, partner))


def test_the_block_compiles_as_one_graph():
    block, features, lam = MixBlock(16), torch.randn(2, 16, 16, 16), torch.full((2,), 0.4)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    masks = [each(features, features.flip(0), lam, (16, 16)) for each in (block, compiled)]
    torch.testing.assert_close(*masks, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("width", "million"), [(64, 23.80), (256, 23.86), (1024, 24.84), (2048, 27.99)])
def test_resnext50_has_the_parameters_of_the_layer_table(width, million):
    """200 classes; the paper's l1 and l2 are the stem and the first stage, its l3 and l4 the last two stages."""
    network = build_model(Recipe(backbone="resnext50"), 3, 200, 0, 32)
    assert width in network.widths.values()
    parts = (network, nn.Linear(2048, 200), MixBlock(width, embedding="none"))
    assert round(sum(count_parameters(part) for part in parts) / 1e6, 2) == million
