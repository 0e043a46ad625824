"""``nasseg trainers``: the recipes and their settings."""

from __future__ import annotations

import inspect

import click
from rich.table import Table

from nasseg.cli.console import wide_console
from nasseg.training.trainer import load_trainer, trainer_names


@click.group("trainers", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the recipes; ``nasseg trainers show NAME`` lists the settings of one."""
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


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """The settings of recipe NAME: what each may be, its default, its meaning. Set one with --set trainer.FIELD=VALUE."""
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


def first_line(trainer: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(trainer) or "").partition("\n")[0]


def spell(value: object) -> str:
    """A value as ``--set`` reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
