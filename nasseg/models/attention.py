"""Strip cross-attention, its propagation to shallower stages, and its uniform limit.

All three take the stage's map F_i and the pooled input maps of the stage, and give the residual O_i on the stage's grid:

* :class:`OwnAttention`: own softmax map of any Q/K rank (rank 1: SCASeg, arXiv 2411.17061, Eqs. 1-6; full: U-MixFormer, 2312.06272);
* :class:`ReusedAttention`: the map of a deeper stage with this stage's values (CSAP, arXiv 2604.05431);
* :class:`UniformAttention`: rank 0, where softmax(0) makes every query see the mean of the values.

No map is held: strips of rank 1 run in linear time (:mod:`nasseg.models.strip`), other ranks through the fused kernel, and what a deeper
stage hands on is the queries and keys its map follows from. As written (:mod:`nasseg.models.form`) a map of rank r, or one that is reused,
is computed in the open, as the papers count it.

Letters: N_q queries, M keys, h heads, r channels per head of Q and K, c_i width of stage i, T = Σ c_j over the stage's inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasseg.models.form import TwoForms
from nasseg.models.ops import ChannelNorm, block_mean, merge_heads, pooled_grid, resize, split_heads, to_map, to_tokens
from nasseg.models.strip import fused_attention, strip_attention


class AttentionMap(NamedTuple):
    """A softmax map handed on to shallower stages, by what it follows from: ``softmax_M(scale · Q Kᵀ)``. Queries lie on ``grid``.

    ``weights_BhNM`` is the map itself, rows summing to 1, where it was computed in the open. Keys lie on ``key_grid``; None: on the grid
    that all maps are pooled to.
    """

    q_BhNr: Tensor
    k_BhMr: Tensor
    scale: float
    grid: tuple[int, int]
    weights_BhNM: Tensor | None = None
    key_grid: tuple[int, int] | None = None

    def apply(self, v_BhMd: Tensor) -> Tensor:
        """The map times values of any width: (B, h, M, d) → (B, h, N, d)."""
        if self.weights_BhNM is not None:
            return self.weights_BhNM @ v_BhMd
        if self.q_BhNr.shape[3] == 1:
            return strip_attention(self.q_BhNr[..., 0], self.k_BhMr[..., 0], v_BhMd, self.scale)
        return fused_attention(self.q_BhNr, self.k_BhMr, v_BhMd, self.scale)


class InputNorm(nn.Module):
    """Input maps, each through a LayerNorm over its channels, and pooled to the key grid (FeedFormer: F_1; MetaSeg: the stage's own map).

    ``widths`` are the channels of the inputs by stage, ``ratios`` their pooling ratios. ``shared`` is the stage whose map comes normalised
    already, or None; every other has a norm of its own, under its stage's name. ``edge`` is what becomes of windows that reach over an edge
    (:func:`nasseg.models.ops.block_mean`).
    """

    def __init__(self, widths: Mapping[int, int], ratios: Mapping[int, int], shared: int | None, edge: str | None = None) -> None:
        super().__init__()
        self.edge = edge
        self.pools = tuple((j, ratios[j], j == shared) for j in widths)
        for j, channels in widths.items():
            if j != shared:
                self.add_module(f"stage{j}", ChannelNorm(channels))

    def grid(self, maps: Sequence[Tensor]) -> tuple[int, int]:
        """The grid that these maps are pooled to."""
        return pooled_grid((maps[0].shape[2], maps[0].shape[3]), self.pools[0][1], self.edge)

    def forward(self, maps: Sequence[Tensor], own_BCHW: Tensor | None) -> list[Tensor]:
        """Maps (B, c_j, H_j, W_j) in the order of ``widths`` and the shared one, normalised → maps (B, c_j, gh, gw)."""
        pooled = []
        for (j, ratio, shared), x_BCHW in zip(self.pools, maps, strict=True):
            y_BCHW = own_BCHW if shared and own_BCHW is not None else self.get_submodule(f"stage{j}")(x_BCHW)
            pooled.append(block_mean(y_BCHW, ratio, self.edge))
        return pooled


class Mixing(nn.Module):
    """Keys and values of a stage out of pooled maps: ``Y = GELU(LN_T(concat_j Conv1x1_j(P_j)))``, tokens (B, M, T).

    The convolution (c_j → c_j, bias) stands on each map that was pooled, if ``pool_conv``; a map already on the key grid comes as it is.
    GELU after the norm is in the code of FeedFormer, MetaSeg and U-MixFormer; SCASeg's text does not name it (``form`` ``norm``).
    U-MixFormer's Cityscapes head has two norms in a row (``norm_norm_gelu``).

    ``widths`` are the channels of the inputs by stage, ``pooled`` the stages among them whose maps were pooled. With ``input_norm`` the
    maps come as they are, to be normalised and pooled by it; without, they come pooled.
    """

    def __init__(
        self,
        widths: Mapping[int, int],
        pooled: Collection[int],
        pool_conv: bool,
        form: str = "norm_gelu",
        input_norm: InputNorm | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(f"stage{j}" for j in widths)
        self.input_norm = input_norm
        self.convs = nn.ModuleDict({f"stage{j}": nn.Conv2d(c, c, 1) for j, c in widths.items() if pool_conv and j in pooled})
        self.width = sum(widths.values())
        self.norm = nn.LayerNorm(self.width)
        self.second_norm = nn.LayerNorm(self.width) if form == "norm_norm_gelu" else None
        self.gelu = form != "norm"

    def grid(self, maps: Sequence[Tensor]) -> tuple[int, int]:
        """The grid of the tokens that these maps give."""
        return (maps[0].shape[2], maps[0].shape[3]) if self.input_norm is None else self.input_norm.grid(maps)

    def forward(self, maps: Sequence[Tensor], own_BCHW: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Maps in the order of ``widths``, and the stage's own, normalised, if it has a norm → tokens (B, gh·gw, T).

        Of pooled maps that are larger than ``grid``, the keys' of a map that is reused, what lies beyond it is left out.
        """
        pooled = maps if self.input_norm is None else self.input_norm(maps, own_BCHW)
        if grid is not None:
            pooled = [p_BCgg[:, :, : grid[0], : grid[1]] for p_BCgg in pooled]
        parts = [self.convs[name](p_BCgg) if name in self.convs else p_BCgg for name, p_BCgg in zip(self.names, pooled, strict=True)]
        y_BMT = self.norm(to_tokens(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]))
        if self.second_norm is not None:
            y_BMT = self.second_norm(y_BMT)
        return F.gelu(y_BMT) if self.gelu else y_BMT


class OwnAttention(TwoForms):
    """Cross-attention with the stage's own map.

    ``A = softmax(s · Q_h K_hᵀ)``, ``O = Wo concat_h(A V_h)`` with ``Q = LN_c(F_i) Wq``, ``K = Y Wk``, ``V = Y Wv``, ``s = (c/h)^-1/2``.
    Wq: c → h·r, Wk: T → h·r, Wv: T → c, all without bias; rank ``full`` means h·r = c; Wo: c → c with bias.

    ``query_pool`` 2 (the Cityscapes heads of FeedFormer, U-MixFormer and SCASeg): queries are ``GELU(LN_c(Conv1x1(AvgPool2(LN_c(F_i)))))``
    on half the grid, Wo acts there, and the result is upsampled. The scale is MetaSeg's and U-MixFormer's code; SCASeg's text reads
    1/sqrt(d_k), d_k = r: ``softmax_scale`` ``rank``.

    ``shared``: other stages reuse the map. As written it is computed in the open, unless it is of full width and nobody else's.
    """

    def __init__(
        self,
        channels: int,
        mixing: Mixing,
        *,
        heads: int,
        rank: int | str,
        query_pool: int,
        shared: bool,
        softmax_scale: str | None = None,
    ) -> None:
        super().__init__()
        width = channels if rank == "full" else heads * int(rank)
        self.heads, self.query_pool = heads, query_pool
        self.scale = (int(rank) if softmax_scale == "rank" else channels / heads) ** -0.5
        self.shared, self.full = shared, rank == "full"
        self.norm = ChannelNorm(channels)
        self.query_conv = nn.Conv2d(channels, channels, 1) if query_pool > 1 else None
        self.query_norm = ChannelNorm(channels) if query_pool > 1 else None
        self.mixing = mixing
        self.query = nn.Linear(channels, width, bias=False)
        self.key = nn.Linear(mixing.width, width, bias=False)
        self.value = nn.Linear(mixing.width, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, x_BCHW: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, AttentionMap | None]:
        """Stage map and the maps that :class:`Mixing` takes → the residual (B, c, H, W), ``LN_c(F_i)``, and the map if others reuse it."""
        normed_BCHW = q_BCgg = self.norm(x_BCHW)
        if self.query_conv is not None and self.query_norm is not None:
            q_BCgg = F.gelu(self.query_norm(self.query_conv(block_mean(q_BCgg, self.query_pool))))
        grid = (q_BCgg.shape[2], q_BCgg.shape[3])
        y_BMT = self.mixing(maps, normed_BCHW)
        q_BhNr = split_heads(self.query(to_tokens(q_BCgg)), self.heads)
        k_BhMr = split_heads(self.key(y_BMT), self.heads)
        v_BhMd = split_heads(self.value(y_BMT), self.heads)
        in_the_open = self.as_written and not (self.full and not self.shared)
        weights_BhNM = attention_map(q_BhNr, k_BhMr, self.scale) if in_the_open else None
        own = AttentionMap(q_BhNr, k_BhMr, self.scale, grid, weights_BhNM, self.mixing.grid(maps))
        o_BCgg = to_map(self.out(merge_heads(own.apply(v_BhMd))), grid)
        return resize(o_BCgg, (x_BCHW.shape[2], x_BCHW.shape[3])), normed_BCHW, own if self.shared else None


class ReusedAttention(nn.Module):
    """A deeper stage's map with this stage's values: ``O_i = up(Wo concat_h(A_h V_h))``, ``V = Y_i Wv`` on the source's key grid.

    The product and Wo run on the source's query grid and the result is upsampled. Upsampling the map's query axis first would give the same
    function, as rows sum to 1 and interpolation is linear, at 4 to 16 times the work and with an N_i×M map in memory.

    Wv: T_i → c_i without bias, Wo: c_i → c_i with bias; no norm on F_i, for nothing reads it here.
    """

    def __init__(self, channels: int, mixing: Mixing) -> None:
        super().__init__()
        self.mixing = mixing
        self.value = nn.Linear(mixing.width, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, x_BCHW: Tensor, maps: Sequence[Tensor], source: AttentionMap) -> Tensor:
        """Stage map (its size is read), the maps that :class:`Mixing` takes and the source's map → the residual (B, c, H, W)."""
        v_BhMd = split_heads(self.value(self.mixing(maps, grid=source.key_grid)), source.q_BhNr.shape[1])
        o_BNC = self.out(merge_heads(source.apply(v_BhMd)))
        return resize(to_map(o_BNC, source.grid), (x_BCHW.shape[2], x_BCHW.shape[3]))


class UniformAttention(nn.Module):
    """Rank 0: the map softmax(0) = 1/M everywhere, so ``O = Wo Wv mean_M(Y)``, one vector broadcast over the stage's map.

    The mean is taken before the projections, which is the same function for 1/M of their work.
    """

    def __init__(self, channels: int, mixing: Mixing) -> None:
        super().__init__()
        self.mixing = mixing
        self.value = nn.Linear(mixing.width, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The maps that :class:`Mixing` takes → the residual (B, c, 1, 1), to be broadcast."""
        o_BC: Tensor = self.out(self.value(self.mixing(maps).mean(dim=1)))
        return o_BC[:, :, None, None]


def attention_map(q_BhNr: Tensor, k_BhMr: Tensor, scale: float) -> Tensor:
    """``softmax_M(scale · Q Kᵀ)``: (B, h, N, M), rows summing to 1."""
    return torch.softmax((q_BhNr * scale) @ k_BhMr.transpose(2, 3), dim=-1)
