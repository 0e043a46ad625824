"""The published designs: each a genotype without a backbone, at home on any four-stage one.

A design that its paper builds in several sizes says so in its file, under ``sizes``: which backbones have which size, and the genes in
which a size differs from the file's own::

    sizes:
      base: {backbones: [mit_b0, mit_b1]}
      large: {backbones: [mit_b2, mit_b3, mit_b4, mit_b5], genes: {project: 768, fusion_width: 768}}

On a backbone that no size names, the paper never built the design; the file's own genes are taken then, and :func:`preset_size` says None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.files import parse_yaml
from nasseg.genes.genotype import Genotype

PRESETS = (
    "segformer",
    "segformer_mmseg",
    "segnext",
    "feedformer",
    "feedformer_city",
    "u_mixformer",
    "u_mixformer_city",
    "metaseg",
    "scaseg",
    "scaseg_city",
    "csap",
    "canet_fca",
)
"""Names, in the order they are listed."""

BASE = "base"
"""The size that a file's own genes are."""


@dataclass(frozen=True)
class Size:
    """One size of a design: the backbones it was published on, and the genes that differ from the file's own."""

    name: str
    backbones: tuple[str, ...]
    genes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Design:
    """A preset file: the genotype of its base size, and the sizes it was published in; none for a design that was never built on these
    backbones."""

    genotype: Genotype
    sizes: tuple[Size, ...] = ()

    def size(self, backbone: str | None) -> Size | None:
        """The published size for a backbone, whatever its options (``mit_b2?norm_eps=1e-05``); None where there is none."""
        name = (backbone or "").partition("?")[0]
        return next((size for size in self.sizes if name in size.backbones), None)

    def on(self, backbone: str | None) -> Genotype:
        """The genotype on a backbone, in its published size; the base size where there is none, and without a backbone."""
        genotype = self.genotype.on(backbone)
        size = self.size(genotype.backbone)
        return genotype.override(size.genes) if size is not None and size.genes else genotype


def preset_text(name: str) -> str:
    """The preset's file, comments and all. Raises :class:`ConfigError` for a name that is not in :data:`PRESETS`."""
    if name not in PRESETS:
        raise ConfigError(Problem("", "preset", f"no such design; there are {', '.join(PRESETS)}", name, nearest(name, PRESETS)))
    return (files("nasseg.search_spaces.presets") / f"{name}.yaml").read_text(encoding="utf-8")


def read_design(text: str, where: str) -> Design:
    """A preset file. Raises :class:`ConfigError` with every problem of its genes, or of its sizes."""
    raw = parse_yaml(text, where)
    given = dict(raw) if isinstance(raw, Mapping) else {}
    sizes = given.pop("sizes", {})
    genotype = Genotype.from_dict(given if isinstance(raw, Mapping) else raw, where=where)
    problems: list[Problem] = []
    found = _sizes(sizes, where, problems)
    for size in found:
        try:
            if size.genes:
                genotype.override(size.genes, where=f"{where}: sizes.{size.name}.genes")
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Design(genotype, found)


def _sizes(raw: Any, where: str, problems: list[Problem]) -> tuple[Size, ...]:
    if not isinstance(raw, Mapping):
        problems.append(Problem(where, "sizes", "is a mapping of sizes, each with backbones and genes", raw))
        return ()
    found: list[Size] = []
    taken: dict[str, str] = {}
    for name, size in raw.items():
        key = f"sizes.{name}"
        if not isinstance(size, Mapping) or not size.keys() <= {"backbones", "genes"}:
            problems.append(Problem(where, key, "is a mapping with the keys backbones and genes", size))
            continue
        backbones, genes = size.get("backbones"), size.get("genes", {})
        if not isinstance(backbones, list) or not backbones or not all(isinstance(b, str) for b in backbones):
            problems.append(Problem(where, f"{key}.backbones", "is a list with at least one backbone", backbones))
            continue
        if not isinstance(genes, Mapping) or bool(genes) == (name == BASE):
            rule = f"the size '{BASE}' has the file's genes; any other has a mapping of those that differ"
            problems.append(Problem(where, f"{key}.genes", rule, genes))
            continue
        for backbone in backbones:
            if backbone in taken:
                problems.append(Problem(where, f"{key}.backbones", f"{backbone} is in {taken[backbone]} already", backbone))
            taken[backbone] = str(name)
        found.append(Size(str(name), tuple(backbones), dict(genes)))
    return tuple(found)


@cache
def design(name: str) -> Design:
    """The published design ``name`` with its sizes. Raises :class:`ConfigError` for a name that is not in :data:`PRESETS`."""
    return read_design(preset_text(name), f"preset {name}")


def preset(name: str, backbone: str | None = None) -> Genotype:
    """The published design ``name``, set on ``backbone`` if one is given, in the size that was published there.

    Without a backbone, and on one the design was never published on, it has its base size (:func:`preset_size` tells). Raises
    :class:`ConfigError` for a name that is not in :data:`PRESETS`.
    """
    return design(name).on(backbone)


def preset_size(name: str, backbone: str) -> str | None:
    """The name of the size that :func:`preset` takes on ``backbone``; None where the design was never published on it."""
    found = design(name)
    size = found.size(found.genotype.on(backbone).backbone)
    return None if size is None else size.name


def describe_preset(name: str) -> tuple[str, str]:
    """What the design is and where it was published, in one sentence each, from the head of its file."""
    lines = [line.removeprefix("#").strip() for line in preset_text(name).splitlines() if line.startswith("#")]
    return lines[0], lines[1].removeprefix("Source:").strip()
