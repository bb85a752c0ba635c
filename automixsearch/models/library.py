"""Networks of timm and torchvision, by their names there: `timm/NAME`, `torchvision/NAME`."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from automixsearch.errors import DataError, SpecError
from automixsearch.models.tapped import Tapped, channels_last

SIDE = 224
"""Pixels of the images by which the stages of torchvision's networks are told apart."""
SIZED = {"vit_": "image_size", "maxvit_": "input_size"}
"""torchvision's networks that are built for one size of images, and their argument for it."""


def from_timm(name: str, in_channels: int, num_classes: int, side: int, drop_path: float = 0.0) -> Tapped:
    """A network of timm for images of side x side pixels; its stages are those of its `feature_info`.

    Raises:
        SpecError: there is none of that name, or it cannot be a backbone.
    """
    skipped = {"drop_path_rate": drop_path} if drop_path else {}
    network: Any = _create(name, in_channels, side, num_classes=num_classes, **skipped)
    info = getattr(network, "feature_info", None) or []
    ends = [(one["module"], one["reduction"]) for one in getattr(info, "info", info)]
    return Tapped(f"timm/{name}", network, ends, side, in_channels)


def _create(name: str, in_channels: int, side: int, **given: Any) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise SpecError(_unknown("timm", name, timm.list_models()))
    known = timm.get_pretrained_cfg(name)
    sized = {"img_size": side} if known is not None and known.fixed_input_size else {}
    try:
        return timm.create_model(name, in_chans=in_channels, **sized, **given)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if "pretrained" in given:
            raise
        if "drop_path_rate" in str(error):
            raise SpecError(f"drop_path has no effect with backbone timm/{name}; drop it") from None
        reason = " ".join(str(error).split())[:200]
        raise SpecError(
            f"backbone timm/{name} cannot be built for images of {side} pixels with {in_channels} channels: {reason}; "
            "use another size (data.size or train_size), or another backbone"
        ) from None


def timm_weights(name: str, in_channels: int, side: int) -> tuple[str, dict[str, Tensor]]:
    """The weights that timm has for a network, from its cache or else fetched, fitted to such images; their name there
    comes first.

    Raises:
        SpecError: timm has none. DataError: they are not in the cache and cannot be fetched.
    """
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    known = timm.get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        raise SpecError(f"weights = library: timm has none for {name}; give a file, or use another backbone")
    title = str(known.hf_hub_id or known.url)
    place = try_to_load_from_cache(known.hf_hub_id, "model.safetensors") if known.hf_hub_id else None
    # The hub is asked only for what is not here: without a network that takes a minute.
    overlay = {"pretrained_cfg_overlay": {"file": place}} if isinstance(place, str) else {}
    try:
        with torch.random.fork_rng(devices=[]):
            network = _create(name, in_channels, side, pretrained=True, **overlay)
    except Exception as error:  # no network, a broken file, another size: of many types
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"weights = library: cannot have timm's {title} ({reason}); where there is a network, "
            f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\" puts them into the cache of the "
            f"hub, here {constants.HF_HUB_CACHE}; copy it here, or give a file"
        ) from None
    return title, network.state_dict()


def from_torchvision(name: str, in_channels: int, num_classes: int, side: int) -> Tapped:
    """A network of torchvision; its stages end where the resolution of what its parts put out changes.

    Raises:
        SpecError: there is none of that name, or it cannot be a backbone.
    """
    from torchvision import models

    if name not in models.list_models(module=models):
        raise SpecError(_unknown("torchvision", name, models.list_models(module=models)))
    given: dict[str, Any] = {argument: side for begin, argument in SIZED.items() if name.startswith(begin)}
    if "input_size" in given:
        given["input_size"] = (side, side)
    if name in ("googlenet", "inception_v3"):
        given |= {"aux_logits": False, "init_weights": True}
    try:
        network = models.get_model(name, num_classes=num_classes, **given)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError(
            f"backbone torchvision/{name} cannot be built for images of {side} pixels: {reason}; use another size "
            "(data.size or train_size), or another backbone"
        ) from None
    ends = ends_of(network, side if given.keys() & set(SIZED.values()) else SIDE)
    if in_channels != 3:
        _take_channels(network, in_channels)
    return Tapped(f"torchvision/{name}", network, ends, side, in_channels)


def _take_channels(network: nn.Module, channels: int) -> None:
    """Let the first convolution read images of so many channels."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            shape: Any = (module.kernel_size, module.stride, module.padding)
            network.set_submodule(name, nn.Conv2d(channels, module.out_channels, *shape, bias=module.bias is not None))
            return


def ends_of(network: nn.Module, side: int, channels: int = 3, device: str = "meta") -> list[tuple[str, float]]:
    """The parts of a network that put out maps or tokens, in order, each with how often these are smaller."""
    sizes: list[tuple[str, float]] = []
    bare = copy.deepcopy(network).to(device).eval()
    last = channels_last(network)

    def note(part: str) -> Any:
        def hook(_: nn.Module, __: object, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (3, 4):
                height = math.isqrt(output.shape[1]) if output.ndim == 3 else output.shape[1 if last else 2]
                if height > 1 or output.ndim == 3:  # one pixel is what was pooled
                    sizes.append((part, side / height))

        return hook

    for part, module in _parts(bare):
        module.register_forward_hook(note(part))
    with torch.no_grad():
        bare(torch.zeros(2, channels, side, side, device=device))
    return sizes


BODIES = ("features", "layers", "trunk_output", "blocks", "encoder.layers")


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a network up to its body, and those of its body; all but pooling where it has none."""
    modules = dict(network.named_modules())
    body = next((name for name in BODIES if name in modules), None)
    for name, module in network.named_children():
        if body is not None and body.partition(".")[0] == name:
            yield from ((f"{body}.{inner}", part) for inner, part in modules[body].named_children())
            return
        if "AdaptiveAvgPool" not in type(module).__name__:
            yield name, module


def _unknown(library: str, name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, 5, 0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"see {library}'s list_models()"
    return f"backbone {library}/{name}: {library} has no network of that name; {hint}"
