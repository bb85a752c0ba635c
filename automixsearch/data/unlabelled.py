"""Images whose classes are not used: all of a training part, what of it has no label, or those of a folder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automixsearch.data.base import ImageSet, Part, Unlabelled
from automixsearch.data.files import Labelled, Left, Listing, images_in, nearest
from automixsearch.data.labels import kept
from automixsearch.errors import DataError
from automixsearch.visible import visible

if TYPE_CHECKING:
    from automixsearch.config.data import Data

SEEN = 16
"""Images of a folder that stand for a test part, which every set has and this one does not need."""


def listed(folder: str) -> Listing:
    """All images below a folder, whatever folders they lie in.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    root, left = Path(folder), Left()
    if not root.is_dir():
        raise DataError(f"{visible(root)}: no such folder{nearest(root)}; check data.unlabelled")
    paths = images_in(root, left)
    if not paths:
        raise DataError(f"{visible(root)}: holds no image (.png, .jpg, ...); check data.unlabelled")
    train, test = (Labelled(part, np.zeros(len(part), np.int64)) for part in (paths, paths[:SEEN]))
    return Listing(root.name, train, test, ("any", "none"), (), left.notes)


def settings(data: Data, whole: ImageSet) -> Data:
    """How the images of a folder become those that go with the set `whole`: as its own, and of its size."""
    height, width = whole.train.images.shape[1:3]
    plain = type(data).model_fields
    same = {name: getattr(data, name) for name in ("resize", "trim", "orientation", "on_bad_image", "pipeline")}
    size = height if height == width else data.size
    defaults = {name: plain[name].default for name in ("labels", "unlabelled", "image_column", "label_column")}
    return data.model_copy(update={"source": "folder", "path": data.unlabelled, "size": size, **same, **defaults})


def divided(whole: ImageSet, data: Data, paths: Sequence[str] | None, folder: Callable[[], ImageSet]) -> ImageSet:
    """The set with the labels that `data.labels` keeps, and the unlabelled images that `data.unlabelled` names.

    Args:
        whole: the set with all of its labels. paths: of its training images, where they are files. folder: gives the
            images of the folder, where one is named.

    Raises:
        DataError: nothing is left without a label; the images of the folder are of another kind.
    """
    if whole.skipped and isinstance(data.labels, str):
        raise DataError(
            f"{data.labels}: lists images of {whole.name} by place, and {whole.skipped} bad ones are left out; remove "
            "them, or set data.labels to a number or a share"
        )
    chosen = kept(whole.train.labels, whole.classes, data, whole.name, paths)
    train, notes = whole.train.taken(chosen), whole.notes
    labelled: np.ndarray | None = None
    if data.unlabelled in ("all", "rest"):
        if data.unlabelled == "rest" and len(chosen) == len(whole.train):
            raise DataError(
                f"{whole.name}: data.unlabelled=rest leaves nothing, as all {len(chosen)} training images keep their "
                "labels; set data.labels to how many do, or use data.unlabelled=all"
            )
        known, mark = chosen, str(data.unlabelled)
        if data.val_from == "unlabelled":
            train, labelled, known, mark = whole.train, chosen, np.arange(len(whole.train)), f"{mark}, validated"
        beside = Unlabelled(whole.train, known, data.unlabelled == "all")
    else:
        other = folder()
        shape, theirs = (made.train.images.shape[1:] for made in (whole, other))
        if shape != theirs:
            raise DataError(
                f"{visible(data.unlabelled or '')}: unlabelled images are {theirs} (height, width, channels) and those "
                f"of {whole.name} {shape}; both must agree: convert them, or give data.size"
            )
        unknown = Part(other.train.images, np.full(len(other.train), -1))
        beside, mark = Unlabelled(unknown, np.full(len(chosen), -1), True), other.fingerprint
        notes += tuple(f"unlabelled: {note}" for note in other.notes if "test images are" not in note)
    made = dataclasses.replace(whole, train=train, unlabelled=beside, labelled=labelled, notes=notes)
    digest = hashlib.sha256(f"{whole.fingerprint} {mark} ".encode() + chosen.astype("<i8").tobytes())
    vars(made)["fingerprint"] = digest.hexdigest()[:16]  # where cached_property keeps it
    return made
