"""``nasseg backbones``: the encoders that can carry a decoder."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nasseg.cli.console import wide_console
from nasseg.cli.options import SIZE
from nasseg.cli.verb import Verb
from nasseg.cost.macs import padded
from nasseg.errors import BackboneError
from nasseg.models.backbones.registry import BUILTIN, describe_backbone, pretrained_source, suggested
from nasseg.models.costing import backbone_facts, check_numbers

HOW_TO_NAME = """\
A backbone is one of the names above, or any timm model with maps at strides 4, 8, 16 and 32, by timm's own name: [bold]resnet34[/bold].
Arguments of the model stand behind a question mark: [bold]mobilenetv2_100?pad_type=same[/bold].
[bold]nasseg backbones NAME[/bold] says whether a name will do."""

DEFAULT_SIZE = (512, 512)


@click.command("backbones", cls=Verb)
@click.argument("name", required=False)
@click.option("--size", type=SIZE, help="Input height and width for the MACs; 512x512 where a network does not prescribe another.")
@click.option("--in-chans", type=int, default=3, show_default=True, help="Channels of the input image.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for NAME, a list of them without.")
def command(name: str | None, size: tuple[int, int] | None, in_chans: int, as_json: bool) -> None:
    """Widths, parameters and MACs of backbone NAME; without NAME, of our own and a selection of timm's."""
    check_numbers(size or DEFAULT_SIZE, 1, in_chans)
    console = wide_console()
    if name is not None:
        facts = describe(name, size, in_chans)
        if as_json:
            click.echo(json.dumps(facts))
        else:
            draw_one(console, facts)
        return
    with console.status("counting"):
        listed = [measure(each, size or DEFAULT_SIZE, in_chans) for each in suggested()]
    if as_json:
        click.echo(json.dumps(listed))
    else:
        draw_list(console, listed)


def measure(name: str, size: tuple[int, int], in_chans: int) -> dict[str, Any]:
    """Widths and cost of a backbone at ``size``."""
    channels, part = backbone_facts(name, size, in_chans)
    return {
        "name": name,
        "family": "nasseg" if name.partition("?")[0] in BUILTIN else "timm",
        "channels": list(channels),
        "size": list(size),
        "params": part.params,
        "macs": part.macs,
        "macs_fvcore": part.fvcore,
    }


def describe(name: str, size: tuple[int, int] | None, in_chans: int) -> dict[str, Any]:
    """All that is known of a backbone, its cost at ``size`` or at the only size it takes."""
    spec = describe_backbone(name, in_chans)
    wanted = size or spec.size or DEFAULT_SIZE
    if spec.size is not None and padded(wanted) != spec.size:
        fixed = f"{spec.size[0]}x{spec.size[1]}"
        raise BackboneError(f"{spec.name} takes images of {fixed} only: give --size {fixed}")
    return {
        **measure(spec.name, wanted, in_chans),
        "strides": list(spec.strides),
        "in_chans": in_chans,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "drop_path": spec.supports_drop_path,
        "only_size": list(spec.size) if spec.size else None,
        "pretrained": pretrained_source(name),
    }


def draw_one(console: Console, facts: dict[str, Any]) -> None:
    """The facts of one backbone, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    height, width = facts["size"]
    lines = {
        "channels": " ".join(map(str, facts["channels"])),
        "strides": " ".join(map(str, facts["strides"])),
        "parameters": f"{facts['params'] / 1e6:.3f} M",
        f"MACs at {height}×{width}": f"{facts['macs'] / 1e9:.3f} G, fvcore convention {facts['macs_fvcore'] / 1e9:.3f} G",
        "mean": " ".join(f"{value:.4g}" for value in facts["mean"]),
        "std": " ".join(f"{value:.4g}" for value in facts["std"]),
        "stochastic depth": "yes" if facts["drop_path"] else "no",
        "input size": f"{facts['only_size'][0]}×{facts['only_size'][1]} only" if facts["only_size"] else "any",
        "--pretrained": facts["pretrained"] or "nothing is published; --weights FILE reads a file of yours",
    }
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in lines.items():
        table.add_row(label, value)
    console.print(f"[bold]{facts['name']}[/bold]  [dim]{facts['family']}[/dim]")
    console.print(table, soft_wrap=False)


def draw_list(console: Console, listed: list[dict[str, Any]]) -> None:
    """One row a backbone, our own before timm's, and how to name others."""
    height, width = listed[0]["size"]
    table = Table(box=None, pad_edge=False)
    for column in ("backbone", "from", "channels"):
        table.add_column(column, no_wrap=True)
    for column in ("params M", f"MACs G at {height}×{width}"):
        table.add_column(column, justify="right")
    for facts in listed:
        figures = (f"{facts['params'] / 1e6:.3f}", f"{facts['macs'] / 1e9:.3f}")
        table.add_row(facts["name"], facts["family"], " ".join(map(str, facts["channels"])), *figures)
    console.print(table)
    console.print()
    console.print(HOW_TO_NAME)
