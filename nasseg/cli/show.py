"""``nasseg show``: the trials of a study and its Pareto front."""

from __future__ import annotations

import json

import click

from nasseg.cli.console import wide_console
from nasseg.cli.verb import Verb
from nasseg.report.defaults import against_defaults
from nasseg.report.pareto import front_table, summary, trial_table, warning_lines
from nasseg.search.store import read_study
from nasseg.search.view import REJECTED


@click.command("show", cls=Verb)
@click.argument("results")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: trials and front.")
@click.option("--rejected", is_flag=True, help="List the candidates that were over budget too.")
def command(results: str, as_json: bool, rejected: bool) -> None:
    """The trials of the study in RESULTS and its Pareto front. Only reads: also while a search runs."""
    view = read_study(results)
    if as_json:
        click.echo(json.dumps(view.to_dict()))
        return
    console = wide_console()
    listed = [trial for trial in view.trials if rejected or trial.state != REJECTED]
    if listed:
        console.print(trial_table(view, listed, title=str(view.path), width=console.width))
        console.print()
    if view.front:
        console.print(front_table(view, width=console.width))
        console.print()
    console.print(summary(view))
    if (verdict := against_defaults(view)) is not None:
        console.print(verdict, soft_wrap=True)
    for warning in warning_lines(view.warnings):
        console.print(warning, soft_wrap=True)
    if view.driver is not None:
        console.print(f"a search is running: {view.driver}")
