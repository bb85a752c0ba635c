"""Which images a config trains on."""

from __future__ import annotations

import os
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from automixsearch.config.frozen import Frozen

SEVERAL = ("voc2007", "voc2012", "coco2014", "coco2017")
"""Sources whose images hold several classes; they can be looked at, not trained on."""
SOURCES = {
    "digits": "digits",
    "parquet": "parquet",
    "folder": "folder",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "tiny_imagenet": "imagenet",
    "imagenet": "imagenet",
    "cub200": "fine_grained",
    "aircraft": "fine_grained",
    "cars": "fine_grained",
    "inat2017": "inaturalist",
    "inat2018": "inaturalist",
    "places205": "places",
    **dict.fromkeys(SEVERAL, "detection"),
}
"""Every source, and its module in `automixsearch.data`, which is imported at first use: each needs another library."""
Pipeline = Literal["auto", "cache", "stream"]

UNEQUAL = ("imagenet", "cub200", "aircraft", "cars", "inat2017", "inat2018")
"""Sources whose images differ in size."""

ARRAYS = ("digits", "cifar10", "cifar100")
"""Sources that are no image files; none from outside is."""


class Data(Frozen):
    """Which images, and which part of the training set is kept for validation."""

    source: str = "digits"
    """One of `SOURCES`, or the name of one from outside, which whoever holds its plug-in checks."""
    path: str | None = None
    """Directory in which the files of the source lie; digits has none, and one from outside need not."""
    image_column: str | None = None
    label_column: str | None = None
    """Parquet columns; None: found from the schema."""
    size: int | None = Field(default=None, ge=4, le=1024)
    """Resize to size x size pixels; None: as stored."""
    resize: Literal["crop", "squash"] = "crop"
    """crop: the centre square of the image. squash: all of it, whatever its shape."""
    trim: int = Field(default=0, ge=0, le=1024)
    """Rows of pixels to cut off at the bottom before resizing."""
    orientation: Literal["stored", "exif"] = "stored"
    """stored: pixels as they lie in the file, as torchvision's loaders take them. exif: turned as EXIF says."""
    labels: float | int | str | None = None
    """Training images to keep: a share of each class, a number of each class, a file that lists them; None: all."""
    labels_seed: int = Field(default=0, ge=0, lt=2**63)
    """Which images a share or a number takes."""
    labels_draw: Literal["nested", "released"] = "nested"
    """nested: a smaller number lies within a larger one. released: the images of published semi-supervised results
    with that seed (0 to 2**32 - 1), for a number of each class."""
    unlabelled: str | None = None
    """Further training images without their labels: all, also those that have one; rest, those that have none; or a
    folder, whatever folders are in it. None: none."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """What to do about an image that is missing or cannot be decoded; skip leaves it out and counts it."""
    pipeline: Pipeline = "auto"
    """cache: images are decoded once, into memory or the cache. stream: anew for every epoch, by processes beside the
    training. auto: cache where it has room, else stream."""
    download: bool = False
    """Let torchvision download (cifar only)."""
    val_fraction: float = Field(default=0.1, gt=0, le=0.5)
    val_from: Literal["labelled", "unlabelled"] = "labelled"
    """Of which training images that share is validated. labelled: of those with a label, which are fewer to train on
    then. unlabelled: of the others, whose labels then select and yet are not among `labels`."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        # Workers and exported configs must find the data from any directory.
        return None if path is None else os.path.abspath(os.path.expanduser(path))

    @field_validator("labels", mode="before")
    @classmethod
    def _kept(cls, labels: object) -> object:
        if isinstance(labels, str) and labels:
            return cls._absolute(labels)
        legal = labels is None or (isinstance(labels, int) and labels >= 1) or (
            isinstance(labels, float) and 0 < labels < 1
        )  # fmt: skip
        if not legal or isinstance(labels, bool):
            raise ValueError(
                f"{labels!r} must be a share between 0 and 1, a number of images of each class from 1, or the path "
                "of a list; leave it out to keep all"
            )
        return labels

    @field_validator("unlabelled", mode="before")
    @classmethod
    def _beside(cls, unlabelled: object) -> object:
        if unlabelled is None or unlabelled in ("all", "rest"):
            return unlabelled
        if not isinstance(unlabelled, str) or not {"/", ".", "~"} & set(unlabelled):
            raise ValueError(
                f"{unlabelled!r} must be all, rest, or the path of a folder (for one of this directory "
                f"./{unlabelled}); leave it out for none"
            )
        return cls._absolute(unlabelled)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.source == "digits" and self.path is not None:
            raise ValueError("path is not used by source digits (it is embedded); drop it")
        arrays = self.source in ARRAYS or self.source not in SOURCES
        if self.source in SOURCES and self.source != "digits" and self.path is None:
            raise ValueError(f"path is missing; source {self.source} reads a local directory, e.g. data.path=DIR")
        if self.download and not self.source.startswith("cifar"):
            raise ValueError(f"download works for cifar10 and cifar100, not for source {self.source}; drop it")
        for name in ("image_column", "label_column"):
            if getattr(self, name) is not None and self.source != "parquet":
                raise ValueError(f"{name} works for source parquet, not for {self.source}; drop it")
        if self.size is None and self.source in UNEQUAL:
            raise ValueError(f"size is missing; the images of source {self.source} differ in size; e.g. data.size=256")
        if self.size is None and self.resize == "squash":
            raise ValueError("resize = squash has no effect without size; give one, e.g. data.size=256")
        if self.pipeline == "stream" and arrays:
            raise ValueError(f"pipeline = stream reads encoded images, and source {self.source} has none; drop it")
        if self.labels_draw == "released":
            if not isinstance(self.labels, int):
                raise ValueError("labels_draw = released is of a number of images of each class; set labels to one")
            if self.labels_seed >= 2**32:
                raise ValueError(f"labels_seed = {self.labels_seed} must be below 2**32 with labels_draw = released")
        if self.val_from == "unlabelled" and (self.unlabelled not in ("all", "rest") or self.labels is None):
            raise ValueError("val_from = unlabelled needs labels, and unlabelled = all or rest; add them, or drop it")
        for name in ("size", "labels", "trim", "unlabelled"):
            if getattr(self, name) and self.source in SEVERAL:
                raise ValueError(f"{name} is for images with one class, and source {self.source} has several; drop it")
        for name in ("trim", "orientation"):
            if getattr(self, name) != type(self).model_fields[name].default and arrays:
                raise ValueError(f"{name} works for image files, and source {self.source} has none; drop it")
        return self
