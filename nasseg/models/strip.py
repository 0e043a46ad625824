"""Attention with one channel per head in linear time: the strips of MetaSeg (arXiv 2408.07576) and SCASeg (2411.17061, Eqs. 1-4).

With rank 1 a head's output is a function of one number, f(q) = Σ_j e^{s q k_j} v_j / Σ_j e^{s q k_j}: a softmax mean, smooth in q. It is
evaluated exactly at G Chebyshev nodes over the range of the queries and interpolated at the N queries. That is O((N + M)·G) instead of
O(N·M), with no map in memory, in the backward pass as well. G follows from the range of s·q·k by a proven bound, whose derivation and
source stand in :mod:`nasseg.models.strip_bound`; where the range is too wide, or N·M too small to gain, the exact form runs.

Letters: B batch, h heads, N queries, M keys, d channels of a value, G nodes, X = B·h; s the scale.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nasseg.errors import ConfigError, Problem
from nasseg.models.strip_bound import nodes_for

Mode = Literal["auto", "exact", "interpolated"]

TOLERANCE = 1e-4
"""Error allowed by default, relative to max|v|. Below what bf16 keeps, and 10 to 100 times below what moves a class decision."""

FINEST = 1e-12
"""The smallest tolerance that float64 holds with a margin."""

FLOAT32_FLOOR = 1e-5
"""Below this tolerance all work is done in float64: float32 arithmetic alone errs by up to a few 1e-6."""

NODE_COST, START_COST = 1.2, 150_000
"""Measured crossover, in units of one exact (query, key) pair: one (query, node) pair costs NODE_COST, a call START_COST.
``bench/attention.py --crossover`` measures both; values of 2 threads of an AVX-512 CPU, d = 32, forward with backward."""

_CHUNK = 65_536  # (query, node) pairs per thread and step: the weights of a step stay in the second-level cache
_CHUNK_CUDA = 1 << 25
_AWAY = 1e-25  # added to t - x_g, so that a query on a node divides by no zero: far below any other difference, far above underflow


class Ranges(NamedTuple):
    """What decides over form and precision: T = |s|·R·Δ (see :mod:`strip_bound`) and the largest |s·q·(k - middle)|, over all heads."""

    product: float
    logit: float


def strip_attention(
    q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, *, tolerance: float = TOLERANCE, mode: Mode = "auto"
) -> Tensor:
    """``out[n] = Σ_j softmax_j(scale · q[n] · k[j]) v[j]`` for queries (B, h, N), keys (B, h, M), values (B, h, M, d) → (B, h, N, d).

    The error against exact arithmetic stays below ``tolerance · max|v|`` for every input whose logits a float64 can hold apart, and the
    gradient to q below ``tolerance · |scale| · (max k - min k) · max|v| · Σ_d|dL/dout|``. Gradients go to q, k and v; there are no second
    derivatives. Inputs may be float32, float64, bfloat16 or float16; the work is done in float32 (float64 where the input, a tolerance
    below 1e-5 or very large logits ask for it) and the result has the type of v, whose own rounding comes on top.

    ``mode``: ``interpolated`` uses nodes wherever the bound allows (T up to 67 at 1e-4) and the exact form beyond; ``exact`` never does;
    ``auto`` interpolates where that is cheaper as well (:func:`interpolates`). The exact form is ``scaled_dot_product_attention``.

    Under ``torch.compile`` the call is one opaque operator, ``nasseg::strip_attention``. Under ``torch.export``, and so in ONNX, the exact
    form is written: the number of nodes depends on the data, and a program keeps its bound only if it can look at them.

    The bounds hold for PyTorch's default matmul precision; ``set_float32_matmul_precision("high")`` adds the rounding of TF32.

    Raises :class:`ConfigError` for shapes that do not belong together, a tolerance outside [1e-12, 1) or an unknown mode.
    """
    _check(q_BhN, k_BhM, v_BhMd, tolerance, mode)
    if torch.compiler.is_exporting():
        return fused_attention(q_BhN.unsqueeze(-1), k_BhM.unsqueeze(-1), v_BhMd, scale)
    if torch.compiler.is_compiling() or q_BhN.is_meta:
        out_BhNd: Tensor = torch.ops.nasseg.strip_attention(q_BhN, k_BhM, v_BhMd, scale, tolerance, mode)
        return out_BhNd
    return _attend(q_BhN, k_BhM, v_BhMd, scale, tolerance, mode)


def interpolates(batch_heads: int, queries: int, keys: int, nodes: int) -> bool:
    """Whether G nodes are cheaper than the exact form: ``X·G·(NODE_COST·N + 2M) + START_COST < X·N·M``, in exact pairs."""
    return batch_heads * nodes * (NODE_COST * queries + 2 * keys) + START_COST < batch_heads * queries * keys


def ranges(q_BhN: Tensor, k_BhM: Tensor, scale: float) -> Ranges:
    """The range product and the largest logit over all heads, as numbers: the one place where the host waits for the device."""
    q_low, q_high = torch.aminmax(q_BhN.detach(), dim=-1)
    k_low, k_high = torch.aminmax(k_BhM.detach(), dim=-1)
    ends = torch.stack((q_low, q_high, k_low, k_high)).double()
    wide_q, wide_k = (ends[1] - ends[0]) / 2, ends[3] - ends[2]
    largest_q = torch.maximum(ends[0].abs(), ends[1].abs())
    product, logit = torch.stack((wide_q * wide_k, largest_q * wide_k / 2)).flatten(1).amax(1).mul(abs(scale)).tolist()
    return Ranges(product, logit)


class _Form(NamedTuple):
    """What runs: the interpolated form at so many nodes, or (None) the exact one; and in which type."""

    nodes: int | None
    work: torch.dtype


def _form(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, tolerance: float, mode: str) -> _Form:
    if not (q_BhN.numel() and v_BhMd.numel()):
        return _Form(None, torch.float32)
    seen = ranges(q_BhN, k_BhM, scale)
    # A logit of size L is rounded by up to L·2^-23 in float32, which moves a softmax mean by up to twice that, times max|v|.
    double = v_BhMd.dtype == torch.float64 or tolerance < FLOAT32_FLOOR or seen.logit * 2.0**-21 > tolerance
    work = torch.float64 if double else torch.float32
    if mode == "exact":
        return _Form(None, work)
    # Half of the tolerance is the interpolation's, the other half the rounding's.
    nodes = nodes_for(seen.product, tolerance / 2)
    if nodes is not None and mode == "auto" and not interpolates(q_BhN.shape[0] * q_BhN.shape[1], q_BhN.shape[2], k_BhM.shape[2], nodes):
        nodes = None
    return _Form(nodes, work)


def _attend(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, tolerance: float, mode: str) -> Tensor:
    nodes, work = _form(q_BhN, k_BhM, v_BhMd, scale, tolerance, mode)
    with torch.autocast(q_BhN.device.type, enabled=False):
        q, k, v = q_BhN.to(work), k_BhM.to(work), v_BhMd.to(work)
        out_BhNd: Tensor = _exact(q, k, v, scale) if nodes is None else _Interpolated.apply(q, k, v, scale, nodes)
    return out_BhNd.to(v_BhMd.dtype)


def fused_attention(q_BhNr: Tensor, k_BhMr: Tensor, v_BhMd: Tensor, scale: float) -> Tensor:
    """``softmax_M(scale · Q Kᵀ) V`` for any r and d, through ``scaled_dot_product_attention``: → (B, h, N, d).

    The narrower of r and d is filled up with zeros, which changes no number: PyTorch's flash kernels take only r = d, hold no map and, on
    2 CPU threads, run a strip of d = 32 five times as fast as the general path. An exported program gets the formula as it is.
    """
    r, d = q_BhNr.shape[3], v_BhMd.shape[3]
    if torch.compiler.is_exporting() or r == d:
        return F.scaled_dot_product_attention(q_BhNr, k_BhMr, v_BhMd, scale=scale)
    if r < d:
        return F.scaled_dot_product_attention(F.pad(q_BhNr, (0, d - r)), F.pad(k_BhMr, (0, d - r)), v_BhMd, scale=scale)
    return F.scaled_dot_product_attention(q_BhNr, k_BhMr, F.pad(v_BhMd, (0, r - d)), scale=scale)[..., :d]


def _centred(k_BhM: Tensor) -> Tensor:
    """Keys less the middle of their range, which no softmax notices: a common offset then costs no precision."""
    if k_BhM.shape[-1] == 0:
        return k_BhM
    low, high = torch.aminmax(k_BhM.detach(), dim=-1, keepdim=True)
    return k_BhM - (low * 0.5 + high * 0.5)


def _exact(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float) -> Tensor:
    return fused_attention(q_BhN.unsqueeze(-1), _centred(k_BhM).unsqueeze(-1), v_BhMd, scale)


def _exact_backward(g_BhNd: Tensor, q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the exact form, a part of the queries at a time; for compiled code, which cannot go through autograd in an operator."""
    k_BhM = _centred(k_BhM)
    dq_BhN, dk_BhM, dv_BhMd = torch.empty_like(q_BhN), torch.zeros_like(k_BhM), torch.zeros_like(v_BhMd)
    heads, queries = q_BhN.shape[0] * q_BhN.shape[1], q_BhN.shape[2]
    step = max(64, (_CHUNK_CUDA if q_BhN.is_cuda else _CHUNK * torch.get_num_threads()) // max(1, heads * k_BhM.shape[2]))
    for start in range(0, queries, step):
        some = slice(start, start + step)
        q_Bhn1, g_Bhnd = q_BhN[:, :, some].unsqueeze(-1) * scale, g_BhNd[:, :, some]
        p_BhnM = torch.softmax(q_Bhn1 * k_BhM.unsqueeze(-2), dim=-1)
        dv_BhMd += p_BhnM.transpose(-1, -2) @ g_Bhnd
        dp_BhnM = g_Bhnd @ v_BhMd.transpose(-1, -2)
        ds_BhnM = p_BhnM * (dp_BhnM - (p_BhnM * dp_BhnM).sum(-1, keepdim=True))
        dq_BhN[:, :, some] = (ds_BhnM * k_BhM.unsqueeze(-2)).sum(-1) * scale
        dk_BhM += (q_Bhn1 * ds_BhnM).sum(-2)
    return dq_BhN, dk_BhM, dv_BhMd


@lru_cache(maxsize=64)
def _chebyshev(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes of the first kind x_g = cos θ_g, θ_g = (2g + 1)π/2G, and their barycentric weights (-1)^g sin θ_g (Berrut & Trefethen 2004)."""
    angles = [(2 * g + 1) * math.pi / (2 * nodes) for g in range(nodes)]
    return tuple([math.cos(a) for a in angles]), tuple([(-1) ** g * math.sin(a) for g, a in enumerate(angles)])


class _Nodes(NamedTuple):
    """The exact function at the nodes of each head, and what its derivative and gradients need."""

    middle_X1: Tensor
    radius_X1: Tensor
    x_XG: Tensor  # the nodes as query values
    k_XM: Tensor  # keys, centred
    p_XGM: Tensor  # softmax rows of the nodes
    f_XGd: Tensor

    def derivative(self, v_XMd: Tensor, scale: float) -> Tensor:
        """``f'(x_g) = s (Σ_j p_j k_j v_j - (Σ_j p_j k_j) f)``: (X, G, d)."""
        pk_XGM = self.p_XGM * self.k_XM.unsqueeze(1)
        return (torch.bmm(pk_XGM, v_XMd) - pk_XGM.sum(-1, keepdim=True) * self.f_XGd) * scale


def _at_nodes(q_XN: Tensor, k_XM: Tensor, v_XMd: Tensor, scale: float, nodes: int) -> _Nodes:
    low_X1, high_X1 = torch.aminmax(q_XN, dim=-1, keepdim=True)
    middle_X1 = low_X1 * 0.5 + high_X1 * 0.5
    radius_X1 = torch.maximum(high_X1 - middle_X1, middle_X1 - low_X1).clamp_min(torch.finfo(q_XN.dtype).tiny)
    x_XG = middle_X1 + radius_X1 * q_XN.new_tensor(_chebyshev(nodes)[0])
    k_low_X1, k_high_X1 = torch.aminmax(k_XM, dim=-1, keepdim=True)
    centred_XM = k_XM - (k_low_X1 * 0.5 + k_high_X1 * 0.5)
    p_XGM = torch.softmax((x_XG * scale).unsqueeze(-1) * centred_XM.unsqueeze(1), dim=-1)
    return _Nodes(middle_X1, radius_X1, x_XG, centred_XM, p_XGM, torch.bmm(p_XGM, v_XMd))


def _interpolate(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, nodes: int) -> Tensor:
    """Barycentric interpolation ``out = Σ_g W_g F_g / Σ_g W_g``, ``W_g = w_g/(t - x_g)``; stable for all t (Higham 2004)."""
    B, h, N = q_BhN.shape
    d = v_BhMd.shape[3]
    q_XN = q_BhN.reshape(B * h, N)
    at = _at_nodes(q_XN, k_BhM.reshape(B * h, -1), v_BhMd.reshape(B * h, -1, d), scale, nodes)
    out_BNhd = q_BhN.new_empty(B, N, h, d)
    for some, weights_XnG in _weights(q_XN, at, nodes):
        mean_Xnd = torch.bmm(weights_XnG, at.f_XGd).view(B, h, -1, d)
        total_Xn1 = weights_XnG.sum(-1).view(B, h, -1, 1)
        torch.div(mean_Xnd, total_Xn1, out=out_BNhd[:, some].transpose(1, 2))
    return out_BNhd.transpose(1, 2)


def _interpolate_backward(
    g_BhNd: Tensor, q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, nodes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """With ``W̄ = W/ΣW``: ``dF = W̄ᵀ dout``, from which dk and dv follow through the softmax of the G nodes exactly.

    dq is the exact derivative at the nodes, interpolated: ``dq = Σ_d dout · (W̄ F')``. The weights are made again instead of kept.
    """
    B, h, N = q_BhN.shape
    d = v_BhMd.shape[3]
    q_XN, v_XMd = q_BhN.reshape(B * h, N), v_BhMd.reshape(B * h, -1, d)
    at = _at_nodes(q_XN, k_BhM.reshape(B * h, -1), v_XMd, scale, nodes)
    slope_XGd = at.derivative(v_XMd, scale)
    dq_XN = q_XN.new_empty(B * h, N)
    df_XGd = torch.zeros_like(at.f_XGd)
    for some, weights_XnG in _weights(q_XN, at, nodes):
        g_Xnd = torch.div(g_BhNd[:, :, some], weights_XnG.sum(-1).view(B, h, -1, 1)).reshape(B * h, -1, d)
        df_XGd.baddbmm_(weights_XnG.transpose(1, 2), g_Xnd)
        torch.sum(g_Xnd * torch.bmm(weights_XnG, slope_XGd), dim=-1, out=dq_XN[:, some])
    dv_XMd = torch.bmm(at.p_XGM.transpose(1, 2), df_XGd)
    dp_XGM = torch.bmm(df_XGd, v_XMd.transpose(1, 2))
    ds_XGM = at.p_XGM * (dp_XGM - (df_XGd * at.f_XGd).sum(-1, keepdim=True))
    dk_XM = torch.bmm((at.x_XG * scale).unsqueeze(1), ds_XGM)
    return dq_XN.view(B, h, N), dk_XM.view(k_BhM.shape), dv_XMd.view(v_BhMd.shape)


class _Interpolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, nodes: int) -> Tensor:
        ctx.save_for_backward(q_BhN, k_BhM, v_BhMd)
        ctx.scale, ctx.nodes = scale, nodes
        return _interpolate(q_BhN, k_BhM, v_BhMd, scale, nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_BhN, k_BhM, v_BhMd = ctx.saved_tensors
        return *_interpolate_backward(grads[0], q_BhN, k_BhM, v_BhMd, ctx.scale, ctx.nodes), None, None


def _weights(q_XN: Tensor, at: _Nodes, nodes: int) -> Any:
    """Barycentric weights, not normalised, of a part of the queries at a time: pairs of (slice of N, (X, n, G))."""
    X, N = q_XN.shape
    pairs = _CHUNK_CUDA if q_XN.is_cuda else _CHUNK * torch.get_num_threads()
    step = min(N, max(64, pairs // (X * nodes)))
    x_G, w_G = (q_XN.new_tensor(numbers) for numbers in _chebyshev(nodes))
    scratch = q_XN.new_empty(X * step * nodes)
    for start in range(0, N, step):
        some = slice(start, min(start + step, N))
        n = some.stop - start
        t_Xn1 = ((q_XN[:, some] - at.middle_X1) / at.radius_X1).unsqueeze(-1)
        gap_XnG = torch.sub(t_Xn1, x_G, out=scratch[: X * n * nodes].view(X, n, nodes)).add_(_AWAY)
        yield some, torch.div(w_G, gap_XnG, out=gap_XnG)


@torch.library.custom_op("nasseg::strip_attention", mutates_args=())
def _operator(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, tolerance: float, mode: str) -> Tensor:
    return _as_tokens(_attend(q_BhN, k_BhM, v_BhMd, scale, tolerance, mode))


@_operator.register_fake
def _(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, tolerance: float, mode: str) -> Tensor:
    B, h, N = q_BhN.shape
    return v_BhMd.new_empty(B, N, h, v_BhMd.shape[3]).transpose(1, 2)


@torch.library.custom_op("nasseg::strip_attention_backward", mutates_args=())
def _operator_backward(
    g_BhNd: Tensor, q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, tolerance: float, mode: str
) -> tuple[Tensor, Tensor, Tensor]:
    nodes, work = _form(q_BhN, k_BhM, v_BhMd, scale, tolerance, mode)
    g, q, k, v = (x.to(work) for x in (g_BhNd, q_BhN, k_BhM, v_BhMd))
    with torch.autocast(q_BhN.device.type, enabled=False):
        dq, dk, dv = _exact_backward(g, q, k, v, scale) if nodes is None else _interpolate_backward(g, q, k, v, scale, nodes)
    return dq.to(q_BhN.dtype), dk.to(k_BhM.dtype), dv.to(v_BhMd.dtype)


@_operator_backward.register_fake
def _(
    g_BhNd: Tensor, q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, tolerance: float, mode: str
) -> tuple[Tensor, Tensor, Tensor]:
    return q_BhN.new_empty(q_BhN.shape), k_BhM.new_empty(k_BhM.shape), v_BhMd.new_empty(v_BhMd.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale, ctx.tolerance, ctx.mode = inputs
    ctx.save_for_backward(*tensors)


def _grads(ctx: Any, g_BhNd: Tensor) -> tuple[Any, ...]:
    dq, dk, dv = torch.ops.nasseg.strip_attention_backward(g_BhNd, *ctx.saved_tensors, ctx.scale, ctx.tolerance, ctx.mode)
    return dq, dk, dv, None, None, None


_operator.register_autograd(_grads, setup_context=_keep)


def _as_tokens(x_BhNd: Tensor) -> Tensor:
    """The same numbers lying as (B, N, h, d) in memory, where merging heads is a view."""
    return x_BhNd.transpose(1, 2).contiguous().transpose(1, 2)


def _check(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, tolerance: float, mode: str) -> None:
    problems = []
    q, k, v = tuple(q_BhN.shape), tuple(k_BhM.shape), tuple(v_BhMd.shape)
    if (len(q), len(k), len(v)) != (3, 3, 4) or not (q[:2] == k[:2] == v[:2]) or k[2] != v[2]:
        rule = "q must be (B, h, N), k (B, h, M) and v (B, h, M, d), with the same B, h and M"
        problems.append(Problem("strip_attention", "shapes", rule, (q, k, v)))
    elif k[2] == 0 and q[2] > 0:
        problems.append(Problem("strip_attention", "k", "a softmax needs at least one key", k))
    if not FINEST <= tolerance < 1:
        nearest = FINEST if tolerance < FINEST else TOLERANCE
        problems.append(Problem("strip_attention", "tolerance", f"must be from {FINEST:g} and below 1", tolerance, nearest))
    if mode not in get_args(Mode):
        problems.append(Problem("strip_attention", "mode", f"must be one of {', '.join(get_args(Mode))}", mode, "auto"))
    if problems:
        raise ConfigError(problems)
