"""Norm, pooling, resize, tokens, initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kits_model import features, fill
from torch import nn
from torch.nn import functional as F

from nasseg.models import ops
from nasseg.models.ffn import Ffn
from nasseg.models.fusion import Fusion
from nasseg.models.lpm import Lpm
from nasseg.models.ops import (
    ChannelNorm,
    Residual,
    bands,
    block_mean,
    channels_last,
    in_bands,
    init_block,
    max_of_resized,
    mean_of_resized,
    merge_heads,
    plus,
    pooled_grid,
    resize,
    resized_rows,
    split_heads,
    stochastic_depth,
    to_map,
    to_tokens,
)


@settings(deadline=None, max_examples=60)
@given(ratio=st.sampled_from([1, 2, 4, 8, 16, 32]), height=st.integers(1, 24), width=st.integers(1, 24))
def test_block_mean_averages_over_the_pixels_a_window_has(ratio: int, height: int, width: int) -> None:
    x_BCHW = torch.arange(2 * height * width, dtype=torch.float32).reshape(1, 2, height, width)
    pooled = block_mean(x_BCHW, ratio)
    assert pooled.shape == (1, 2, math.ceil(height / ratio), math.ceil(width / ratio))
    for i in range(pooled.shape[2]):
        for j in range(pooled.shape[3]):
            window = x_BCHW[0, :, i * ratio : (i + 1) * ratio, j * ratio : (j + 1) * ratio]
            torch.testing.assert_close(pooled[0, :, i, j], window.mean((1, 2)))


def test_block_mean_by_hand() -> None:
    x_BCHW = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])[None, None]
    assert block_mean(x_BCHW, 2).tolist() == [[[[3.0, 4.5], [7.5, 9.0]]]]
    assert block_mean(x_BCHW, 1) is x_BCHW


def test_resize_by_hand() -> None:
    x_BCHW = torch.tensor([[0.0, 4.0]])[None, None]
    assert resize(x_BCHW, (1, 4)).tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]
    assert resize(x_BCHW, (2, 4)).tolist() == [[[[0.0, 1.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0]]]]
    assert resize(x_BCHW, (1, 2)) is x_BCHW


def test_channel_norm_by_hand() -> None:
    norm = ChannelNorm(2)
    x_BCHW = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 3)
    out = norm(x_BCHW)
    assert out.shape == (1, 2, 2, 3)
    # Mean 2, variance 1: the pixel becomes -1 and 1, but for eps.
    torch.testing.assert_close(out[0, :, 1, 2], torch.tensor([-1.0, 1.0]), rtol=0, atol=1e-5)


def test_maps_and_tokens_share_memory() -> None:
    x_BCHW = channels_last(features(2, (64, 96))[0])
    tokens = to_tokens(x_BCHW)
    assert tokens.shape == (2, 16 * 24, 8)
    assert tokens.is_contiguous()
    assert tokens.data_ptr() == x_BCHW.data_ptr()
    assert torch.equal(tokens[0, 24 + 5], x_BCHW[0, :, 1, 5])
    back = to_map(tokens, (16, 24))
    assert torch.equal(back, x_BCHW)
    assert back.data_ptr() == x_BCHW.data_ptr()
    assert channels_last(x_BCHW).data_ptr() == x_BCHW.data_ptr()


def test_a_single_image_is_channels_last_to_pytorch_too() -> None:
    # Strides of (C, 1, W·C, C) hold the same numbers, and make PyTorch resize channel by channel into a map laid out channels-first.
    made = (4 * 6 * 8, 1, 6 * 8, 8)
    tokens = torch.randn(4 * 6, 8)[None].as_strided((1, 4 * 6, 8), (8, 8, 1))
    assert to_map(tokens, (4, 6)).stride() == made
    assert channels_last(tokens.transpose(1, 2).unflatten(2, (4, 6))).stride() == made
    assert channels_last(torch.randn(1, 8, 4, 6)).stride() == made
    assert resize(to_map(tokens, (4, 6)), (8, 12)).stride() == (8 * 12 * 8, 1, 12 * 8, 8)


@settings(deadline=None, max_examples=80)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), scales=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
def test_mean_and_maximum_of_a_resized_map_come_from_the_small_one(rows: int, columns: int, scales: tuple[int, int], seed: int) -> None:
    x_BChw = torch.randn(2, 3, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for size in ((rows * scales[0], columns * scales[1]), (rows + scales[0], columns + scales[1])):
        large_BCHW = resize(x_BChw, size)
        torch.testing.assert_close(mean_of_resized(x_BChw, size), large_BCHW.mean((2, 3), keepdim=True))
        torch.testing.assert_close(max_of_resized(x_BChw, size), large_BCHW.amax((2, 3), keepdim=True))


@settings(deadline=None, max_examples=80)
@given(
    height=st.integers(1, 6),
    scale=st.tuples(st.integers(1, 9), st.integers(1, 3)),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    odd=st.booleans(),
)
def test_rows_of_a_resized_map_are_those_of_the_whole(height: int, scale: tuple[int, int], cut: tuple[float, float], odd: bool) -> None:
    x_BChw = torch.randn(2, 3, height, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(height))
    size = (height * scale[0], 4 * scale[1] + odd)
    top = min(int(min(cut) * size[0]), size[0] - 1)
    bottom = max(round(max(cut) * size[0]), top + 1)
    rows = resized_rows(x_BChw, size, (top, bottom))
    assert rows.shape[2] == bottom - top
    torch.testing.assert_close(rows, resize(x_BChw, size)[:, :, top:bottom])


def test_bands_hold_every_row_once_and_are_for_passes_without_gradients() -> None:
    # A row of 128 channels × 64 pixels × 4 bytes is 32 KiB, 64 rows a band.
    x_BCHW = torch.zeros(1, 8, 640, 64)
    with torch.no_grad():
        assert bands(x_BCHW, 128) == [(top, top + 64) for top in range(0, 640, 64)]
        assert bands(x_BCHW[:, :, :100], 128) == [(0, 100)]
        assert bands(x_BCHW[:, :, :150], 128) == [(0, 75), (75, 150)]
        # No shorter than 16 rows, whatever they hold.
        assert bands(torch.zeros(1, 8, 32, 4096), 1024) == [(0, 16), (16, 32)]
        assert bands(x_BCHW.to("meta"), 128) == [(0, 640)]
    assert bands(x_BCHW, 128) == [(0, 640)]


def test_bands_are_put_together_in_their_places() -> None:
    x_BCHW = features()[0]
    rows = [(0, 5), (5, 6), (6, 16)]
    whole = in_bands((x_BCHW[:, :, a:b].to(torch.bfloat16) for a, b in rows), rows, 16)
    assert whole.dtype == torch.bfloat16
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole, x_BCHW.to(torch.bfloat16))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("depthwise", [True, False])
def test_the_feed_forward_branch_by_bands(depthwise: bool, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ffn = fill(Ffn(8, 2, depthwise)).eval()
    x_BCHW = channels_last(features(batch)[0])
    whole = ffn(x_BCHW).detach()
    monkeypatch.setattr(ops, "BAND", 1)
    for shortest in (1, 3, 5, 15):
        monkeypatch.setattr(ops, "SHORTEST_BAND", shortest)
        with torch.no_grad():
            assert len(bands(x_BCHW, 16)) > 1 or shortest == 15
            torch.testing.assert_close(ffn(x_BCHW), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plus_writes_over_the_branch_where_it_can(dtype: torch.dtype) -> None:
    x_BCHW, branch = torch.ones(1, 2, 3, 3), torch.full((1, 2, 3, 3), 2.0, dtype=dtype)
    out = plus(x_BCHW, branch)
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.full((1, 2, 3, 3), 3.0))
    assert (out is branch) == (dtype == torch.float32)
    assert torch.equal(plus(x_BCHW, torch.ones(1, 2, 1, 1)), torch.full((1, 2, 3, 3), 2.0))
    assert torch.equal(x_BCHW, torch.ones(1, 2, 3, 3))


def test_norm_and_residual_keep_channels_last() -> None:
    x_BCHW = channels_last(features()[1])
    for block in (ChannelNorm(16), Residual(16, Ffn(16, 2, True), 0.0), Residual(16, Lpm(16, "coord"), 0.0)):
        assert block(x_BCHW).is_contiguous(memory_format=torch.channels_last)


def test_heads_hold_neighbouring_channels() -> None:
    x_BNC = torch.arange(12.0).reshape(1, 2, 6)
    by_head = split_heads(x_BNC, 3)
    assert by_head.shape == (1, 3, 2, 2)
    assert by_head[0, 1].tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert torch.equal(merge_heads(by_head), x_BNC)


def test_stochastic_depth_is_absent_at_rate_zero_and_acts_in_training_only() -> None:
    assert isinstance(stochastic_depth(0.0), nn.Identity)
    torch.manual_seed(0)
    drop = stochastic_depth(0.5)
    x_BCHW = torch.ones(64, 1, 1, 1)
    kept = drop.train()(x_BCHW)
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(drop.eval()(x_BCHW), x_BCHW)


def test_blocks_start_as_segformer_does() -> None:
    torch.manual_seed(0)
    ffn = Ffn(64, 4, True)
    init_block(ffn.modules())
    assert ffn.expand.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert ffn.reduce.weight.std().item() == pytest.approx(0.02, rel=0.05)
    # Fan-out of one group: 9 · 256 / 256.
    assert isinstance(ffn.depthwise, nn.Conv2d)
    assert ffn.depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert all(not p.any() for name, p in ffn.named_parameters() if name.endswith("bias"))


def test_heads_start_as_mmsegmentation_does() -> None:
    torch.manual_seed(0)
    fusion = Fusion("concat", {1: 64, 2: 128}, 256, 150, project=None, dropout=0.0)
    assert fusion.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert fusion.mix.conv.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert fusion.classifier.bias is not None
    assert not fusion.classifier.bias.any()


@pytest.mark.parametrize(("height", "width"), [(5, 7), (4, 6), (1, 5), (3, 2)])
def test_block_mean_that_drops_the_edge_is_pytorchs_without_ceil_mode(height: int, width: int) -> None:
    x_BCHW = torch.arange(2.0 * height * width).reshape(1, 2, height, width)
    found = block_mean(x_BCHW, 2, "drop")
    assert (found.shape[2], found.shape[3]) == pooled_grid((height, width), 2, "drop") == (max(height // 2, 1), width // 2)
    if height > 1:
        assert torch.equal(found, F.avg_pool2d(x_BCHW, 2))
    else:
        # The one window there is has one row.
        assert torch.equal(found, F.avg_pool2d(x_BCHW, (1, 2)))
