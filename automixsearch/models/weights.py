"""Weights that a network starts from: our own files, torchvision's files, torchvision's library."""

from __future__ import annotations

import logging
import os
import re

import torch
from torch import Tensor

from automixsearch.archives import check_records
from automixsearch.errors import DataError, SpecError, remedy
from automixsearch.models.base import Backbone
from automixsearch.models.library import timm_weights
from automixsearch.models.registry import BACKBONES
from automixsearch.models.tapped import Tapped

LIBRARY = {name: network.library for name, network in BACKBONES.items() if network.library}
"""Our backbones that torchvision has weights for, and its name for them."""


def load_weights(model: Backbone, source: str, backbone: str) -> bool:
    """Load a file (a state_dict with our names or torchvision's), or torchvision's weights of ImageNet (`library`).

    Returns:
        Whether the head came along; it stays as it is where its number of classes differs, which is logged.

    Raises:
        SpecError: the file holds no weights, or those of another network.
        DataError: there is no such file, or it cannot be read or fetched.
    """
    name, state = _library(model, backbone) if source == "library" else (source, _read(source))
    renamed = {_ours(model, key): value for key, value in state.items()}
    own = model.state_dict()
    there, here = len(renamed.get("head.bias", ())), len(own["head.bias"])
    if there != here:
        renamed |= {key: own[key] for key in ("head.weight", "head.bias")}
    # Files from before PyTorch 0.4.1 do not count batches.
    renamed = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")} | renamed
    wrong = [key for key in sorted(own.keys() | renamed.keys()) if _shape(own, key) != _shape(renamed, key)]
    if wrong:
        listed = "; ".join(f"{key}: {_shape(renamed, key)} there, {_shape(own, key)} here" for key in wrong[:3])
        raise SpecError(
            f"weights = {name}: another network than backbone {backbone} with these knobs (stem, width) and images: "
            f"{len(wrong)} parameters differ: {listed}"
        )
    model.load_state_dict(renamed)
    if there != here:
        logging.getLogger(__name__).warning(
            "weights = %s: a head of %d classes there, of %d here: the head starts anew", name, there, here
        )
    return there == here


def read_head(model: Backbone, source: str, backbone: str) -> tuple[Tensor, Tensor]:
    """Weight [S, D] and bias [S] of the head in a file or in the library's weights, whatever its number of classes.

    Raises:
        SpecError: there is none, or one for other features.
    """
    name, state = _library(model, backbone) if source == "library" else (source, _read(source))
    renamed = {_ours(model, key): value for key, value in state.items()}
    weight, bias = renamed.get("head.weight"), renamed.get("head.bias")
    features = model.head.in_features
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != features:
        found = "none" if weight is None else f"one of {' x '.join(map(str, weight.shape))}"
        raise SpecError(f"weights = {name}: needs a head for {features} features, with a bias, and has {found}")
    return weight.float(), bias.float()


def _ours(model: Backbone, key: str) -> str:
    for pattern, name in model.theirs:
        key = re.sub(pattern, name, key)
    return key


def _shape(state: dict[str, Tensor], key: str) -> str:
    return " x ".join(map(str, state[key].shape)) or "number" if key in state else "missing"


def _read(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise DataError(f"weights = {path}: no such file; check the path")
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":  # files of PyTorch before 1.6 are no archives, and have no checksums
                check_records(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"weights = {path}: cannot be read: {error.strerror or error}; {remedy(error)}") from None
    except Exception as error:  # torch raises many types for what it did not write
        reason = " ".join(str(error).split())[:200]
        raise SpecError(
            f"weights = {path}: cannot be read: {reason}; give what train --out or torchvision saves"
        ) from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise SpecError(f"weights = {path}: holds no state_dict; give what train --out or torchvision saves")
    return state


def _library(model: Backbone, backbone: str) -> tuple[str, dict[str, Tensor]]:
    package, _, name = backbone.partition("/")
    if package == "timm":
        assert isinstance(model, Tapped)
        return timm_weights(name, model.channels, model.side)
    if package == "own" or (not name and backbone not in LIBRARY):
        raise SpecError(
            f"weights = library: torchvision has none for backbone {backbone}, only for {', '.join(LIBRARY)}; "
            "give a file"
        )
    from torchvision.models import get_model_weights

    known = get_model_weights(name or LIBRARY[backbone])
    # What published tables of fine-tuning start from; a few networks have others only.
    weights = known["IMAGENET1K_V1"] if "IMAGENET1K_V1" in known.__members__ else known["DEFAULT"]
    file = os.path.basename(weights.url)
    cache = os.path.join(torch.hub.get_dir(), "checkpoints", file)
    try:
        return file, dict(weights.get_state_dict(progress=False, check_hash=True))
    except Exception as error:  # no network, a broken file: of many types
        raise DataError(
            f"weights = library: cannot have {file} ({error}); fetch {weights.url} and put it at {cache}"
        ) from None
