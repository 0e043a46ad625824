"""What training costs beside a bare loop: ``python bench/training.py [--data SPEC --preset scaseg --backbone NAME --size HxW]``.

*Step*: ``Loop`` (schedule, clipping, checks for finite numbers, report) against the loop a tutorial shows, on one model, one batch in
memory and AdamW, forward, cross-entropy at the mask's size, backward, clip and step in both. They run in turn in blocks of ``--block``
steps, the first of which is not counted; medians. ``ratio`` is bare time / our time: 1 means that the loop adds nothing.

*Loader*: images a second that come out of ``train_batches`` by number of workers, from the folder and with decoded images kept in memory,
beside what the model takes: above 1 the model never waits. ``bench/loader.py`` has folders against Parquet shards.

*Processes*: ``nasseg train`` in one process with two threads against ``torchrun --nproc-per-node 2`` with one thread each, the same global
batch; images a second from the runs' own log.csv.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from nasseg.cli.options import SIZE
from nasseg.data.layouts import open_data
from nasseg.data.loader import train_batches
from nasseg.data.transforms import TrainTransform
from nasseg.genes.presets import preset
from nasseg.models.backbones.contract import Backbone
from nasseg.models.segmenter import SegModel, build
from nasseg.training.config import TrainingConfig
from nasseg.training.job import forward
from nasseg.training.loop import Loop
from nasseg.training.losses import SegmentationLoss
from nasseg.training.metrics import Metrics

WARM = 4
"""Batches taken from a loader before its clock starts."""


def bare(model: nn.Module, x_B3HW: Tensor, y_BHW: Tensor, steps: int) -> list[float]:
    """Seconds of each step of the loop a tutorial shows."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
    model.train()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        logits_BKhw = model(x_B3HW)
        logits_BKHW = F.interpolate(logits_BKhw, size=y_BHW.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits_BKHW, y_BHW, ignore_index=255)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def ours(model: nn.Module, x_B3HW: Tensor, y_BHW: Tensor, steps: int) -> list[float]:
    """Seconds between two reports of the loop."""

    def same(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield x_B3HW, y_BHW

    moments = [time.perf_counter()]

    def report(iteration: int, metrics: object) -> bool:
        moments.append(time.perf_counter())
        return iteration == steps

    config = TrainingConfig(iterations=10**6, batch_size=x_B3HW.shape[0], lr=1e-5, backbone_lr_scale=1.0, val_every=0, checkpoint_every=0)

    def never(module: nn.Module) -> Metrics:
        raise AssertionError("nothing is validated here")

    loop = Loop(
        model, config=config, iterations=10**6, batches=same, loss=SegmentationLoss("cross_entropy"), validate=never, forward=forward
    )
    loop.run(report)
    return [after - before for before, after in itertools.pairwise(moments)]


def step_table(model: SegModel, x_B3HW: Tensor, y_BHW: Tensor, block: int, rounds: int) -> tuple[Table, float]:
    """The first table, and images a second of our step."""
    seconds: dict[str, list[float]] = {"bare loop": [], "nasseg": []}
    for _ in range(rounds):
        seconds["bare loop"] += bare(model, x_B3HW, y_BHW, block + 1)[1:]
        seconds["nasseg"] += ours(model, x_B3HW, y_BHW, block + 1)[1:]
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    table = Table(title="step", title_justify="left")
    for column in ("loop", "ms a step", "fastest", "images/s", "ratio"):
        table.add_column(column, justify="left" if column == "loop" else "right")
    for name, value in middle.items():
        images = x_B3HW.shape[0] / value
        table.add_row(name, f"{1e3 * value:.1f}", f"{1e3 * min(seconds[name]):.1f}", f"{images:.1f}", f"{middle['bare loop'] / value:.3f}")
    return table, x_B3HW.shape[0] / middle["nasseg"]


def loader_table(options: argparse.Namespace, backbone: Backbone, model_images: float) -> Table:
    """Images a second of the loader beside the model's."""
    table = Table(title=f"loader; the model takes {model_images:.1f} images/s", title_justify="left")
    for column in ("images", "workers", "images/s", "of the model's"):
        table.add_column(column, justify="left" if column == "images" else "right")
    split = open_data(options.data).split("train")
    transform = TrainTransform(options.hw, mean=backbone.mean, std=backbone.std)
    for cache in (False, True):
        for workers in (0, 1, 2):
            total = WARM + max(8, len(split) // options.batch)
            batches = train_batches(split, transform, batch_size=options.batch, iterations=total, workers=workers, cache=cache)
            for _ in range(WARM):
                next(batches)
            start = time.perf_counter()
            taken = sum(x_B3HW.shape[0] for x_B3HW, _ in batches)
            rate = taken / (time.perf_counter() - start)
            table.add_row("in memory" if cache else "from disk", str(workers), f"{rate:.0f}", f"{rate / model_images:.1f} ×")
    return table


def process_table(options: argparse.Namespace) -> Table:
    """One process of two threads against two of one, by the command a user types."""
    table = Table(title="processes", title_justify="left")
    for column in ("command", "images/s", "ratio"):
        table.add_column(column, justify="left" if column == "command" else "right")
    settings = {"iterations": options.iterations, "val_every": options.iterations, "batch_size": options.batch, "cache": "true"}
    with tempfile.TemporaryDirectory() as folder:
        rates = {}
        for processes, threads in ((1, 2), (2, 1)):
            out = Path(folder, str(processes))
            command = ["train", options.preset, "--data", options.data, "--backbone", options.backbone, "--size", options.size]
            for name, value in {**settings, "threads": threads}.items():
                command += ["--set", f"trainer.{name}={value}"]
            start = (
                ["-m", "nasseg"]
                if processes == 1
                else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nasseg"]
            )
            subprocess.run([sys.executable, *start, *command, "--out", str(out)], check=True, capture_output=True)
            with (out / "log.csv").open(encoding="utf-8", newline="") as file:
                at = [float(row["seconds"]) for row in csv.DictReader(file)]
            half = len(at) // 2
            # The last iteration holds the validation.
            rates[f"{processes} × {threads} thread{'s' * (threads > 1)}"] = options.batch * (len(at) - 2 - half) / (at[-2] - at[half])
        first = next(iter(rates.values()))
        for name, rate in rates.items():
            table.add_row(name, f"{rate:.1f}", f"{rate / first:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic:streets?train=64&val=16&size=192x256")
    parser.add_argument("--preset", default="scaseg")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", default="160x224")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--block", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=24, help="of the runs that compare processes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.hw = SIZE.convert(options.size, None, None)
    torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(
        f"torch {torch.__version__}, CPU, {options.threads} threads; {options.preset} on {options.backbone}, batch {options.batch} of "
        f"{options.size}, {options.data}"
    )
    data = open_data(options.data)
    model = build(preset(options.preset, options.backbone), data.num_classes)
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    transform = TrainTransform(options.hw, mean=backbone.mean, std=backbone.std)
    x_B3HW, y_BHW = next(train_batches(data.split("train"), transform, batch_size=options.batch, iterations=1))
    table, model_images = step_table(model, x_B3HW, y_BHW, options.block, options.rounds)
    console.print(table)
    console.print(loader_table(options, backbone, model_images))
    console.print(process_table(options))


if __name__ == "__main__":
    main()
