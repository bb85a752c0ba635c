"""The backbones: the only list of them, and what must be known of each without building it, which takes torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from automixsearch.errors import SpecError

if TYPE_CHECKING:
    from automixsearch.registry import Plugin


@dataclass(frozen=True)
class Network:
    """A backbone.

    built: its class, as FILE:CLASS in this room, and what is given to it besides its width, the channels of the
    images, the number of classes, and the knobs that it obeys. published: its name in published tables. library: its
    name in torchvision, if weights are to be had there. stages: how many follow the stem. mixed: the last of them whose
    output can be mixed (whose map the rest reads). side, width: the sides of images and the knob `width` are multiples
    of these. sized: it is built for one size of images. stem, drop_path: whether it obeys the knob of that name; wide:
    whether width. attends: it has a class token, whose attention labels can follow. late: names, sizes and stages are
    known only where it is built; stages, mixed, attends: at most.
    """

    built: str
    given: Mapping[str, Any] = field(default_factory=dict)
    published: str = ""
    library: str = ""
    stages: int = 4
    mixed: int = 4
    side: int = 1
    width: int = 1
    sized: bool = False
    stem: bool = False
    drop_path: bool = False
    attends: bool = False
    wide: bool = True
    late: bool = False

    @property
    def mixable(self) -> tuple[str, ...]:
        """Where features can be mixed, the input included."""
        return ("input", *stage_names(self.mixed))


def stage_names(stages: int) -> tuple[str, ...]:
    """stem, stage1, stage2, ..."""
    return ("stem", *(f"stage{number}" for number in range(1, stages + 1)))


def _resnet(published: str, library: str, *blocks: int, deep: bool = True, grouped: bool = False) -> Network:
    given = {"blocks": blocks, "bottlenecks": deep, "grouped": grouped}
    return Network("resnet:ResNet", given, published, library, width=4 if grouped else 1, stem=True)


def _wide(factor: int, **more: Any) -> Network:
    given = {"factor": factor, **more}
    return Network("wide_resnet:WideResNet", given, "" if more else f"WRN-28-{factor}", stages=3, mixed=3, width=4)


BACKBONES = {
    "resnet18": _resnet("ResNet-18", "resnet18", 2, 2, 2, 2, deep=False),
    "resnet34": _resnet("ResNet-34", "resnet34", 3, 4, 6, 3, deep=False),
    "resnet50": _resnet("ResNet-50", "resnet50", 3, 4, 6, 3),
    "resnet101": _resnet("ResNet-101", "resnet101", 3, 4, 23, 3),
    "resnext50": _resnet("ResNeXt-50-32x4d", "resnext50_32x4d", 3, 4, 6, 3, grouped=True),
    "resnext101": _resnet("ResNeXt-101-32x4d", "", 3, 4, 23, 3, grouped=True),
    "wrn28_2": _wide(2),
    "wrn28_8": _wide(8),
    "wrn28_2_released": _wide(2, released_quirk=True),
    "wrn28_8_released": _wide(8, released_quirk=True),
    "deit_s": Network(
        "transformers:DeiT", published="DeiT-S", mixed=3, side=16, sized=True, drop_path=True, attends=True
    ),  # its head reads the class token alone
    "swin_t": Network("transformers:Swin", {}, "Swin-T", "swin_t", side=32, width=2, drop_path=True),
}


OTHERS = {
    "timm": Network("library:from_timm", sized=True, drop_path=True, attends=True, wide=False, late=True),
    "torchvision": Network("library:from_torchvision", sized=True, attends=True, wide=False, late=True),
    "own": Network("own:from_outside", sized=True, attends=True, late=True),
}
"""Packages whose networks are backbones too, as PACKAGE/NAME; own: what comes from outside."""


NO_CLASS_TOKEN = (
    "has no class token whose attention can be told; use deit_s, or a plain vision transformer such as "
    "timm/vit_small_patch16_224 or torchvision/vit_b_16"
)


def network_of(backbone: str, plugins: Iterable[Plugin] = ()) -> Network:
    """What is known of a backbone, ours or of one of the `OTHERS`, without building it; `plugins` know the own ones."""
    package, _, name = backbone.partition("/")
    if package != "own":
        return replace(OTHERS[package], given={"name": name}) if name else BACKBONES[backbone]
    for plugin in plugins:
        if (plugin.kind, plugin.name) == ("backbones", name):
            takes = plugin.facts["takes"]
            obeyed = {"wide": "width" in takes, "drop_path": "drop_path" in takes}
            return replace(OTHERS[package], given={"plugin": plugin}, **obeyed)
    return OTHERS[package]


def check_sides(backbone: str, *sides: int) -> None:
    """Refuse images that do not fit a backbone of patches.

    Raises:
        SpecError: the sides differ, or are no multiples of what it takes.
    """
    unit = network_of(backbone).side
    if unit > 1 and (len(set(sides)) > 1 or sides[0] % unit):
        fitting = max(unit, round(max(sides) / unit) * unit)
        raise SpecError(
            f"backbone {backbone} takes square images with sides that are multiples of {unit} pixels, "
            f"not {' x '.join(map(str, sides))}; use data.size={fitting}"
        )
