"""Forward and backward over the batches of one iteration: in several processes, and in smaller parts where memory is short."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from nasseg.errors import TrainingFailed
from nasseg.training.config import TrainingConfig
from nasseg.training.cross_norm import norm_across, norms_at_rest
from nasseg.training.device import autocast, own_randomness
from nasseg.training.distributed import World
from nasseg.training.microbatch import Batch, out_of_memory, rehearse, shares, split_batch

Forward = Callable[[nn.Module, Tensor], Any]

BUFFERS = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in signature(DistributedDataParallel).parameters)
"""Its newer and its older name."""

log = logging.getLogger(__name__)


class Called(nn.Module):
    """A network behind the function that gives its logits: DistributedDataParallel wraps a module and its forward alone."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self.logits = forward

    @override
    def forward(self, x_BCHW: Tensor) -> Any:
        return self.logits(self.model, x_BCHW)


class Passes:
    """Leaves the gradient of an iteration's whole loss in the weights of ``model``, equal in every process of ``world``.

    ``parts`` is the number of pieces a process's share of a batch is computed in, one after another: 1 until memory is short. BatchNorm
    reads a piece at a time; the loss of the batch is the same (see :mod:`nasseg.training.microbatch`).
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        loss: Callable[..., Tensor],
        *,
        config: TrainingConfig,
        device: torch.device,
        world: World,
    ) -> None:
        """To be made before the optimiser and after the network has come to its device."""
        self.model = model
        self.loss = loss
        self.config = config
        self.device = device
        self.world = world
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.parts = 1
        self.plain = Called(model, forward)
        self.shared: DistributedDataParallel | None = None
        if world.ranks > 1:
            if config.sync_bn:
                norm_across(model, device)
            # 1×1 and depthwise weights have two right orders of strides, and convolutions answer now in one, now in the other.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
            options: dict[str, Any] = {BUFFERS: not config.sync_bn}
            # Synchronised statistics are equal everywhere as they are; others are taken from the first process.
            self.shared = DistributedDataParallel(self.plain, **options)
        self._fitted = world.ranks == 1 or config.oom == "fail"

    def run(self, batches: Iterator[Batch], scaler: GradScaler, iteration: int) -> float:
        """Forward and backward of iteration ``iteration``; its loss, averaged over its ``accumulation`` batches.

        Raises :class:`TrainingFailed` where several processes find no part small enough, what the loader raises (in all processes), and
        torch's own error where memory is short and the parts cannot be made smaller.
        """
        seen: list[Batch] = []
        if not self._fitted:
            self._fit(batches, seen, iteration)
        while (total := self._tried(batches, seen, scaler)) is None:
            self._halve(iteration, len(seen[-1][0]))
        return float(self.world.sum(torch.tensor([total], dtype=torch.float64)))

    def _tried(self, batches: Iterator[Batch], seen: list[Batch], scaler: GradScaler) -> float | None:
        """This process's part of the loss; None where memory was short and smaller parts are left to try."""
        try:
            return self._gradients(batches, seen, scaler)
        except (RuntimeError, MemoryError) as error:
            # Several processes cannot begin a step anew: the others are in the middle of it.
            again = self.config.oom == "halve" and self.world.ranks == 1 and bool(seen) and len(seen[-1][0]) > self.parts
            if not again or not out_of_memory(error):
                raise
        return None

    def _gradients(self, batches: Iterator[Batch], seen: list[Batch], scaler: GradScaler) -> float:
        """``seen`` are the iteration's batches taken so far; they stay there for another try."""
        accumulation = self.config.accumulation
        for parameter in self.trained:
            parameter.grad = None
        total = 0.0
        for number in range(accumulation):
            if number == len(seen):
                seen.append(self._take(batches))
            x_BCHW, y_BHW = self._moved(seen[number])
            if self.config.oom == "fail":
                seen[number] = (x_BCHW[:0], y_BHW[:0])
            pieces = split_batch(x_BCHW, y_BHW, self.parts)
            whole = len(pieces) == 1 and self.world.ranks == 1
            weights = [1.0] if whole else shares(self.loss, [y for _, y in pieces], self.world)
            for place, ((x_bCHW, y_bHW), weight) in enumerate(zip(pieces, weights, strict=True), start=1):
                with self._exchanging(number == accumulation - 1 and place == len(pieces)):
                    loss = self._loss(self.plain if self.shared is None else self.shared, x_bCHW, y_bHW)
                    if not whole:
                        loss = loss * weight
                    loss = loss / accumulation
                    # DistributedDataParallel takes the mean over the processes; the gradient of the batch is the sum.
                    scaler.scale(loss if whole else loss * self.world.ranks).backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        return total

    def _loss(self, module: nn.Module, x_BCHW: Tensor, y_BHW: Tensor) -> Tensor:
        with autocast(self.config.amp, self.device):
            logits_BKhw = module(x_BCHW)
        return self.loss(logits_BKhw, y_BHW)

    def _exchanging(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once an iteration, in its last backward pass."""
        return contextlib.nullcontext() if self.shared is None or last else self.shared.no_sync()

    def _take(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; what one process cannot read is raised in all."""
        with own_randomness(self.device), self.world.together():
            return next(batches)

    def _moved(self, batch: Batch) -> Batch:
        x_BCHW, y_BHW = batch
        x_BCHW = x_BCHW.to(self.device, non_blocking=True, memory_format=self.layout)
        return x_BCHW, y_BHW.to(self.device, non_blocking=True)

    def _fit(self, batches: Iterator[Batch], seen: list[Batch], iteration: int) -> None:
        """Find parts that fit in every process, each trying by itself: in a step, one that fails would leave the others waiting."""
        seen.append(self._take(batches))
        images = len(seen[0][0])
        while True:
            batch = self._moved(split_batch(*seen[0], self.parts)[0])
            with own_randomness(self.device), norms_at_rest(self.model):
                fits = rehearse(self._forward_alone, self.loss, self.trained, batch)
            if not self.world.any(not fits):
                break
            if images <= self.parts:
                raise TrainingFailed(f"out of memory at iteration {iteration} with one image at a time in each process")
            self._halve(iteration, images)
        self._fitted = True

    def _forward_alone(self, x_BCHW: Tensor) -> Any:
        with autocast(self.config.amp, self.device):
            return self.plain(x_BCHW)

    def _halve(self, iteration: int, images: int) -> None:
        self.parts *= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.world.first:
            log.warning(
                "out of memory at iteration %d: from here on %d images at a time, %d passes a batch; same batch, same loss of it%s",
                iteration,
                -(-images // self.parts),
                min(self.parts, images),
                "; BatchNorm sees the smaller parts" if self._has_norms() else "",
            )

    def _has_norms(self) -> bool:
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())
