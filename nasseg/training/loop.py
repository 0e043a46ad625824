"""The one training loop. Recipes give it a network, batches, a loss and a way to measure; it gives back what was reached.

In a run of several processes each has a loop of its own; they take every step together and stop at the same iteration.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nasseg.errors import TrainingFailed
from nasseg.files import canonical_json, write_atomic
from nasseg.training.checkpoint import WEIGHTS, plain_weights, save_checkpoint, write_weights
from nasseg.training.config import TrainingConfig
from nasseg.training.device import check_precision, own_randomness, random_state, set_random_state
from nasseg.training.distributed import ALONE, World
from nasseg.training.ema import build_ema
from nasseg.training.metrics import Metrics
from nasseg.training.optim import Schedule, build_optimizer
from nasseg.training.passes import Passes
from nasseg.training.trial import Report

Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""``batches(k)`` yields (x_BCHW, y_BHW) from batch k on."""

MEASURED = "metrics.json"
"""The numbers of the weights beside it."""

LEAST_SCALE = 2.0**-14
"""An fp16 loss scale below this means that no scale keeps the gradients finite."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a loop reached. ``metrics``, measured at iteration ``measured_at``, is None where it was stopped before its first validation."""

    iterations: int
    seconds: float
    metrics: Metrics | None
    measured_at: int
    stopped: bool
    weights_file: Path | None


@dataclass
class _Kept:
    """The validation a run would end with now, and its weights (None for a run without a folder, which keeps none)."""

    metrics: Metrics
    iteration: int
    weights: dict[str, Tensor] | None = field(repr=False)


class Loop:
    """AdamW on a schedule with warm-up, gradient clipping, AMP, EMA and accumulation, for a number of iterations.

    ``forward(x_BCHW)`` gives the logits of ``model``; ``validate(module)`` measures a module in eval mode. With a ``folder`` it writes
    ``model.safetensors`` and ``metrics.json`` at each validation that is kept, ``checkpoints/last.pt``; ``identity`` says whose they are.

    In a ``world`` of several processes ``batches`` gives this one's share, gradients and losses are those of the whole batch, and only the
    first process has a folder.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        config: TrainingConfig,
        iterations: int,
        batches: Batches,
        loss: Callable[[Tensor, Tensor], Tensor],
        validate: Callable[[nn.Module], Metrics],
        forward: Callable[[nn.Module, Tensor], Tensor] | None = None,
        device: torch.device | None = None,
        folder: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        world: World = ALONE,
    ) -> None:
        self.config = config
        self.iterations = iterations
        self.batches = batches
        self.validate = validate
        self.forward = forward if forward is not None else lambda module, x: module(x)
        self.device = device if device is not None else torch.device("cpu")
        self.world = world
        self.folder = folder if world.first else None
        self.identity = dict(identity or {})
        check_precision(config.amp, self.device)
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model.to(self.device).to(memory_format=self.layout)
        self.loss = loss.to(self.device) if isinstance(loss, nn.Module) else loss
        self.passes = Passes(self.model, self.forward, self.loss, config=config, device=self.device, world=world)
        self.optimizer = build_optimizer(
            self.model,
            lr=config.lr,
            weight_decay=config.weight_decay,
            backbone_lr_scale=config.backbone_lr_scale,
            decay_rule=config.decay_rule,
        )
        self.schedule = Schedule(iterations, kind=config.schedule, warmup=config.warmup_share, power=config.power, floor=config.lr_floor)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.ema: AveragedModel | None = build_ema(self.model, config.ema) if config.ema else None
        if config.compile:
            self.model.compile(backend=config.compile_backend)
        self.iteration = 0
        self.spent = 0.0
        self.kept: _Kept | None = None
        self._random: dict[str, Any] | None = None

    @property
    def measured(self) -> nn.Module:
        """The module that is measured and kept: the average where there is one."""
        module = self.model if self.ema is None else self.ema.module
        assert isinstance(module, nn.Module)
        return module

    def run(self, report: Report) -> Outcome:
        """Train to the end, or to the iteration at which ``report`` answers True.

        ``report(iteration, metrics)`` is called after every iteration with ``loss`` and ``lr``, and with the measured values where a
        validation was due. Raises :class:`TrainingFailed` for a loss or gradient that is not finite.
        """
        config = self.config
        started = time.monotonic() - self.spent
        stopped = False
        if self.world.ranks > 1 and len(set(self.world.gather(self.iteration))) > 1:
            raise TrainingFailed("the processes do not go on from the same checkpoint; the run's folder must be one that all of them share")
        batches = self.batches(self.iteration * config.accumulation)
        if self._random is not None:
            set_random_state(self._random, self.device)
        self.model.train()
        while self.iteration < self.iterations and not stopped:
            lr = config.lr * self.schedule.apply(self.optimizer, self.iteration)
            loss = self._step(batches, lr)
            self.iteration += 1
            told = {"loss": loss, "lr": lr}
            end = self.iteration == self.iterations
            if end or (config.val_every and self.iteration % config.val_every == 0):
                told |= self._measure().values
            self.spent = time.monotonic() - started
            saved = end or bool(config.checkpoint_every and self.iteration % config.checkpoint_every == 0)
            if saved:
                self._checkpoint()
            try:
                stopped = self.world.any(report(self.iteration, told)) and not end
            except BaseException:
                # A worker that is told to leave raises out of its report: what was reached is kept for the next attempt. Of several
                # processes one alone cannot: a checkpoint holds something of each.
                if not saved and self.world.ranks == 1:
                    self._checkpoint()
                raise
            if stopped and not saved:
                self._checkpoint()
        return Outcome(
            iterations=self.iteration,
            seconds=self.spent,
            metrics=None if self.kept is None else self.kept.metrics,
            measured_at=0 if self.kept is None else self.kept.iteration,
            stopped=stopped,
            weights_file=self._weights_file() if self.kept is not None else None,
        )

    def state(self) -> dict[str, Any]:
        """Everything a run needs to go on bit for bit, as tensors and plain values. All processes call it together."""
        kept = self.kept
        random = self.world.gather(random_state(self.device))
        return {
            "identity": self.identity,
            "iteration": self.iteration,
            "seconds": self.spent,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random[0],
            "randoms": random,
            "parts": self.passes.parts,
            "kept": None if kept is None else {"metrics": kept.metrics.to_dict(), "iteration": kept.iteration, "weights": kept.weights},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state` of the same run, of as many processes or of another number.

        The files of its kept validation are written again if they are not in ``folder``. With another number of processes the random
        numbers of dropout and the like are others; weights, order of images and augmentation are not.
        """
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.iteration, self.spent = int(state["iteration"]), float(state["seconds"])
        self.passes.parts = int(state.get("parts", 1))
        randoms = state.get("randoms", [state["random"]])
        if len(randoms) == self.world.ranks:
            self._random = randoms[self.world.rank]
        elif self.world.first:
            self._random = state["random"]
        kept = state["kept"]
        if kept is not None:
            self.kept = _Kept(Metrics.from_dict(kept["metrics"]), int(kept["iteration"]), kept["weights"])
            self._write_kept()

    def _step(self, batches: Iterator[tuple[Tensor, Tensor]], lr: float) -> float:
        """One optimiser step; the loss, averaged over its forward passes."""
        total = self.passes.run(batches, self.scaler, self.iteration + 1)
        if not _finite(total):
            raise TrainingFailed(f"loss is {_name(total)} at iteration {self.iteration + 1} (lr {lr:.3g})")
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.passes.trained, self.config.clip or float("inf")))
        if not _finite(norm) and not self.scaler.is_enabled():
            raise TrainingFailed(f"gradient is {_name(norm)} at iteration {self.iteration + 1} (lr {lr:.3g}, loss {total:.4g})")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
            raise TrainingFailed(f"no loss scale keeps fp16 gradients finite at iteration {self.iteration + 1} (lr {lr:.3g}); use amp=bf16")
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return total

    def _measure(self) -> Metrics:
        """Validate; note and write the result if it is the one to keep."""
        module = self.measured
        module.eval()
        # A compiled network would be compiled again for the sizes of a validation.
        eager = torch.compiler.set_stance("force_eager") if self.config.compile else contextlib.nullcontext()
        with own_randomness(self.device), eager:
            metrics = self.validate(module)
        self.model.train()
        if self.kept is None or self.config.keep == "last" or metrics.miou > self.kept.metrics.miou:
            self.kept = _Kept(metrics, self.iteration, None if self.folder is None else plain_weights(module))
            self._write_kept()
        return metrics

    def _write_kept(self) -> None:
        path = self._weights_file()
        if path is not None and self.kept is not None and self.kept.weights is not None:
            # One entry: safetensors writes several in no fixed order, and equal runs are to give equal files.
            notes = canonical_json({"iteration": self.kept.iteration, **self.identity})
            write_weights(path, self.kept.weights, {"nasseg": notes})
            measured = {
                "iteration": self.kept.iteration,
                "metrics": dict(self.kept.metrics.values),
                "per_class": dict(self.kept.metrics.per_class),
                **({} if self.kept.metrics.unpredicted is None else {"unpredicted": list(self.kept.metrics.unpredicted)}),
                "protocol": dict(self.kept.metrics.protocol),
            }
            write_atomic(path.with_name(MEASURED), json.dumps(measured, indent=2) + "\n")

    def _weights_file(self) -> Path | None:
        return None if self.folder is None else self.folder / WEIGHTS

    def _checkpoint(self) -> None:
        if self.folder is None and self.world.ranks == 1:
            return
        state = self.state()
        with self.world.together():
            if self.folder is not None:
                save_checkpoint(self.folder / "checkpoints", state, keep=self.config.keep_last)


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _name(value: float) -> str:
    return "nan" if value != value else "infinite"
