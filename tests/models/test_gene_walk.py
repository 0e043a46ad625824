"""Every gene of the catalogue reaches the built network: another value gives other weights or another output."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from kits_model import GENE_CASES, features, tiny_decoder, with_gene

from nasseg.genes.gene import GENES, GLOBAL_GENES, STAGE_GENES
from nasseg.genes.genotype import Genotype

WIDE = (40, 40, 80, 80)
"""Widths that every head count of the catalogue divides."""

DECODER_GENES = [name for name in GENES if name != "backbone"]


def built(genotype: Genotype) -> tuple[dict[str, torch.Size], torch.Tensor]:
    """Weights' shapes by name, and the logits on a fixed image whose deepest map is 3×5: keys at stride 64 have windows over its edge."""
    decoder = tiny_decoder(genotype, channels=WIDE)
    with torch.no_grad():
        logits = decoder(features(1, (96, 160), channels=WIDE))
    return {name: value.shape for name, value in decoder.state_dict().items()}, logits


def differ(one: Genotype, other: Genotype) -> bool:
    (shapes, logits), (other_shapes, other_logits) = built(one), built(other)
    if shapes != other_shapes or logits.shape != other_logits.shape:
        return True
    return float((logits - other_logits).abs().max()) > 1e-3 * float(logits.abs().max())


@pytest.mark.parametrize("name", DECODER_GENES)
def test_every_two_values_of_a_gene_build_two_decoders(name: str) -> None:
    cases = {value: with_gene(name, value) for value in GENES[name].values}
    assert len({genotype.id for genotype in cases.values()}) == len(cases)
    alike = [(a, b) for a, b in itertools.combinations(cases, 2) if not differ(cases[a], cases[b])]
    assert not alike, f"{name}: these values build the same decoder: {alike}"


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
@pytest.mark.parametrize("name", STAGE_GENES)
def test_a_gene_of_one_stage_changes_that_stage(name: str, stage: int) -> None:
    start: dict[str, Any] = {"ffn": 1, "heads": 2, "rank": 2, "fusion_width": 16, "inputs": [1], "key_stride": 32, "lpm": "se"}
    other: dict[str, Any] = {
        "attention": "none",
        "heads": 4,
        "key_stride": 64,
        "rank": 1,
        "inputs": [3, 4],
        "input_norm": True,
        "pool_edge": "drop",
        "pool_conv": False,
        "mixing": "norm",
        "softmax_scale": "rank",
        "query_pool": 2,
        "lpm": "plain",
        "lpm_residual": "twice",
        "ffn": 2,
        "ffn_depthwise": False,
        "residual": "normalised",
    }
    start |= {"key_stride": 64} if name == "pool_edge" else {}
    assert differ(Genotype.from_dict(start), Genotype.from_dict({**start, f"stage{stage}.{name}": other[name]}))


@pytest.mark.parametrize(("stage", "source"), [(3, 4), (2, 4), (1, 4), (2, 3), (1, 3), (1, 2)])
def test_each_source_gives_another_map(stage: int, source: int) -> None:
    start = {"ffn": 0, "heads": 2, "rank": 2, "fusion_width": 16}
    sources = ["own", *(f"stage{j}" for j in range(stage + 1, 5))]
    made = {s: Genotype.from_dict({**start, f"stage{stage}.attention": s}) for s in sources}
    assert all(differ(made[f"stage{source}"], made[s]) for s in sources if s != f"stage{source}")


def test_the_walk_misses_no_gene() -> None:
    assert set(DECODER_GENES) == {*GLOBAL_GENES, *STAGE_GENES} - {"backbone"}
    for name in DECODER_GENES:
        for value in GENES[name].values:
            genotype = GENE_CASES[f"{name}={value}"]
            flat = genotype.flat()
            assert any(gene.rpartition(".")[2] == name for gene in flat), f"{name} is not read where {name}={value}"
