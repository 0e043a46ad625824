"""``nasseg trainers``: the recipes, their settings, and the schedules."""

from __future__ import annotations

import inspect

import click
from rich.table import Table

from nasseg.cli.console import wide_console
from nasseg.cli.verb import VerbGroup
from nasseg.training.schedules import load_schedule, schedule_names
from nasseg.training.trainer import load_trainer, trainer_names


@click.group("trainers", cls=VerbGroup, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the recipes and the schedules; ``nasseg trainers show NAME`` lists the settings of one."""
    if context.invoked_subcommand is not None:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recipe")
    table.add_column("what it does")
    for name in trainer_names():
        table.add_row(name, first_line(load_trainer(name)))
    console = wide_console()
    console.print(table)
    console.print("The settings of one: nasseg trainers show NAME. A recipe of your own: --trainer my.module:Class")
    console.print()
    console.print(schedule_table())
    console.print("Train by one: nasseg train TARGET --data D --schedule NAME --out FOLDER. Its settings: nasseg trainers show NAME")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """The settings of recipe or schedule NAME: what each may be, its value, its meaning. Set one with --set trainer.FIELD=VALUE."""
    if name in schedule_names():
        show_schedule(name)
        return
    trainer = load_trainer(name)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("setting", "may be", "default", "meaning"):
        table.add_column(title, overflow="fold")
    for row in trainer.Config.rows():
        table.add_row(row.name, row.legal, spell(row.default), row.meaning)
    console = wide_console()
    console.print(first_line(trainer))
    console.print(table, soft_wrap=False)
    console.print(f"Set one with: --trainer {name} --set trainer.iterations={trainer.Config.model_fields['iterations'].default}")


def schedule_table() -> Table:
    """The schedules: crop, length, for what."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("schedule", "crop", "batch", "iterations", "for"):
        table.add_column(title)
    for name in schedule_names():
        plan = load_schedule(name)
        height, width = plan.size
        table.add_row(name, f"{height}x{width}", str(plan.settings["batch_size"]), str(plan.settings["iterations"]), plan.about)
    return table


def show_schedule(name: str) -> None:
    """What a schedule sets."""
    plan = load_schedule(name)
    rows = {row.name: row for row in load_trainer(plan.trainer).Config.rows()}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("setting", "value", "meaning"):
        table.add_column(title, overflow="fold")
    for key, value in plan.settings.items():
        table.add_row(key, spell(value), rows[key].meaning)
    console = wide_console()
    console.print(f"{plan.about} · recipe {plan.trainer} · crop {plan.size[0]}x{plan.size[1]}")
    console.print(table, soft_wrap=False)
    for backbone, part in plan.by_backbone.items():
        size = [] if part.size is None else [f"crop {part.size[0]}x{part.size[1]}"]
        console.print(f"On {backbone}: {', '.join([*size, *(f'{key} {spell(value)}' for key, value in part.settings.items())])}")
    console.print(f"Everything else as in: nasseg trainers show {plan.trainer}")


def first_line(trainer: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(trainer) or "").partition("\n")[0]


def spell(value: object) -> str:
    """A value as ``--set`` reads it."""
    if isinstance(value, list):
        return f"[{','.join(spell(each) for each in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
