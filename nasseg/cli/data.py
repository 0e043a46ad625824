"""``nasseg data``: look a data set through before anything is trained on it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import click
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from nasseg.cli import data_info, data_pack
from nasseg.cli.verb import VerbGroup
from nasseg.data.diagnosis import ERROR, Diagnosis, SplitReport
from nasseg.data.doctor import examine
from nasseg.data.layouts import open_data
from nasseg.data.sheet import contact_sheet
from nasseg.errors import ConfigError, DataError, Problem
from nasseg.files import write_atomic
from nasseg.log import STDERR

_BAR = 30  # letters of a bar that stands for all pixels
_FEW = 500  # pairs below which no progress is shown


@click.group(name="data", cls=VerbGroup)
def command() -> None:
    """Know, check, show and pack data sets: a folder, KIND:PATH such as ade20k:PATH, or synthetic."""


command.add_command(data_info.info)
command.add_command(data_pack.pack_data)


@command.command()
@click.argument("data", metavar="PATH")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def check(data: str, as_json: bool) -> None:
    """Sizes, classes, ignored share, broken and missing files, labels, copies: what is wrong with PATH, and what to set.

    PATH is what --data takes elsewhere. Exit code 0 where there are only notes, 2 where something must be put right.
    """
    diagnosis = _examine(data)
    if as_json:
        click.echo(json.dumps(diagnosis.to_dict(), indent=1))
    else:
        _print(diagnosis, Console(highlight=False, soft_wrap=not sys.stdout.isatty()))
    if diagnosis.errors:
        cases = len(diagnosis.errors)
        raise DataError(
            f"{diagnosis.spec}: {cases} kind{'s' if cases > 1 else ''} of errors found; put them right or set what is said above"
        )


@command.command()
@click.argument("data", metavar="PATH")
@click.option("--out", required=True, metavar="DIR", help="Folder for one PNG a split.")
@click.option("--number", default=12, show_default=True, metavar="N", help="Samples a sheet.")
@click.option("--width", default=240, show_default=True, metavar="PX", help="Width of a sample.")
def show(data: str, out: str, number: int, width: int) -> None:
    """Draw images with their masks laid over them, one contact sheet a split."""
    problems = [
        Problem("", f"--{name}", f"a whole number from {low} to {high}", given)
        for name, given, low, high in (("number", number, 1, 400), ("width", width, 16, 4096))
        if not low <= given <= high
    ]
    if problems:
        raise ConfigError(problems)
    opened = open_data(data)
    for name, split in opened.splits.items():
        file = Path(out) / f"{name}.png"
        buffer = io.BytesIO()
        Image.fromarray(contact_sheet(opened, split, number, width=width)).save(buffer, "PNG")
        try:
            write_atomic(file, buffer.getvalue())
        except OSError as error:
            raise ConfigError(Problem("", "--out", f"cannot be written: {error.strerror}", out)) from error
        click.echo(f"{file}  ({min(number, len(split))} of {len(split)} samples)")


def _examine(data: str) -> Diagnosis:
    if not sys.stderr.isatty():
        return examine(data)
    with Progress(console=STDERR, transient=True) as progress:
        task = progress.add_task("reading", total=None, visible=False)
        return examine(data, lambda done, total: progress.update(task, completed=done, total=total, visible=total > _FEW))


def _print(diagnosis: Diagnosis, console: Console) -> None:
    known = f"{_many(len(diagnosis.classes), 'class', 'es')}, from {diagnosis.classes_from}"
    console.print(f"[bold]{escape(diagnosis.spec)}[/]\nlayout: {diagnosis.layout}; {escape(known)}\n")
    for report in diagnosis.splits.values():
        _print_split(diagnosis, report, console)
    for finding in diagnosis.findings:
        style = "bold red" if finding.level == ERROR else "yellow"
        place = f" [{finding.split}]" if finding.split else ""
        console.print(f"[{style}]{finding.level}[/]{escape(place)} {escape(finding.kind)}: {escape(finding.text)}")
    errors, notes = len(diagnosis.errors), len(diagnosis.findings) - len(diagnosis.errors)
    console.print(f"{_many(errors, 'error')}, {_many(notes, 'note')}" if diagnosis.findings else "nothing wrong found")


def _print_split(diagnosis: Diagnosis, report: SplitReport, console: Console) -> None:
    text = f"[bold]{report.name}[/]: {_many(report.images, 'image')}, {_many(report.masks, 'mask')}"
    spread = report.size_range()
    if spread:
        low, middle, high = (f"{height}x{width}" for height, width in spread)
        many = len(report.sizes)
        text += f"; {low} all" if many == 1 else f"; {many} sizes, {low} … {middle} … {high} (smallest, median, largest)"
        text += f"; {report.ignored:.2f} % ignored"
    console.print(text)
    if report.read:
        table = Table(box=None, pad_edge=False, show_header=True)
        for heading, justify in (("class", "left"), ("% of pixels", "right"), ("images", "right"), ("", "left")):
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for label, name in enumerate(diagnosis.classes):
            share = report.share(label)
            bar = "█" * max(round(share * _BAR / 100), 1) if report.pixels[label] else "absent"
            table.add_row(f"{label} {escape(name)}", f"{share:.3f}", str(int(report.images_with[label])), bar)
        console.print(table)
    console.print()


def _many(count: int, noun: str, ending: str = "s") -> str:
    return f"{count} {noun}{'' if count == 1 else ending}"
