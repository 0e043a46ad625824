"""The encoder of a published network: whose it is, told by the names and shapes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from nasseg.models.backbones import mit, mscan
from nasseg.models.backbones.checkpoint_names import Rule, rename
from nasseg.models.backbones.mit import MIT_SHAPES
from nasseg.models.backbones.mscan import MSCAN_SHAPES

NORM_EPS = {"layers.0.": 1e-6, "encoder.patch_embeddings.": 1e-5, "stages.0.patch_embeddings.": 1e-5}
"""What mmsegmentation's MiT and Hugging Face's add to the variance in every layer norm, by how their names begin."""


@dataclass(frozen=True)
class Encoder:
    """``name`` is a backbone's, arguments included. ``tensors`` stand under the names of that backbone or, where nothing of it has such a
    name, under their own; what its layers lack or do not know shows when they are loaded."""

    name: str
    in_chans: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Widths and blocks of the four stages."""

    family: str
    channels: tuple[int, ...]
    depths: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.family} of widths {', '.join(map(str, self.channels))} and {', '.join(map(str, self.depths))} blocks"


KNOWN = {
    **{name: Sizes("MiT", shape.channels, shape.depths) for name, shape in MIT_SHAPES.items()},
    **{name: Sizes("MSCAN", shape.channels, shape.depths) for name, shape in MSCAN_SHAPES.items()},
}


def read_encoder(tensors: Mapping[str, Tensor]) -> Encoder | str:
    """The encoder these tensors are of, prefix taken off; or what they are instead, in a few words, where we have none such."""
    found: Sizes | None = None
    for family, given, rules, embeds in (
        ("MiT", mit.joined(tensors), mit.RULES, ("embed.proj.weight",)),
        ("MSCAN", dict(tensors), mscan.RULES, ("embed.3.weight", "embed.0.weight")),
    ):
        named = _named(given, rules)
        sizes = _sizes(family, named, embeds)
        if sizes is None:
            continue
        found = sizes
        for name, known in KNOWN.items():
            if known == sizes:
                eps = next((value for start, value in NORM_EPS.items() if any(key.startswith(start) for key in tensors)), None)
                in_chans = named[f"stages.0.{embeds[-1]}"].shape[1]
                return Encoder(name if eps is None else f"{name}?norm_eps={eps}", in_chans, named)
    if found is None:
        return "none of MiT or MSCAN"
    near = min((name for name in KNOWN if KNOWN[name].family == found.family), key=lambda name: _distance(KNOWN[name], found))
    return f"a {found}; nearest: {near}, {KNOWN[near]}"


def _named(tensors: Mapping[str, Tensor], rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    renamed, _ = rename(tensors, rules, {}, ())
    return renamed


def _sizes(family: str, named: Mapping[str, Tensor], embeds: tuple[str, ...]) -> Sizes | None:
    """Widths from the patch embeddings, blocks by counting; None where a stage has neither."""
    channels, depths = [], []
    for stage in range(4):
        start = f"stages.{stage}.blocks."
        weight = next((named[key] for embed in embeds if (key := f"stages.{stage}.{embed}") in named), None)
        blocks = {key.removeprefix(start).partition(".")[0] for key in named if key.startswith(start)}
        if weight is None or weight.ndim != 4 or not blocks:
            return None
        channels.append(weight.shape[0])
        depths.append(len(blocks))
    return Sizes(family, tuple(channels), tuple(depths))


def _distance(known: Sizes, found: Sizes) -> tuple[int, int]:
    return (
        sum(abs(a - b) for a, b in zip(known.channels, found.channels, strict=True)),
        sum(abs(a - b) for a, b in zip(known.depths, found.depths, strict=True)),
    )
