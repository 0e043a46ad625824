"""Random legal decoders, and the count on a built one."""

from __future__ import annotations

import random
from typing import Any

import torch

from nasseg.cost.cost import Part
from nasseg.cost.macs import stage_grids
from nasseg.genes.gene import STAGES, STRIDES
from nasseg.genes.genotype import Genotype
from nasseg.models.counting import Count, count
from nasseg.models.decoder import Decoder
from nasseg.models.form import written_out

WIDTHS = {
    "mit_b0": (32, 64, 160, 256),
    "mit_b1": (64, 128, 320, 512),
    "mscan_t": (32, 64, 160, 256),
    "resnet18": (64, 128, 256, 512),
    "tf_efficientnet_lite0": (24, 40, 112, 320),
    "mobilenetv2_100": (24, 32, 96, 320),
}
"""Widths of the backbones these tests stand on, shallow to deep."""


def random_genotype(rng: random.Random) -> Genotype:
    """Any value of any gene, drawn deep to shallow so that every map that is reused exists."""
    raw: dict[str, Any] = {
        "fusion_stride": rng.choice((4, 8)),
        "project": rng.choice(("none", 64, 128, 256, 512, 768)),
        "project_norm": rng.choice(("none", "batch")),
        "fusion": rng.choice(("concat", "fca", "ham")),
        "fusion_width": rng.choice((64, 96, 128, 256)),
        "ham_rank": rng.choice((1, 16, 64)),
    }
    grids: dict[int, int] = {}
    for stage in reversed(STAGES):
        attention = rng.choice(("none", "own", "own", *(f"stage{owner}" for owner in grids)))
        genes: dict[str, Any] = {
            "attention": attention,
            "lpm": rng.choice(("none", "plain", "se", "eca", "cbam", "coord")),
            "ffn": rng.choice((0, 1, 2, 4)),
            "ffn_depthwise": rng.choice((True, False)),
            "pool_conv": rng.choice((True, False)),
            "input_norm": rng.choice((True, False)),
            "mixing": rng.choice(("norm_gelu", "norm", "norm_norm_gelu")),
            "lpm_residual": rng.choice(("once", "twice")),
            "residual": rng.choice(("raw", "normalised")),
        }
        if attention == "own":
            grid = grids[stage] = rng.choice((8, 16, 32, 64, 128) if stage > 1 else (4, 8, 16, 32, 64, 128))
            genes |= {
                "key_stride": grid,
                "rank": rng.choice((0, 1, 2, 4, 8, "full")),
                "heads": rng.choice(("native", 1, 2, 3, 8, 64)),
                "query_pool": rng.choice((1, 2)),
                "pool_edge": rng.choice(("mean", "drop")),
                "softmax_scale": rng.choice(("width", "rank")),
            }
        else:
            grid = grids[int(attention[-1])] if attention != "none" else 32
        pooled = [j for j in STAGES if STRIDES[j - 1] <= grid]
        genes["inputs"] = rng.sample(pooled, rng.randint(1, len(pooled)))
        raw[f"stage{stage}"] = genes
    return Genotype.from_dict(raw)


def count_decoder(
    genotype: Genotype, channels: tuple[int, int, int, int], size: tuple[int, int], num_classes: int, device: str = "meta"
) -> Count:
    """The independent count of the decoder built for these widths, as written. The meta device is for large inputs; at small ones the CPU
    is faster."""
    with torch.device("meta"):
        decoder = Decoder(genotype, channels, num_classes)
    maps = [torch.zeros(1, c, h, w, device=device) for c, (h, w) in zip(channels, stage_grids(size), strict=True)]
    with written_out(decoder):
        return count(decoder.to_empty(device=device), maps)


def counted_parts(counted: Count, prefix: str = "") -> dict[str, Part]:
    """The parts of a counted decoder, by the names of :func:`nasseg.cost.macs.decoder_cost`; ``prefix`` is where the decoder stands."""
    names = (*(f"stage{i}" for i in STAGES), "fusion")
    return {name: counted.parts[prefix + name] for name in names if prefix + name in counted.parts}
