"""MSCAN: the paper's sizes to the printed digit, and each layer against its formula written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kits_backbone import cached, image
from torch import Tensor, nn

from nasseg.models.backbones.mscan import MSCAN, MSCAN_SHAPES, ConvFFN, MSCANBlock, SpatialAttention, embedding
from nasseg.models.counting import count

PARAMS_M = {"mscan_t": 3.904, "mscan_s": 13.450, "mscan_b": 26.278, "mscan_l": 44.637}
MACS_G = {"mscan_t": 4.637, "mscan_s": 13.375, "mscan_b": 26.549}


def maps(seed: int = 0, channels: int = 6) -> Tensor:
    return torch.randn(2, channels, 9, 12, generator=torch.Generator().manual_seed(seed))


def spread(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, 0.3, generator=generator)
    module.eval()


@pytest.mark.parametrize("name", MSCAN_SHAPES)
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        made = MSCAN(name)
    assert round(sum(p.numel() for p in made.parameters()) / 1e6, 3) == PARAMS_M[name]


@pytest.mark.parametrize("name", MACS_G)
def test_macs_at_512(name: str) -> None:
    with torch.device("meta"):
        counted = count(MSCAN(name), torch.empty(1, 3, 512, 512))
    assert round(counted.macs / 1e9, 3) == MACS_G[name]


def test_fvcore_count_of_t() -> None:
    with torch.device("meta"):
        counted = count(MSCAN("mscan_t"), torch.empty(1, 3, 512, 512))
    assert round(counted.fvcore / 1e9, 3) == 4.659


def test_attention_is_the_formula() -> None:
    layer = SpatialAttention(6)
    spread(layer)
    x = maps()
    u = F.gelu(layer.project_in(x))
    a = F.conv2d(u, layer.gate.local.weight, layer.gate.local.bias, padding=2, groups=6)
    total = a
    for size, strip in zip((7, 11, 21), layer.gate.strips, strict=True):
        across, down = strip
        assert (across.kernel_size, down.kernel_size) == ((1, size), (size, 1))
        row = F.conv2d(a, across.weight, across.bias, padding=(0, size // 2), groups=6)
        total = total + F.conv2d(row, down.weight, down.bias, padding=(size // 2, 0), groups=6)
    torch.testing.assert_close(layer(x), layer.project_out(u * layer.gate.mix(total)) + x)


def test_ffn_is_the_formula() -> None:
    layer = ConvFFN(6, 4)
    spread(layer)
    x = maps()
    hidden = F.conv2d(layer.fc1(x), layer.depthwise.weight, layer.depthwise.bias, padding=1, groups=24)
    torch.testing.assert_close(layer(x), layer.fc2(F.gelu(hidden)))


def test_block_scales_both_branches() -> None:
    block = MSCANBlock(6, 4, 0.0)
    assert torch.equal(block.scale1, torch.full((6, 1, 1), 0.01))
    assert torch.equal(block.scale2, torch.full((6, 1, 1), 0.01))
    spread(block)
    x = maps()
    after = x + block.scale1 * block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), after + block.scale2 * block.ffn(block.norm2(after)))


def test_embeddings() -> None:
    assert [type(layer).__name__ for layer in embedding(3, 8, stem=True)] == ["Conv2d", "BatchNorm2d", "GELU", "Conv2d", "BatchNorm2d"]
    assert embedding(3, 8, stem=True)(image((16, 24))).shape == (2, 8, 4, 6)
    assert [type(layer).__name__ for layer in embedding(8, 12, stem=False)] == ["Conv2d", "BatchNorm2d"]
    assert embedding(8, 12, stem=False)(torch.zeros(2, 8, 4, 6)).shape == (2, 12, 2, 3)


def test_each_map_is_the_normed_output_that_feeds_the_next_stage() -> None:
    backbone = cached("mscan_t").eval()
    assert isinstance(backbone, MSCAN)
    with torch.no_grad():
        out = backbone(image())
        for one in out:
            torch.testing.assert_close(one.mean(1), torch.zeros_like(one[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(backbone.stages[1](out[0]), out[1])


def test_drop_path_grows_over_the_blocks_and_acts_in_training_only() -> None:
    torch.manual_seed(0)
    dropping = MSCAN("mscan_t", drop_path=0.6)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in dropping.stages for block in stage.blocks]
    assert rates == pytest.approx([0.05 * i for i in range(13)])
    x = image()
    with torch.no_grad():
        dropping.train()
        assert not torch.equal(dropping(x)[3], dropping(x)[3])
        assert torch.equal(dropping.eval()(x)[3], dropping(x)[3])


def test_ffn_ratios() -> None:
    with torch.device("meta"):
        made = MSCAN("mscan_t")
    assert [stage.blocks[0].ffn.fc1.out_channels for stage in made.stages] == [256, 512, 640, 1024]
