"""Every published figure is in the registry, with what contradicts it."""

from __future__ import annotations

from collections import Counter

import pytest

from automixsearch.errors import SpecError
from automixsearch.reproduce.registry import CELLS, CERTAINTY, TABLES, cells, find_table, select


def one(target):
    (cell,) = select(target)
    return cell


def test_every_figure_of_the_slides_is_there():
    assert len(cells()) == 635
    assert {cell.table for cell in cells()} == set(TABLES)
    assert len({(cell.table, cell.dataset) for cell in cells()}) == 27
    assert Counter(cell.table for cell in cells()) == {
        "automix_small_scale": 77, "automix_imagenet": 90, "automix_fine_grained": 100, "automix_wsol": 14,
        "automix_robustness": 18, "automix_transfer_detection": 24, "automix_ablation_modules": 8,
        "automix_ablation_layer": 30, "automix_ablation_ema_ce": 10, "dm_toy": 55, "dm_imagenet_convnets": 36,
        "dm_imagenet_vits": 22, "dm_semi_supervised": 50, "dm_ablation_self_tuning": 20, "dm_fine_tuning": 81,
    }  # fmt: skip
    assert CELLS.stat().st_size < 200_000


def test_figures_keep_their_printed_digits_and_names_are_unique():
    assert one("automix_small_scale:CIFAR-100/WRN-28-8/AutoMix").printed == "85.18"
    assert one("automix_ablation_layer:R-18/AutoMix(l4)/params_M").printed == "11.64"
    assert one("dm_semi_supervised:CIFAR-10/250 labels/FixMatch+DM").std is not None
    assert all(cell.certainty in CERTAINTY for cell in cells())
    assert all((cell.value is None) == (cell.certainty == "lost") for cell in cells())
    assert len({(cell.table, cell.name) for cell in cells()}) == 635


def test_cells_are_numbered_from_1_within_their_table():
    for table in TABLES.values():
        assert [cell.number for cell in table.cells] == list(range(1, len(table.cells) + 1))


def test_contradictions_between_the_sources_are_known():
    assert one("automix_small_scale:CIFAR-100/RX-50/CutMix").conflicts == ("OpenMixup has 78.32 (docs, readme)",)
    assert one("automix_imagenet:R-18/300/SaliencyMix").conflicts == ("OpenMixup has 70.97 (docs)",)
    assert "automix_imagenet has 77.17" in one("dm_imagenet_convnets:R-50/CutMix MCE").conflicts
    assert one("automix_small_scale:CIFAR-100/RX-50/gain_top1").conflicts == ("the rows give 0.73",)
    assert one("dm_semi_supervised:2500 labels/avg_gain_top1").conflicts == ("the rows give 2.21",)
    assert one("automix_small_scale:CIFAR-100/R-18/CutMix").conflicts == ()


def test_figures_that_openmixup_has_too_differ_in_25_of_292():
    six = {"automix_small_scale", "automix_imagenet", "automix_fine_grained", "dm_toy", "dm_imagenet_convnets"}
    both = [cell for cell in cells() if cell.elsewhere and cell.table in {*six, "dm_imagenet_vits"}]
    differ = [cell for cell in both if abs(cell.elsewhere["docs"] - (cell.value or 0)) > 0.005]
    assert (len(both), len(differ)) == (292, 25)


def test_printed_gains_follow_from_the_rows_but_for_two():
    gains = [cell for cell in cells() if cell.derived]
    assert len(gains) == 50
    wrong = {cell.name for cell in gains if abs((cell.arithmetic or 0) - (cell.value or 0)) > 0.015}
    assert wrong == {
        "CIFAR-100/ResNeXt-50-32x4d/AutoMix/gain_top1",
        "CIFAR-100/2500 labels/Avg. of MixMatch+DM and FixMatch+DM/avg_gain_top1",
    }


@pytest.mark.parametrize(
    ("target", "numbers"),
    [
        ("automix_small_scale:CIFAR-100/ResNet-18/MixUp,AutoMix", [10, 66]),
        ("automix_small_scale:cifar100/r18/mixup, automix", [10, 66]),
        ("automix_imagenet:R-18/300/Vanilla", [6]),
        ("dm_toy:RX-50/CutMix", [13, 14, 19, 20]),
        ("dm_toy:CIFAR-100/RX-50/DM(CE)/CutMix,FMix", [14, 34]),
        ("dm_imagenet_convnets:#3-5,#9", [3, 4, 5, 9]),
        ("automix_ablation_ema_ce:row 1", [1, 2, 3]),
        ("automix_wsol", list(range(1, 15))),
    ],
)
def test_cells_are_chosen_by_data_set_network_method_loss_epochs_or_number(target, numbers):
    assert [cell.number for cell in select(target)] == numbers


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("automix_smal", "unknown table 'automix_smal'; did you mean 'automix_small_scale'"),
        ("dm_toy:CIFAR-100/CutMx", "dm_toy: unknown cell 'CutMx'; did you mean 'CutMix'"),
        ("dm_toy:WRN-28-8/Tiny-ImageNet", "no cell has all of these"),
        ("dm_toy:#56", "must lie within #1 to #55"),
    ],
)
def test_unknown_tables_and_cells_are_told_the_nearest(target, message):
    with pytest.raises(SpecError, match=message):
        select(target)


def test_a_gain_is_a_weighted_sum_of_its_cells():
    gain = one("dm_toy:CIFAR-100/R-18/avg_gain_top1")
    assert len(gain.terms) == 10
    assert sum(weight for weight, _ in gain.terms) == pytest.approx(0)
    assert gain.arithmetic == pytest.approx(0.784)
    with pytest.raises(SpecError, match="unknown table"):
        find_table("none")
