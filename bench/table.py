"""Designs under one training protocol, several seeds each: ``python bench/table.py --data SPEC --backbone NAME --size HxW --out FOLDER``.

Every run is the command a user would type, ``nasseg train`` with the recipe ``full``, in a process of its own; a run whose
``metrics.json`` is there is not repeated, so the command may be given again after a kill. The end of the schedule is measured and nothing
is picked on the validation set (``val_every`` = ``iterations``). Printed and written to FOLDER/table.md: mean and sample standard
deviation over the seeds of mIoU, mAcc and aAcc in percent, the network's MACs and parameters, minutes of a run. FOLDER/curves.png shows the
loss of every run.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console

from nasseg.cli.options import SIZE
from nasseg.data.layouts import open_data
from nasseg.genes.presets import preset
from nasseg.models.costing import cost
from nasseg.training.checkpoint import WEIGHTS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FOLLOWED = 15
"""Iterations the drawn loss is averaged over."""


def run_of(options: argparse.Namespace, design: str, seed: int) -> Path:
    """Where a run lies."""
    return Path(options.runs) / f"{design}-{seed}"


def command(options: argparse.Namespace, design: str, seed: int) -> list[str]:
    """What a user would type, after ``nasseg``."""
    settings = {"iterations": options.iterations, "val_every": options.iterations, **dict(text.split("=", 1) for text in options.set)}
    given = ["train", design, "--data", options.data, "--backbone", options.backbone, "--size", options.size, "--seed", str(seed)]
    given += ["--weights", options.weights] if options.weights else []
    for name, value in settings.items():
        given += ["--set", f"trainer.{name}={value}"]
    return [*given, "--out", str(run_of(options, design, seed)), "--resume"]


def finished(run: Path) -> dict[str, float] | None:
    """The numbers of a run that has come to its end."""
    measured = run / "metrics.json"
    return dict(json.loads(measured.read_text(encoding="utf-8"))["metrics"]) if measured.is_file() and (run / WEIGHTS).is_file() else None


def minutes(run: Path) -> float:
    """A run's time, from its log."""
    with (run / "log.csv").open(encoding="utf-8", newline="") as file:
        return float([row["seconds"] for row in csv.DictReader(file)][-1]) / 60


def losses(run: Path) -> tuple[list[int], list[float]]:
    """Iterations and their losses."""
    with (run / "log.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted((int(row["iteration"]), float(row["loss"])) for row in csv.DictReader(file))
    return [iteration for iteration, _ in rows], [loss for _, loss in rows]


def draw(options: argparse.Namespace, path: Path) -> None:
    """Loss over iterations, one line a run, one colour a design."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, design in enumerate(options.designs):
        for seed in options.seeds:
            iterations, seen = losses(run_of(options, design, seed))
            smooth = np.convolve(seen, np.ones(FOLLOWED) / FOLLOWED, mode="valid")
            label = design if seed == options.seeds[0] else None
            axes.plot(iterations[FOLLOWED - 1 :], smooth, color=f"C{number}", alpha=0.8, label=label)
    axes.set_xlabel("iteration")
    axes.set_ylabel(f"loss, mean of {FOLLOWED} iterations")
    axes.set_title(f"{options.backbone}, {options.size}, seeds {', '.join(map(str, options.seeds))}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table(options: argparse.Namespace) -> str:
    """The Markdown table."""
    classes = open_data(options.data).num_classes
    rows = ["| design | val mIoU | mAcc | aAcc | MACs | params | minutes |", "|---|---|---|---|---|---|---|"]
    for design in options.designs:
        found = [finished(run_of(options, design, seed)) for seed in options.seeds]
        cells = []
        for name in ("miou", "macc", "aacc"):
            values = [numbers[name] for numbers in found if numbers is not None]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        counted = cost(preset(design, options.backbone), size=SIZE.convert(options.size, None, None), num_classes=classes)
        taken = statistics.mean(minutes(run_of(options, design, seed)) for seed in options.seeds)
        rows.append(f"| {design} | {' | '.join(cells)} | {counted.macs / 1e6:.0f} M | {counted.params / 1e6:.2f} M | {taken:.1f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--size", required=True)
    parser.add_argument("--designs", nargs="+", default=["scaseg", "csap", "segformer"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of the recipe; repeatable")
    parser.add_argument("--runs", default="runs/table", help="where the runs lie")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    console = Console()
    for seed in options.seeds:
        for design in options.designs:
            if finished(run_of(options, design, seed)) is None:
                typed = command(options, design, seed)
                console.print("nasseg " + " ".join(typed), style="dim", soft_wrap=True)
                process = [sys.executable, "-c", "from nasseg.cli.main import run; run()", *typed]
                subprocess.run(process, check=True, stdout=subprocess.DEVNULL)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    text = table(options)
    (out / "table.md").write_text(text, encoding="utf-8")
    draw(options, out / "curves.png")
    console.print(text)


if __name__ == "__main__":
    main()
