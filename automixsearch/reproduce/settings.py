"""How each published figure was measured, as a trial config; or the name of what is missing to measure it.

Settings are those of OpenMixup at 37e1372, whose tables have the figures of the slides; what they do not say, and
where ours are others on purpose, stands with each cell (`Setting.differs`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from automixsearch.config.catalogue import catalogue
from automixsearch.config.files import RecipeFile, build, parse_knobs, read_text
from automixsearch.config.identity import data_measured, hash_json
from automixsearch.config.knobs import Scalar, published_for
from automixsearch.config.policy import methods_of
from automixsearch.config.shipped import shipped
from automixsearch.config.trial import TrialConfig
from automixsearch.config.yaml import read_value, read_yaml
from automixsearch.errors import SpecError, unknown
from automixsearch.losses import LOSSES
from automixsearch.mixers import MIXERS
from automixsearch.models import registry
from automixsearch.reproduce.pretrained import tiny_weights
from automixsearch.reproduce.registry import Cell

SCALES = {
    "tiny": "the embedded digits, a narrow network of the same family, a few epochs",
    "short": "the published data set and network, a share of the epochs",
    "paper": "everything as published",
}
TINY_EPOCHS = 12
"""At scale tiny: with the 6 epochs of the recipe, seeds differ by more than rows."""
TINY_LABELS, TINY_STEPS = 40, 50
"""There: at most so many labels of each class, and steps of an epoch, where labels are few."""
SHARE = 0.1
"""Of the published epochs, at scale short."""
MARGIN = 0.3
"""Points within which figures count as the same, where nothing else is declared."""
HELD_OUT = 0.01
"""Share of the training images that is validated; nothing is chosen by it here, and the published runs train on all."""

METHODS = {
    "Vanilla": "vanilla",
    "MixUp": "mixup",
    "CutMix": "cutmix",
    "DeiT": "mixup+cutmix",
    "ManifoldMix": "manifoldmix",
    "SaliencyMix": "saliencymix",
    "FMix": "fmix",
    "PuzzleMix": "puzzlemix",
    "Co-Mixup": "comixup",
    "ResizeMix": "resizemix",
    "AugMix": "augmix",
    "AutoMix": "automix",
}
BACKBONES = {network.published: name for name, network in registry.BACKBONES.items() if network.published}
"""Our backbones by their names in published tables."""
SOURCES = {
    "CIFAR-10": ("cifar10", None),
    "CIFAR-100": ("cifar100", None),
    "Tiny-ImageNet": ("tiny_imagenet", None),
    "ImageNet-1k": ("imagenet", 256),
    "CUB-200": ("cub200", 256),
    "FGVC-Aircraft": ("aircraft", 256),
    "Stanford-Cars": ("cars", 256),
    "iNaturalist2017": ("inat2017", 256),
    "iNaturalist2018": ("inat2018", 256),
    "Places205": ("places205", 256),
}
"""Source and stored side of each data set."""

TEMPLATE: Mapping[str, Scalar] = {"eta": 0.1, "weighting": "both", "xi": 1.0}
"""The decoupled loss of OpenMixup's templates, for what has no released setting of its own."""
FEW_LABELS = ("dm_semi_supervised", "dm_fine_tuning", "dm_ablation_self_tuning")
"""The tables whose runs are counted in steps."""
FINE_TUNING = {
    "Fine-Tuning": ("fine_tuning", "vanilla", "mce", "free", 0.0),
    "Fine-Tuning+DM": ("fine_tuning", "mixup", "decoupled", "free", 0.0),
    "BSS": ("bss", "vanilla", "mce", "free", 0.0),
    "Co-Tuning": ("co_tuning", "vanilla", "mce", "free", 0.0),
    "Co-Tuning+DM": ("co_tuning", "mixup", "decoupled", "free", 0.0),
    "Self-Tuning": ("self_tuning", "vanilla", "mce", "free", 0.0),
    "Self-Tuning+Mixup": ("self_tuning", "mixup", "mce", "free", 0.0),
    "Self-Tuning+DM": ("self_tuning", "mixup", "decoupled", "min", 1.0),
}
"""Algorithm, method, loss, and side and weight of labelled images mixed with unlabelled ones, of each row."""
TUNING = {
    "": FINE_TUNING["Self-Tuning"],
    "MCE": FINE_TUNING["Self-Tuning+Mixup"],
    "MCE+AS(lambda>=0.5)": ("self_tuning", "mixup", "mce", "max", 1.0),
    "MCE+AS(lambda<=0.5)": ("self_tuning", "mixup", "mce", "min", 1.0),
    "DM(CE)+AS(lambda<=0.5)": FINE_TUNING["Self-Tuning+DM"],
}
"""The same of the ablation of Self-Tuning, by what is added to it."""
SEMI_SUPERVISED = {
    "Pseudo-Labeling": ("pseudo_label", "vanilla", "mce"),
    "MixMatch": ("mixmatch", "vanilla", "mce"),
    "ReMixMatch": ("remixmatch", "vanilla", "mce"),
    "MixMatch+DM": ("mixmatch", "mixup", "decoupled"),
    "UDA": ("uda", "vanilla", "mce"),
    "FixMatch": ("fixmatch", "vanilla", "mce"),
    "FlexMatch": ("flexmatch", "vanilla", "mce"),
    "FixMatch+Mixup": ("fixmatch", "mixup", "mce"),
    "FixMatch+DM": ("fixmatch", "mixup", "decoupled"),
}
"""Algorithm, mixing method and loss of each row of the table of semi-supervised learning."""


@dataclass(frozen=True)
class Setting:
    """How a cell was measured.

    recipe: of search_spaces/recipes. knobs: what the cell sets over it, by full name. measured: the column of the
    ledger that holds what the table reports. differs: what is not as published, in words.
    """

    recipe: str
    data: Mapping[str, Any]
    epochs: int
    knobs: Mapping[str, Scalar]
    measured: str
    differs: tuple[str, ...]


def missing(cell: Cell) -> str:
    """What has to exist before a cell can be measured, by name; empty where it can be.

    A gain lacks what its cells lack.
    """
    if cell.derived:
        lacking = dict.fromkeys(reason for _, term in cell.terms if (reason := missing(term)))
        return "; ".join(lacking)
    if not cell.printed:
        return "the figure is lost"
    by_table = {
        "automix_wsol": "weakly supervised object localisation",
        "automix_transfer_detection": "transfer to object detection",
    }
    by_metric = {
        "corruption_top1": "evaluation on corrupted images",
        "adversarial_error": "evaluation under attack",
        "time": "a machine like the authors', which is not named",
    }
    if cell.table in by_table:
        return by_table[cell.table]
    if cell.metric in by_metric:
        return by_metric[cell.metric]
    if cell.table == "automix_ablation_ema_ce" and cell.setting in ("row 2", "row 3"):
        return "the label of the row, which is lost: the teacher or the clean loss"
    if cell.metric == "top1" and _on_the_stem(cell):
        return "a Mix Block on the features of the stem"
    return ""


def trained(cell: Cell) -> bool:
    """Whether a cell is measured by training."""
    return not missing(cell) and not cell.derived and cell.metric != "params_M"


def _on_the_stem(cell: Cell) -> bool:
    """Whether the Mix Block of a cell was fed by the stem, which its number of parameters tells."""
    return cell.method == "AutoMix(l1)" and cell.backbone.startswith("ResNeXt")


# As published --------------------------------------------------------------------------------------------------


def setting(cell: Cell) -> Setting:
    """How a cell was measured, as published.

    Raises:
        SpecError: it cannot be measured yet.
    """
    lacking = missing(cell)
    if lacking or cell.derived or (cell.epochs is None and cell.table not in FEW_LABELS):
        raise SpecError(f"{cell.table} #{cell.number} ({cell.name}) cannot be trained: {lacking or 'it is a gain'}")
    if cell.table in FEW_LABELS:
        return _semi_supervised(cell) if cell.table == "dm_semi_supervised" else _fine_tuning(cell)
    recipe, family, knobs, differs = _training(cell)
    method, own, notes = _method(cell, family)
    knobs |= {"method": method, **own}
    differs += notes
    if cell.loss == "DM(CE)":
        loss, notes = _decoupled(cell, method)
        knobs |= loss
        differs += notes
    if "automix" in methods_of(method):
        extra = _automix(cell, family)
        knobs |= extra
        differs += ["the teacher's head for clean images is tested (published: the best of four heads)"]
        if extra.get("automix.report") == "student_mix":
            differs[-1] = "the head for mixed images, the one that every row trains, is tested (published: not said)"
    transformer = cell.backbone in ("DeiT-S", "Swin-T")
    source, size = SOURCES[cell.dataset]
    if size:
        differs.append(f"crops are taken from stored squares of {size} pixels")
    if transformer:
        differs.append("the best of the last 10 epochs (published: of all epochs)")
    differs.append(f"{HELD_OUT:.0%} of the training images are held out, at least one of each class")
    return Setting(
        recipe=recipe,
        data={"source": source, **({"size": size} if size else {}), "val_fraction": HELD_OUT},
        epochs=int(cell.epochs or 0),
        knobs={**knobs, "backbone": BACKBONES[cell.backbone], "test_median": True},
        measured="test_top1_best" if transformer else "test_top1_median",
        differs=tuple(differs),
    )


def _training(cell: Cell) -> tuple[str, str, dict[str, Scalar], list[str]]:
    """Recipe and family of the data set and network, what differs from them, and notes."""
    knobs: dict[str, Scalar] = {}
    if cell.dataset.startswith("CIFAR"):
        if cell.dataset == "CIFAR-10":
            knobs["pad_mode"] = "zero"
        boxes = ("CutMix", "SaliencyMix", "FMix", "ResizeMix")
        if (cell.dataset, cell.backbone) == ("CIFAR-100", "ResNeXt-50-32x4d") and cell.method in boxes:
            knobs["weight_decay"] = 5e-4
        return ("cifar_wrn" if cell.backbone == "WRN-28-8" else "cifar"), "cifar", knobs, []
    if cell.dataset == "Tiny-ImageNet":
        return "tiny_imagenet", "tiny", knobs, []
    if cell.dataset in ("CUB-200", "FGVC-Aircraft"):
        return "fine_grained", "fine_grained", knobs, []
    if cell.backbone in ("DeiT-S", "Swin-T"):
        if cell.backbone == "Swin-T":
            knobs |= {"warmup_epochs": 20, "drop_path": 0.2}
        return "deit", "imagenet", knobs, []
    return f"imagenet_{cell.epochs}", "imagenet", knobs, []


def _method(cell: Cell, family: str) -> tuple[str, dict[str, Scalar], list[str]]:
    """The mixing method, its knobs, and notes."""
    if cell.table == "automix_ablation_ema_ce" and cell.setting == "row 4":
        method = "automix"
    else:
        method = next((ours for name, ours in METHODS.items() if cell.method == name), "automix")
    knobs: dict[str, Scalar] = {}
    alphas = cell.alpha.split("+") if cell.alpha else []
    for position, name in enumerate(methods_of(method)):
        published = published_for(MIXERS[name].published, family, BACKBONES[cell.backbone])
        knobs |= {f"{name}.{knob}": value for knob, value in published.items()}
        if alphas and name != "vanilla":
            knobs[f"{name}.alpha"] = float(alphas[position])
        if name in ("fmix", "saliencymix"):  # OpenMixup has the authors' code
            knobs[f"{name}.variant"] = "released"
    notes = []
    if method == "comixup":
        notes.append("the loss and the recipe of the table's other rows (the authors' own code has others)")
    return method, knobs, notes


def _decoupled(cell: Cell, method: str) -> tuple[dict[str, Scalar], list[str]]:
    """The decoupled loss of a cell, and notes."""
    own: Mapping[str, Mapping[str, Scalar]] = {}
    if cell.dataset == "CIFAR-100" and cell.backbone in ("ResNet-18", "ResNeXt-50-32x4d"):
        own = published_for(LOSSES["decoupled"].published, "cifar", BACKBONES[cell.backbone])
    chosen = own.get(method, TEMPLATE)
    knobs = {f"decoupled.{name}": value for name, value in chosen.items() if name != "alpha"}
    notes = ["the decoupled weights belong to the images (released: to the class order of the batch's first row)"]
    templates = cell.dataset == "ImageNet-1k" and cell.backbone in ("ResNet-18", "ResNet-50")
    if not own and not templates:
        notes.append("eta, weighting and xi of the released templates; none are published for this row")
    return {"loss": "decoupled", **knobs}, notes


def _automix(cell: Cell, family: str) -> dict[str, Scalar]:
    """What AutoMix has of its own: schedule, layer, variant and, in ablations, parts."""
    knobs: dict[str, Scalar] = {"automix.variant": "released", "automix.ema_start": 0.999}
    if family == "cifar":
        knobs["min_lr"] = 1e-3 / 0.03 if cell.backbone == "WRN-28-8" else 0.5
    elif family == "tiny":
        knobs["min_lr"] = 0.25
    if cell.dataset in ("iNaturalist2017", "iNaturalist2018"):
        knobs["automix.mixblock_min_lr"] = 1e-3
    if not cell.table.startswith("automix_ablation"):
        return knobs
    knobs["automix.variant"] = "paper"  # what the rows are about exists there
    if cell.table == "automix_ablation_modules":
        row = ["MixBlock(random grids)", "+cross attention", "+lambda embedding", "+l_lambda"].index(cell.method)
        knobs |= {
            "automix.mask_source": "mixblock" if row >= 1 else "random_grid",
            "automix.embedding": "concat" if row >= 2 else "none",
            "automix.gamma": 0.1 if row >= 3 else 0.0,
        }
    elif cell.table == "automix_ablation_layer":
        layer = int(cell.method[-2])
        # By the numbers of parameters, l1 and l2 of ResNeXt-50 are the stem and the first stage.
        knobs["automix.layer"] = f"l{layer - 1 if layer == 2 and cell.backbone.startswith('ResNeXt') else layer}"
    else:
        both = cell.setting == "row 4"
        knobs |= {
            "automix.mask_source": {"MixUp": "mixup", "CutMix": "cutmix"}.get(cell.method, "mixblock"),
            "automix.ema": both,
            "automix.clean_lam": 1.0 if both else 0.0,
            "automix.report": "student_mix",
        }
    return knobs


def _fine_tuning(cell: Cell) -> Setting:
    """Few labels, from ImageNet's weights: 9,000 steps of 48 images, or 27,000 of 24 with and 24 without a label."""
    algorithm, method, loss, side, across = (
        TUNING[cell.method.partition("+")[2]] if (cell.table == "dm_ablation_self_tuning") else FINE_TUNING[cell.method]
    )
    both, share = algorithm == "self_tuning", int(cell.setting.partition("%")[0])
    source, size = SOURCES[cell.dataset]
    knobs: dict[str, Scalar] = {
        "algorithm": algorithm,
        "method": method,
        "backbone": BACKBONES[cell.backbone],
        "batch_size": 24 if both else 48,
        "steps_per_epoch": 540 if both else 180,
        "crop_scale": 0.08,
        "nesterov": algorithm in ("co_tuning", "self_tuning"),
        "weight_decay": 1e-4 if both else 5e-4,
    }
    differs = [
        "the learning rate falls on a cosine (published: by drops to a tenth)",
        "the middle of each test image is tested (published: ten crops)",
        f"{HELD_OUT:.0%} of the images are held out, of those without a label where there are such",
    ]
    if method != "vanilla":
        knobs |= {"mixup.alpha": 1.0, "loss": loss}
        differs.append("alpha and eta are ours: none are published")
    if both:
        knobs |= {"self_tuning.side": side, "self_tuning.across_weight": across}
    data: dict[str, Any] = {"source": source, "size": size, "resize": "squash", "val_fraction": HELD_OUT}
    data |= {"unlabelled": "all"} if share == 100 else {
        "labels": share / 100, "unlabelled": "rest", "val_from": "unlabelled",
    }  # fmt: skip
    return Setting("fine_grained", data, 50, knobs, "test_top1", tuple(differs))


def _semi_supervised(cell: Cell) -> Setting:
    """Few labels among all training images: TorchSSL's settings, from whose tables the rows without mixing are."""
    source, _ = SOURCES[cell.dataset]
    classes = int(cell.dataset.partition("-")[2])
    algorithm, method, loss = SEMI_SUPERVISED[cell.method]
    knobs: dict[str, Scalar] = {"algorithm": algorithm, "method": method, "test_median": True}
    if cell.dataset == "CIFAR-100":
        knobs |= {"backbone": "wrn28_8_released", "weight_decay": 1e-3}
    differs = [
        "the test after the last step counts among those of which the best is taken (published: likewise), every 4,096 "
        "steps (published: every 5,000, then every 1,000)",
        f"{HELD_OUT:.0%} of the images without a label are held out, and nothing is chosen by them",
    ]
    if method != "vanilla":
        knobs |= {f"{method}.alpha": 1.0, "loss": loss, f"{algorithm}.side": "min" if loss == "decoupled" else "free"}
        differs.append("alpha, eta and the weights of mixed images are the released code's or ours: none are published")
    if cell.method == "MixMatch+DM":
        differs.append("mixed images are added to MixMatch, which stays as it is: no code is published")
    labels = int(cell.setting.partition(" ")[0]) // classes
    return Setting(
        recipe="semi_wrn",
        data={
            "source": source,
            "labels": labels,
            "labels_draw": "released",
            "unlabelled": "all",
            "val_from": "unlabelled",
            "val_fraction": HELD_OUT,
        },
        epochs=256,
        knobs=knobs | {"backbone": knobs.get("backbone", "wrn28_2_released")},
        measured="test_top1_best",
        differs=tuple(differs),
    )


# At a scale ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A cell as it will be run. `config` has no data path where none was given; `changed`: knobs set by the user."""

    cell: Cell
    scale: str
    data: Mapping[str, Any]
    knobs: Mapping[str, Scalar]
    measured: str
    differs: tuple[str, ...]
    changed: tuple[str, ...]

    def config(self, seed: int = 0, split_seed: int = 0, fingerprint: str | None = None) -> TrialConfig:
        """The trial config, complete.

        Raises:
            SpecError: a knob is wrong, or the data set needs a path.
        """
        content = {
            "data": dict(self.data), "knobs": dict(self.knobs), "seed": seed, "split_seed": split_seed,
            "data_fingerprint": fingerprint,
        }  # fmt: skip
        return build(TrialConfig, content, f"{self.cell.table} #{self.cell.number} ({self.cell.name})")


@dataclass(frozen=True)
class Changes:
    """What the user wants otherwise than the tables: values of `data`, of knobs by full name, of `resources`."""

    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    knobs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resources: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_changes(overrides: Iterable[str]) -> Changes:
    """Read `key=value` strings: `data.path`, `resources.gpus`, or knobs by full name.

    Raises:
        SpecError: a word is no `key=value`, or names nothing.
    """
    found: dict[str, dict[str, Any]] = {"data": {}, "resources": {}}
    rest = []
    for override in overrides:
        key, equals, text = override.partition("=")
        section, _, inner = key.strip().partition(".")
        if equals and inner and section in found:
            found[section][inner] = read_value(key, text)
        else:
            rest.append(override)
    knobs = parse_knobs(rest)
    for name in knobs:
        if name not in catalogue():
            raise SpecError(f"override {name}: {unknown('knob', name, catalogue())}")
    return Changes(found["data"], knobs, found["resources"])


def plan(cell: Cell, scale: str = "paper", changes: Changes | None = None, share: float = SHARE) -> Plan:
    """How a cell is run at a scale.

    tiny keeps the method with its knobs, the loss, the family of the network and the share of labels, and takes all
    else but the epochs from the recipe `digits`. short cuts the epochs, the warm-up with them.

    Raises:
        SpecError: the cell cannot be trained, or there is no such scale.
    """
    if scale not in SCALES:
        raise SpecError(unknown("scale", scale, SCALES))
    changes = changes or Changes()
    as_published = setting(cell)
    recipe = _recipe("digits" if scale == "tiny" else as_published.recipe)
    data, knobs = dict(as_published.data), dict(as_published.knobs)
    if scale == "tiny":
        data, knobs = _tiny(as_published)
    epochs = {"tiny": TINY_EPOCHS, "short": max(1, round(share * as_published.epochs))}.get(
        scale
    ) or as_published.epochs
    chosen = {"epochs": epochs, **recipe.knobs, **knobs}
    if scale == "short":
        chosen["warmup_epochs"] = min(round(share * int(chosen.get("warmup_epochs", 0))), epochs - 1)
    asked = {name: value for name, value in changes.knobs.items() if _concerns(name, chosen)}
    chosen |= asked
    chosen["median_epochs"] = max(1, min(int(chosen.get("median_epochs", 10)), int(chosen["epochs"])))
    active = {name: value for name, value in chosen.items() if _concerns(name, chosen)}
    return Plan(
        cell=cell,
        scale=scale,
        data={**data, **changes.data},
        knobs=active,
        measured=as_published.measured,
        differs=as_published.differs,
        changed=tuple(sorted({*asked, *(f"data.{key}" for key in data_measured(changes.data))})),
    )


def study_name(cell: Cell, scale: str = "paper", changes: Changes | None = None, share: float = SHARE) -> str:
    """The study that holds the runs of a cell: one for each column of a table, scale, and set of changes."""
    dataset, backbone, epochs, labels = cell.column
    parts = [cell.table, dataset, backbone, str(epochs or ""), labels.partition(" ")[0].rstrip("%"), scale]
    if scale == "short" and share != SHARE:
        parts.append(f"{share:g}".replace("0.", ""))
    changes = changes or Changes()
    kept = {"data": data_measured(changes.data), "knobs": changes.knobs}
    if any(kept.values()):
        parts.append(hash_json(kept)[:6])
    return ".".join(part for part in parts if part)


def _concerns(name: str, chosen: Mapping[str, Any]) -> bool:
    """Whether a knob has an effect under the method and loss of a cell."""
    values = {"method": chosen["method"], "loss": chosen.get("loss", "mce")}
    values |= {key: chosen[key] for key in ("algorithm",) if key in chosen}
    return name in values or catalogue()[name].active(values)


def _tiny(published: Setting) -> tuple[dict[str, Any], dict[str, Scalar]]:
    """Data and knobs of a cell on the embedded digits, over the recipe `digits`."""
    pace = ("automix.ema_", "automix.mixblock_")  # of a long run; the recipe has those of a short one
    knobs = {
        name: value
        for name, value in published.knobs.items()
        if name in ("algorithm", "method", "loss", "test_median") or ("." in name and not name.startswith(pace))
    }
    backbone = str(published.knobs["backbone"])
    data: dict[str, Any] = {"source": "digits", "val_fraction": 0.2}
    data |= {key: published.data[key] for key in ("labels", "unlabelled", "val_from") if key in published.data}
    if published.recipe == "semi_wrn":  # the steps of an epoch show each label once, and there are few labels
        data |= {"labels": max(4, min(int(data["labels"]), TINY_LABELS)), "val_from": "unlabelled"}
        knobs |= {"steps_per_epoch": TINY_STEPS, f"{knobs['algorithm']}.decay": 0.98, "batch_size": 32}
        knobs |= {"schedule": "cosine_7_16", "nesterov": True, "lr": 0.03, "median_epochs": TINY_EPOCHS}
        backbone = "resnet18"  # the statistics of the published network lag behind in runs of hundreds of steps
    elif "algorithm" in knobs:
        knobs |= {"weights": str(tiny_weights(backbone)), "steps_per_epoch": 20, "batch_size": 32, "lr": 0.01}
        knobs |= {"self_tuning.projection": 64} if knobs["algorithm"] == "self_tuning" else {}
    if backbone in ("deit_s", "swin_t"):
        data["size"] = {"deit_s": 16, "swin_t": 32}[backbone]
        knobs |= {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05}
    return data, knobs | {"backbone": backbone, **({"stem": "cifar"} if "res" in backbone[:3] else {})}


@cache
def _recipe(name: str) -> RecipeFile:
    """A recipe that comes with the package."""
    path = shipped("recipe")[name]
    return build(RecipeFile, read_yaml(read_text(path, "recipe"), str(path)), str(path))
