"""Somebody's network as it is, in the place of a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from automixsearch.errors import TrainingError
from automixsearch.models.base import Backbone, Change
from automixsearch.models.class_attention import attended, attention_of
from automixsearch.models.tapped import found_tap


class Hooked(Backbone):
    """A network whose hidden features are mixed by hooks; nothing of it is changed.

    stages: for each name of a stage (stem, stage1, ...) the name of the module after which it ends.
    """

    def __init__(self, model: nn.Module, stages: Mapping[str, str]) -> None:
        super().__init__()
        self.model, self.ends, self.modes = model, dict(stages), list[tuple[nn.Module, bool]]()
        modules = dict(model.named_modules())
        for stage, name in self.ends.items():
            if name not in modules:
                raise TrainingError(
                    f"stages: {stage} = {name!r} is no module of {type(model).__name__}; see its named_modules()"
                )

    def train(self, mode: bool = True) -> Self:
        """Evaluation leaves the parts that are in that mode already as they are, whatever follows."""
        if not mode:
            self.modes = [(module, module.training) for module in self.modules()]
            return super().train(False)
        for module, training in self.modes:
            module.training = training
        self.modes = []
        return self

    def embedded(self, x: Tensor, stage: str = "input", change: Change | None = None) -> Tensor:
        raise NotImplementedError

    def features(self, x: Tensor, stage: str) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, stage: str = "input", change: Change | None = None) -> Tensor:
        if change is None:
            return logits_of(self.model(x))
        return self._changed(x, self.ends[stage], change)

    # Hooks come and go, which compiled code does not see.
    @torch.compiler.disable()
    def _changed(self, x: Tensor, name: str, change: Change) -> Tensor:
        def hook(_: nn.Module, __: object, output: Any) -> Tensor:
            tap = found_tap(name, output, self.model)
            if tap is None:
                raise TrainingError(
                    f"stages: module {name!r} puts out no square map and no tokens of one; name another"
                )
            return tap.with_map(output, change(tap.map(output)))

        handle = self.model.get_submodule(name).register_forward_hook(hook)
        try:
            return logits_of(self.model(x))
        finally:
            handle.remove()

    def check_attended(self) -> None:
        if attention_of(self.model) is None:
            super().check_attended()

    @torch.compiler.disable()
    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.check_attended()
        module: Any = attention_of(self.model)
        return attended(module, lambda: logits_of(self.model(x)))


def logits_of(output: Any) -> Tensor:
    """The logits [B, K] in what a network puts out: themselves, or an object that has them."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise TrainingError(f"the network puts out {type(output).__name__}, and logits [B, K] are needed")
    return logits
