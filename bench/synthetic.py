"""Does ``synthetic:streets`` tell a better decoder from a worse one?  ``python bench/synthetic.py [--iterations 400] [--seeds 2]``

One small encoder (strides 4, 8, 16, 32), trained from scratch with the same batches and weighted classes under four heads, from poor
to good: the stride-32 map alone; the stride-4 map alone, which sees only a few pixels around; all maps added at stride 8; all maps
joined at stride 4 with a picture-wide context. Prints mIoU, its spread over the seeds, and the mean IoU of the thin and of the other
classes, on the validation split.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasseg.data.class_weights import SQRT_MEDIAN_FREQUENCY, weigh_classes
from nasseg.data.layouts import open_data
from nasseg.data.loader import train_batches
from nasseg.data.transforms import TrainTransform
from nasseg.training.evaluate import evaluate
from nasseg.training.losses import SegmentationLoss

MEAN, STD = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
WIDTHS = (24, 40, 64, 96)
THIN = ("marking", "fence", "pole", "sign", "person")
HEADS = ("stride 32 only", "stride 4 only", "all, stride 8", "all, stride 4, context")


def block(inside: int, outside: int, stride: int) -> nn.Sequential:
    """Depthwise-separable convolution with norm."""
    return nn.Sequential(
        nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False),
        nn.Conv2d(inside, outside, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class Net(nn.Module):
    """The shared encoder under one of :data:`HEADS`."""

    def __init__(self, head: str, classes: int, width: int = 48) -> None:
        super().__init__()
        self.head = head
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        inside = (16, *WIDTHS[:-1])
        self.stages = nn.ModuleList(nn.Sequential(block(i, o, 2), block(o, o, 1)) for i, o in zip(inside, WIDTHS, strict=True))
        self.used = {"stride 32 only": (3,), "stride 4 only": (0,)}.get(head, (0, 1, 2, 3))
        self.lateral = nn.ModuleList(nn.Conv2d(WIDTHS[i], width, 1) for i in self.used)
        self.context = nn.Conv2d(WIDTHS[3], width, 1) if "context" in head else None
        self.out = nn.Sequential(block(width, width, 1), nn.Conv2d(width, classes, 1))

    def forward(self, x_B3HW: Tensor) -> Tensor:
        x = self.stem(x_B3HW)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        grid = maps[1 if "stride 8" in self.head else self.used[0]].shape[-2:]
        joined = sum(
            F.interpolate(lateral(maps[i]), size=grid, mode="bilinear") for i, lateral in zip(self.used, self.lateral, strict=True)
        )
        if self.context is not None:
            joined = joined + self.context(maps[3].mean((2, 3), keepdim=True))
        out: Tensor = self.out(joined)
        return out


def run(head: str, spec: str, iterations: int, seed: int) -> dict[str, float]:
    """IoU in percent by class, and the mean."""
    data = open_data(spec)
    height, width = data.splits["val"][0].mask.shape
    torch.manual_seed(seed)
    net = Net(head, data.num_classes)
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=iterations, pct_start=0.1)
    transform = TrainTransform((height, width), scale=(0.75, 1.5), mean=MEAN, std=STD)
    criterion = SegmentationLoss("cross_entropy", class_weights=weigh_classes(SQRT_MEDIAN_FREQUENCY, data).weights)
    net.train()
    for x, y in train_batches(data.splits["train"], transform, batch_size=8, iterations=iterations, seed=seed, cache=True):
        logits = F.interpolate(net(x), size=y.shape[-2:], mode="bilinear")
        loss = criterion(logits, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
    found = evaluate(
        net, data.splits["val"], num_classes=data.num_classes, classes=data.classes, size=(height, width), mean=MEAN, std=STD, cache=True
    )
    return {"miou": found.values["miou"], **found.per_class}


def main() -> None:
    """Train every head, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", default="synthetic:streets?train=192&val=48")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{given.data}, {given.iterations} iterations of 8, {given.seeds} seeds\n")
    print(f"{'head':24} {'mIoU':>6} {'spread':>7} {'thin':>6} {'large':>6} {'seconds':>8}")
    for head in HEADS:
        start = time.perf_counter()
        runs = [run(head, given.data, given.iterations, seed) for seed in range(given.seeds)]
        miou = [found.pop("miou") for found in runs]

        def mean(names: set[str], runs: list[dict[str, float]] = runs) -> float:
            values = [found[name] for found in runs for name in names & found.keys()]
            return sum(values) / max(len(values), 1)

        thin, large = mean(set(THIN)), mean(set(runs[0]) - set(THIN))
        seconds = (time.perf_counter() - start) / given.seeds
        print(f"{head:24} {sum(miou) / len(miou):6.1f} {max(miou) - min(miou):7.1f} {thin:6.1f} {large:6.1f} {seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
