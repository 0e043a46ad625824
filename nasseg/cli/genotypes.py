"""A genotype named on the command line: a file, a published design, or that of a published network."""

from __future__ import annotations

from pathlib import Path

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, preset

TEXTS = (".yaml", ".yml", ".json")
"""Endings of genotype files."""


def read_genotype(text: str, backbone: str | None = None) -> Genotype:
    """The genotype in the file ``text``, the preset of that name, or the genotype that a published network's weights are for.

    It is set on ``backbone`` if one is given; a preset has the size that was published there. Raises :class:`ConfigError` with the nearest
    preset where ``text`` is none of them.
    """
    if text in PRESETS:
        return preset(text, backbone)
    found = _stored(Path(text))
    if found is not None:
        return found if backbone is None else found.on(backbone)
    rule = f"neither a genotype file nor a published design; designs are {', '.join(PRESETS)}"
    raise ConfigError(Problem("", "GENOTYPE", rule, text, nearest(Path(text).stem, PRESETS)))


def _stored(place: Path) -> Genotype | None:
    """The genotype of a file or folder; None where there is none."""
    if place.is_dir() or (place.is_file() and place.suffix not in TEXTS):
        # Weights are read, so torch is loaded.
        from nasseg.published.network import Published, is_published  # noqa: PLC0415

        if is_published(place):
            return Published.open(place).genotype
    return Genotype.load(place) if place.is_file() else None
