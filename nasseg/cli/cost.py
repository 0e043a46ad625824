"""``nasseg cost``: parameters and MACs of a network, part by part."""

from __future__ import annotations

import json

import click
from rich.table import Table

from nasseg.cli.console import wide_console
from nasseg.cli.genotypes import read_genotype
from nasseg.cli.options import SIZE, parse_sets, split_sets
from nasseg.cli.verb import Verb
from nasseg.cost.cost import PARTS, Cost
from nasseg.cost.executed import PANELS, Executed
from nasseg.errors import ConfigError, Problem
from nasseg.genes.gene import STAGES
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import BASE, PRESETS, preset_size
from nasseg.models.costing import backbone_facts, cost

BAR = 20
"""Width of a whole share bar, in characters."""


@click.command("cost", cls=Verb)
@click.argument("genotype")
@click.option("--backbone", help="Encoder; replaces the genotype's.")
@click.option("--size", type=SIZE, required=True, help="Input height and width in pixels, as 512x1024.")
@click.option("--classes", type=int, required=True, help="Number of classes.")
@click.option("--set", "sets", multiple=True, metavar="GENE=VALUE", help="Replace a gene, as stage3.lpm=se; may be repeated.")
@click.option("--resize-logits", is_flag=True, help="Count the resize of the logits to the input size in the fvcore total.")
@click.option("--effective", is_flag=True, help="Beside the papers' convention, what the decoder executes.")
@click.option("--panels", type=int, default=PANELS, show_default=True, help="With --effective: panels a strip is counted by.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    genotype: str,
    backbone: str | None,
    size: tuple[int, int],
    classes: int,
    sets: tuple[str, ...],
    resize_logits: bool,
    effective: bool,
    panels: int,
    as_json: bool,
) -> None:
    """Live parameters and MACs of GENOTYPE, a YAML file or the name of a published design (see `nasseg presets`)."""
    given = parse_sets(sets)
    genes, trainer = split_sets(given)
    if trainer:
        rule = "a trainer's setting changes no cost; --set takes genes here"
        raise ConfigError([Problem("", "--set", rule, f"{key}={value}") for key, value in given.items() if key not in genes])
    if panels != PANELS and not effective:
        raise ConfigError(Problem("", "--panels", "says how strips are counted with --effective", panels))
    network = read_genotype(genotype, backbone or None)
    network = network.override(genes) if genes else network
    if network.backbone is None:
        raise ConfigError(Problem("cost", "--backbone", f"{genotype} names no backbone, so one must be given", None, "mit_b0"))
    counted = cost(network, size=size, num_classes=classes, resize_logits=resize_logits)
    done = _executed(network, size, classes, panels) if effective else None
    if as_json:
        click.echo(json.dumps(counted.to_dict() | ({} if done is None else {"executed": done.to_dict()})))
        return
    console = wide_console()
    console.print(f"[bold]{network.short()}[/bold]  on {counted.backbone}, {size[0]}×{size[1]}, {classes} classes  [dim]{counted.id}[/dim]")
    console.print(cost_table(counted) if done is None else effective_table(counted, done))
    if done is not None:
        console.print(f"executed: strips by {done.panels} panels; the number of panels follows the range of the data")
    resize = " with the resize of the logits" if resize_logits else ""
    console.print(f"fvcore convention{resize} (norms, resizes, global pools counted): [bold]{counted.macs_fvcore / 1e9:.3f} G[/bold]")
    channels, _ = backbone_facts(counted.backbone, size)
    for line in heads_in_use(network, channels):
        console.print(line)
    if genotype in PRESETS and preset_size(genotype, counted.backbone) is None:
        console.print(f"{genotype} was not published on {counted.backbone}: this is its {BASE} size")


def cost_table(counted: Cost) -> Table:
    """One row a part, with its share of all MACs; a stage that is not kept shows dashes."""
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for name in ("params M", "MACs G", "share"):
        table.add_column(name, justify="right")
    table.add_column("")
    total = counted.macs or 1
    for name in PARTS:
        part = counted.parts[name]
        share = part.macs / total
        nothing = part.params == part.macs == 0
        figures = ("-", "-", "-") if nothing else (f"{part.params / 1e6:.3f}", f"{part.macs / 1e9:.3f}", f"{share:.1%}")
        table.add_row(name, *figures, "█" * round(share * BAR))
    table.add_section()
    decoder = (f"{counted.decoder_params / 1e6:.3f}", f"{counted.decoder_macs / 1e9:.3f}", f"{counted.decoder_macs / total:.1%}")
    table.add_row("[dim]decoder[/dim]", *(f"[dim]{figure}[/dim]" for figure in decoder), "")
    table.add_row("[bold]total[/bold]", f"[bold]{counted.params / 1e6:.3f}[/bold]", f"[bold]{counted.macs / 1e9:.3f}[/bold]", "", "")
    return table


def effective_table(counted: Cost, done: Executed) -> Table:
    """One row a part: the convention's MACs, those executed, and executed / MACs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for name in ("params M", "MACs G", "executed G", "ratio"):
        table.add_column(name, justify="right")

    def row(name: str, params: int, macs: int, executed: int, style: str | None = None) -> None:
        nothing = params == macs == executed == 0
        ratio = f"{executed / macs:.2f}" if macs else "-"
        table.add_row(
            name, *(("-",) * 4 if nothing else (f"{params / 1e6:.3f}", f"{macs / 1e9:.3f}", f"{executed / 1e9:.3f}", ratio)), style=style
        )

    for name in PARTS:
        row(name, counted.parts[name].params, counted.parts[name].macs, done.parts[name])
    table.add_section()
    row("decoder", counted.decoder_params, counted.decoder_macs, done.decoder_macs, "dim")
    row("total", counted.params, counted.macs, done.macs, "bold")
    return table


def _executed(network: Genotype, size: tuple[int, int], classes: int, panels: int) -> Executed:
    # Counting a built decoder needs torch, which takes seconds to import; the convention is arithmetic.
    from nasseg.models.effective import executed  # noqa: PLC0415

    return executed(network, size=size, num_classes=classes, panels=panels)


def heads_in_use(genotype: Genotype, channels: tuple[int, int, int, int]) -> list[str]:
    """A sentence for every stage whose widths are not divisible by the heads asked for."""
    lines = []
    used = genotype.heads(channels)
    for stage in STAGES:
        genes = genotype.stage(stage)
        asked = genes.heads if genes is not None else None
        if asked is not None and used[stage - 1] != asked:
            users = (stage, *genotype.reusers(stage))
            widths = " and ".join(str(channels[i - 1]) for i in users)
            who = "stage " + " and ".join(map(str, users))
            lines.append(f"{who}: {used[stage - 1]} heads instead of {asked}, the largest number below it that divides {widths}")
    return lines
