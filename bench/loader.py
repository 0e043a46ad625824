"""Images a second of the loader: a folder, the same as Parquet shards, and decoded images kept in memory, by number of workers.

``python bench/loader.py [--data SPEC] [--size HxW] [--batch N] [--rounds N]``. *read* is one process reading and decoding samples in the
order training asks for them; the other columns are whole training batches (``train_batches``: reading, augmentation, collation) with 0, 1
and 2 worker processes, from the first batch after the warm-up to the last. The three sources take turns; medians over the rounds. The files
lie in the page cache after the first round: this measures the loader, not the disk. What the model takes is in ``bench/training.py``.

Without ``--data`` the built-in scenes are written as JPEG files first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from nasseg.cli.options import SIZE
from nasseg.data.dataset import Split
from nasseg.data.layouts import open_data
from nasseg.data.loader import forget_cached, train_batches
from nasseg.data.pack import pack
from nasseg.data.transforms import TrainTransform

WARM = 2
"""Batches taken before the clock starts."""
WORKERS = (0, 1, 2)


def write_scenes(folder: Path, count: int) -> str:
    """The built-in scenes at 360x480 as a folder of JPEG images and PNG masks."""
    for name, split in open_data(f"synthetic:streets?train={count}&val=4&size=360x480").splits.items():
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        for id_, (image, mask) in zip(split.ids, split, strict=True):
            Image.fromarray(image).save(folder / name / "images" / f"{id_}.jpg", quality=90)
            Image.fromarray(mask).save(folder / name / "masks" / f"{id_}.png")
    return f"{folder}?classes=11"


def reading(split: Split) -> float:
    """Samples a second, nothing done to them."""
    order = split.order(0, 0)
    start = time.perf_counter()
    for index in order:
        split[int(index)]
    return len(order) / (time.perf_counter() - start)


def training(split: Split, transform: TrainTransform, batch: int, workers: int, cache: bool) -> float:
    """Images a second out of the loader."""
    total = WARM + max(4, len(split) // batch)
    batches = train_batches(split, transform, batch_size=batch, iterations=total, workers=workers, cache=cache)
    for _ in range(WARM):
        next(batches)
    start = time.perf_counter()
    taken = sum(x_B3HW.shape[0] for x_B3HW, _ in batches)
    return taken / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="default: the built-in scenes as JPEG files")
    parser.add_argument("--images", type=int, default=96, help="of the built-in scenes")
    parser.add_argument("--size", default="360x480", help="crop")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    height, width = SIZE.convert(options.size, None, None)
    transform = TrainTransform((height, width), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(options.data or write_scenes(Path(folder, "scenes"), options.images))
        began = time.perf_counter()
        manifest, _ = pack(data, Path(folder, "packed"))
        seconds, rows = time.perf_counter() - began, sum(file.rows for files in manifest.splits.values() for file in files)
        folders, shards = data.split("train"), open_data(f"shards:{folder}/packed").split("train")
        sources = {"folder": (folders, False), "Parquet": (shards, False), "in memory": (folders, True)}
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.rounds):
            for name, (split, cache) in sources.items():
                if not cache:
                    found.setdefault((name, "read"), []).append(reading(split))
                for workers in WORKERS:
                    found.setdefault((name, str(workers)), []).append(training(split, transform, options.batch, workers, cache))
        forget_cached()
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(
        f"torch {torch.__version__}; {len(folders)} images of {data.name}, crop {height}x{width}, batch {options.batch}, "
        f"{options.rounds} rounds; packed at {rows / seconds:.0f} images/s"
    )
    columns = ("read", *map(str, WORKERS))
    table = Table(title="images/s", title_justify="left")
    for column in ("source", "read", *(f"{n} worker{'' if n == 1 else 's'}" for n in WORKERS)):
        table.add_column(column, justify="left" if column == "source" else "right")
    for name in sources:
        table.add_row(name, *(f"{statistics.median(found[name, c]):.0f}" if (name, c) in found else "–" for c in columns))
    console.print(table)


if __name__ == "__main__":
    main()
