"""The published designs: what they are made of, stage by stage, as ARCHITECTURES has it."""

from __future__ import annotations

import pytest

from nasseg.errors import ConfigError
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, describe_preset, preset, preset_text

IDS = {
    "segformer": "4165ffad17f6",
    "feedformer": "7e87950c4b06",
    "u_mixformer": "270ad5360de4",
    "metaseg": "8f2e79c149ed",
    "scaseg": "1f28048f19e8",
    "scaseg_city": "87ed9fd6f2f0",
    "csap": "c49412880e61",
    "canet_fca": "d74ce9beef90",
}


def test_golden_ids() -> None:
    assert {name: preset(name).id for name in PRESETS} == IDS


@pytest.mark.parametrize("name", PRESETS)
def test_stands_on_any_backbone(name: str) -> None:
    assert preset(name).backbone is None
    assert preset(name, "resnet18") == preset(name).on("resnet18")
    assert Genotype.from_dict(preset(name).to_dict()) == preset(name)


@pytest.mark.parametrize("name", PRESETS)
def test_file_says_what_it_is_and_how_to_cost_it(name: str) -> None:
    what, source = describe_preset(name)
    assert what.endswith(".")
    assert "arXiv" in source or "AAAI" in source
    assert f"# nasseg cost {name} --backbone m" in preset_text(name).splitlines()[2]


def by_stage(name: str, gene: str) -> list[object]:
    """Stages 4, 3, 2, 1; None where the stage is not kept or does not read the gene."""
    return [None if genes is None else getattr(genes, gene) for genes in reversed(preset(name).stages)]


def test_designs_differ_as_published() -> None:
    assert by_stage("feedformer", "key_stride") == [32, 16, 8, None]
    assert by_stage("feedformer", "inputs") == [(1,), (1,), (1,), None]
    assert by_stage("feedformer", "heads") == [8, 5, 2, None]
    assert by_stage("metaseg", "heads") == [8, 4, 2, None]
    assert by_stage("metaseg", "inputs") == [(4,), (3,), (2,), None]
    assert by_stage("metaseg", "ffn_depthwise") == [False, False, False, None]
    assert by_stage("scaseg", "heads") == [8, 5, 2, 1]
    assert by_stage("scaseg", "rank") == [1, 1, 1, 1]
    assert by_stage("csap", "attention") == ["own", "stage4", "stage4", None]
    # Stage 4 pools nothing, so it has no convolution to switch off.
    assert by_stage("csap", "pool_conv") == [None, False, False, None]
    assert preset("u_mixformer") == preset("scaseg").override({"rank": "full", "lpm": "none"})
    assert preset("scaseg_city") == preset("scaseg").override({"query_pool": 2, "key_stride": 64})
    assert (preset("segformer").project, preset("segformer").fusion_width) == (256, 256)
    assert (preset("canet_fca").fusion, preset("canet_fca").fusion_stride) == ("fca", 8)


def test_unknown_design() -> None:
    with pytest.raises(ConfigError, match=r"preset: no such design; there are segformer, .* \(given 'scaseq'\); nearest legal: scaseg"):
        preset("scaseq")
