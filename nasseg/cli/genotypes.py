"""A genotype named on the command line: a file, or a published design."""

from __future__ import annotations

from pathlib import Path

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, preset


def read_genotype(text: str) -> Genotype:
    """The genotype in the file ``text``, or the preset of that name; :class:`ConfigError` with the nearest preset where it is neither."""
    if text in PRESETS:
        return preset(text)
    if Path(text).is_file():
        return Genotype.load(text)
    rule = f"neither a genotype file nor a published design; designs are {', '.join(PRESETS)}"
    raise ConfigError(Problem("", "GENOTYPE", rule, text, nearest(Path(text).stem, PRESETS)))
