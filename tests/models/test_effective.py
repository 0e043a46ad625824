"""What is executed, by hand on a small decoder, and beside the convention on published ones."""

from __future__ import annotations

import pytest

from nasseg.cost.executed import PANELS, Executed
from nasseg.errors import ConfigError
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, preset
from nasseg.models.costing import cost
from nasseg.models.effective import executed

WIDTHS = (32, 64, 160, 256)
"""Of mit_b0, shallow to deep."""
SMALL = Genotype.from_dict(
    {
        "backbone": "mit_b0",
        "fusion_stride": 4,
        "fusion_width": 64,
        "lpm": "none",
        "ffn": 0,
        "attention": "none",
        "stage4": {"attention": "own", "rank": 1, "heads": 2, "key_stride": 32, "query_pool": 1, "inputs": [4]},
    }
)
"""Stage 4 is a strip on its own map (256 channels in 2 heads of 128), the other stages pass through."""


def linears(tokens: int) -> int:
    """Query and key 256 → 2, value and output 256 → 256."""
    return tokens * (2 * 256 * 2 + 2 * 256 * 256)


def test_small_decoder_by_hand():
    # Grids of 16×24, 8×12, 4×6 and 2×3; six keys are too few to interpolate: two heads, 6·6 pairs, 128 channels twice.
    found = executed(SMALL, size=(64, 96), num_classes=5)
    assert found.parts["stage4"] == linears(6) + 2 * 6 * 6 * 256
    # Each map meets its columns of the weight on its own grid; the classifier works on the fusion grid.
    assert found.parts["fusion"] == 64 * (32 * 384 + 64 * 96 + 160 * 24 + 256 * 6) + 64 * 5 * 384
    assert [found.parts[f"stage{i}"] for i in (1, 2, 3)] == [0, 0, 0]
    convention = cost(SMALL, size=(64, 96), num_classes=5)
    assert convention.parts["fusion"].macs == 64 * sum(WIDTHS) * 384 + 64 * 5 * 384
    assert convention.parts["stage4"].macs == linears(6) + 2 * 6 * 6 * (1 + 128)
    assert found.parts["backbone"] == convention.parts["backbone"].macs
    assert found.macs == sum(found.parts.values())
    assert found.decoder_macs == found.parts["stage4"] + found.parts["fusion"]
    assert found.panels == PANELS == 32


@pytest.mark.parametrize(
    ("panels", "strip"),
    [
        # 16×32 queries and keys, two heads: 2 + 2·128 for each of 512 keys at P + 1 ends, four rows of 128 a query.
        (2, 2 * (3 * 512 * 258 + 512 * 4 * 128)),
        (32, 2 * (33 * 512 * 258 + 512 * 4 * 128)),
        # 260 panels cost more than all pairs: 2·512·512 of these, 128 channels twice.
        (260, 2 * 512 * 512 * 256),
    ],
)
def test_panels_of_a_strip(panels: int, strip: int):
    found = executed(SMALL, size=(512, 1024), num_classes=5, panels=panels)
    assert found.parts["stage4"] == linears(512) + strip
    assert found.to_dict() == {"panels": panels, "macs": found.macs, "parts": dict(found.parts)}


def test_weights_multiplied_by_weights_are_counted():
    projected = Genotype.from_dict({**SMALL.to_dict(), "project": 64, "stage4": {"attention": "none"}})
    found = executed(projected, size=(64, 96), num_classes=5)
    # Stages 1 and 2 have positions enough to pay for the product of projection and fusion weight, and of its bias; 3 and 4 have not.
    composed = sum(64 * 64 * c + 64 * 64 + 64 * c * n for c, n in ((32, 384), (64, 96)))
    apart = sum((64 * c + 64 * 64) * n for c, n in ((160, 24), (256, 6)))
    assert found.parts["fusion"] == composed + apart + 64 * 5 * 384


def test_a_relu_behind_the_projection_leaves_it_by_itself():
    genes = {**SMALL.to_dict(), "project": 64, "project_norm": "batch", "stage4": {"attention": "none"}}
    found = executed(Genotype.from_dict(genes), size=(64, 96), num_classes=5)
    apart = sum((64 * c + 64 * 64) * n for c, n in ((32, 384), (64, 96), (160, 24), (256, 6)))
    assert found.parts["fusion"] == apart + 64 * 5 * 384
    # CANet's two readers of the shallow map read it projected once: the second costs the spatial gate alone.
    fca = executed(Genotype.from_dict({**genes, "fusion": "fca"}), size=(64, 96), num_classes=5)
    assert fca.parts["fusion"] == apart + 64 * 384 + 2 * 192 * 64 + 64 * 64 * 384 + 64 * 5 * 384


@pytest.mark.parametrize("name", PRESETS)
def test_published_designs_execute_less_than_the_convention_counts(name: str):
    genotype = preset(name, "mit_b0")
    convention = cost(genotype, size=(1024, 2048), num_classes=19)
    found = executed(preset(name), backbone="mit_b0", size=(1024, 2048), num_classes=19)
    assert list(found.parts) == list(convention.parts)
    assert all(found.parts[part] <= convention.parts[part].macs for part in found.parts)
    assert found.decoder_macs < convention.decoder_macs
    # Two thirds of SegNeXt's are a factorisation and 1×1 convolutions on one grid, which no other order makes cheaper.
    assert found.parts["fusion"] < (0.65 if name == "segnext" else 0.5) * convention.parts["fusion"].macs


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"panels: must be a whole number from 1.*nearest legal: 32"):
        executed(SMALL, size=(64, 96), num_classes=5, panels=0)
    with pytest.raises(ConfigError, match="names no backbone"):
        executed(preset("csap"), size=(64, 96), num_classes=5)
    with pytest.raises(ConfigError, match="classes: must be a whole number from 1"):
        executed(SMALL, size=(64, 96), num_classes=0)


def test_totals():
    found = Executed({"backbone": 5, "stage1": 2, "fusion": 1}, 8)
    assert (found.macs, found.decoder_macs) == (8, 3)
