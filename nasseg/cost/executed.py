"""What a network multiplies when it runs, where that is less than the papers' convention counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PANELS = 32
"""Panels that a strip is counted at. How many it takes follows from the range of its data (:func:`nasseg.models.strip_bound.panels_for`),
which a count does not have."""


@dataclass(frozen=True)
class Executed:
    """Multiplications of one forward pass in eval mode for one image, by the names of :data:`nasseg.cost.cost.PARTS`.

    ``panels``: strips were counted at so many.
    """

    parts: Mapping[str, int]
    panels: int

    @property
    def macs(self) -> int:
        """Of the whole network."""
        return sum(self.parts.values())

    @property
    def decoder_macs(self) -> int:
        """Without the backbone."""
        return self.macs - self.parts["backbone"]

    def to_dict(self) -> dict[str, Any]:
        """The value of ``executed`` in ``nasseg cost --effective --json``."""
        return {"panels": self.panels, "macs": self.macs, "parts": dict(self.parts)}
