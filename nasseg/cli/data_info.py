"""``nasseg data info``: the data sets known by name, or what a data string stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nasseg.cli.console import wide_console
from nasseg.cli.verb import Verb
from nasseg.data.dataset import DataSet
from nasseg.data.folders import LAYOUTS
from nasseg.data.layouts import NAMED, find_tree, open_data
from nasseg.data.spec import KEYS, DataSpec, parse_spec
from nasseg.data.tree import Layout

_CLASSES = {"camvid": "11, 31 or 32"}
_FILES = {"ultralytics": "FILE.yaml", "csv": "FILE.csv"}


@click.command("info", cls=Verb)
@click.argument("data", metavar="[PATH|NAME]", required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def info(data: str | None, as_json: bool) -> None:
    """The data sets known by name: classes, images, where they are obtained, licence, the folders expected.

    With NAME (ade20k, voc …) that one with its classes; with PATH, which is what --data takes elsewhere, what was found there.
    """
    console = wide_console()
    if data is None:
        everything = [describe(layout) for layout in NAMED.values()]
        if as_json:
            click.echo(json.dumps(everything, indent=1))
        else:
            _print_known(console)
    elif data in NAMED and not Path(data).exists():
        facts = describe(NAMED[data])
        if as_json:
            click.echo(json.dumps(facts, indent=1))
        else:
            _print_facts(console, facts)
    else:
        found = found_in(open_data(data), data)
        if as_json:
            click.echo(json.dumps(found, indent=1))
        else:
            _print_found(console, found)


def describe(layout: Layout) -> dict[str, Any]:
    """What is known of a layout, as plain data."""
    known: dict[str, Any] = {
        "spec": f"{layout.kind}:{_FILES.get(layout.kind, 'PATH')}",
        "name": layout.name,
        "shape": layout.shape,
        "settings": list(KEYS[layout.kind]),
    }
    if layout.facts is not None:
        facts = layout.facts
        known |= {
            "images": dict(facts.images),
            "obtained": facts.obtained,
            "licence": facts.licence,
            "paper": facts.paper,
            "classes": list(facts.names),
            "palette": [list(colour) for colour in facts.palette],
            "original_labels": list(facts.originals),
        }
    return known


def found_in(data: DataSet, given: str) -> dict[str, Any]:
    """What a data string stands for, as plain data; one image of each split is read."""
    spec = parse_spec(data.spec)
    layout = NAMED.get(spec.kind)
    splits = {}
    for name, split in data.splits.items():
        height, width = split[0].mask.shape
        splits[name] = {"images": len(split), "first": split.ids[0], "size": [height, width]}
        if layout is not None and layout.facts is not None and len(split) <= layout.facts.images.get(name, 0):
            splits[name]["published"] = layout.facts.images[name]
    return {
        "spec": data.spec,
        "recognised": parse_spec(given).kind != spec.kind,
        "layout": layout.name if layout is not None else _own_layout(spec),
        "name": data.name,
        "classes": list(data.classes),
        "classes_from": data.classes_from,
        "original_labels": None if data.original_labels is None else list(data.original_labels),
        "fingerprint": data.fingerprint,
        "splits": splits,
    } | ({"licence": layout.facts.licence} if layout is not None and layout.facts is not None else {})


def _own_layout(spec: DataSpec) -> str:
    if spec.kind == "folder":
        return f"folders, {find_tree(Path(spec.place)).layout.name}"
    return {"synthetic": "built in", "shards": "packed shards"}[spec.kind]


def _print_known(console: Console) -> None:
    public = [layout for layout in NAMED.values() if layout.facts is not None]
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("--data", "left"), ("name", "left"), ("classes", "right"), ("images", "left")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for layout in public:
        assert layout.facts is not None
        counts = ", ".join(f"{split} {count}" for split, count in layout.facts.images.items())
        table.add_row(f"{layout.kind}:PATH", layout.name, _CLASSES.get(layout.kind, str(len(layout.facts.names))), counts)
    console.print(table)
    for layout in public:
        assert layout.facts is not None
        console.print(Text(f"\n{layout.kind}", style="bold"))
        for label, value in (("from", layout.facts.obtained), ("licence", layout.facts.licence), ("folders", layout.shape)):
            console.print(Text(f"  {label:9}{value}"))
    console.print(Text("\nData of one's own", style="bold"))
    for folder in LAYOUTS:
        console.print(Text(f"  PATH  {folder.shape}; the same for val"))
    for layout in NAMED.values():
        if layout.facts is None:
            console.print(Text(f"  {layout.kind}:{_FILES.get(layout.kind, 'PATH')}  {layout.shape}"))
    console.print(Text("  shards:PATH  what nasseg data pack wrote, a folder or a URL"))
    console.print(Text("\nnasseg data info NAME lists a set's classes; nasseg data info PATH says what lies there."))


def _print_facts(console: Console, facts: dict[str, Any]) -> None:
    console.print(Text(f"{facts['name']}  --data {facts['spec']}", style="bold"))
    for label, key in (("from", "obtained"), ("licence", "licence"), ("paper", "paper"), ("looks", "shape")):
        if key in facts:
            console.print(Text(f"  {label:9}{facts[key]}"))
    if "images" in facts:
        console.print(Text(f"  {'images':9}{', '.join(f'{split} {count}' for split, count in facts['images'].items())}"))
    console.print(Text(f"  {'settings':9}{', '.join(facts['settings'])}"))
    if "classes" in facts:
        table = Table(box=None, pad_edge=False)
        for heading in ("class", "original label", "name", "colour"):
            table.add_column(heading, justify="left" if heading in ("name", "colour") else "right")
        for index, (name, colour, label) in enumerate(zip(facts["classes"], facts["palette"], facts["original_labels"], strict=True)):
            table.add_row(str(index), str(label), name, "#{:02x}{:02x}{:02x}".format(*colour))
        console.print(table)


def _print_found(console: Console, found: dict[str, Any]) -> None:
    known = f", known by its folders; --data {found['spec']} says so" if found["recognised"] else ""
    console.print(Text(f"{found['name']}: {found['layout']}{known}", style="bold"))
    console.print(Text(f"  spec      {found['spec']}"))
    console.print(Text(f"  classes   {len(found['classes'])}, from {found['classes_from']}: {_some(found['classes'])}"))
    if found["original_labels"] is not None:
        console.print(Text(f"  labels    mapped; the masks' own are {_some([str(label) for label in found['original_labels']])}"))
    for name, split in found["splits"].items():
        published = split.get("published")
        of = "" if published is None else " as published" if published == split["images"] else f" of {published} published"
        size = "x".join(map(str, split["size"]))
        console.print(Text(f"  {name:10}{split['images']} images{of}, the first {split['first']} ({size})"))
    if "licence" in found:
        console.print(Text(f"  licence   {found['licence']}"))


def _some(values: list[str], most: int = 12) -> str:
    return ", ".join(values[:most]) + (" …" if len(values) > most else "")
