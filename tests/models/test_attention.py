"""Strip attention, its propagation and its uniform limit, one block at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from kits_model import features, fill

from nasseg.models.attention import AttentionMap, InputNorm, Mixing, OwnAttention, ReusedAttention, UniformAttention, attention_map
from nasseg.models.form import written_out

T = 24


def own(heads: int, rank: int | str, *, query_pool: int = 1, shared: bool = False, channels: int = 40) -> OwnAttention:
    mixing = Mixing({3: 16, 4: 8}, [3], True)
    made = OwnAttention(channels, mixing, heads=heads, rank=rank, query_pool=query_pool, shared=shared)
    return fill(made).eval()


def stage_input(channels: int = 40) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A map of 8×12 and two maps pooled to 2×3."""
    maps = features(2, (64, 96), (8, channels, 16, 8))
    return maps[1], [F.avg_pool2d(maps[2], 2), maps[3]]


@pytest.mark.parametrize("heads", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("rank", [1, 2, 4, 8, "full"])
def test_strips_equal_a_softmax_by_einsum(heads: int, rank: int | str) -> None:
    block = own(heads, rank)
    x_BCHW, pooled = stage_input()
    with torch.no_grad():
        o_BCHW, _, reused = block(x_BCHW, pooled)
        y = block.mixing(pooled)
        width = 40 // heads if rank == "full" else int(rank)
        q = torch.einsum("bnc,oc->bno", block.norm(x_BCHW).flatten(2).mT, block.query.weight).reshape(2, 96, heads, width)
        k = torch.einsum("bmt,ot->bmo", y, block.key.weight).reshape(2, 6, heads, width)
        v = torch.einsum("bmt,ot->bmo", y, block.value.weight).reshape(2, 6, heads, 40 // heads)
        weight = torch.einsum("bnhr,bmhr->bhnm", q, k).div(math.sqrt(40 / heads)).exp()
        weight = weight / weight.sum(-1, keepdim=True)
        o = torch.einsum("bhnm,bmhd->bnhd", weight, v).reshape(2, 96, 40) @ block.out.weight.T + block.out.bias
    assert reused is None
    torch.testing.assert_close(o_BCHW, o.mT.reshape(2, 40, 8, 12), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, "full"])
@pytest.mark.parametrize("shared", [False, True])
def test_as_written_a_map_lies_open_and_gives_the_same(rank: int | str, shared: bool) -> None:
    x_BCHW, pooled = stage_input()
    block = own(4, rank, shared=shared)
    with torch.no_grad():
        executed, _, reused = block(x_BCHW, pooled)
        with written_out(block):
            written, _, laid_open = block(x_BCHW, pooled)
    torch.testing.assert_close(executed, written, rtol=1e-5, atol=1e-5)
    assert not block.as_written
    assert (reused is None) == (laid_open is None) == (not shared)
    if reused is not None and laid_open is not None:
        assert reused.weights_BhNM is None
        assert reused.grid == (8, 12)
        assert laid_open.weights_BhNM is not None
        assert laid_open.weights_BhNM.shape == (2, 4, 96, 6)
        torch.testing.assert_close(laid_open.weights_BhNM.sum(-1), torch.ones(2, 4, 96))
        values = torch.sin(torch.arange(2 * 4 * 6 * 3.0)).reshape(2, 4, 6, 3)
        torch.testing.assert_close(reused.apply(values), laid_open.apply(values), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2])
def test_gradients_of_both_forms_are_one(rank: int) -> None:
    x_BCHW, pooled = stage_input()
    block, reuser = own(4, rank, shared=True), fill(ReusedAttention(24, Mixing({3: 16, 4: 8}, [3], True)))

    def gradients() -> list[torch.Tensor]:
        o_BCHW, _, reused = block(x_BCHW, pooled)
        assert reused is not None
        loss = (o_BCHW**2).sum() + (reuser(x_BCHW, pooled, reused) ** 2).sum()
        return list(torch.autograd.grad(loss, [*block.parameters(), *reuser.parameters()]))

    executed = gradients()
    with written_out(block):
        written = gradients()
    for one, other in zip(executed, written, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_pooled_queries_come_back_at_full_size() -> None:
    x_BCHW, pooled = stage_input()
    block = own(4, 1, query_pool=2, shared=True)
    with torch.no_grad():
        o_BCHW, _, reused = block(x_BCHW, pooled)
    assert o_BCHW.shape == x_BCHW.shape
    assert reused is not None
    assert reused.grid == (4, 6)


@pytest.mark.parametrize("grid", [(4, 6), (1, 1), (3, 2), (8, 12)])
def test_propagation_equals_its_literal_definition(grid: tuple[int, int]) -> None:
    # Literal: upsample the map along its queries to one row per pixel of the stage, then apply it to the values.
    x_BCHW, pooled = stage_input()
    block = fill(ReusedAttention(40, Mixing({3: 16, 4: 8}, [3], True))).eval()
    q, k = torch.sin(torch.arange(2 * 4 * math.prod(grid) * 3.0)), torch.cos(torch.arange(2 * 4 * 6 * 3.0) * 7)
    q, k = q.reshape(2, 4, -1, 3) * 3, k.reshape(2, 4, 6, 3)
    a_BhNM = attention_map(q, k, 1.0)
    with torch.no_grad():
        o_BCHW = block(x_BCHW, pooled, AttentionMap(q, k, 1.0, grid))
        rows = a_BhNM.permute(0, 1, 3, 2).reshape(2, 4 * 6, *grid)
        rows = F.interpolate(rows, size=(8, 12), mode="bilinear", align_corners=False).reshape(2, 4, 6, 96)
        torch.testing.assert_close(rows.sum(2), torch.ones(2, 4, 96))
        v = block.value(block.mixing(pooled)).reshape(2, 6, 4, 10)
        o = torch.einsum("bhmn,bmhd->bnhd", rows, v).reshape(2, 96, 40) @ block.out.weight.T + block.out.bias
    torch.testing.assert_close(o_BCHW, o.mT.reshape(2, 40, 8, 12), rtol=1e-5, atol=1e-5)


def test_rank_zero_equals_a_softmax_of_zeros() -> None:
    x_BCHW, pooled = stage_input()
    uniform, asked = fill(UniformAttention(40, Mixing({3: 16, 4: 8}, [3], True))).eval(), own(4, 1)
    asked.load_state_dict(uniform.state_dict(), strict=False)
    with torch.no_grad():
        asked.query.weight.zero_()
        o_BC11, (o_BCHW, _, _) = uniform(pooled), asked(x_BCHW, pooled)
    assert o_BC11.shape == (2, 40, 1, 1)
    torch.testing.assert_close(o_BC11.expand_as(o_BCHW), o_BCHW, rtol=1e-5, atol=1e-5)


def test_one_key_is_given_to_every_query() -> None:
    x_BCHW, _ = stage_input()
    pooled = [torch.ones(2, 16, 1, 1), torch.zeros(2, 8, 1, 1)]
    with torch.no_grad():
        o_BCHW, _, _ = own(4, "full")(x_BCHW, pooled)
    torch.testing.assert_close(o_BCHW, o_BCHW[:, :, :1, :1].expand_as(o_BCHW))


def test_a_map_on_the_key_grid_has_no_convolution() -> None:
    mixing = Mixing({3: 16, 4: 8}, [3], True)
    assert {name: sum(p.numel() for p in conv.parameters()) for name, conv in mixing.convs.items()} == {"stage3": 16 * 16 + 16}
    assert sum(p.numel() for p in Mixing({3: 16, 4: 8}, [3], False).parameters()) == 2 * T


def test_normalised_inputs_have_norms_of_their_own_but_for_the_queries_map() -> None:
    x_BCHW, pooled = stage_input()
    inputs = InputNorm({2: 40, 3: 16}, {2: 4, 3: 2}, 2)
    assert {name for name, _ in inputs.named_parameters()} == {"stage3.weight", "stage3.bias"}
    own_map, other = inputs([x_BCHW, pooled[0]], x_BCHW + 1)
    torch.testing.assert_close(own_map, F.avg_pool2d(x_BCHW + 1, 4))
    centred = pooled[0] - pooled[0].mean(1, keepdim=True)
    normed = centred / (pooled[0].var(1, False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(other, F.avg_pool2d(normed, 2, ceil_mode=True))
