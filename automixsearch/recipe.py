"""The training hyperparameters that are not the mixing method's: backbone, optimiser, schedule, augmentation.

They move results by more than many methods do, so they are knobs like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

from automixsearch.errors import SpecError
from automixsearch.knobs import Knobbed, knob


@dataclass(frozen=True)
class Network:
    """What must be known of a backbone without building it, which takes torch.

    stages: how many follow the stem. mixed: the last of them whose output can be mixed (whose map the rest reads).
    side, width: the sides of images and the knob `width` are multiples of these. stem, drop_path: whether it obeys
    the knob of that name.
    """

    stages: int = 4
    mixed: int = 4
    side: int = 1
    width: int = 1
    stem: bool = False
    drop_path: bool = False

    @property
    def mixable(self) -> tuple[str, ...]:
        """Where features can be mixed, the input included."""
        return ("input", *stage_names(self.mixed))


def stage_names(stages: int) -> tuple[str, ...]:
    """stem, stage1, stage2, ..."""
    return ("stem", *(f"stage{number}" for number in range(1, stages + 1)))


BACKBONES = {
    "resnet18": Network(stem=True),
    "resnet34": Network(stem=True),
    "resnet50": Network(stem=True),
    "resnet101": Network(stem=True),
    "resnext50": Network(stem=True, width=4),
    "resnext101": Network(stem=True, width=4),
    "wrn28_2": Network(stages=3, mixed=3, width=4),
    "wrn28_8": Network(stages=3, mixed=3, width=4),
    "deit_s": Network(mixed=3, side=16, drop_path=True),  # its head reads the class token alone
    "swin_t": Network(side=32, width=2, drop_path=True),
}


def check_sides(backbone: str, *sides: int) -> None:
    """Refuse images that do not fit a backbone of patches.

    Raises:
        SpecError: the sides differ, or are no multiples of what it takes.
    """
    unit = BACKBONES[backbone].side
    if unit > 1 and (len(set(sides)) > 1 or sides[0] % unit):
        fitting = max(unit, round(max(sides) / unit) * unit)
        raise SpecError(
            f"backbone {backbone} takes square images with sides that are multiples of {unit} pixels, "
            f"not {' x '.join(map(str, sides))}; use data.size={fitting}"
        )


@dataclass(frozen=True)
class Recipe(Knobbed):
    """How a network is trained, apart from mixing and loss."""

    epochs: int = knob(200, "length of the full schedule", low=1, high=100_000)
    batch_size: int = knob(100, "global batch, over all workers", low=2, high=65_536, search=(50, 400), log=True)
    lr: float = knob(0.1, "peak learning rate", low=0, open_low=True, high=100, search=(0.02, 0.3), log=True)
    min_lr: float = knob(0.0, "floor of the cosine, as a share of lr", low=0, high=1, search=(0.0, 0.5))
    warmup_epochs: int = knob(0, "epochs of linear warm-up", low=0, high=1000, search=(0, 10))
    momentum: float = knob(0.9, "SGD momentum", low=0, high=0.9999, search=(0.8, 0.98))
    nesterov: bool = knob(False, "Nesterov momentum")
    weight_decay: float = knob(1e-4, "L2 on every parameter", low=0, high=1, search=(5e-5, 1e-3), log=True)
    label_smoothing: float = knob(0.0, "share of every label spread evenly", low=0, high=0.9, search=(0.0, 0.2))
    backbone: str = knob("resnet18", "network", choices=tuple(BACKBONES))
    stem: str = knob(
        "cifar",
        "first layers of a ResNet: 3x3 at full size, or 7x7 and pooling to a quarter",
        choices=("cifar", "imagenet"),
    )
    width: int = knob(64, "scale of all channels; 64: as published", low=1, high=1024)
    drop_path: float = knob(
        0.0, "largest probability that a block of a transformer is skipped", low=0, high=0.9, search=(0.0, 0.3)
    )
    weights: str = knob("", "where training starts: nothing, a file, or library (torchvision's)", word="library")
    crop_pad: int = knob(4, "pixels of padding before the random crop; 0 switches it off", low=0, high=64)
    pad_mode: str = knob("zero", "what the padding holds", choices=("zero", "reflect"))
    flip: bool = knob(True, "random horizontal flip")
    amp: str = knob("auto", "bfloat16 autocast; auto: on CUDA", choices=("auto", "off", "bf16"))
    channels_last: bool = knob(True, "memory format of images and weights")
    compile: bool = knob(False, "torch.compile the network")
    batch_norm: str = knob(
        "global", "statistics over the global batch, or over each worker's share", choices=("global", "local")
    )
