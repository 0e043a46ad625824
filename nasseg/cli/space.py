"""``nasseg space``: what a search space holds, before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from nasseg.cli.console import wide_console
from nasseg.cli.genotypes import read_genotype
from nasseg.cli.options import SIZE, parse_sets, split_sets
from nasseg.cli.space_tables import draw_samples, draw_space, draw_stats, variable_facts
from nasseg.cli.verb import VerbGroup
from nasseg.errors import BudgetError, ConfigError, Problem
from nasseg.files import dump_yaml, write_atomic
from nasseg.genes.budget import Budget
from nasseg.genes.genotype import Genotype
from nasseg.genes.space import Space
from nasseg.genes.stats import CostOf, require_feasible
from nasseg.models.costing import cost


def space_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every verb about a space takes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object."),
        click.option("--genotype", help="A genotype file or published design; settles the decoder, training genes stay open."),
        click.option("--set", "sets", multiple=True, metavar="GENE=VALUE", help="Settle a gene, as stage3.lpm=se; may be repeated."),
        click.option("--backbone", help="Settle the encoder."),
        click.argument("space"),
    ):
        function = option(function)
    return function


def open_space(name: str, backbone: str | None, sets: tuple[str, ...], genotype: str | None) -> Space:
    """The space of this name or path with what the command line settles."""
    genes, trainer = split_sets(parse_sets(sets))
    space = Space.load(name)
    if genotype is not None:
        space = space.with_genotype(read_genotype(genotype, backbone))
    assignments = genes | {f"train.{field}": value for field, value in trainer.items()}
    if backbone is not None:
        assignments["backbone"] = backbone
    return space.with_fixed(assignments)


@click.group("space", cls=VerbGroup)
def command() -> None:
    """Show, count and sample a search space: a shipped one by name, or a YAML file."""


@command.command("show")
@space_options
def show(space: str, backbone: str | None, sets: tuple[str, ...], genotype: str | None, as_json: bool) -> None:
    """The genes of SPACE: what is searched, what is settled, budget, presets, size."""
    opened = open_space(space, backbone, sets, genotype)
    if as_json:
        size = None if opened.needs_genotype else opened.size()
        facts = {"fingerprint": opened.fingerprint, "size": size, "variables": [variable_facts(opened, v) for v in opened.variables]}
        click.echo(json.dumps({**opened.to_dict(), **facts}))
    else:
        draw_space(wide_console(), opened)


@command.command("stats")
@space_options
@click.option("--size", type=SIZE, help="Input height and width in pixels, as 512x1024.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--budget", help='Upper bounds, as "macs=1.5G,params=6M"; replaces the space\'s.')
@click.option("--samples", type=int, default=2000, show_default=True, help="Draws where the space is too large to be costed whole.")
@click.option("--seed", type=int, default=0, show_default=True)
def stats(
    space: str,
    backbone: str | None,
    sets: tuple[str, ...],
    genotype: str | None,
    as_json: bool,
    size: tuple[int, int] | None,
    classes: int | None,
    budget: str | None,
    samples: int,
    seed: int,
) -> None:
    """How many genotypes SPACE holds; on a backbone also what they cost, which share fits the budget, which bound binds."""
    opened = open_space(space, backbone, sets, genotype)
    bounds = opened.budget if budget is None else Budget.parse(budget)
    problems = []
    if samples < 1:
        problems.append(Problem("", "--samples", "must be a whole number from 1", samples, 2000))
    wanted = size is not None or classes is not None or bool(bounds)
    if opened.backbones or wanted:
        if not opened.backbones:
            problems.append(
                Problem("", "--backbone", "costs are those of a whole network, and the space names no backbone", None, "mit_b0")
            )
        if size is None:
            problems.append(Problem("", "--size", "the cost of a network depends on its input size", None, "512x512"))
        if classes is None or classes < 1:
            problems.append(Problem("", "--classes", "the cost of a network depends on the number of classes, 1 or more", classes))
    if problems:
        raise ConfigError(problems)
    console = wide_console()
    rare: str | None = None
    if size is None or classes is None:
        taken = opened.stats()
    else:
        height_width, number = size, classes

        def cost_of(one: Genotype) -> Mapping[str, float]:
            return cost(one, size=height_width, num_classes=number).values()

        with console.status("costing genotypes"):
            taken = opened.stats(cost_of, bounds, samples, seed)
            if bounds and taken.fitting == 0:
                rare = feasible_words(opened, bounds, cost_of, seed)
    if as_json:
        asked = {"space": opened.name, "backbones": list(opened.backbones), "input": size and list(size), "classes": classes}
        click.echo(json.dumps({**asked, **taken.to_dict(), "note": rare}))
    else:
        draw_stats(console, opened, taken, size, classes, rare)


def feasible_words(space: Space, budget: Budget, cost_of: CostOf, seed: int) -> str:
    """Whether anything fits a budget that no draw fitted."""
    try:
        found = require_feasible(space, budget, cost_of, seed=seed)
    except BudgetError as error:
        return str(error)
    assert found is not None
    return f"none of the draws fits, but a search found one that does: {found.genotype.short()} ({found.genotype.id})"


@command.command("sample")
@space_options
@click.option("-n", "number", type=int, default=5, show_default=True, help="How many.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", help="Folder for one YAML file per genotype, named by its id.")
def sample(
    space: str,
    backbone: str | None,
    sets: tuple[str, ...],
    genotype: str | None,
    as_json: bool,
    number: int,
    seed: int,
    out: str | None,
) -> None:
    """Genotypes of SPACE, drawn uniformly."""
    opened = open_space(space, backbone, sets, genotype)
    if number < 1:
        raise ConfigError(Problem("", "-n", "must be a whole number from 1", number, 1))
    points = opened.points(number, seed)
    if out is not None:
        for point in points:
            path = Path(out) / f"{point.genotype.id}.yaml"
            try:
                write_atomic(path, dump_yaml(point.genotype.to_dict()))
            except OSError as error:
                raise ConfigError(Problem(str(path), "", f"cannot be written: {error.strerror}")) from error
    if as_json:
        drawn = [{"id": p.genotype.id, "genotype": p.genotype.to_dict(), "settings": dict(p.settings)} for p in points]
        click.echo(json.dumps({"space": opened.name, "seed": seed, "sample": drawn}))
    else:
        draw_samples(wide_console(), points, out)
