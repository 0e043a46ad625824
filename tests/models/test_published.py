"""The published designs: logits that may not move, weights that stand in files by name, and the papers' parameter counts."""

from __future__ import annotations

import pytest
import torch
from kits_model import PRESET_CASES, SMALL, features, image, tiny_decoder, tiny_model

from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import PRESETS, preset
from nasseg.models.decoder import Decoder

SMALL_BACKBONE = (32, 64, 160, 256)
"""MiT-B0 and MSCAN-T."""

# Four classes at row 3, column 5 of a 64×96 image, weights and image out of the kit's closed form.
GOLDEN = {
    "segformer": [-3.3806, 1.0542, 0.494, 0.1133],
    "segformer_mmseg": [-3.113, 0.6832, 0.1777, -0.0095],
    "feedformer": [-2.551, 0.3168, 0.599, 0.6021],
    "feedformer_city": [-2.5138, 0.3125, 0.6037, 0.6297],
    "u_mixformer": [-3.0869, 0.1247, 0.5758, 0.1821],
    "u_mixformer_city": [-4.2878, 0.6291, 0.5056, 0.4293],
    "metaseg": [-2.6326, -0.7728, -1.1015, 1.102],
    "scaseg": [-2.9836, 0.3229, 0.4577, -0.2964],
    "scaseg_city": [-3.6744, 0.4208, 0.4423, 0.473],
    "csap": [-2.7846, 0.1627, -1.5232, 1.0741],
    "canet_fca": [0.9919, 0.5049, -0.4089, 0.4217],
    "segnext": [0.8039, 0.1407, 0.9445, 0.0117],
}


@pytest.mark.parametrize("name", PRESETS)
def test_golden_logits(name: str) -> None:
    with torch.no_grad():
        logits = tiny_model(PRESET_CASES[name], classes=4)(image(1, (64, 96)))
    torch.testing.assert_close(logits[0, :, 3, 5], torch.tensor(GOLDEN[name]), rtol=0, atol=5e-4)


def scaseg_stage(c: int, heads: int, *, pooled: tuple[int, ...] = (32, 64, 160), city: bool = False) -> int:
    """Live parameters of one SCASeg stage, term by term."""
    total, m = sum(SMALL_BACKBONE), c // 16
    mixing = sum(j * j + j for j in pooled) + 2 * total
    attention = 2 * c + c * heads + total * heads + total * c + (c * c + c)
    query = (c * c + c) + 2 * c if city else 0
    lpm = 2 * c + 2 * (c * c + c) + 10 * c + (c * m + m) + (m * c + c)
    ffn = 2 * c + (4 * c * c + 4 * c) + 40 * c + (4 * c * c + c)
    return mixing + attention + query + lpm + ffn


def test_scaseg_has_the_live_parameters_of_its_closed_form() -> None:
    decoder = Decoder(preset("scaseg"), SMALL_BACKBONE, 150)
    stages = {f"stage{i}": scaseg_stage(c, h) for i, (c, h) in enumerate(zip(SMALL_BACKBONE, (1, 2, 5, 8), strict=True), 1)}
    fusion = 512 * 128 + 2 * 128 + 128 * 150 + 150
    counted = {name: sum(p.numel() for p in part.parameters()) for name, part in decoder.named_children()}
    assert counted == stages | {"fusion": fusion}
    # With MiT-B0's 3.319 M: the 4.910 M of live weights behind the printed 6.0.
    assert sum(counted.values()) == 1_590_646


def test_the_city_form_adds_a_query_path_and_a_convolution_on_the_deepest_map() -> None:
    decoder = Decoder(preset("scaseg_city"), SMALL_BACKBONE, 19)
    for i, (c, h) in enumerate(zip(SMALL_BACKBONE, (1, 2, 5, 8), strict=True), 1):
        counted = sum(p.numel() for p in decoder.get_submodule(f"stage{i}").parameters())
        assert counted == scaseg_stage(c, h, pooled=SMALL_BACKBONE, city=True)


def test_heads_have_the_published_parameters() -> None:
    # In millions, ARCHITECTURES' measured totals less what is registered and never used, less the backbone.
    segformer = Decoder(preset("segformer"), SMALL_BACKBONE, 150)
    projections = sum(c * 256 + 256 for c in SMALL_BACKBONE)
    assert sum(p.numel() for p in segformer.parameters()) == projections + 1024 * 256 + 512 + 256 * 150 + 150
    fca = Decoder(preset("canet_fca"), SMALL_BACKBONE, 150)
    # 0.132 M without the classifier, on MSCAN-T at width 128.
    assert sum(p.numel() for p in fca.fusion.mix.parameters()) == 480 * 128 + 256 + 64 + 2 + (416 * 128 + 128) + 128 * 128 + 256
    assert sum(p.numel() for p in fca.fusion.mix.parameters()) == pytest.approx(0.132e6, rel=0.01)


def test_parameter_names_are_a_file_format() -> None:
    # Weights are stored by these names: one that changes here needs a reader of the old one.
    genes = {
        **SMALL,
        "stage4": {"query_pool": 2, "lpm": "se", "ffn": 0},
        "stage3": {"attention": "stage4", "lpm": "eca"},
        "stage2": {"rank": 0, "lpm": "coord", "ffn": 0, "pool_conv": False},
        "stage1": {"lpm": "cbam", "inputs": [1], "ffn_depthwise": False},
        "fusion": "fca",
        "project": 64,
    }
    decoder = tiny_decoder(Genotype.from_dict(genes))
    names = {name.removesuffix(".weight").removesuffix(".bias") for name, _ in decoder.named_parameters()}
    lpm = {"norm", "branch.enter", "branch.depthwise", "branch.leave"}
    ffn = {"norm", "branch.expand", "branch.depthwise", "branch.reduce"}
    mix = {"conv", "norm", "spatial", "spatial_norm", "channel", "out", "out_norm"}
    assert names == {
        *(f"stage4.attention.{n}" for n in ("norm", "query_conv", "query_norm", "query", "key", "value", "out", "mixing.norm")),
        *(f"stage4.attention.mixing.convs.stage{j}" for j in (1, 2, 3)),
        *(f"stage4.lpm.{n}" for n in (*lpm, "branch.gate.reduce", "branch.gate.expand")),
        *(f"stage3.attention.{n}" for n in ("value", "out", "mixing.norm", "mixing.convs.stage3")),
        *(f"stage3.lpm.{n}" for n in (*lpm, "branch.gate.conv")),
        *(f"stage3.ffn.{n}" for n in ffn),
        *(f"stage2.attention.{n}" for n in ("value", "out", "mixing.norm")),
        *(f"stage2.lpm.{n}" for n in (*lpm, *(f"branch.gate.{g}" for g in ("reduce", "norm", "rows", "columns")))),
        *(f"stage1.attention.{n}" for n in ("norm", "query", "key", "value", "out", "mixing.norm", "mixing.convs.stage1")),
        *(f"stage1.lpm.{n}" for n in (*lpm, *(f"branch.gate.{g}" for g in ("reduce", "expand", "spatial")))),
        *(f"stage1.ffn.{n}" for n in ffn - {"branch.depthwise"}),
        *(f"fusion.project.stage{i}" for i in (1, 2, 3, 4)),
        *(f"fusion.mix.{n}" for n in mix),
        "fusion.classifier",
    }


def test_names_of_norms_that_some_published_codes_have() -> None:
    genes = {
        **SMALL,
        "fusion_stride": 8,
        "input_norm": True,
        "mixing": "norm_norm_gelu",
        "inputs": [1, 2],
        "project": 64,
        "project_norm": "batch",
    }
    decoder = tiny_decoder(Genotype.from_dict({**genes, "stage3.attention": "stage4", "stage2.rank": 0}))
    names = {name.removesuffix(".weight").removesuffix(".bias") for name, _ in decoder.named_parameters() if ".ffn." not in name}
    mixing = [f"mixing.{n}" for n in ("norm", "second_norm", "convs.stage1", "convs.stage2", "input_norm.stage1", "input_norm.stage2")]
    assert names == {
        *(f"stage4.attention.{n}" for n in ("norm", "query", "key", "value", "out", *mixing)),
        *(f"stage{i}.attention.{n}" for i in (3, 2) for n in ("value", "out", *mixing)),
        *(f"fusion.project.stage{i}.{n}" for i in (2, 3, 4) for n in ("conv", "norm")),
        *(f"fusion.{n}" for n in ("mix.conv", "mix.norm", "classifier")),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_an_untrained_decoder_is_stable(name: str) -> None:
    # Unit-variance maps give logits near zero and finite gradients of the same order at the head and at the deepest stage.
    torch.manual_seed(0)
    decoder = Decoder(preset(name), SMALL_BACKBONE, 19).train()
    maps = [torch.randn_like(f) for f in features(2, (64, 64), SMALL_BACKBONE)]
    logits = decoder(maps)
    assert logits.std() < 1
    assert logits.abs().max() < 2
    torch.nn.functional.cross_entropy(logits, torch.randint(19, (2, *logits.shape[2:]))).backward()
    total = sum(p.grad.square().sum() for p in decoder.parameters() if p.grad is not None) ** 0.5
    assert 0.01 < float(total) < 10
