"""What a study tries before its sampler is asked: published designs, and its recipe's defaults where training settings are searched."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset
from nasseg.genes.space import Point, Space
from nasseg.genes.variable import plain

DEFAULTS, PRESET = "defaults", "preset"
"""How an origin begins: ``defaults``, ``defaults:csap``, ``preset:csap``."""


@dataclass(frozen=True)
class Start:
    """One point to start from: proposed where ``point`` is given, else left out for the ``reason``. ``origin`` marks its trial."""

    origin: str
    point: Point | None
    reason: str | None = None

    def __str__(self) -> str:
        """``preset csap is left out: over budget``: what a search says, and a dry run before it."""
        kind, _, name = self.origin.partition(":")
        what = f"preset {name}" if kind == PRESET else "the recipe's defaults" + (f" on {name}" if name else "")
        if self.reason is not None:
            return f"{what} {'is' if kind == PRESET else 'are'} left out: {self.reason}"
        return f"{what} {'is' if kind == PRESET else 'are'} trained first"


def is_default(origin: str) -> bool:
    """Whether a trial of this origin has the recipe's defaults."""
    return origin.partition(":")[0] == DEFAULTS


def designs(space: Space) -> Iterator[tuple[str, Genotype]]:
    """The space's presets on each of its backbones, by name: ``csap``, or ``csap on mit_b0`` where there are several backbones."""
    backbones = list(dict.fromkeys(genotype.backbone for genotype in space.sample(64, seed=0)))
    for name, backbone in itertools.product(space.presets, backbones):
        yield name if len(backbones) == 1 else f"{name} on {backbone}", preset(name, backbone)


def single_decoders(space: Space) -> list[tuple[str, Genotype]]:
    """The decoder of a space that leaves none open, once for each backbone; empty for other spaces."""
    if any(not variable.name.startswith("train.") and variable.name != "backbone" for variable in space.variables):
        return []
    found = list(space.enumerate())
    return [("" if len(found) == 1 else str(genotype.backbone), genotype) for genotype in found]


def moved_defaults(space: Space, defaults: Mapping[str, Any]) -> list[str]:
    """A sentence for each default of the recipe that the space does not hold, with the value taken in its place."""
    out = []
    for setting in space.training.opened:
        own = defaults[setting.field]
        taken = setting.nearest(own)
        if taken != own:
            out.append(f"the recipe's default {setting.field}={plain(own)} is outside {setting.text()}: {plain(taken)} is taken")
    return out
