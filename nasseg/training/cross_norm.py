"""BatchNorm over a batch that lies in several processes.

On CUDA devices these are torch's SyncBatchNorm layers. Those do not run on a CPU, where the same is computed here from two sums over the
processes: with n values a channel in all, mean = Σ x / n, then var = Σ (x - mean)² / n. Gradients go back through both sums, so that they
are those of one process with the whole batch. Statistics kept for evaluation take var · n / (n - 1), as everywhere in torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from nasseg.errors import ConfigError, Problem


class Summed(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum over all processes of theirs."""

    @staticmethod
    @override
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def summed(values: Tensor) -> Tensor:
    """:class:`Summed`, typed."""
    result: Tensor = Summed.apply(values)
    return result


# Collectives are not part of a compiled graph.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def normalise(norm: _BatchNorm, x_BCHW: Tensor) -> Tensor:
    """What ``norm`` makes of this process's share of a batch in training; moves its statistics."""
    dims = [0, *range(2, x_BCHW.ndim)]
    x = x_BCHW.float()
    shape = [1, -1] + [1] * (x.ndim - 2)
    count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
    sums = summed(torch.cat([x.sum(dims), count]))
    n = sums[-1].detach()
    mean_C = sums[:-1] / n
    centred = x - mean_C.view(shape)
    var_C = summed(centred.square().sum(dims)) / n
    scale_C = (var_C + norm.eps).rsqrt()
    if norm.affine:
        scale_C = scale_C * norm.weight
    y = centred * scale_C.view(shape)
    if norm.affine:
        y = y + norm.bias.view(shape)
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean_C, share)
            norm.running_var.lerp_(var_C * n / (n - 1).clamp_min(1), share)
    return y.to(x_BCHW.dtype)


class CrossBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all processes."""

    @override
    def forward(self, x_BCHW: Tensor) -> Tensor:
        return normalise(self, x_BCHW) if self.training else super().forward(x_BCHW)


class CrossBatchNormAct2d(BatchNormAct2d):  # type: ignore[misc]
    """timm's BatchNorm with an activation behind it, over the batches of all processes."""

    @override
    def forward(self, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(normalise(self, x_BCHW))) if self.training else super().forward(x_BCHW)
        return y


ACROSS: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm2d: CrossBatchNorm2d, BatchNormAct2d: CrossBatchNormAct2d}


def norm_across(model: nn.Module, device: torch.device) -> int:
    """Let every BatchNorm of ``model`` take the statistics of the whole batch; returns how many there are.

    Weights, statistics and their names stay. Raises :class:`ConfigError` for a kind of BatchNorm that cannot be turned.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    strange = sorted({type(norm).__name__ for norm in norms if type(norm) not in ACROSS})
    if strange:
        raise ConfigError(Problem("trainer", "sync_bn", f"{', '.join(strange)} cannot take its statistics over processes", True, False))
    if device.type == "cuda":
        convert_sync_batchnorm(model)
    else:
        for norm in norms:
            # The class alone changes: parameters, hooks and the frozen ones' mode stay what they are.
            norm.__class__ = ACROSS[type(norm)]  # type: ignore[assignment]
    return len(norms)


@contextlib.contextmanager
def norms_at_rest(model: nn.Module) -> Iterator[None]:
    """Inside the block no BatchNorm reads the batch or moves its statistics: a pass of one process waits for no other."""
    awake = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for norm in awake:
        norm.training = False
    try:
        yield
    finally:
        for norm in awake:
            norm.training = True
