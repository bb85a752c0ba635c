"""Puzzle Mix against its authors' numbers, against brute force, and at the limits of its knobs."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from automixsearch.errors import SpecError
from automixsearch.mixers.mincut import least_energy_labels
from automixsearch.mixers.puzzlemix import (
    GRIDS,
    PuzzleMix,
    PuzzleMixDraw,
    best_mask,
    block_costs,
    border_jumps,
    compose,
    label_prior,
    moved,
    perturbed,
    pooled_saliency,
    transport_side,
)
from automixsearch.mixers.transport import transport_plan

CASES = [("puzzlemix", f"c{number}_") for number in range(4)]
CASES += [("puzzlemix_variants", f"c{number}_") for number in range(6)]
CASES += [("puzzlemix_large", "")]
MOVING = [case for case in CASES if case != ("puzzlemix_variants", "c3_")]
SHARED = ("x", "saliency", "mean", "std", "y", "num_classes")


@pytest.fixture
def authors(golden):
    """One case of the authors' numbers: a dict without the prefix."""

    def read(file: str, prefix: str) -> dict[str, np.ndarray]:
        arrays = golden(file)
        own = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        return {key: arrays[key] for key in SHARED if key in arrays} | own

    return read


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def setting(case) -> tuple[PuzzleMix, PuzzleMixDraw]:
    """The mixer and the draw of a golden case."""
    mixer = PuzzleMix(
        n_labels=int(case["n_labels"]),
        label_smoothness=float(case["beta"]),
        data_smoothness=float(case["gamma"]),
        prior=float(case["eta"]),
        neigh_size=int(case["neigh_size"]),
        transport=bool(case["transport"]),
        t_eps=float(case["t_eps"]),
        t_size=max(int(case["t_size"]), 0),
    )
    return mixer, PuzzleMixDraw(tensor(case["index"]), float(case["lam"]), int(case["block_num"]))


def energies(unary, below, right, labels) -> np.ndarray:
    """The energy of each grid: unary [N, H, W, L], labels [N, H, W]."""
    share = labels / (unary.shape[-1] - 1)
    chosen = np.take_along_axis(unary, labels[..., None], -1).sum((1, 2, 3))
    vertical, horizontal = np.diff(share, axis=1), np.diff(share, axis=2)
    return chosen + (below * vertical**2).sum((1, 2)) + (right * horizontal**2).sum((1, 2))


def problem(case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The unary and pair costs of a golden case, from the authors' own terms."""
    share = np.linspace(0, 1, int(case["n_labels"]))
    own, other = (case[f"unary_label{which}"].astype(float)[..., None] for which in ("0", "_last"))
    smoothness = float(case["beta_normalised"])
    return own * (1 - share) + other * share + case["prior"], case["pw_x"] + smoothness, case["pw_y"] + smoothness


def transport_costs(saliency, visible, price) -> np.ndarray:
    """Cost of every block (rows) at every place (columns): [N, T T, T T]."""
    side = saliency.shape[-1]
    row, column = np.divmod(np.arange(side**2), side)
    far = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    gain = saliency.reshape(-1, side**2, 1).astype(float) * visible.reshape(-1, 1, side**2)
    return price * far / max(side - 1, 1) ** 2 - gain


def plan_cost(plan, costs) -> np.ndarray:
    plan = plan.reshape(len(plan), 1, -1)
    return np.take_along_axis(costs, plan, 1).sum((1, 2))


def batch(shape, seed=0, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and a peaked saliency."""
    generator = torch.Generator().manual_seed(seed)
    saliency = torch.randn(shape[0], *shape[2:], generator=generator).mul(1.5).exp()
    return torch.randn(shape, generator=generator).to(dtype), saliency


def mix(mixer, x, saliency, draw=None, seed=0):
    draw = draw or mixer.draw(tuple(x.shape), torch.Generator().manual_seed(seed))
    return mixer.apply(x, draw, saliency=saliency, std=torch.full((x.shape[1],), 0.25))


# --- the authors' numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "prefix"), CASES)
def test_block_costs_equal_the_authors(authors, file, prefix):
    case = authors(file, prefix)
    mixer, draw = setting(case)
    jumps = border_jumps(tensor(case["x"]), draw.partner, tensor(case["std"]), draw.blocks, mixer.neigh_size)
    salient = pooled_saliency(tensor(case["saliency"]), draw.blocks)
    strength = mixer.label_smoothness / draw.blocks / 16
    costs = block_costs(salient, jumps, draw.partner, strength * mixer.data_smoothness)
    assert strength == pytest.approx(float(case["beta_normalised"]))
    np.testing.assert_allclose(costs.own, case["unary_label0"], atol=1e-7)
    np.testing.assert_allclose(costs.other, case["unary_label_last"], atol=1e-7)
    np.testing.assert_allclose(costs.below, case["pw_x"], atol=1e-7)
    np.testing.assert_allclose(costs.right, case["pw_y"], atol=1e-7)
    prior = label_prior(mixer.n_labels, draw.lam, mixer.prior / draw.blocks**2)
    np.testing.assert_allclose(prior, case["prior"], atol=1e-7)


@pytest.mark.parametrize(("file", "prefix"), CASES)
def test_masks_have_the_least_energy_and_never_more_than_the_authors(authors, file, prefix):
    case = authors(file, prefix)
    unary, below, right = problem(case)
    energy = energies(unary, below, right, least_energy_labels(unary, below, right))
    np.testing.assert_allclose(energy, case["energy_real_optimal"], rtol=0, atol=1e-7)
    assert (energy <= case["energy_real"] + 1e-7).all()


@pytest.mark.parametrize(("file", "prefix"), MOVING)
def test_plans_equal_the_authors_wherever_they_are_seen(authors, file, prefix):
    case = authors(file, prefix)
    for which in ("transport1", "transport2"):
        saliency, visible = case[f"{which}_saliency"], case[f"{which}_mask"] > 0
        plan = transport_plan(saliency, visible, float(case["t_eps"]))
        theirs = case[f"{which}_plan"].argmax(1).reshape(plan.shape)
        np.testing.assert_array_equal(plan[visible], theirs[visible])
        cost = plan_cost(plan, transport_costs(saliency, visible, float(case["t_eps"])))
        assert (cost <= case[f"{which}_cost_official_completed"] + 1e-7).all()


@pytest.mark.parametrize(("file", "prefix"), CASES)
def test_mixed_images_equal_the_authors_given_their_mask_and_plan(authors, file, prefix):
    case = authors(file, prefix)
    plans = None
    if case["transport"]:
        masks = case["transport1_mask"], case["transport2_mask"]
        found = [case[f"transport{which}_plan"].argmax(1).reshape(masks[0].shape) for which in (1, 2)]
        own = np.arange(masks[0][0].size).reshape(masks[0][0].shape)
        plans = tuple(tensor(np.where(seen > 0, plan, own)) for plan, seen in zip(found, masks, strict=True))
    mixed = compose(tensor(case["x"]), tensor(case["x"]), tensor(case["index"]), tensor(case["mask_blocks"]), plans)
    np.testing.assert_allclose(mixed, case["mixed"], atol=1e-6)


@pytest.mark.parametrize(("file", "prefix"), CASES)
def test_the_whole_mixing_equals_the_authors_wherever_their_mask_was_the_best(authors, file, prefix):
    case = authors(file, prefix)
    mixer, draw = setting(case)
    mixed = mixer.apply(tensor(case["x"]), draw, saliency=tensor(case["saliency"]), std=tensor(case["std"]))
    best = case["energy_real"] < case["energy_real_optimal"] + 1e-9
    assert best.sum() >= len(best) - 2
    np.testing.assert_allclose(mixed.x[best], case["mixed"][best], atol=1e-6)
    np.testing.assert_allclose(mixed.lam[best], case["ratio"][best], atol=1e-7)
    if "target_mixed" in case:
        classes = torch.nn.functional.one_hot(tensor(case["y"]), int(case["num_classes"])).double()
        target = mixed.lam[:, None] * classes + (1 - mixed.lam[:, None]) * classes[mixed.partner]
        np.testing.assert_allclose(target[best], case["target_mixed"][best], atol=1e-6)


# --- the mask -------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    n_labels=st.integers(2, 4),
    smooth=st.sampled_from([0.0, 0.1, 1.0, 30.0]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_labelling_at_all_has_less_energy(height, width, n_labels, smooth, scale, seed):
    if n_labels ** (height * width) > 20000:
        height = 2
    rng = np.random.default_rng(seed)
    unary = scale * rng.normal(size=(3, height, width, n_labels))
    below = scale * smooth * rng.random((3, height - 1, width))
    right = scale * smooth * rng.random((3, height, width - 1))
    labels = least_energy_labels(unary, below, right)
    assert labels.min() >= 0
    assert labels.max() < n_labels
    found = energies(unary, below, right, labels)
    every = np.array(list(itertools.product(range(n_labels), repeat=height * width))).reshape(-1, height, width)
    for grid in range(3):
        one = [np.broadcast_to(term[grid], (len(every), *term[grid].shape)) for term in (unary, below, right)]
        least = energies(*one, every).min()
        assert found[grid] == pytest.approx(least, abs=1e-6 * scale * max(smooth, 1))


def test_each_grid_is_solved_as_if_it_were_alone():
    rng = np.random.default_rng(0)
    scale = 10.0 ** np.arange(-3, 3).reshape(-1, 1, 1)
    unary, below, right = rng.normal(size=(6, 4, 4, 3)), rng.random((6, 3, 4)), rng.random((6, 4, 3))
    unary, below, right = unary * scale[..., None], below * scale, right * scale
    together = least_energy_labels(unary, below, right)
    alone = [least_energy_labels(unary[i : i + 1], below[i : i + 1], right[i : i + 1])[0] for i in range(6)]
    np.testing.assert_array_equal(together, alone)


def test_costs_that_are_all_equal_keep_the_own_image():
    labels = least_energy_labels(np.zeros((2, 4, 4, 3)), np.zeros((2, 3, 4)), np.zeros((2, 4, 3)))
    assert (labels == 0).all()


@pytest.mark.parametrize("blocks", GRIDS)
def test_a_block_with_all_the_saliency_is_shown_where_the_release_overflows(blocks):
    saliency = torch.zeros(2, 32, 32)
    saliency[0, 0, 0] = saliency[1, -1, -1] = 1.0
    draw = PuzzleMixDraw(torch.tensor([1, 0]), 0.5, blocks)
    x = torch.zeros(2, 3, 32, 32)
    mask = PuzzleMix().mask(x, pooled_saliency(saliency, blocks), draw, torch.ones(3))
    assert (mask[0, 0, 0], mask[0, -1, -1]) == (1, 0)
    assert torch.equal(mask[1], 1 - mask[0])


def test_negative_pair_costs_count_as_none():
    """Crossed images with pixels 100 times too large: own black to white where the partner is white to black."""
    x = torch.zeros(2, 1, 32, 32)
    x[0, :, :, 16:] = x[1, :, :, :16] = 100.0
    partner, salient = torch.tensor([1, 0]), pooled_saliency(batch((2, 1, 32, 32))[1], 2)
    costs = block_costs(salient, border_jumps(x, partner, torch.ones(1), 2, 4), partner, 1.0)
    assert costs.right.max() < -1
    mask = best_mask(dataclasses.replace(costs, below=-costs.below.abs() - 1), 0.1, label_prior(3, 0.5, 0.0))
    assert torch.equal(mask, (costs.own < costs.other).double())


def test_a_large_prior_at_one_half_blends_everything_and_near_one_keeps_everything():
    x, saliency = batch((6, 3, 32, 32))
    mixer = PuzzleMix(prior=1000.0, transport=False)
    for blocks in GRIDS:
        draw = PuzzleMixDraw(torch.arange(6).roll(1), 0.5, blocks)
        blended = mix(mixer, x, saliency, draw)
        torch.testing.assert_close(blended.x, (x + x.roll(1, 0)) / 2)
        assert blended.lam.tolist() == [0.5] * 6
        kept = mix(mixer, x, saliency, draw.with_lam(0.9999))
        assert torch.equal(kept.x, x)


def test_an_own_share_of_one_gives_the_batch_back_and_of_zero_the_partners():
    x, saliency = batch((5, 3, 20, 12))
    for n_labels, prior in itertools.product((2, 3, 4), (0.0, 0.2)):
        mixer = PuzzleMix(n_labels=n_labels, prior=prior)
        draw = mixer.draw(tuple(x.shape), torch.Generator().manual_seed(1))
        own, other = mix(mixer, x, saliency, draw.with_lam(1.0)), mix(mixer, x, saliency, draw.with_lam(0.0))
        assert torch.equal(own.x, x)
        assert torch.equal(own.lam, torch.ones(5, dtype=torch.float64))
        assert torch.equal(other.x, x[draw.partner])
        assert not other.lam.any()


def test_borders_of_fourteen_pixel_blocks_are_pooled_by_two():
    x = torch.randn(2, 3, 112, 56, generator=torch.Generator().manual_seed(0))
    partner, std = torch.tensor([1, 0]), torch.ones(3)
    four, two = (border_jumps(x, partner, std, 8, size) for size in (4, 2))
    # blocks are 14 x 7 pixels: neither 4 nor 2 divides 7, both give 2 along the other side
    assert torch.equal(four.below, two.below)
    assert torch.equal(four.right, two.right)
    pooled = torch.nn.functional.avg_pool2d(x, (2, 1))
    expected = (pooled[0, :, 6, :7] - pooled[1, :, 7, :7]).abs().mean()
    torch.testing.assert_close(two.below[1, 0, 0, 0, 0], expected)


# --- the transport --------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    side=st.integers(1, 5),
    price=st.sampled_from([0.0, 0.05, 0.3, 0.8, 5.0]),
    shown=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_plans_leave_no_hole_and_gain_what_taking_the_best_pair_first_gains(side, price, shown, seed):
    rng = np.random.default_rng(seed)
    saliency = rng.lognormal(0, 1.5, (3, side, side)).astype(np.float32)
    saliency /= saliency.sum((1, 2), keepdims=True)
    visible = rng.random((3, side, side)) < shown
    plans = transport_plan(saliency, visible, price)
    costs = transport_costs(saliency, visible, price)
    own = np.arange(side**2)
    for plan, cost, seen in zip(plans.reshape(3, -1), costs, visible.reshape(3, -1), strict=True):
        assert len(set(plan[seen])) == seen.sum()
        assert (plan[~seen] == own[~seen]).all()
        places, least = np.flatnonzero(seen), 0.0
        taken, given_away = set(), set()
        for block, place in sorted(itertools.product(own, places), key=lambda pair: cost[pair]):
            if block not in taken and place not in given_away:
                taken.add(block)
                given_away.add(place)
                least += min(cost[block, place], 0)
        found = cost[plan[seen], places].sum()
        assert found == pytest.approx(least, abs=1e-5)
        assert found <= cost[places, places].sum() + 1e-6
        optimum = np.minimum(cost[:, seen], 0)
        assert found <= optimum[linear_sum_assignment(optimum)].sum() / 2 + 1e-6


def test_dear_transport_moves_nothing_and_free_transport_shows_the_most_salient_blocks():
    _, saliency = batch((4, 3, 32, 32))
    salient = pooled_saliency(saliency, 16).numpy()
    visible = np.random.default_rng(0).random(salient.shape) < 0.4
    assert (transport_plan(salient, visible, 1000.0).reshape(4, -1) == np.arange(256)).all()
    plan = transport_plan(salient, visible, 0.0)
    for sample in range(4):
        gained = salient[sample].ravel()[plan[sample][visible[sample]]]
        np.testing.assert_array_equal(np.sort(gained), np.sort(salient[sample].ravel())[-gained.size :])


@pytest.mark.parametrize(
    ("blocks", "length", "largest", "side"),
    [(2, 32, 4, 8), (8, 32, 4, 8), (16, 32, 4, 16), (8, 112, 0, 8), (2, 224, 4, 56), (4, 31, 4, 4), (16, 31, 4, 16)],
)
def test_moving_blocks_are_whole_parts_of_the_masks(blocks, length, largest, side):
    assert transport_side(blocks, length, largest) == side


def test_moved_blocks_are_the_pixels_of_their_source_whatever_the_size():
    x = torch.arange(2 * 31 * 35.0).reshape(2, 1, 31, 35)
    plan = torch.arange(16).reshape(1, 4, 4).repeat(2, 1, 1)
    plan[0, 0, 0], plan[1, 3, 3] = 10, 5  # (2, 2) to (0, 0) in the first, (1, 1) to (3, 3) in the second
    before = x.clone()
    out = moved(x, torch.tensor([0, 0]), plan)
    # rows start at 0, 8, 16, 24 (last block: 7), columns at 0, 9, 18, 27 (last block: 8)
    expected = x[[0, 0]].clone()
    expected[0, 0, :8, :9] = x[0, 0, 16:24, 18:27]
    expected[1, 0, 24:, 27:] = x[0, 0, 8:15, 9:17]
    assert torch.equal(out, expected)
    assert torch.equal(x, before)


# --- the mixer ------------------------------------------------------------------------------------------------------

SHAPES = [(8, 3, 32, 32), (1, 3, 32, 32), (5, 3, 31, 35), (6, 1, 8, 8), (3, 3, 40, 56), (2, 3, 4, 37), (2, 3, 112, 112)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_input_is_not_touched_and_form_layout_and_seed_are_kept(shape, layout, check_form):
    x, saliency = batch(shape)
    x = x.contiguous(memory_format=layout)
    for seed in range(4):
        check_form(lambda seed=seed: mix(PuzzleMix(), x, saliency, seed=seed), [x, saliency], layout)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    n_labels=st.sampled_from([2, 3, 4]),
    t_size=st.sampled_from([0, 3, 4]),
)
def test_labels_follow_the_pixels_whatever_is_drawn(seed, height, width, n_labels, t_size):
    """Own images are 1 and the partner's 0, so the mean of a mixed image is the own share of its pixels."""
    _, saliency = batch((2, 1, height, width), seed)
    x = torch.stack([torch.ones(1, height, width), torch.zeros(1, height, width)]).double()
    mixer = PuzzleMix(n_labels=n_labels, t_size=t_size)
    draw = mixer.draw((2, 1, height, width), torch.Generator().manual_seed(seed))
    draw = dataclasses.replace(draw, partner=torch.tensor([1, 0]))
    mixed = mix(mixer, x, saliency, draw)
    assert mixed.x[0].mean().item() == pytest.approx(mixed.lam[0].item(), abs=1e-9)
    assert 1 - mixed.x[1].mean().item() == pytest.approx(mixed.lam[1].item(), abs=1e-9)


def test_lam_is_the_mean_of_the_mask_of_each_sample():
    x, saliency = batch((6, 3, 32, 32))
    mixer, draw = PuzzleMix(), PuzzleMixDraw(torch.arange(6).roll(1), 0.3, 8)
    mask = mixer.mask(x, pooled_saliency(saliency, 8), draw, torch.full((3,), 0.25))
    mixed = mix(mixer, x, saliency, draw)
    assert torch.equal(mixed.lam, mask.mean((1, 2)))
    assert mixed.lam.unique().numel() > 1


def test_the_scale_of_the_saliency_does_not_matter_and_what_is_not_finite_counts_as_none():
    x, saliency = batch((4, 3, 32, 32))
    draw = PuzzleMix().draw(tuple(x.shape), torch.Generator().manual_seed(0))
    assert torch.equal(mix(PuzzleMix(), x, saliency, draw).x, mix(PuzzleMix(), x, saliency * 1024, draw).x)
    broken = torch.full_like(saliency, torch.nan)
    broken[0] = torch.inf
    flat = mix(PuzzleMix(), x, torch.ones_like(saliency), draw)
    assert torch.equal(mix(PuzzleMix(), x, broken, draw).x, flat.x)


def test_half_precision_is_kept():
    x, saliency = batch((4, 3, 32, 32), dtype=torch.bfloat16)
    mixed = mix(PuzzleMix(), x, saliency.bfloat16())
    assert mixed.x.dtype == torch.bfloat16
    assert bool(mixed.x.isfinite().all())


def test_grids_are_drawn_evenly_up_to_the_finest_allowed_and_never_finer_than_the_image():
    generator = torch.Generator().manual_seed(0)
    drawn = [PuzzleMix().draw((2, 3, 32, 32), generator).blocks for _ in range(400)]
    assert all(70 < drawn.count(blocks) < 130 for blocks in GRIDS)
    assert {PuzzleMix(max_blocks=4).draw((2, 3, 32, 32), generator).blocks for _ in range(40)} == {2, 4}
    assert {PuzzleMix().draw((2, 3, 40, 9), generator).blocks for _ in range(60)} == {2, 4, 8}
    assert PuzzleMix().draw((2, 3, 1, 9), generator).blocks == 1


def test_mistakes_are_refused_by_name():
    x, saliency = batch((2, 3, 8, 8))
    draw = PuzzleMixDraw(torch.tensor([1, 0]), 0.5, 16)
    with pytest.raises(ValueError, match="16 blocks does not fit an image of 8 x 8"):
        mix(PuzzleMix(), x, saliency, draw)
    with pytest.raises(TypeError, match="saliency"):
        PuzzleMix().apply(x, draw, std=torch.ones(3))
    with pytest.raises(SpecError, match="n_labels"):
        PuzzleMix(n_labels=5)
    with pytest.raises(SpecError, match=r"data_smoothness = 1\.5 must be 0 to 1"):
        PuzzleMix(data_smoothness=1.5)
    for values in PuzzleMix.published.values():
        PuzzleMix(**values)


def test_perturbations_stay_within_their_size_and_raise_the_loss():
    x, gradient = batch((6, 3, 16, 16))[0], batch((6, 3, 16, 16), 1)[0]
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    draw = PuzzleMix(adv_p=1.0).draw((6, 3, 16, 16), torch.Generator().manual_seed(0))
    assert draw.attacked == (True, True)
    change = (perturbed(x, draw, gradient, mean, std, 10 / 255) - x) * std[:, None, None]
    inside = ((x * 0.25 + 0.5) > 10 / 255) & ((x * 0.25 + 0.5) < 245 / 255)
    assert bool((change[inside].abs() <= draw.strength * 10 / 255 + 1e-6).all())
    assert bool(((change * gradient)[inside] > 0).all())


def test_only_who_is_attacked_is_perturbed():
    x, gradient = batch((4, 3, 8, 8))[0], batch((4, 3, 8, 8), 1)[0]
    supply = {"saliency": torch.ones(4, 8, 8), "std": torch.full((3,), 0.25)}
    mixer = PuzzleMix(adv_p=0.5)
    draws = [mixer.draw((4, 3, 8, 8), torch.Generator().manual_seed(seed)) for seed in range(60)]
    kinds = {draw.attacked for draw in draws}
    assert kinds == {(a, b) for a in (True, False) for b in (True, False)}
    for draw in draws:
        more = {"mean": torch.full((3,), 0.5), "gradient": gradient} if any(draw.attacked) else {}
        assert mixer.needs_of(draw) == supply.keys() | more.keys()
        own, other = (mixer.apply(x, draw.with_lam(lam), **supply, **more) for lam in (1.0, 0.0))
        assert torch.equal(own.x, x) == (not draw.attacked[0])
        assert torch.equal(other.x, x[draw.partner]) == (not draw.attacked[1])
