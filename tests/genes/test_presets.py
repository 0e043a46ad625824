"""The published designs: what they are made of, stage by stage, as ARCHITECTURES has it."""

from __future__ import annotations

import pytest

from nasseg.errors import ConfigError
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, describe_preset, design, preset, preset_size, preset_text, read_design

IDS = {
    "segformer": "4165ffad17f6",
    "segformer_mmseg": "f69721973467",
    "feedformer": "4602b38a1131",
    "feedformer_city": "e756c85d1ebb",
    "u_mixformer": "a1936d6e0e8b",
    "u_mixformer_city": "35ee3a879b59",
    "metaseg": "96abea9dd6c7",
    "scaseg": "1f28048f19e8",
    "scaseg_city": "87ed9fd6f2f0",
    "csap": "c49412880e61",
    "canet_fca": "d74ce9beef90",
    "segnext": "ec8d4bc1fc0d",
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
    assert preset("u_mixformer") == preset("scaseg").override({"rank": "full", "lpm": "none", "residual": "normalised"})
    assert preset("u_mixformer_city") == preset("u_mixformer").override({"query_pool": 2, "key_stride": 64, "mixing": "norm_norm_gelu"})
    assert by_stage("metaseg", "input_norm") == [True, True, True, None]
    assert by_stage("feedformer", "input_norm") == [True, True, True, None]
    assert by_stage("feedformer_city", "key_stride") == [64, 32, 16, None]
    assert by_stage("feedformer_city", "query_pool") == [2, 2, 2, None]
    assert preset("segformer_mmseg") == preset("segformer").override({"project_norm": "batch"})
    assert preset("scaseg_city") == preset("scaseg").override({"query_pool": 2, "key_stride": 64})
    assert (preset("segformer").project, preset("segformer").fusion_width) == (256, 256)
    assert (preset("canet_fca").fusion, preset("canet_fca").fusion_stride) == ("fca", 8)
    segnext = preset("segnext")
    assert (segnext.kept, segnext.fusion, segnext.ham_rank, segnext.fusion_width, segnext.project) == ((2, 3, 4), "ham", 16, 256, None)
    assert by_stage("segnext", "attention") == by_stage("segnext", "lpm") == ["none", "none", "none", None]


def test_unknown_design() -> None:
    with pytest.raises(ConfigError, match=r"preset: no such design; there are segformer, .* \(given 'scaseq'\); nearest legal: scaseg"):
        preset("scaseq")


WIDTHS = {
    ("segformer", "large"): {"project": 768, "fusion_width": 768},
    ("feedformer", "large"): {"fusion_width": 768},
    ("feedformer_city", "large"): {"fusion_width": 768},
    ("u_mixformer", "large"): {"fusion_width": 768},
    ("u_mixformer_city", "large"): {"fusion_width": 768},
    ("metaseg", "wide"): {"fusion_width": 512},
    ("metaseg", "large"): {"fusion_width": 768},
    ("segnext", "wide"): {"ham_rank": 64, "fusion_width": 512},
    ("segnext", "large"): {"ham_rank": 64, "fusion_width": 1024},
    ("scaseg", "large"): {"fusion_width": 768},
    ("scaseg_city", "large"): {"fusion_width": 768},
}
"""What differs from the base size, as the configs of SegFormer, FeedFormer and U-MixFormer or the printed costs have it."""


def test_sizes() -> None:
    sizes = {(name, size.name): size for name in PRESETS for size in design(name).sizes}
    assert {key: dict(size.genes) for key, size in sizes.items() if size.genes} == WIDTHS
    for (name, _), size in sizes.items():
        for backbone in size.backbones:
            assert preset(name, backbone) == preset(name).override(size.genes).on(backbone)
            assert preset_size(name, backbone) == size.name
    mit = {f"mit_b{i}": i for i in range(6)}
    assert {b for b in mit if preset_size("segformer", b) == "large"} == {"mit_b2", "mit_b3", "mit_b4", "mit_b5"}
    # The Cityscapes configs of U-MixFormer's B3 to B5 inherit B0's width; SCASeg's printed costs say the same.
    for name in ("u_mixformer_city", "scaseg_city"):
        assert {b for b in mit if preset_size(name, b) == "large"} == {"mit_b2"}
    assert {b: preset("segformer_mmseg", b).project for b in mit} == dict.fromkeys(mit, 256)


def test_a_backbone_of_no_size_takes_the_base_form() -> None:
    assert preset_size("segformer", "resnet18") is None
    assert preset("segformer", "resnet18").fusion_width == 256
    assert preset_size("canet_fca", "mscan_t") is None
    # Options of a backbone change no size, nor does the prefix of timm.
    assert preset("segformer", "mit_b2?norm_eps=1e-05").project == 768
    assert preset("segformer", " timm:mit_b2") == preset("segformer", "mit_b2")
    with pytest.raises(ConfigError, match="must be the name of a backbone"):
        preset("segformer", " ")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("sizes: [mit_b0]", r"file: sizes: is a mapping of sizes, each with backbones and genes \(given \['mit_b0'\]\)"),
        ("sizes: {base: [mit_b0]}", "file: sizes.base: is a mapping with the keys backbones and genes"),
        ("sizes: {large: {backbones: [mit_b2], width: 768}}", "file: sizes.large: is a mapping with the keys backbones and genes"),
        ("sizes: {base: {backbones: []}}", "file: sizes.base.backbones: is a list with at least one backbone"),
        ("sizes: {base: {genes: {ffn: 2}}}", "file: sizes.base.backbones: is a list with at least one backbone"),
        ("sizes: {base: {backbones: [mit_b0], genes: {ffn: 2}}}", "file: sizes.base.genes: the size 'base' has the file's genes"),
        ("sizes: {large: {backbones: [mit_b2]}}", "file: sizes.large.genes: the size 'base' has the file's genes; any other has a mapping"),
        (
            "sizes: {base: {backbones: [mit_b0]}, large: {backbones: [mit_b0], genes: {ffn: 2}}}",
            "file: sizes.large.backbones: mit_b0 is in base already",
        ),
        (
            "sizes: {large: {backbones: [mit_b2], genes: {fusion_width: 100, project_norm: batch}}}",
            "file: sizes.large.genes: fusion_width: must be a whole number from 16 to 1024",
        ),
        ("- segformer", "file: a genotype is a mapping of gene names to values"),
    ],
)
def test_a_file_that_contradicts_itself(sizes: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_design(sizes, "file")
