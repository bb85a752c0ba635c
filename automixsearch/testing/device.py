"""A GPU that is not there: tensors on it have shapes and no values, and whatever needs their values is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RoundTrip(Exception):
    """The host would have waited for the device."""


class _Device(TorchDispatchMode):
    """Keeps what happens on the host real, and where `watches`, watches what passes between host and device."""

    def __init__(self, watches: bool = True) -> None:
        super().__init__()
        self.watches = watches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [isinstance(tensor, FakeTensor) for tensor in tensors]
        wanted = kwargs.get("device")
        if not any(there) and (wanted is None or torch.device(wanted).type == "cpu"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        name = func.overloadpacket.__name__ if self.watches else ""
        if name == "_to_copy" and any(there) and wanted is not None and torch.device(wanted).type == "cpu":
            raise RoundTrip("a tensor is copied to the host")
        if name == "_to_copy" and not any(there) and not kwargs.get("non_blocking"):
            raise RoundTrip("a tensor is copied to the device, and the host waits for it: use non_blocking=True")
        if name in ("index", "index_put", "index_put_") and not all(there):
            raise RoundTrip("a tensor on the device is indexed by one on the host")
        return func(*args, **kwargs)


@contextmanager
def without_values(module: torch.nn.Module) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Take the values from what `module` holds, on the CPU, and give a function that takes them from a tensor.

    As `fake_device`, for backward passes on any machine; where tensors lie is not watched.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for part in module.modules():
            held: dict[str, Any]
            for held in (part._parameters, part._buffers):  # pyright: ignore[reportAssignmentType]
                held.update({name: mode.from_tensor(value) for name, value in held.items() if value is not None})
        with _Device(watches=False):
            yield mode.from_tensor


@contextmanager
def fake_device() -> Iterator[torch.device]:
    """The device `cuda`; where host code needs a value, or a shape that depends on values, an error is raised."""
    with FakeTensorMode(allow_non_fake_inputs=True), _Device():
        yield torch.device("cuda")


def can_go_backward() -> bool:
    """Whether torch makes backward passes of fake tensors on `cuda`: builds for CUDA need a GPU for it."""
    return torch.version.cuda is None or torch.cuda.is_available()
