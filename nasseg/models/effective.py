"""What a decoder really executes, beside what the papers' convention counts.

A genotype's MACs (:func:`nasseg.models.costing.cost`, the budgets) are those of the form as written: strips with a map of N×M entries, maps
upsampled before the fusion mixes them. The decoder computes the same function in fewer multiplications (:mod:`nasseg.models.form`); here
they are counted on the built module. Elementwise work (softmax, resizes, activations, norms) counts as nothing in both.
"""

from __future__ import annotations

import torch

from nasseg.cost.cost import PARTS
from nasseg.cost.executed import PANELS, Executed
from nasseg.cost.macs import padded, stage_grids
from nasseg.errors import ConfigError, Problem
from nasseg.genes.genotype import Genotype
from nasseg.models.costing import backbone_facts, cost
from nasseg.models.counting import count
from nasseg.models.decoder import Decoder


def executed(
    genotype: Genotype, *, size: tuple[int, int], num_classes: int, backbone: str | None = None, in_chans: int = 3, panels: int = PANELS
) -> Executed:
    """Count the decoder of a genotype in the form that runs, built on the meta device; the backbone runs as it is counted.

    Products of weights with weights, which a module computes in each call, are in the count; exported programs hold their results.
    Raises what :func:`nasseg.models.costing.cost` raises, and :class:`ConfigError` for ``panels`` below 1.
    """
    if panels < 1:
        raise ConfigError(Problem("cost", "panels", "must be a whole number from 1", panels, PANELS))
    counted = cost(genotype, size=size, num_classes=num_classes, backbone=backbone, in_chans=in_chans)
    channels, _ = backbone_facts(counted.backbone, padded(size), in_chans)
    with torch.device("meta"):
        decoder = Decoder(genotype, channels, num_classes)
        maps = [torch.empty(1, c, h, w) for c, (h, w) in zip(channels, stage_grids(size), strict=True)]
    parts = count(decoder, maps, panels=panels).parts
    found = {name: parts[name].macs if name in parts else 0 for name in PARTS}
    return Executed(found | {"backbone": counted.parts["backbone"].macs}, panels)
