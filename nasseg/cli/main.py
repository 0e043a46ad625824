"""The ``nasseg`` command: finds the verb's file, runs it, turns errors into one sentence and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click
from typing_extensions import override

import nasseg
from nasseg.cores import wait_passively
from nasseg.errors import NassegError
from nasseg.log import console_logs

VERBS = {
    "search": "find decoders that fit a budget",
    "show": "the trials of a study and its Pareto front",
    "train": "train a found or published network end to end",
    "eval": "measure a run or a bundle on a data set",
    "export": "turn a run into a bundle: weights, ONNX, program, card",
    "predict": "draw what a bundle sees on images",
    "cost": "parameters and MACs of a network",
    "space": "show, count and sample a search space",
    "presets": "the published designs with their cost",
    "backbones": "encoders that can carry a decoder",
    "data": "check a data set",
    "trainers": "the recipes and their settings",
}


class LazyGroup(click.Group):
    """Imports a verb's module when the verb is called: ``nasseg --help`` loads no torch."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"nasseg.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(nasseg.__version__, prog_name="nasseg")
def main() -> None:
    """Finds the best segmentation decoder that fits your budget, and hands you the trained model."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 the run went wrong, 2 something given was wrong, 130 interrupted."""
    wait_passively()
    # A recipe of one's own, my.module:Class, lies where the command is given; behind everything installed, so that it hides nothing.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with console_logs():
            main.main(args=arguments, prog_name="nasseg", standalone_mode=False)
    except NassegError as error:
        click.echo(f"nasseg: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("nasseg: interrupted", err=True)
        sys.exit(130)
