"""A genotype named on the command line: a file, a published design, or that of a published network."""

from __future__ import annotations

from pathlib import Path

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, preset

TEXTS = (".yaml", ".yml", ".json")
"""Endings of genotype files."""


def read_genotype(text: str) -> Genotype:
    """The genotype in the file ``text``, the preset of that name, or the genotype that a published network's weights are for.

    Raises :class:`ConfigError` with the nearest preset where it is none of them.
    """
    if text in PRESETS:
        return preset(text)
    place = Path(text)
    if place.is_dir() or (place.is_file() and place.suffix not in TEXTS):
        # Weights are read, so torch is loaded.
        from nasseg.published.network import Published, is_published  # noqa: PLC0415

        if is_published(place):
            return Published.open(place).genotype
    if place.is_file():
        return Genotype.load(text)
    rule = f"neither a genotype file nor a published design; designs are {', '.join(PRESETS)}"
    raise ConfigError(Problem("", "GENOTYPE", rule, text, nearest(Path(text).stem, PRESETS)))
