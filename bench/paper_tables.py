"""Published costs beside ours, row by row: ``python bench/paper_tables.py [--json] [--only TEXT]``.

GFLOPs are compared in the fvcore convention, which the papers use. Parameters: ours are live ones; papers count weights that their code
registers and never uses, so the error is that of the live count plus those (``bench/published.yaml`` names them). Exit code 1 if a GFLOPs
value that an independent count of the same structure meets within 1 % is missed by more than 1 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nasseg.cost.cost import Cost
from nasseg.files import read_yaml
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.models.costing import backbone_facts, cost

TOLERANCE = 0.01
"""Largest relative error of a GFLOPs value that can be met."""

SPARE = {
    "none": "nothing: live weights on both sides",
    "classifier": "a spare classifier",
    "classifiers": "two spare classifiers",
    "mixing": "per block an unused 1×1 convolution T → T and LayerNorm, and two spare classifiers",
    "blocks": "those of whole blocks, and every weight of the blocks that are switched off",
}
"""Why printed parameters exceed live ones."""


@dataclass(frozen=True)
class Row:
    """One published row and our count of it. Parameters in M, costs in G (10⁹); None where nothing is printed."""

    name: str
    backbone: str
    size: str
    classes: int
    params_paper: float | None
    params_live: float
    params_registered: float
    gflops_paper: float | None
    gflops: float
    macs: float
    gflops_counted: float | None
    spare: str

    @property
    def error(self) -> float | None:
        """Of GFLOPs, relative to print."""
        return None if self.gflops_paper is None else self.gflops / self.gflops_paper - 1

    @property
    def params_error(self) -> float | None:
        """Of the registered parameters, relative to print."""
        return None if self.params_paper is None else self.params_registered / self.params_paper - 1

    @property
    def reachable(self) -> bool:
        """An independent count of the structure meets print within 1 %, or there is no such count and print has to be met."""
        if self.gflops_paper is None:
            return False
        return self.gflops_counted is None or abs(self.gflops_counted / self.gflops_paper - 1) <= TOLERANCE

    @property
    def failed(self) -> bool:
        """Print can be met and is not."""
        return self.reachable and self.error is not None and abs(self.error) > TOLERANCE


def count_row(raw: dict[str, Any]) -> Row:
    """Our cost of one row of ``published.yaml``."""
    genes = raw.get("set", {})
    height, width = (int(side) for side in raw["size"].split("x"))
    size = (height, width)
    live = preset(raw["preset"], raw["backbone"]).override(genes)
    counted = cost(live, size=size, num_classes=raw["classes"], resize_logits=raw.get("resize_logits", False))
    channels, _ = backbone_facts(raw["backbone"], size)
    # Blocks are switched off by dotted genes; without those the row's whole network stands there.
    whole = (
        preset(raw["preset"], raw["backbone"]).override({k: v for k, v in genes.items() if "." not in k})
        if raw["spare"] == "blocks"
        else live
    )
    registered = cost(whole, size=size, num_classes=raw["classes"]).params + spare_weights(raw["spare"], whole, channels, counted)
    params_paper, gflops_paper = raw["paper"]
    return Row(
        name=raw["row"],
        backbone=raw["backbone"],
        size=raw["size"],
        classes=raw["classes"],
        params_paper=params_paper,
        params_live=counted.params / 1e6,
        params_registered=registered / 1e6,
        gflops_paper=gflops_paper,
        gflops=counted.macs_fvcore / 1e9,
        macs=counted.macs / 1e9,
        gflops_counted=raw["counted"][1] if raw["counted"] else None,
        spare=raw["spare"],
    )


def spare_weights(kind: str, genotype: Genotype, channels: tuple[int, int, int, int], counted: Cost) -> int:
    """Parameters that a released implementation of this network holds beside the live ones (without the blocks it never calls)."""
    classifier = genotype.fusion_width * counted.classes + counted.classes
    if kind in ("none", "classifier"):
        return classifier if kind == "classifier" else 0
    spare = 2 * classifier
    if kind in ("mixing", "blocks"):
        for stage in genotype.kept:
            genes = genotype.stage(stage)
            if genes is not None and genes.inputs:
                width = sum(channels[j - 1] for j in genes.inputs)
                spare += width * width + width + 2 * width
    return spare


def count_tables(path: Path, only: str = "") -> dict[str, list[Row]]:
    """Every table of the file whose name holds ``only``."""
    return {
        table["table"]: [count_row(raw) for raw in table["rows"]] for table in read_yaml(path) if only.lower() in table["table"].lower()
    }


def worst(rows: list[Row], reachable: bool) -> Row | None:
    """The row with the largest GFLOPs error, of those that can be met or of those that cannot."""
    compared = [row for row in rows if row.error is not None and row.reachable == reachable]
    return max(compared, key=lambda row: abs(row.error or 0.0), default=None)


def draw(name: str, rows: list[Row]) -> Table:
    """The table a person looks at. A GFLOPs error in brackets is one that the published structure cannot avoid."""
    table = Table(title=name, title_justify="left", caption_justify="left", box=None, pad_edge=False)
    for column in ("row", "backbone", "input"):
        table.add_column(column, no_wrap=True)
    for column in ("classes", "GFLOPs print", "ours", "error", "MACs G", "params M print", "with spare", "error", "live"):
        table.add_column(column, justify="right")
    for row in rows:
        error = "" if row.error is None else f"{row.error:+.2%}" if row.reachable else f"[dim]({row.error:+.2%})[/dim]"
        table.add_row(
            row.name,
            row.backbone,
            row.size,
            str(row.classes),
            *("" if row.gflops_paper is None else f"{row.gflops_paper:.1f}", f"{row.gflops:.3f}"),
            f"[bold red]{error}[/bold red]" if row.failed else error,
            f"{row.macs:.3f}",
            *("" if row.params_paper is None else f"{row.params_paper:.1f}", f"{row.params_registered:.3f}"),
            "" if row.params_error is None else f"{row.params_error:+.2%}",
            f"{row.params_live:.3f}",
        )
    kinds = {
        kind: ", ".join(dict.fromkeys(row.name for row in rows if row.spare == kind)) for kind in dict.fromkeys(row.spare for row in rows)
    }
    reasons = (f"{SPARE[kind]} ({names})" if len(kinds) > 1 else SPARE[kind] for kind, names in kinds.items())
    table.caption = "printed but not live: " + "; ".join(reasons)
    return table


def summary(tables: dict[str, list[Row]]) -> Table:
    """The worst GFLOPs error of each table: where print can be met, where it cannot, and against the independent count."""
    table = Table(title="worst GFLOPs error", title_justify="left", caption_justify="left", box=None, pad_edge=False)
    for column in ("table", "rows", "can be met", "met", "worst of those", "worst of the others", "against the count"):
        table.add_column(column)
    for name, rows in tables.items():
        reachable = [row for row in rows if row.reachable]
        named = [
            f"{row.error:+.2%} {row.name}, {row.backbone}, {row.classes}" if (row := worst(rows, kind)) else "" for kind in (True, False)
        ]
        apart = [abs(row.gflops / row.gflops_counted - 1) for row in rows if row.gflops_counted is not None]
        met = len(reachable) - sum(row.failed for row in reachable)
        table.add_row(name, str(len(rows)), str(len(reachable)), str(met), *named, f"{max(apart):.3%}" if apart else "")
    table.caption = "a row's name is followed by its backbone and number of classes; the count has three decimals"
    return table


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--only", default="", metavar="TEXT", help="tables whose name holds TEXT")
    given = parser.parse_args(arguments)
    tables = count_tables(Path(__file__).with_name("published.yaml"), given.only)
    failed = [f"{name}: {row.name} on {row.backbone}" for name, rows in tables.items() for row in rows if row.failed]
    if given.json:
        print(
            json.dumps(
                {
                    "tables": {n: [{**asdict(r), "error": r.error, "reachable": r.reachable} for r in rows] for n, rows in tables.items()},
                    "failed": failed,
                }
            )
        )
        return int(bool(failed))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for name, rows in tables.items():
        console.print(draw(name, rows))
        console.print()
    console.print(summary(tables))
    for line in failed:
        console.print(f"[bold red]missed by more than {TOLERANCE:.0%}[/bold red]: {line}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
