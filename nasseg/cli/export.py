"""``nasseg export``: a training run or a published network becomes a bundle."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE
from nasseg.cli.verb import Verb
from nasseg.errors import ConfigError, Problem
from nasseg.export.bundle import IMAGES, Exported, export_run
from nasseg.export.published import export_published
from nasseg.published.network import is_published
from nasseg.report.next_steps import after_export
from nasseg.training.rundir import RunDir


@click.command("export", cls=Verb)
@click.argument("run")
@click.option("--out", required=True, help="Folder of the bundle; must be new or empty.")
@click.option("--force", is_flag=True, help="Replace the bundle that lies there.")
@click.option("--data", help="Where the run's data lie now, if they have moved; for a published network: images to compare mIoU on.")
@click.option("--size", type=SIZE, help="For a published network: height and width of the exported files' input, where it says none.")
@click.option("--images", type=int, default=IMAGES, show_default=True, help="Validation images to compare mIoU on; 0 for none.")
def command(run: str, out: str, force: bool, data: str | None, size: tuple[int, int] | None, images: int) -> None:
    """Turn RUN, a training run (runs/Y) or a published network (docs/published.md), into a bundle: genotype, weights, ONNX, torch.export
    program, preprocessing, card.

    ONNX Runtime and the reloaded program must compute what the network computes, or nothing is written.
    """
    if images < 0:
        raise ConfigError(Problem("", "--images", "a number of images from 0", images, 0))
    others = is_published(run)
    if size is not None and not others:
        raise ConfigError(Problem("", "--size", "is for a published network; a run's files take the size it was trained at", size))
    console = wide_console()
    with console.status("reading the run") as status:

        def say(line: str) -> None:
            if console.is_terminal and len(line) < 60:
                status.update(line)
            else:
                console.print(line, markup=False)

        if others:
            exported = export_published(run, out, data=data, size=size, images=images, force=force, say=say)
        else:
            exported = export_run(run, out, data=data, images=images, force=force, say=say)
    draw(console, exported)
    measured_on = data if others else data or str(RunDir.open(run).facts["data"])
    if measured_on is not None:
        console.print("next:")
        for line in after_export(exported.path, measured_on):
            console.print(f"  {line}", markup=False, soft_wrap=True)


def draw(console: Console, exported: Exported) -> None:
    """The files with their sizes and how far they agree with the module."""
    parity = exported.parity
    figures = {one.name: one for one in parity.agreements}
    table = Table(box=None, pad_edge=False)
    table.add_column("file")
    for column in ("bytes", "largest Δlogit", "of the largest", "same class", "mIoU"):
        table.add_column(column, justify="right")
    for name, size in exported.files:
        one = figures.get(name)
        if one is None:
            table.add_row(name, f"{size:,}", "", "", "", "")
        else:
            miou = "-" if one.miou is None or parity.miou is None else f"{one.miou:.3f} ({one.miou - parity.miou:+.3f})"
            table.add_row(name, f"{size:,}", f"{one.delta:.1e}", f"{one.relative:.1e}", f"{one.same:.3f} %", miou)
    console.print(table)
    mious = "" if parity.miou is None else f", mIoU {parity.miou:.3f} % of the module on {parity.images} of its validation images"
    console.print(f"Compared with the module on {parity.pictures}{mious}.", markup=False)
    console.print(f"In the ONNX file and the program: {exported.folding}.", markup=False)
    console.print(f"Bundle: {exported.path}", markup=False)
