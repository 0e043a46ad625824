"""``nasseg data pack``: any data set as Parquet shards that stream."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.progress import Progress

from nasseg.cli.verb import Verb
from nasseg.data.layouts import open_data
from nasseg.data.pack import ROWS_PER_GROUP, SHARD_MIB, pack
from nasseg.log import STDERR


@click.command(name="pack", cls=Verb)
@click.option("--data", required=True, metavar="SPEC", help="What to pack: whatever --data takes elsewhere, settings too.")
@click.option("--out", required=True, metavar="DIR", help="A new folder.")
@click.option("--rows-per-group", default=ROWS_PER_GROUP, show_default=True, metavar="N", help="Images that are read at once.")
@click.option("--shard-size", default=SHARD_MIB, show_default=True, metavar="MIB", help="A file closes once it has as much.")
def pack_data(data: str, out: str, rows_per_group: int, shard_size: int) -> None:
    """Write a data set as Parquet shards: images as they are, masks after any mapping of labels, a checksum for every row.

    Train on it with --data shards:DIR, or shards:URL once DIR lies behind any URL that fsspec opens. DIR appears when it is complete.
    """
    opened = open_data(data)
    with Progress(console=STDERR, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("packing", total=None)
        manifest, written = pack(
            opened,
            out,
            rows_per_group=rows_per_group,
            shard_mib=shard_size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for name, files in manifest.splits.items():
        size = sum(file.bytes for file in files) / 2**20
        groups = sum(len(file.row_groups) for file in files)
        rows = sum(file.rows for file in files)
        click.echo(f"{name}: {rows} images in {groups} row groups, {len(files)} file{'' if len(files) == 1 else 's'}, {size:.1f} MiB")
    place = Path(out).expanduser().resolve()
    click.echo(f"{'' if written else 'was already packed: '}--data shards:{place}  (fingerprint {manifest.fingerprint})")
