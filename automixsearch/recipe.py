"""The training hyperparameters that are not the mixing method's: backbone, optimiser, schedule, augmentation.

They move results by more than many methods do, so they are knobs like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

from automixsearch.knobs import Knobbed, knob


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
    backbone: str = knob("resnet18", "network", choices=("resnet18",))
    stem: str = knob(
        "cifar", "first layers: 3x3 at full size, or 7x7 and pooling to a quarter", choices=("cifar", "imagenet")
    )
    width: int = knob(64, "channels of the first stage", low=1, high=1024)
    crop_pad: int = knob(4, "pixels of padding before the random crop; 0 switches it off", low=0, high=64)
    pad_mode: str = knob("zero", "what the padding holds", choices=("zero", "reflect"))
    flip: bool = knob(True, "random horizontal flip")
    amp: str = knob("auto", "bfloat16 autocast; auto: on CUDA", choices=("auto", "off", "bf16"))
    channels_last: bool = knob(True, "memory format of images and weights")
    compile: bool = knob(False, "torch.compile the network")
    batch_norm: str = knob(
        "global", "statistics over the global batch, or over each worker's share", choices=("global", "local")
    )
