"""``nasseg presets``: the published designs, and what they cost on a backbone."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE, parse_sets, split_sets
from nasseg.cli.space_tables import NARROW
from nasseg.cli.verb import Verb
from nasseg.cost.cost import Cost
from nasseg.errors import ConfigError, Problem
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import BASE, PRESETS, describe_preset, preset, preset_size
from nasseg.models.costing import check_numbers, cost


@click.command("presets", cls=Verb)
@click.option("--backbone", help="Encoder to cost them on; without one they are listed with their sources.")
@click.option("--size", type=SIZE, default="512x512", show_default=True, help="Input height and width in pixels.")
@click.option("--classes", type=int, default=150, show_default=True, help="Number of classes.")
@click.option("--set", "sets", multiple=True, metavar="GENE=VALUE", help="Replace a gene in all of them, as fusion_width=256.")
@click.option("--json", "as_json", is_flag=True, help="A list of JSON objects.")
def command(backbone: str | None, size: tuple[int, int], classes: int, sets: tuple[str, ...], as_json: bool) -> None:
    """The published designs; with --backbone, their parameters and MACs on it."""
    check_numbers(size, classes, 3)
    designs = {name: preset(name, backbone) for name in PRESETS}
    genes, trainer = split_sets(parse_sets(sets))
    if trainer:
        raise ConfigError([Problem("", "--set", "a trainer's setting changes no design; --set takes genes here", key) for key in trainer])
    if genes:
        designs = override_all(designs, genes)
    costs = {name: cost(design, size=size, num_classes=classes) for name, design in designs.items() if design.backbone is not None}
    if as_json:
        click.echo(json.dumps([facts(name, design, costs.get(name)) for name, design in designs.items()]))
    elif costs:
        draw_costs(wide_console(), designs, costs)
    else:
        draw_sources(wide_console(), designs)


def override_all(designs: dict[str, Genotype], genes: dict[str, Any]) -> dict[str, Genotype]:
    """Every design with these genes. Raises :class:`ConfigError` with the problems of all designs that cannot have them."""
    problems: list[Problem] = []
    out = {}
    for name, design in designs.items():
        try:
            out[name] = design.override(genes, where=f"--set on {name}")
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return out


def facts(name: str, design: Genotype, counted: Cost | None) -> dict[str, Any]:
    """A design as JSON."""
    what, source = describe_preset(name)
    known: dict[str, Any] = {"name": name, "id": design.id, "what": what, "source": source, "genotype": design.to_dict()}
    if design.backbone is not None:
        known["published_size"] = preset_size(name, design.backbone)
    return known if counted is None else {**known, **counted.to_dict()}


def draw_costs(console: Console, designs: dict[str, Genotype], costs: dict[str, Cost]) -> None:
    """One row a design: its size, params and MACs of backbone, decoder and both; under it, which designs were never published there."""
    first = next(iter(costs.values()))
    backbone = first.parts["backbone"]
    console.print(
        f"on [bold]{escape(first.backbone)}[/bold] ({backbone.params / 1e6:.3f} M, {backbone.macs / 1e9:.3f} G), "
        f"{first.size[0]}×{first.size[1]}, {first.classes} classes"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("design", no_wrap=True)
    table.add_column("size", no_wrap=True)
    for column in ("decoder\nparams M", "total\nparams M", "decoder\nMACs G", "total\nMACs G", "total\nfvcore G"):
        table.add_column(column, justify="right", no_wrap=True)
    if console.width >= NARROW:
        table.add_column("genotype", overflow="fold")
    sizes = {name: preset_size(name, first.backbone) for name in costs}
    for name, counted in costs.items():
        millions = (f"{value / 1e6:.3f}" for value in (counted.decoder_params, counted.params))
        billions = (f"{value / 1e9:.3f}" for value in (counted.decoder_macs, counted.macs, counted.macs_fvcore))
        table.add_row(name, sizes[name] or f"({BASE})", *millions, *billions, *([designs[name].short()] if console.width >= NARROW else []))
    console.print(table, soft_wrap=False)
    unpublished = [name for name, size in sizes.items() if size is None]
    if unpublished:
        console.print(f"({BASE}): not published on {escape(first.backbone)}; the {BASE} size is taken of {', '.join(unpublished)}")


def draw_sources(console: Console, designs: dict[str, Genotype]) -> None:
    """What each design is and where it was published."""
    table = Table(box=None, pad_edge=False, header_style="dim", leading=1)
    table.add_column("design", no_wrap=True)
    table.add_column("what, genes, source", overflow="fold")
    for name, design in designs.items():
        what, source = describe_preset(name)
        table.add_row(f"[bold]{name}[/bold]", f"{escape(what)}\n{escape(design.short())}\n[dim]{escape(source)}[/dim]")
    console.print(table, soft_wrap=False)
    console.print()
    console.print("[bold]nasseg presets --backbone mit_b0[/bold] lists them with their cost")
