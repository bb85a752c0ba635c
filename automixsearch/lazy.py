"""Torch, imported at first use.

Mixers and losses declare their knobs beside their arithmetic, and the command line reads those knobs; importing
torch (seconds) must not be the price of `automixsearch mixers`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        from importlib import import_module

        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)  # the next access is an ordinary attribute
        return value


torch: Any = _Lazy("torch")
functional: Any = _Lazy("torch.nn.functional")
