"""The training hyperparameters that are not the mixing method's: backbone, optimiser, schedule, augmentation.

They move results by more than many methods do, so they are knobs like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from automixsearch.config.knobs import Knobbed, knob
from automixsearch.errors import SpecError
from automixsearch.models.registry import BACKBONES, OTHERS, check_sides


@dataclass(frozen=True)
class Recipe(Knobbed):
    """How a network is trained, apart from mixing and loss."""

    epochs: int = knob(200, "length of the full schedule", low=1, high=100_000)
    steps_per_epoch: int = knob(
        0, "steps of an epoch; 0: as many as whole batches show each image once", low=0, high=2**20
    )
    sampling: str = knob(
        "passes",
        "order of the images: pass after pass in an order of its own each, or each one drawn from all",
        choices=("passes", "replacement"),
    )
    batch_size: int = knob(100, "global batch, over all workers", low=2, high=65_536, search=(50, 400), log=True)
    optimizer: str = knob("sgd", "update rule", choices=("sgd", "adamw", "lamb"), search=("sgd", "adamw"))
    lr: float = knob(0.1, "peak learning rate", low=0, open_low=True, high=100, search=(0.02, 0.3), log=True)
    min_lr: float = knob(0.0, "floor of the learning rate, as a share of lr", low=0, high=1, search=(0.0, 0.5))
    schedule: str = knob(
        "cosine",
        "learning rate after the warm-up: a cosine to min_lr, constant and at last a linear cool-down, or the first "
        "7/16 of half a cosine, which ends at a fifth",
        choices=("cosine", "trapezoid", "cosine_7_16"),
    )
    cooldown: float = knob(
        0.2, "share of the epochs in which a trapezoid cools down", low=0, open_low=True, high=1, search=(0.1, 0.5)
    )
    lr_per: str = knob("step", "when the learning rate moves on", choices=("step", "epoch"))
    warmup_epochs: float = knob(0.0, "epochs of linear warm-up", low=0, high=1000, search=(0.0, 10.0))
    momentum: float = knob(0.9, "momentum of SGD, first beta of AdamW and LAMB", low=0, high=0.9999, search=(0.8, 0.98))
    nesterov: bool = knob(False, "Nesterov momentum, of SGD")
    weight_decay: float = knob(
        1e-4, "L2 penalty of SGD, decay of AdamW and LAMB", low=0, high=1, search=(5e-5, 1e-3), log=True
    )
    decay_norms: bool = knob(True, "weight decay on biases, normalisation and position embeddings too")
    grad_clip: float = knob(0.0, "largest norm of the gradient; 0: no limit", low=0, high=1000)
    label_smoothing: float = knob(0.0, "share of every label spread evenly", low=0, high=0.9, search=(0.0, 0.2))
    backbone: str = knob(
        "resnet18", "network, ours or one of another package", choices=tuple(BACKBONES), packages=tuple(OTHERS)
    )
    stem: str = knob(
        "cifar",
        "first layers of a ResNet: 3x3 at full size, or 7x7 and pooling to a quarter",
        choices=("cifar", "imagenet"),
    )
    width: int = knob(64, "scale of all channels; 64: as published", low=1, high=1024)
    drop_path: float = knob(
        0.0, "largest probability that a block of a transformer is skipped", low=0, high=0.9, search=(0.0, 0.3)
    )
    weights: str = knob(
        "", "where training starts: nothing, a file, or library (torchvision's, timm's)", word="library"
    )
    train_size: int = knob(0, "side of the training images after the crop; 0: as stored", low=0, high=1024)
    test_size: int = knob(0, "side of the middle that is validated and tested; 0: all", low=0, high=1024)
    crop: str = knob("padded", "random crop: shifted by the padding, or of random size and resized",
                     choices=("padded", "resized"))  # fmt: skip
    crop_pad: int = knob(4, "pixels of padding before a padded crop; 0 switches it off", low=0, high=64)
    pad_mode: str = knob("zero", "what the padding holds", choices=("zero", "reflect"))
    crop_scale: float = knob(
        0.08, "smallest area of a resized crop, as a share", low=0, open_low=True, high=1, search=(0.08, 0.5)
    )
    flip: bool = knob(True, "random horizontal flip")
    color_jitter: float = knob(0.0, "largest change of brightness, contrast and colour", low=0, high=0.9)
    rand_augment: float = knob(0.0, "magnitude of RandAugment; 0 switches it off", low=0, high=10, search=(0.0, 9.0))
    rand_augment_std: float = knob(0.5, "its spread from image to image", low=0, high=10)
    rand_augment_ops: int = knob(2, "operations per image, each done with probability 1/2", low=1, high=10)
    erasing: float = knob(0.0, "probability that a box of an image is erased", low=0, high=1, search=(0.0, 0.5))
    repeated: int = knob(1, "times that an epoch shows an image, of fewer images", low=1, high=16)
    normalisation: str = knob("data", "whose mean and deviation per channel", choices=("data", "imagenet", "cifar10"))
    median_epochs: int = knob(10, "epochs at the end whose median accuracy is recorded too", low=1, high=1000)
    test_median: bool = knob(
        False,
        "test after each of these too, as published tables do; nothing is chosen by it",
    )
    amp: str = knob("auto", "bfloat16 autocast; auto: on CUDA", choices=("auto", "off", "bf16"))
    channels_last: bool = knob(True, "memory format of images and weights")
    compile: bool = knob(False, "torch.compile the network")
    batch_norm: str = knob(
        "global", "statistics over the global batch, or over each worker's share", choices=("global", "local")
    )

    def steps(self, images: int) -> int:
        """The steps of an epoch over so many images."""
        return self.steps_per_epoch or images // self.batch_size

    def sides(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the images that are trained on and of those that are tested on, stored ones as given.

        Raises:
            SpecError: a crop is larger than what it is taken from, or the backbone takes no such images.
        """
        train = (self.train_size or height, self.train_size or width)
        test = (self.test_size or height, self.test_size or width)
        room = 2 * self.crop_pad if self.crop == "padded" else math.inf
        for name, (tall, wide), extra in (("train_size", train, room), ("test_size", test, 0)):
            if tall > height + extra or wide > width + extra:
                raise SpecError(
                    f"{name} = {tall} must fit into the stored images of {height} x {width} pixels; "
                    f"use {name}={min(height, width)}, or data.size to store larger ones"
                )
            check_sides(self.backbone, tall, wide)
        if self.backbone == "deit_s" and train != test:
            raise SpecError(
                f"backbone deit_s has an embedding for each place of a patch, so train_size = {train[0]} and "
                f"test_size = {test[0]} must be equal"
            )
        return train, test
