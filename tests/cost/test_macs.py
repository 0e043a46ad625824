"""Costs of single operators worked out by hand, then whole published heads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kits_model import with_gene

from nasseg.cost.cost import Part
from nasseg.cost.macs import (
    decoder_cost,
    ffn_cost,
    fusion_cost,
    lpm_cost,
    mixing_cost,
    own_cost,
    padded,
    reuse_cost,
    stage_grids,
    uniform_cost,
)
from nasseg.errors import ConfigError
from nasseg.genes.gene import GENES
from nasseg.genes.genotype import Genotype
from nasseg.genes.presets import preset

S = (32, 64, 160, 256)
"""Widths of MiT-B0 and MSCAN-T."""


def total(parts: dict[str, Part]) -> Part:
    return sum(parts.values(), Part())


def test_input_is_padded_to_a_multiple_of_32():
    assert padded((1, 32)) == (32, 32)
    assert padded((33, 720)) == (64, 736)
    assert stage_grids((33, 90)) == ((16, 24), (8, 12), (4, 6), (2, 3))


def test_mixing_by_hand():
    # 32² + 64² + 160² = 30720 weights and 256 biases in three convolutions, LayerNorm of 512, 4 key tokens.
    assert mixing_cost(S, S[:3], 4) == Part(30720 + 256 + 1024, 4 * 30720, 4 * 30720 + 5 * 4 * 512)
    assert mixing_cost(S, S[:3], 4) == Part(32000, 122880, 133120)
    assert mixing_cost((256,), (), 4) == Part(512, 0, 5120)


def test_own_map_by_hand():
    # c 160, five heads of rank 1, 16 queries and 4 keys of width 512.
    params = 320 + 160 * 5 + 512 * 5 + 512 * 160 + 160 * 160 + 160
    macs = 16 * 160 * 5 + 4 * 512 * 5 + 4 * 512 * 160 + 16 * 4 * 5 + 16 * 4 * 160 + 16 * 160 * 160
    assert (params, macs) == (111360, 770880)
    assert own_cost(512, 160, 5, 16, 16, 4, False) == Part(111360, 770880, 770880 + 5 * 16 * 160)


def test_full_rank_map_by_hand():
    # c 64 and T 64, Q and K as wide as V; 4 queries, 4 keys: W_q, W_k, W_v, W_o are 64² each.
    assert own_cost(64, 64, 64, 4, 4, 4, False) == Part(128 + 4 * 4096 + 64, 4 * 4 * 4096 + 2 * 4 * 4 * 64, 67584 + 5 * 4 * 64)


def test_pooled_queries_by_hand():
    # c 32 on 16×16 positions, one head of rank 1, 8×8 queries, one key of width 512: a 1×1 convolution, a second norm, a resize.
    params = 64 + (1024 + 32 + 64) + 32 + 512 + 512 * 32 + 1024 + 32
    macs = 64 * 1024 + 64 * 32 + 512 * (1 + 32) + 64 * (1 + 32) + 64 * 1024
    extra = 5 * 256 * 32 + 5 * 64 * 32 + 4 * 256 * 32
    assert (params, macs, extra) == (19168, 152128, 83968)
    assert own_cost(512, 32, 1, 256, 64, 1, True) == Part(params, macs, macs + extra)


def test_pooled_queries_of_a_single_position_are_not_resized():
    assert own_cost(8, 8, 1, 1, 1, 1, True).fvcore - own_cost(8, 8, 1, 1, 1, 1, True).macs == 2 * 5 * 8


def test_uniform_map_by_hand():
    assert uniform_cost(512, 160, 4) == Part(512 * 160 + 25600 + 160, 512 * 160 + 25600, 107520 + 4 * 512)


def test_reused_map_by_hand():
    # Values of 4 keys 64 → 64, four queries, then 2×2 → 8×8.
    macs = 4 * 64 * 64 + 4 * 4 * 64 + 4 * 64 * 64
    assert reuse_cost(64, 64, 64, 4, 4) == Part(4096 + 4096 + 64, macs, macs + 4 * 64 * 64)
    assert macs == 33792


@pytest.mark.parametrize(
    ("kind", "cost"),
    [
        ("none", Part(0, 0, 0)),
        # LN 64, two 1×1 of 1056, 3×3 of 320; 256·(2·1024 + 288); LN 5·8192.
        ("plain", Part(2496, 598016, 638976)),
        # m = 2: 32·2 + 2 + 2·32 + 32 weights, each used once; the mean reads 8192.
        ("se", Part(2658, 598144, 647296)),
        ("eca", Part(2499, 598112, 647264)),
        # m = 2: 128 weights used for mean and for maximum; 98 weights at each of 256 positions.
        ("cbam", Part(2722, 623360, 672512)),
        # m = 8: 256, norm 16, 2·(256 + 32); 32 strip positions there and back; two means, norm 2·32·8.
        ("coord", Part(3344, 614400, 672256)),
    ],
)
def test_lpm_by_hand(kind: str, cost: Part):
    assert lpm_cost(kind, 32, (16, 16)) == cost


def test_hidden_widths_of_gates_have_a_floor():
    assert lpm_cost("se", 8, (1, 1)).params - lpm_cost("plain", 8, (1, 1)).params == 8 + 1 + 8 + 8
    assert lpm_cost("coord", 512, (1, 1)).params - lpm_cost("plain", 512, (1, 1)).params == 3 * 512 * 16 + 32 + 1024


def test_a_gate_without_a_term_is_refused():
    with pytest.raises(AssertionError, match="no cost term for lpm 'sse'"):
        lpm_cost("sse", 32, (4, 4))


def test_ffn_by_hand():
    assert ffn_cost(0, False, 32, (16, 16)) == Part()
    assert ffn_cost(4, True, 32, (16, 16)) == Part(9696, 256 * (8 * 1024 + 36 * 32), 2392064 + 40960)
    assert ffn_cost(4, False, 32, (16, 16)) == Part(8416, 256 * 8 * 1024, 2097152 + 40960)
    assert ffn_cost(1, True, 10, (2, 3)) == Part(20 + 200 + 10 + 10 + 100, 6 * (200 + 90), 6 * (290 + 50))


def test_concat_fusion_by_hand():
    genotype = Genotype.from_dict({"attention": "none", "ffn": 0})
    # 512 → 128 without bias, norm, 128 → 19; three maps of together 480 channels resized to 16×16.
    cost = fusion_cost(genotype, S, stage_grids((64, 64)), 19)
    assert cost == Part(65536 + 256 + 2432 + 19, 256 * (65536 + 2432), 17399808 + 4 * 256 * 480 + 2 * 256 * 128)


def test_projection_by_hand():
    genotype = Genotype.from_dict({"attention": "none", "ffn": 0, "fusion_stride": 8, "project": 64, "fusion_width": 64})
    cost = fusion_cost(genotype, S, stage_grids((64, 64)), 2)
    projected = 64 * 64 * 64 + 16 * 160 * 64 + 4 * 256 * 64
    assert cost.params == (480 * 64 + 3 * 64) + (192 * 64 + 128) + 130
    assert cost.macs == projected + 64 * (192 * 64 + 128) == 1286144
    assert cost.fvcore == 1286144 + 4 * 64 * 128 + 2 * 64 * 64


def test_fca_fusion_meets_the_published_size():
    # F2 as the shallow branch, F3 and F4 as the deep one, width 128 at stride 8: 0.132 M and 0.32 G without the classifier.
    cost = fusion_cost(preset("canet_fca"), S, stage_grids((512, 512)), 1)
    assert cost.params - (128 + 1) == (480 * 128 + 256) + (64 + 2) + (416 * 128 + 128) + (128 * 128 + 256) == 131778
    assert cost.macs - 4096 * 128 == 4096 * (480 * 128 + 64 + 128 * 128) + 2 * 416 * 128 == 319135744
    norms = 2 * 4096 * (128 + 1 + 128)
    assert cost.fvcore - cost.macs == 4 * 4096 * 416 + norms + 4096 * 416


def test_ham_fusion_by_hand():
    genotype = Genotype.from_dict({"attention": "none", "ffn": 0, "fusion_stride": 8, "fusion": "ham", "fusion_width": 32, "ham_rank": 2})
    cost = fusion_cost(genotype, S, stage_grids((64, 64)), 3)
    # 480 → 32, three 32 → 32 of which one has a bias, three GroupNorms, 32 → 3.
    assert cost.params == 480 * 32 + 3 * 1024 + 32 + 3 * 64 + 99
    step = 2 * 64 * 32 * 2 + 2 * 32 * 4 + 2 * 64 * 4
    factorisation = 64 * 32 * 2 + 7 * step + (64 * 32 * 2 + 32 * 4 + 64 * 4) + 64 * 32 * 2
    assert cost.macs == 64 * (480 * 32 + 3 * 1024 + 96) + factorisation
    assert cost.fvcore - cost.macs == 4 * 64 * 416 + 3 * 5 * 64 * 32


def test_resized_logits_count_in_the_fusion_at_the_true_size():
    genotype = preset("scaseg")
    plain = decoder_cost(genotype, S, (50, 70), 21)
    resized = decoder_cost(genotype, S, (50, 70), 21, resize_logits=True)
    assert resized["fusion"].fvcore - plain["fusion"].fvcore == 4 * 21 * 50 * 70
    assert resized["fusion"].macs == plain["fusion"].macs
    assert resized["stage1"] == plain["stage1"]


@given(
    stage=st.sampled_from((1, 2, 3, 4)),
    tall=st.integers(1, 6),
    wide=st.integers(1, 6),
    rank=st.sampled_from((1, 2, 4, 8)),
    lpm=st.booleans(),
)
def test_blocks_follow_the_closed_forms(stage: int, tall: int, wide: int, rank: int, lpm: bool):
    genotype = Genotype.from_dict({"lpm": "se" if lpm else "none", "rank": rank})
    part = decoder_cost(genotype, S, (32 * tall, 32 * wide), 21)[f"stage{stage}"]
    c, h, m, n = S[stage - 1], (1, 2, 5, 8)[stage - 1], tall * wide, tall * wide * 4 ** (4 - stage) * 1
    width, squares = 512, 32**2 + 64**2 + 160**2
    hr, gate = h * rank, c // 16
    params = squares + 256 + c * hr + width * hr + width * c + (c * c + c) + (8 * c * c + 45 * c) + 4 * c + 2 * width
    macs = m * squares + n * c * hr + m * width * (hr + c) + n * m * (hr + c) + n * c * c + n * (8 * c * c + 36 * c)
    if lpm:
        params += 2 * (c * c + c) + 10 * c + 2 * c * gate + gate + c + 2 * c
        macs += n * (2 * c * c + 9 * c) + 2 * c * gate
    assert (part.params, part.macs) == (params, macs)


MIT_B0 = Part(3319392, 3203661824, 3234791424)
MSCAN_T = Part(3903584, 4636508160, 4658954240)


@pytest.mark.parametrize(
    ("name", "backbone", "figures"),
    [
        ("segformer", MIT_B0, [3.753, 8.388, 8.478]),
        ("segformer_mmseg", MIT_B0, [3.754, 8.388, 8.489]),
        ("feedformer", MIT_B0, [4.415, 7.761, 7.841]),
        ("feedformer", MSCAN_T, [4.999, 9.194, 9.265]),
        ("u_mixformer", MIT_B0, [5.045, 6.080, 6.159]),
        ("u_mixformer", MSCAN_T, [5.629, 7.513, 7.583]),
        ("metaseg", MIT_B0, [4.078, 3.879, 3.923]),
        ("scaseg", MIT_B0, [4.910, 5.851, 5.937]),
        ("scaseg", MSCAN_T, [5.494, 7.284, 7.361]),
        ("csap", MSCAN_T, [4.574, 5.297, 5.332]),
        ("segnext", MSCAN_T, [4.263, 6.404, 6.449]),
    ],
)
def test_published_networks_at_512_with_150_classes(name: str, backbone: Part, figures: list[float]):
    part = backbone + total(decoder_cost(preset(name), S, (512, 512), 150))
    assert [round(part.params / 1e6, 3), round(part.macs / 1e9, 3), round(part.fvcore / 1e9, 3)] == figures


def test_metaseg_and_csap_meet_print_with_their_logits_resized():
    def gflops(name: str, size: tuple[int, int], classes: int) -> float:
        # The encoder's own cost grows with the area, as it has no attention.
        encoder = MSCAN_T.fvcore * size[0] * size[1] // 512**2
        return (encoder + total(decoder_cost(preset(name), S, size, classes, resize_logits=True)).fvcore) / 1e9

    assert round(gflops("metaseg", (512, 512), 150), 3) == 5.505
    assert round(gflops("csap", (512, 512), 150), 1) == 5.5
    assert round(gflops("csap", (512, 512), 171), 1) == 5.5
    assert round(gflops("csap", (1024, 1024), 19), 1) == 21.5


@pytest.mark.parametrize("name", [name for name in GENES if name != "backbone"])
def test_every_value_of_a_gene_has_a_cost_of_its_own(name: str):
    # Where a residual leaves from, a scale, an activation, and at whole windows what becomes of others cost nothing.
    costs = {value: total(decoder_cost(with_gene(name, value), (40, 40, 80, 80), (128, 256), 21)) for value in GENES[name].values}
    alike = {"mixing": 2, "pool_edge": 1, "softmax_scale": 1, "lpm_residual": 1, "residual": 1}
    assert len(set(costs.values())) == alike.get(name, len(costs)), costs


def test_scaseg_is_pinned_to_the_last_digit():
    assert total(decoder_cost(preset("scaseg"), S, (512, 512), 150)) == Part(1590646, 2647273216, 2701799168)


def test_stages_that_are_not_kept_have_no_part():
    assert list(decoder_cost(preset("csap"), S, (64, 64), 2)) == ["stage2", "stage3", "stage4", "fusion"]


def test_a_stage_with_nothing_in_it_costs_nothing():
    assert decoder_cost(preset("segformer"), S, (64, 64), 2)["stage3"] == Part()


def test_heads_in_use_decide_not_heads_asked_for():
    asked = Genotype.from_dict({"heads": 7, "rank": 2})
    used = Genotype.from_dict({"stage1": {"heads": 4}, "stage2": {"heads": 4}, "stage3": {"heads": 5}, "stage4": {"heads": 4}, "rank": 2})
    assert asked.heads(S) == (4, 4, 5, 4)
    assert decoder_cost(asked, S, (64, 64), 5) == decoder_cost(used, S, (64, 64), 5)


@pytest.mark.parametrize(("size", "classes"), [((0, 64), 5), ((64, -1), 5), ((64, 64), 0)])
def test_numbers_below_one_are_refused(size: tuple[int, int], classes: int):
    with pytest.raises(ConfigError, match="height, width and classes must be 1 or more"):
        decoder_cost(preset("scaseg"), S, size, classes)


def test_arithmetic_needs_no_torch():
    script = (
        "import sys; from nasseg.genes.presets import preset; from nasseg.cost.macs import decoder_cost; "
        "decoder_cost(preset('scaseg'), (32, 64, 160, 256), (64, 64), 2); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
