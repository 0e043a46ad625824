"""What the processes of tests/training/test_distributed.py do; in a module of its own, which new processes can import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from kits_trainer import Told
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

from nasseg.errors import ConfigError, DataError, NassegError, Problem
from nasseg.training.checkpoint import load_checkpoint
from nasseg.training.config import TrainingConfig
from nasseg.training.distributed import World
from nasseg.training.loop import Loop
from nasseg.training.losses import SegmentationLoss
from nasseg.training.metrics import Metrics

BATCH = 4


class Net(nn.Module):
    """Both kinds of BatchNorm, and dropout where it is asked for."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            BatchNormAct2d(8),
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.drop = nn.Dropout(dropout)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(F.relu(self.backbone(x_BCHW))))
        return out


def whole_batch(k: int) -> tuple[Tensor, Tensor]:
    """Batch k: images of very different brightness, and masks with very different shares of 255."""
    random = torch.Generator().manual_seed(k)
    scale = torch.tensor([0.2, 1.0, 3.0, 0.5]).view(BATCH, 1, 1, 1)
    x_BCHW = torch.randn(BATCH, 3, 8, 8, generator=random) * scale + scale
    y_BHW = (x_BCHW.sum(1) > 1).long() + (x_BCHW[:, 0] > 2).long()
    y_BHW[0, 1:] = 255
    y_BHW[1, :, 5:] = 255
    return x_BCHW, y_BHW


def make(world: World, folder: Path | None = None, dropout: float = 0.0, model: nn.Module | None = None, **settings: Any) -> Loop:
    """A loop over this process's share of the batches, eight iterations."""
    share = world.share(BATCH)

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        k = start
        while True:
            x_BCHW, y_BHW = whole_batch(k)
            mine = slice(world.rank * share, (world.rank + 1) * share)
            yield x_BCHW[mine], y_BHW[mine]
            k += 1

    def validate(module: nn.Module) -> Metrics:
        return Metrics(values={"miou": 50.0, "macc": 0.0, "aacc": 0.0}, protocol={"split": "val"})

    loss = settings.pop("criterion", None) or SegmentationLoss(class_weights=[0.5, 1.0, 2.0])
    config = {"lr": 0.02, "backbone_lr_scale": 1.0, "batch_size": BATCH, "ema": 0.5, "clip": 1.0, "checkpoint_every": 2, **settings}
    return Loop(
        model or Net(dropout),
        config=TrainingConfig.parse(config),
        iterations=8,
        batches=batches,
        loss=loss,
        validate=validate,
        folder=folder,
        world=world,
    )


def outcome(loop: Loop, told: Told) -> dict[str, Any]:
    """What a run came to."""
    return {"losses": told.losses, "model": loop.model.state_dict(), "ema": None if loop.ema is None else loop.ema.state_dict()}


def trained(world: World, folder: Path | None, stop_at: int | None, resume: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Train to the end or to ``stop_at``, from the folder's checkpoint where asked for."""
    if world.ranks > 1:
        # As a job does: only the first weights are drawn alike.
        options = {**options, "model": Net(options.get("dropout", 0.0))}
        torch.manual_seed(100 + world.rank)
    loop = make(world, folder, **options)
    if resume:
        assert folder is not None
        loop.restore(load_checkpoint(folder))
    told = Told(stop_at)
    loop.run(told)
    return outcome(loop, told)


def many(world: World, runs: list[tuple[Path | None, int | None, bool, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Several trainings one after another in the same processes."""
    return [trained(world, *run) for run in runs]


class Full(nn.Module):
    """A network that wants more memory than there is for more than ``most`` images at once; counts its passes by size."""

    def __init__(self, most: int, norm: bool = False) -> None:
        super().__init__()
        self.net = Net()
        if not norm:
            self.net.backbone[1] = nn.ReLU()
            self.net.backbone[3] = nn.Identity()
        self.most = most
        self.sizes: list[int] = []

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if len(x_BCHW) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.sizes.append(len(x_BCHW))
        out: Tensor = self.net(x_BCHW)
        return out


def caught(act: Callable[[], Any]) -> str:
    """What an act raises, with its kind."""
    try:
        act()
    except NassegError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refusals(world: World) -> dict[str, Any]:
    """What two processes make of things that go wrong in one of them."""
    broken = make(world)
    whole = broken.batches

    def unreadable(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for k, batch in enumerate(whole(start)):
            if world.rank == 1 and k == 2:
                raise DataError("b.png: cannot be read")
            yield batch

    def wrong() -> None:
        raise ConfigError(Problem("", "--out", "no", world.rank))

    broken.batches = unreadable
    told = Told()
    found: dict[str, Any] = {"unreadable": caught(lambda: broken.run(told)), "before": len(told.told)}
    found["lead"] = caught(lambda: world.lead(wrong))
    found["led"] = world.lead(lambda: 7)
    found["any"] = [world.any(world.rank == 1), world.any(False)]
    found["gathered"] = world.gather(world.rank)
    small = Full(1 if world.rank == 1 else 2)
    halved = make(world, model=small, oom="halve", ema=0.0)
    told = Told()
    halved.run(told)
    found["halved"] = (told.losses, halved.passes.parts, sorted(set(small.sizes)))
    none = make(world, model=Full(0 if world.rank == 0 else 2), oom="halve", ema=0.0)
    found["none fits"] = caught(lambda: none.run(Told()))
    apart = make(world)
    apart.iteration = world.rank
    found["apart"] = caught(lambda: apart.run(Told()))
    found["stopped"] = make(world).run(Told(stop_at=3 if world.rank == 1 else None)).iterations
    own = make(world, sync_bn=False)
    own.run(Told())
    found["own statistics"] = own.model.state_dict()
    return found


def session(world: World, runs: list[tuple[Path | None, int | None, bool, dict[str, Any]]]) -> dict[str, Any]:
    """Everything that is tried in two processes, which take long to start."""
    return {"runs": many(world, runs), "refusals": refusals(world)}
