"""Networks from outside: a class or function that gives an `nn.Module`, whose stages are found or named."""

from __future__ import annotations

from typing import Any

from torch import nn

from automixsearch.errors import SpecError, unknown
from automixsearch.models.base import Backbone
from automixsearch.models.library import ends_of
from automixsearch.models.registry import stage_names
from automixsearch.models.tapped import Tapped
from automixsearch.registry import Plugin, load


def from_outside(plugin: Plugin, in_channels: int, num_classes: int, side: int, **obeyed: Any) -> Backbone:
    """The network of a plug-in for images of side x side pixels: [B, C, H, W] -> logits [B, K].

    Its stages end where the resolution of what its parts put out changes, or, where the network has an attribute
    `stages`, at the modules that are named there, in order. A `Backbone` is taken as it is.

    Raises:
        SpecError: the code raises, gives no module, or gives one that cannot be a backbone.
    """
    sized = {"side": side} if "side" in plugin.facts["takes"] else {}
    made = load(plugin)
    try:
        network = made(in_channels=in_channels, num_classes=num_classes, **sized, **obeyed)
        if isinstance(network, Backbone):
            return network
        if not isinstance(network, nn.Module):
            raise TypeError(f"it gave a {type(network).__name__} and must give an nn.Module")
        ends = ends_of(network, side, in_channels, "cpu")
    except Exception as error:  # of any type
        raise SpecError(
            f"backbone {plugin.value} cannot be built for images of {side} pixels with {in_channels} channels: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; mend {plugin.ref}"
        ) from error
    named = getattr(network, "stages", None)
    if isinstance(named, tuple | list):
        modules = dict(network.named_modules())
        for name in named:
            if name not in modules:
                raise SpecError(f"backbone {plugin.value}: stages: {unknown('module', name, modules)}")
        ends = dict(zip(stage_names(len(named))[1:], named, strict=True))
    return Tapped(plugin.value, network, ends, side, in_channels)
