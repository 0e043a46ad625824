"""MiT: the paper's sizes to the printed digit, and each layer against its formula written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from kits_backbone import cached, image
from torch import Tensor, nn

from nasseg.models.backbones.mit import MIT_SHAPES, MiT, MiTBlock, MixFFN, PatchEmbedding, ReducedAttention
from nasseg.models.backbones.registry import create_backbone
from nasseg.models.counting import count

PARAMS_M = {"mit_b0": 3.319, "mit_b1": 13.151, "mit_b2": 24.196, "mit_b3": 44.072, "mit_b4": 60.843, "mit_b5": 81.443}
MACS_G = {"mit_b0": 3.204, "mit_b1": 10.434, "mit_b2": 20.235}


def tokens(seed: int = 0, n: int = 24, channels: int = 8) -> Tensor:
    return torch.randn(2, n, channels, generator=torch.Generator().manual_seed(seed))


def spread(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough that every term of a formula shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, 0.5, generator=generator)
    return module.eval()


@pytest.mark.parametrize("name", MIT_SHAPES)
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        made = MiT(name)
    assert round(sum(p.numel() for p in made.parameters()) / 1e6, 3) == PARAMS_M[name]


@pytest.mark.parametrize("name", MACS_G)
def test_macs_at_512(name: str) -> None:
    with torch.device("meta"):
        counted = count(MiT(name), torch.empty(1, 3, 512, 512))
    assert round(counted.macs / 1e9, 3) == MACS_G[name]


def test_fvcore_count_of_b0() -> None:
    with torch.device("meta"):
        counted = count(MiT("mit_b0"), torch.empty(1, 3, 512, 512))
    assert round(counted.fvcore / 1e9, 3) == 3.235


@pytest.mark.parametrize("reduction", [1, 2])
def test_attention_is_the_formula(reduction: int) -> None:
    layer = spread(ReducedAttention(8, 2, reduction))
    assert isinstance(layer, ReducedAttention)
    x = tokens()
    reduced = x
    if reduction == 2:
        assert layer.reduce is not None
        assert layer.norm is not None
        x_map = x.transpose(1, 2).reshape(2, 8, 4, 6)
        reduced = layer.norm(layer.reduce(x_map).reshape(2, 8, 6).transpose(1, 2))
    q, k, v = layer.q(x), layer.kv(reduced)[..., :8], layer.kv(reduced)[..., 8:]
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[..., head] @ k[..., head].transpose(1, 2) / math.sqrt(4), dim=-1)
        heads.append(weights @ v[..., head])
    torch.testing.assert_close(layer(x, (4, 6)), layer.proj(torch.cat(heads, dim=-1)))


def test_ffn_is_the_formula() -> None:
    layer = spread(MixFFN(8, 4))
    assert isinstance(layer, MixFFN)
    x = tokens()
    hidden = layer.fc1(x).transpose(1, 2).reshape(2, 32, 4, 6)
    mixed = F.conv2d(hidden, layer.depthwise.weight, layer.depthwise.bias, padding=1, groups=32)
    expected = layer.fc2(F.gelu(mixed.reshape(2, 32, 24).transpose(1, 2)))
    torch.testing.assert_close(layer(x, (4, 6)), expected)


def test_block_adds_both_branches_of_normed_tokens() -> None:
    block = spread(MiTBlock(8, 2, 2, 0.0))
    assert isinstance(block, MiTBlock)
    x = tokens()
    after = x + block.attn(block.norm1(x), (4, 6))
    torch.testing.assert_close(block(x, (4, 6)), after + block.ffn(block.norm2(after), (4, 6)))


@pytest.mark.parametrize(("stride", "kernel"), [(4, 7), (2, 3)])
def test_patches_overlap(stride: int, kernel: int) -> None:
    embed = PatchEmbedding(3, 8, stride)
    assert embed.proj.kernel_size == (kernel, kernel)
    x_BNC, grid = embed(image((16, 24)))
    assert (tuple(x_BNC.shape), grid) == ((2, 384 // stride**2, 8), (16 // stride, 24 // stride))


def test_each_map_is_the_normed_output_that_feeds_the_next_stage() -> None:
    backbone = cached("mit_b0").eval()
    with torch.no_grad():
        maps = backbone(image())
        for one in maps:  # fresh layer norms: mean 0 and deviation 1 over the channels of each pixel
            torch.testing.assert_close(one.mean(1), torch.zeros_like(one[:, 0]), atol=1e-5, rtol=0)
            torch.testing.assert_close(one.std(1, correction=0), torch.ones_like(one[:, 0]), atol=1e-2, rtol=0)
        assert isinstance(backbone, MiT)
        torch.testing.assert_close(backbone.stages[1](maps[0]), maps[1])


def test_drop_path_grows_over_the_blocks_and_acts_in_training_only() -> None:
    torch.manual_seed(0)
    dropping = MiT("mit_b0", drop_path=0.7)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in dropping.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])
    x = image()
    with torch.no_grad():
        assert not torch.equal(dropping(x)[3], dropping(x)[3])
        assert torch.equal(dropping.eval()(x)[3], dropping(x)[3])


def test_initialisation() -> None:
    backbone = cached("mit_b0")
    assert isinstance(backbone, MiT)
    block = backbone.stages[3].blocks[0]
    assert block.ffn.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.ffn.depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert backbone.stages[0].embed.proj.weight.std().item() == pytest.approx(math.sqrt(2 / (49 * 32)), rel=0.1)
    assert all(not p.any() for name, p in backbone.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("name", "expected"), [("mit_b0", {1e-5, 1e-6}), ("mit_b0?norm_eps=1e-05", {1e-5}), ("mit_b0?norm_eps=1e-06", {1e-6})]
)
def test_the_constant_of_the_norms_is_an_argument_of_the_name(name: str, expected: set[float]) -> None:
    backbone = create_backbone(name)
    assert {module.eps for module in backbone.modules() if isinstance(module, nn.LayerNorm)} == expected
    assert backbone.name == name


def test_the_constant_of_the_norms_by_hand() -> None:
    # Tokens (1, -1) of variance 1: with 3 added each becomes half of itself.
    block = create_backbone("mit_b0?norm_eps=0.5").stages[0].norm
    x = torch.tensor([1.0, -1.0]).repeat(16)
    torch.testing.assert_close(block(x), x / 1.5**0.5)
