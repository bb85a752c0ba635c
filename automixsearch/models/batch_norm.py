"""BatchNorm over the global batch of several workers, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from automixsearch.errors import SpecError


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics cover the batches of all workers: [B, C, H, W] -> the same.

    With equal shares this gives every worker what one worker would compute on the whole batch, so the number of
    workers does not change a result. torch's SyncBatchNorm does the same on CUDA only; this one needs nothing but
    all_reduce. The variance is taken around the global mean (two reductions), not as E[x^2] - E[x]^2, which
    loses digits.
    """

    def forward(self, input: Tensor) -> Tensor:
        x = input
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        dims, wide = (0, 2, 3), x.float()
        count = wide.numel() // wide.shape[1] * dist.get_world_size()
        mean = all_reduce(wide.sum(dims)) / count
        centred = wide - mean[:, None, None]
        var = all_reduce(centred.square().sum(dims)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = 0.1 if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * (count / max(count - 1, 1)), momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class GlobalBatchNormAct2d(GlobalBatchNorm2d):
    """The same of timm's BatchNormAct2d, which drops and activates what it has normalised."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let passes in training mode normalise by their batches and leave the running statistics of `model` alone."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in norms:
            module.track_running_stats = True


def make_global(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d of `model`, in place, by one over the global batch; weights and statistics stay.

    Raises:
        SpecError: there is a BatchNorm of another type.
    """
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
        elif type(module).__name__ == "BatchNormAct2d":
            module.__class__ = GlobalBatchNormAct2d
        elif isinstance(module, _BatchNorm) and not isinstance(module, GlobalBatchNorm2d):
            raise SpecError(
                f"{name} is a {type(module).__name__}, whose statistics several workers cannot share; use "
                "batch_norm=local, or one worker"
            )
    return model
