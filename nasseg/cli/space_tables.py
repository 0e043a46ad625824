"""How a search space looks in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nasseg.genes.budget import quantity
from nasseg.genes.gene import GENES, STAGES
from nasseg.genes.space import Point, Space
from nasseg.genes.stats import SpaceStats
from nasseg.genes.variable import Choices, Setting, Variable, plain

BAR = 32
"""Width of the longest bar, in characters."""

NARROW = 100
"""Columns of a terminal below which a table leaves its longest column out."""

EVERYWHERE = ("always", "the stage is kept")


def variable_facts(space: Space, variable: Variable) -> dict[str, Any]:
    """A variable as JSON."""
    facts: dict[str, Any] = {"name": variable.name, "gene": variable.gene, "meaning": variable.meaning}
    if variable.when:
        facts["when"] = variable.when
    if isinstance(variable, Choices):
        stages = {"stages": list(space.read_stages(variable))} if variable.stages != (0,) else {}
        return {**facts, **stages, "choices": list(space.used_choices(variable))}
    if variable.choices:
        return {**facts, "choices": list(variable.choices)}
    return {**facts, "low": variable.low, "high": variable.high, "step": variable.step, "log": variable.log, "integer": variable.integer}


def draw_space(console: Console, space: Space) -> None:
    """What is searched, then what is settled, then what a study takes from the space."""
    words = escape(space.description)
    console.print(f"[bold]{escape(space.name)}[/bold]  [dim]{space.fingerprint}[/dim]  {words}", soft_wrap=False)
    if space.needs_genotype:
        console.print("the decoder is given by --genotype")
    else:
        console.print(f"{count_words(space.size())}, {len(space.variables)} variables")
    console.print()
    table = Table(box=None, pad_edge=False, header_style="dim")
    columns = ("gene", "stages", "values", "read when", "meaning")[: 4 if console.width < NARROW else 5]
    for column in columns:
        table.add_column(column, no_wrap=column in ("gene", "stages"), overflow="fold")
    for row in searched_rows(space):
        table.add_row(*map(escape, row[: len(columns)]))
    if table.row_count:
        console.print(table, soft_wrap=False)
        console.print()
    draw_settled(console, space)
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("budget", ", ".join(f"{name} at most {quantity(bound)}" for name, bound in space.budget.bounds.items()) or "none")
    facts.add_row("objectives", ", ".join(f"{name} {direction}" for name, direction in space.objectives.items()))
    facts.add_row("starts from", ", ".join(space.presets) or "no published design")
    console.print(facts, soft_wrap=False)


def searched_rows(space: Space) -> list[tuple[str, str, str, str, str]]:
    """A row per gene; stages with the same values share one, genes in drawing order."""
    rows: dict[tuple[str, str, str, bool], list[Variable]] = {}
    for variable in space.variables:
        values = variable.text() if isinstance(variable, Setting) else ", ".join(plain(c) for c in space.used_choices(variable))
        tied = isinstance(variable, Choices) and variable.tied
        rows.setdefault((variable.gene, values, variable.when, tied), []).append(variable)
    out: list[tuple[str, str, str, str, str]] = []
    order = list(dict.fromkeys(key[0] for key in rows))
    for key, variables in sorted(rows.items(), key=lambda item: order.index(item[0][0])):
        gene, values, when, tied = key
        stages = [i for v in variables if isinstance(v, Choices) for i in space.read_stages(v) if i]
        words = " ".join(map(str, stages)) + (" tied" if tied else "")
        own = GENES[gene].active_when if gene in GENES else EVERYWHERE[0]
        first = not any(row[0] == gene for row in out)
        read = "; ".join(part for part in ("" if own in EVERYWHERE or not first else own, when) if part)
        out.append((gene, words, values, read, variables[0].meaning if first else ""))
    return out


def draw_settled(console: Console, space: Space) -> None:
    """Settled genes, the stages of one value together."""
    rows: dict[tuple[str, str], list[int]] = {}
    for slot, values in space.settled.items():
        head, _, gene = slot.rpartition(".")
        stage = int(head[5:]) if head.startswith("stage") else 0
        name = gene if stage else slot
        words = [_input_words(v, stage) if gene == "inputs" else plain(v) for v in values]
        rows.setdefault((name, " or ".join(words)), []).append(stage)
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("settled", "stages", "value"):
        table.add_column(column, no_wrap=column != "value", overflow="fold")
    order = list(dict.fromkeys(name for name, _ in rows))
    for (name, value), stages in sorted(rows.items(), key=lambda item: order.index(item[0][0])):
        table.add_row(name, " ".join(map(str, stages)) if any(stages) else "", value)
    console.print(table, soft_wrap=False)
    console.print()


def draw_stats(
    console: Console, space: Space, stats: SpaceStats, size: tuple[int, int] | None, classes: int | None, rare: str | None
) -> None:
    """Size, share inside the budget, the bounds, the spread of each bounded cost and the cheapest network seen.

    ``rare`` is what a search says about the budget where no draw fits it.
    """
    console.print(f"[bold]{escape(space.name)}[/bold]  {count_words(stats.size)}")
    if size is None or stats.share is None or stats.interval is None:
        console.print("what they cost depends on the backbone: give --backbone, --size and --classes")
        return
    how = "all of them costed" if stats.exact else f"{stats.evaluated:,} uniform draws costed"
    console.print(f"on {', '.join(space.backbones)}, {size[0]}×{size[1]}, {classes} classes; {how}")
    console.print()
    if stats.budget:
        low, high = stats.interval
        share = f"{stats.fitting:,} of {stats.evaluated:,} fit the budget: [bold]{percent(stats.share)}[/bold]"
        console.print(share if stats.exact else f"{share}  (95 % interval {percent(low)} to {percent(high)})")
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("bound")
        for column in ("at most", "broken by"):
            table.add_column(column, justify="right")
        table.add_column("")
        for name, bound in stats.budget.bounds.items():
            table.add_row(name, quantity(bound), percent(stats.violations[name]), "binds" if name == stats.binding else "")
        console.print(table)
        if rare is not None:
            console.print(escape(rare), soft_wrap=False)
        console.print()
    for name in stats.budget.bounds or ("macs", "params"):
        draw_histogram(console, stats, name)
    which = "cheapest" if stats.exact else "cheapest seen"
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(which)
    table.add_column("", justify="right")
    table.add_column("id", no_wrap=True)
    table.add_column("genotype", overflow="fold")
    for name in stats.budget.bounds or ("macs", "params"):
        low_one = stats.lowest[name]
        table.add_row(name, quantity(low_one.values[name]), low_one.genotype.id, low_one.genotype.short())
    console.print(table, soft_wrap=False)


def draw_histogram(console: Console, stats: SpaceStats, name: str) -> None:
    """One bar a bin; bins that begin above the bound are drawn light."""
    histogram, bound = stats.histograms[name], stats.budget.bounds.get(name)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("share", justify="right")
    most = max(histogram.counts)
    for low, high, number in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        over = bound is not None and low > bound
        length = round(number / most * BAR)
        bar = ("░" if over else "█") * length or ("▏" if number else "")
        mark = "  ← bound" if bound is not None and low <= bound < high else ""
        table.add_row(f"{quantity(low)} – {quantity(high)}", f"{bar}{mark}", percent(number / stats.evaluated))
    console.print(table)
    console.print()


def draw_samples(console: Console, points: Sequence[Point], out: str | None) -> None:
    """One row a point."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("id", no_wrap=True)
    backbones = any(point.genotype.backbone for point in points)
    if backbones:
        table.add_column("backbone", no_wrap=True)
    table.add_column("genotype", overflow="fold")
    settings = any(point.settings for point in points)
    if settings:
        table.add_column("training", overflow="fold")
    for point in points:
        row = [point.genotype.id]
        if backbones:
            row.append(point.genotype.backbone or "")
        row.append(point.genotype.short())
        if settings:
            row.append(" ".join(f"{k}={f'{v:.3g}' if isinstance(v, float) else plain(v)}" for k, v in point.settings.items()))
        table.add_row(*map(escape, row))
    console.print(table, soft_wrap=False)
    if out is not None:
        console.print(f"written to {out}")


def count_words(number: int) -> str:
    """``312 genotypes``, with a rounded power of ten where there are many digits."""
    rounded = f" (about {number:.1e})" if number >= 10**9 else ""
    return f"{number:,} genotype{'' if number == 1 else 's'}{rounded}"


def percent(share: float) -> str:
    """Two digits that say something: ``68.6 %``, ``0.32 %``, and never ``0.0 %`` for what is not nothing."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    digits = 1 if 0.01 <= share <= 0.999 else 2
    return f"{share * 100:.{digits}f} %"


def _input_words(value: tuple[int, ...], stage: int) -> str:
    return "all" if value == STAGES else "self" if value == (stage,) else plain(value)
