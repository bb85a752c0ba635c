"""Every cell is a config that can be trained, or names what is missing."""

from __future__ import annotations

import pytest

from automixsearch.errors import SpecError
from automixsearch.mixers import MIXERS
from automixsearch.reproduce.parameters import agrees, count
from automixsearch.reproduce.registry import cells, select
from automixsearch.reproduce.settings import METHODS, SCALES, missing, plan, read_changes, setting

ANYWHERE = read_changes(["data.path=."])


def one(target):
    (cell,) = select(target)
    return cell


def trained(cell):
    return not missing(cell) and not cell.derived and cell.metric == "top1"


def test_every_cell_is_trained_counted_derived_or_says_what_is_missing():
    kinds = {"trained": 0, "counted": 0, "derived": 0, "missing": 0}
    for cell in cells():
        kind = "trained" if trained(cell) else "missing" if missing(cell) else "derived" if cell.derived else "counted"
        kinds[kind] += 1
    assert kinds == {"trained": 502, "counted": 10, "derived": 50, "missing": 73}


@pytest.mark.parametrize("scale", SCALES)
def test_every_trained_cell_is_a_complete_config_at_every_scale(scale):
    changes = ANYWHERE if scale != "tiny" else None
    for cell in filter(trained, cells()):
        config = plan(cell, scale, changes).config()
        assert config.recipe.epochs == {"tiny": 12, "paper": cell.epochs or config.recipe.epochs}.get(
            scale, config.recipe.epochs
        )
        assert config.recipe.median_epochs <= config.recipe.epochs
        assert (config.data.source == "digits") == (scale == "tiny")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("automix_wsol:#1", "weakly supervised object localisation"),
        ("automix_robustness:corruption_top1/AugMix", "evaluation on corrupted images"),
        ("automix_robustness:adversarial_error/AugMix", "evaluation under attack"),
        ("automix_transfer_detection:#1", "transfer to object detection"),
        ("automix_ablation_ema_ce:row 3/MixUp", "the label of the row, which is lost"),
        ("automix_ablation_layer:RX-50/AutoMix(l1)/top1", "a Mix Block on the features of the stem"),
    ],
)
def test_what_is_missing_is_named(target, name):
    assert missing(one(target)).startswith(name)
    with pytest.raises(SpecError, match="cannot be trained"):
        setting(one(target))


def test_small_scale_settings_are_the_published_ones():
    cell = plan(one("automix_small_scale:CIFAR-100/R-18/AutoMix"), "paper", ANYWHERE).config()
    assert (cell.recipe.epochs, cell.recipe.lr, cell.recipe.min_lr, cell.recipe.batch_size) == (800, 0.1, 0.5, 100)
    wanted = {"automix.alpha": 2.0, "automix.layer": "l3", "automix.gamma": 0.1, "automix.ema_end": 0.999999}
    assert wanted.items() <= cell.knobs.items()
    boxes = plan(one("automix_small_scale:CIFAR-100/RX-50/CutMix"), "paper", ANYWHERE).config()
    assert (boxes.recipe.weight_decay, boxes.recipe.backbone, boxes.knobs["cutmix.alpha"]) == (5e-4, "resnext50", 0.2)
    assert plan(one("automix_small_scale:CIFAR-10/R-18/MixUp"), "paper", ANYWHERE).config().recipe.pad_mode == "zero"
    wide = plan(one("automix_small_scale:WRN-28-8/AutoMix"), "paper", ANYWHERE).config()
    assert (wide.recipe.epochs, wide.knobs["automix.layer"], wide.knobs["automix.mixblock_momentum"]) == (400, "l2", 0)
    tiny = plan(one("automix_small_scale:Tiny-ImageNet/R-18/AutoMix"), "paper", ANYWHERE).config()
    assert (tiny.recipe.lr, tiny.recipe.min_lr, tiny.knobs["automix.mixblock_lr"]) == (0.2, 0.25, 0.5)


def test_decoupled_settings_are_the_released_ones():
    r18 = plan(one("dm_toy:CIFAR-100/R-18/CutMix DM(CE)"), "paper", ANYWHERE).config()
    assert (r18.loss.eta, r18.loss.weighting, r18.loss.xi, r18.knobs["cutmix.alpha"]) == (0.1, "less", 0.5, 0.2)
    rx50 = plan(one("dm_toy:CIFAR-100/RX-50/FMix DM(CE)"), "paper", ANYWHERE).config()
    assert (rx50.loss.eta, rx50.loss.weighting, rx50.loss.xi, rx50.recipe.weight_decay) == (0.5, "both", 0.0, 5e-4)
    plain = plan(one("dm_toy:CIFAR-100/RX-50/FMix MCE"), "paper", ANYWHERE).config()
    assert plain.loss.name == "mce"
    assert "none are published" in " ".join(setting(one("dm_toy:WRN-28-8/FMix DM(CE)")).differs)


def test_imagenet_settings_follow_network_and_epochs():
    short, long = (setting(one(f"automix_imagenet:R-18/{epochs}/CutMix")) for epochs in (100, 300))
    assert (short.recipe, long.recipe) == ("imagenet_100", "imagenet_300")
    assert short.knobs["cutmix.alpha"] == 0.2  # the exception of ResNet-18
    assert setting(one("automix_imagenet:R-50/100/CutMix")).knobs["cutmix.alpha"] == 1.0
    swin = plan(one("dm_imagenet_vits:Swin-T/DeiT MCE"), "paper", ANYWHERE)
    assert (swin.measured, swin.config().method) == ("test_top1_best", "mixup+cutmix")
    assert (swin.knobs["mixup.alpha"], swin.knobs["cutmix.alpha"], swin.knobs["warmup_epochs"]) == (0.8, 1.0, 20)
    assert short.measured == "test_top1_median"


def test_shares_of_labels_reach_the_data():
    cells = {name: plan(one(f"dm_fine_tuning:CUB-200/30% labels/{name} "), "paper", ANYWHERE).config()
             for name in ("Fine-Tuning", "Co-Tuning+DM", "Self-Tuning+DM", "Self-Tuning+Mixup")}  # fmt: skip
    for name, config in cells.items():
        assert (config.data.labels, config.data.unlabelled, config.recipe.backbone) == (0.3, "rest", "resnet50")
        assert config.recipe.epochs * config.recipe.steps(0) == (27_000 if name.startswith("Self") else 9_000)
    plain, together, decoupled, mixed = cells.values()
    assert (plain.algorithm, plain.method, plain.knobs["fine_tuning.head_lr"]) == ("fine_tuning", "vanilla", 10.0)
    assert (together.algorithm, together.loss.name, together.recipe.weights) == ("co_tuning", "decoupled", "library")
    assert (decoupled.knobs["self_tuning.side"], decoupled.knobs["self_tuning.across_weight"]) == ("min", 1.0)
    assert (mixed.loss.name, mixed.knobs["self_tuning.across_weight"]) == ("mce", 0.0)
    larger = plan(one("dm_ablation_self_tuning:15% labels/Self-Tuning+MCE+AS(lambda>=0.5)"), "paper", ANYWHERE)
    assert (larger.knobs["self_tuning.side"], larger.knobs["loss"]) == ("max", "mce")
    whole = plan(one("dm_ablation_self_tuning:100% labels/Self-Tuning "), "paper", ANYWHERE).config()
    assert (whole.data.labels, whole.data.unlabelled) == (None, "all")


def test_the_semi_supervised_table_is_that_of_torchssl():
    mixed = plan(one("dm_semi_supervised:CIFAR-100/400 labels/FixMatch+DM"), "paper", ANYWHERE)
    config = mixed.config()
    assert (config.algorithm, config.method, config.loss.name) == ("fixmatch", "mixup", "decoupled")
    assert (config.data.labels, config.data.labels_draw, config.data.unlabelled) == (4, "released", "all")
    recipe = config.recipe
    assert recipe.epochs * recipe.steps(396) == 2**20
    assert (recipe.backbone, recipe.weight_decay, recipe.sampling) == ("wrn28_8_released", 1e-3, "replacement")
    assert (config.knobs["fixmatch.side"], config.knobs["fixmatch.threshold"]) == ("min", 0.95)
    assert mixed.measured == "test_top1_best"
    assert recipe.test_median
    assert recipe.median_epochs == recipe.epochs
    plain = plan(one("dm_semi_supervised:CIFAR-10/4000 labels/UDA"), "paper", ANYWHERE).config()
    assert (plain.algorithm, plain.method, plain.data.labels) == ("uda", "vanilla", 400)
    assert plain.recipe.backbone == "wrn28_2_released"
    for name in ("Pseudo-Labeling", "MixMatch", "ReMixMatch", "MixMatch+DM", "FlexMatch", "FixMatch+Mixup"):
        tiny = plan(one(f"dm_semi_supervised:CIFAR-10/250 labels/{name} "), "tiny").config()
        assert (tiny.recipe.epochs, tiny.recipe.steps(250), tiny.data.source) == (12, 50, "digits")


def test_alphas_are_those_of_the_methods_own_published_settings():
    family = {"CIFAR-10": "cifar", "CIFAR-100": "cifar", "Tiny-ImageNet": "tiny", "CUB-200": "fine_grained",
              "FGVC-Aircraft": "fine_grained"}  # fmt: skip
    checked = 0
    for cell in cells():
        if cell.table in ("automix_small_scale", "automix_fine_grained") and cell.dataset in family and cell.alpha:
            published = MIXERS[METHODS[cell.method]].published[family[cell.dataset]]
            assert float(cell.alpha) == published["alpha"], cell.name
            checked += 1
    assert checked == 63 + 32


def test_short_shortens_the_warm_up_too_and_tiny_keeps_the_method():
    deit = one("dm_imagenet_vits:DeiT-S/MixUp DM(CE)")
    short = plan(deit, "short", ANYWHERE).config()
    assert (short.recipe.epochs, short.recipe.warmup_epochs, short.data.source) == (30, 0, "imagenet")
    assert plan(deit, "short", ANYWHERE, share=0.5).config().recipe.warmup_epochs == 2
    tiny = plan(deit, "tiny").config()
    assert (tiny.method, tiny.loss.name, tiny.recipe.backbone, tiny.data.size) == ("mixup", "decoupled", "deit_s", 16)
    assert (tiny.knobs["mixup.alpha"], tiny.recipe.width) == (0.2, 8)


def test_changes_apply_where_they_have_an_effect():
    changes = read_changes(["automix.variant=paper", "width=4", "data.path=.", "resources.gpus=0"])
    assert changes.resources == {"gpus": 0}
    mixup = plan(one("automix_small_scale:CIFAR-100/R-18/MixUp"), "paper", changes)
    automix = plan(one("automix_small_scale:CIFAR-100/R-18/AutoMix"), "paper", changes)
    assert (mixup.changed, automix.changed) == (("width",), ("automix.variant", "width"))
    assert automix.config().knobs["automix.variant"] == "paper"
    with pytest.raises(SpecError, match="unknown knob 'variant'"):
        read_changes(["variant=paper"])


def test_published_numbers_of_parameters_are_counted_to_the_last_digit():
    counted = [cell for cell in cells() if cell.metric == "params_M"]
    assert all(agrees(cell) for cell in counted)
    by_name = {cell.name: count(cell) for cell in counted}
    assert by_name["Tiny-ImageNet/ResNet-18/MixUp/params_M"] == 11_271_432
    assert by_name["Tiny-ImageNet/ResNeXt-50-32x4d/AutoMix(l4)/params_M"] == 27_990_225
    with pytest.raises(SpecError, match="is no number of parameters"):
        count(one("automix_wsol:#1"))
