"""Any network as a backbone: hooks at the ends of its stages take features, or change them on the way.

What can be tapped is found by one pass of two images of noise: a module that is called once and puts out a map
[B, C, h, w], a map [B, h, w, C], or tokens [B, N, C] that are a square map after some tokens of their own.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from automixsearch.errors import SpecError
from automixsearch.models.base import Backbone, Change
from automixsearch.models.class_attention import attended, attention_of
from automixsearch.models.conv1x1 import Conv1x1
from automixsearch.models.registry import NO_CLASS_TOKEN, stage_names


@dataclass(frozen=True)
class Tap:
    """The end of a stage.

    module: its name in the network. channels, side: of its map. layout: `maps` [B, C, h, w], `last` [B, h, w, C] or
    `tokens` [B, N, C]. mixed: the rest of the network reads this map, and nothing of the image beside it but tokens
    of its own.
    """

    module: str
    channels: int
    side: int
    layout: str = "maps"
    mixed: bool = True

    def map(self, output: Tensor) -> Tensor:
        """The map [B, C, h, w] in what the module puts out."""
        if self.layout == "maps":
            return output
        if self.layout == "last":
            return output.movedim(3, 1)
        return output[:, -(self.side**2) :].transpose(1, 2).unflatten(2, (self.side, self.side))

    def with_map(self, output: Tensor, features: Tensor) -> Tensor:
        """`output` with another map."""
        if self.layout == "maps":
            return features
        if self.layout == "last":
            return features.movedim(1, 3)
        return torch.cat([output[:, : -(self.side**2)], features.flatten(2).transpose(1, 2)], 1)


class _Reached(Exception):
    """Ends a pass after the stage that is asked for."""


class Tapped(Backbone):
    """A network with a linear classifier as a backbone: [B, C, H, W] -> logits [B, K].

    Args:
        title: its name in messages. network: it keeps its parameters and names, but that its classifier becomes `head`
            and its strided 1x1 convolutions are `Conv1x1`. ends: the modules at which stages can end, in order, each
            with how often it is smaller than the image; or by stage the module at which it ends. side, channels: of
            the images.

    Raises:
        SpecError: the network does not take such images, or does not end in one linear layer.
    """

    def __init__(
        self,
        title: str,
        network: nn.Module,
        ends: Sequence[tuple[str, float]] | Mapping[str, str],
        side: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.title, self.network, self.channels, self.side = title, network, channels, side
        for module in network.modules():
            if type(module) is nn.Conv2d:
                make_dense(module)
        x = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
        training = [(module, module.training) for module in network.modules()]
        network.eval()
        name, self.head, logits = self._behead(x)
        self.head_name = name
        self.theirs = (
            (rf"^{re.escape(name)}\.(?=weight$|bias$)", "head."),
            (r"^(?!network\.|head\.(?:weight|bias)$)", "network."),
        )
        self.taps = self._taps(ends if isinstance(ends, Mapping) else stages_of(ends), x, logits)
        for module, mode in training:
            module.training = mode
        self.widths = {stage: tap.channels for stage, tap in self.taps.items()}
        attention = attention_of(network)
        self.attention = next((name for name, one in network.named_modules() if one is attention), None)

    def _behead(self, x: Tensor) -> tuple[str, nn.Linear, Tensor]:
        """Take the classifier out; its name, the classifier itself, and the logits of `x`."""
        called: list[tuple[str, nn.Linear, Tensor, Tensor]] = []

        def note(name: str) -> Callable[..., None]:
            def hook(module: nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
                called.append((name, module, args[0], output))

            return hook

        linear = [(name, module) for name, module in self.network.named_modules() if isinstance(module, nn.Linear)]
        handles = [module.register_forward_hook(note(name)) for name, module in linear]
        try:
            with torch.no_grad():
                logits = self.network(x)
        except Exception as error:  # of any type
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SpecError(
                f"backbone {self.title} does not take images of {x.shape[2]} x {x.shape[3]} pixels with {x.shape[1]} "
                f"channels: {reason}; use the size that it was made for (data.size or train_size), or another backbone"
            ) from None
        finally:
            for handle in handles:
                handle.remove()
        for name, module, seen, output in reversed(called):
            plain = module.bias is not None and seen.ndim == 2 and torch.equal(output, logits)
            if plain and torch.equal(functional.linear(seen, module.weight, module.bias), logits):
                self.network.set_submodule(name, nn.Identity())
                return name, module, logits
        raise SpecError(
            f"backbone {self.title} does not end in one linear layer, with a bias, that reads a vector for each image; "
            "use another backbone"
        )

    def _taps(self, wanted: Mapping[str, str], x: Tensor, logits: Tensor) -> dict[str, Tap]:
        """What of the `wanted` stages, by name of their module, can be tapped."""
        called: list[str] = []
        taps: dict[str, Tap] = {}
        outputs: list[Tensor] = []
        leaves = [x.clone().requires_grad_()]

        def cut(stage: str, module: str) -> Callable[..., Any]:
            def hook(_: nn.Module, __: object, output: Any) -> Any:
                called.append(stage)
                tap = found_tap(module, output, self.network)
                if tap is None:
                    return None
                taps[stage] = tap
                outputs.append(output)
                leaves.append(output.detach().requires_grad_())
                return leaves[-1].clone()  # what follows may change it in place

            return hook

        modules = dict(self.network.named_modules())
        there = {stage: name for stage, name in wanted.items() if name in modules}
        handles = [modules[name].register_forward_hook(cut(stage, name)) for stage, name in there.items()]
        try:
            with torch.enable_grad():
                outputs.append(self.network(leaves[0]))
        finally:
            for handle in handles:
                handle.remove()
        assert torch.allclose(self.head(outputs[-1]), logits, rtol=1e-3, atol=1e-4), self.title
        if len(called) > len(set(called)):  # what is called again is no end of a stage
            once = {stage: name for stage, name in there.items() if called.count(stage) == 1}
            return self._taps(once, x, logits)
        stages = list(taps)
        mixed = dict.fromkeys(stages, True)
        for number, output in enumerate(outputs):
            direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(number))
            seen = torch.autograd.grad(output, leaves[: number + 1], direction, retain_graph=True, allow_unused=True)
            for place, gradient in enumerate(seen[:-1]):
                if gradient is not None and gradient.any():  # it goes around all stages between
                    mixed |= dict.fromkeys(stages[place:number], False)
            if number:
                before, gradient = stages[number - 1], seen[-1]
                mixed[before] &= gradient is not None and bool(taps[before].map(gradient).any())
        return {stage: replace(tap, mixed=mixed[stage]) for stage, tap in taps.items()}

    def whole(self) -> nn.Module:
        """A copy of the network in the form that it came in, with its classifier."""
        network = copy.deepcopy(self.network)
        network.set_submodule(self.head_name, copy.deepcopy(self.head))
        return network

    def features(self, x: Tensor, stage: str) -> Tensor:
        self.check_stage(stage)
        return self._tapped(x, stage)

    def embedded(self, x: Tensor, stage: str = "input", change: Change | None = None) -> Tensor:
        if change is None:
            return self.network(x)
        self.check_stage(stage, mixed=True)
        return self._changed(x, stage, change)

    # Hooks come and go, which compiled code does not see: what they look at is not compiled.
    @torch.compiler.disable()
    def _tapped(self, x: Tensor, stage: str) -> Tensor:
        tap, found = self.taps[stage], []

        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            found.append(output)
            raise _Reached

        try:
            with _hooked(self.network.get_submodule(tap.module), hook):
                self.network(x)
        except _Reached:
            pass
        return tap.map(found[0])

    @torch.compiler.disable()
    def _changed(self, x: Tensor, stage: str, change: Change) -> Tensor:
        tap = self.taps[stage]

        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            return tap.with_map(output, change(tap.map(output)))

        with _hooked(self.network.get_submodule(tap.module), hook):
            return self.network(x)

    def check_attended(self) -> None:
        if self.attention is None or not self.taps or next(reversed(self.taps.values())).layout != "tokens":
            raise SpecError(f"backbone {self.title} {NO_CLASS_TOKEN}")

    @torch.compiler.disable()
    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.check_attended()
        return attended(self.network.get_submodule(str(self.attention)), lambda: self(x))

    def check_stage(self, stage: str, mixed: bool = False) -> None:
        here = {name: tap for name, tap in self.taps.items() if tap.mixed or not mixed}
        if stage not in here:
            listed = ", ".join(f"{name} ({tap.module}, {tap.channels} channels)" for name, tap in here.items())
            word = "mixed at" if mixed else "tapped at"
            can = ", ".join(filter(None, ("input" if mixed else "", listed)))
            raise SpecError(
                f"backbone {self.title} cannot be {word} {stage}, "
                + (f"only {word} {can}; use one of these, or another backbone" if can else "nor anywhere; use another")
            )


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def make_dense(convolution: nn.Conv2d) -> None:
    """Turn a strided 1x1 convolution, in place, into `Conv1x1`, which is the same function."""
    strides = set(convolution.stride)
    if convolution.kernel_size == (1, 1) and strides != {1} and len(strides) == 1 and convolution.padding == (0, 0):
        convolution.__class__ = Conv1x1
        convolution.step = strides.pop()  # type: ignore[assignment]
        convolution.stride = (1, 1)


def stages_of(ends: Sequence[tuple[str, float]]) -> dict[str, str]:
    """The stages among the modules at which some can end, each with how often its map is smaller than the image.

    A stage ends where a resolution does: the last four are stage1 to stage4, the one before is the stem. A network of
    one resolution has its stages after a sixth, a third, half and all of its modules, as our DeiT has.
    """
    last = {reduction: name for name, reduction in ends}
    if len(last) > 1:
        names = list(last.values())
        return dict(zip(stage_names(4)[-min(len(names), 5) :] if len(names) > 4 else stage_names(len(names))[1:],
                        names[-5:], strict=True))  # fmt: skip
    modules = [name for name, _ in ends]
    places = sorted({math.ceil(len(modules) * share) for share in (1 / 6, 1 / 3, 1 / 2, 1)}) if modules else []
    return dict(zip(stage_names(len(places))[1:], (modules[place - 1] for place in places), strict=True))


def found_tap(module: str, output: Any, network: nn.Module) -> Tap | None:
    """What the output of a module is as the end of a stage; None: no map is to be had from it."""
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4:
        last = channels_last(network)
        height, width, channels = output.shape[1:] if last else (*output.shape[2:], output.shape[1])
        return Tap(module, channels, height, "last" if last else "maps") if height == width else None
    if output.ndim == 3:
        for prefix in (getattr(network, "num_prefix_tokens", 0), 0, 1, 2):
            side = math.isqrt(max(output.shape[1] - prefix, 0))
            if side and side**2 + prefix == output.shape[1]:
                return Tap(module, output.shape[2], side, "tokens")
    return None


def channels_last(network: nn.Module) -> bool:
    """Whether maps go through a network as [B, h, w, C]: timm's say so, of torchvision's the Swin transformers do."""
    return getattr(network, "output_fmt", "NCHW") == "NHWC" or type(network).__name__ == "SwinTransformer"
