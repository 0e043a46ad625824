"""What a network costs: live parameters and multiply-accumulates, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARTS = ("backbone", "stage1", "stage2", "stage3", "stage4", "fusion")
"""The parts of a network. A stage holds all of its block, ``fusion`` the projections, the fusion and the classifier."""


@dataclass(frozen=True, slots=True)
class Part:
    """The cost of one piece of a network for one image.

    ``params``: parameters that the output depends on. ``macs``: multiply-accumulates of convolutions, linear layers and matrix products,
    both products of attention included, and nothing else. ``fvcore``: ``macs`` plus what fvcore and mmengine add to it: 5 per element of a
    LayerNorm or GroupNorm, 2 per element of a BatchNorm, 4 per output element of a bilinear resize, 1 per input element of a mean over
    positions. Biases, activations, softmax, sums and plain poolings count as nothing in both, as in fvcore.
    """

    params: int = 0
    macs: int = 0
    fvcore: int = 0

    def __add__(self, other: Part) -> Part:
        return Part(self.params + other.params, self.macs + other.macs, self.fvcore + other.fvcore)

    def to_dict(self) -> dict[str, int]:
        """``{"params": …, "macs": …}``, as in the JSON of ``nasseg cost``."""
        return {"params": self.params, "macs": self.macs}


@dataclass(frozen=True)
class Cost:
    """The cost of one network at one input size (height, width) and class count.

    ``id`` is the genotype's, its backbone included. ``parts`` maps every name of :data:`PARTS` to its :class:`Part`; a stage that is not
    kept is an empty one.
    """

    id: str
    backbone: str
    size: tuple[int, int]
    classes: int
    parts: Mapping[str, Part]

    @property
    def params(self) -> int:
        """Live parameters of the whole network."""
        return sum(part.params for part in self.parts.values())

    @property
    def macs(self) -> int:
        """MACs of convolutions, linear layers and matrix products of the whole network."""
        return sum(part.macs for part in self.parts.values())

    @property
    def macs_fvcore(self) -> int:
        """The whole network as fvcore counts it: the number papers of this field print as GFLOPs."""
        return sum(part.fvcore for part in self.parts.values())

    @property
    def decoder_params(self) -> int:
        """Live parameters without the backbone."""
        return self.params - self.parts["backbone"].params

    @property
    def decoder_macs(self) -> int:
        """``macs`` without the backbone."""
        return self.macs - self.parts["backbone"].macs

    def values(self) -> dict[str, int]:
        """The numbers a budget may bound, by their budget names."""
        return {
            "params": self.params,
            "macs": self.macs,
            "macs_fvcore": self.macs_fvcore,
            "decoder_params": self.decoder_params,
            "decoder_macs": self.decoder_macs,
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``nasseg cost --json``."""
        return {
            "id": self.id,
            "backbone": self.backbone,
            "size": list(self.size),
            "classes": self.classes,
            "params": self.params,
            "macs": self.macs,
            "macs_fvcore": self.macs_fvcore,
            "parts": {name: self.parts[name].to_dict() for name in PARTS},
        }
