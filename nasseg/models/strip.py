"""Attention with one channel per head in linear time: the strips of MetaSeg (arXiv 2408.07576) and SCASeg (2411.17061, Eqs. 1-4).

With rank 1 a head's output is a function of one number, f(q) = Σ_j e^{s q k_j} v_j / Σ_j e^{s q k_j}: a softmax mean, smooth in q. It is
evaluated exactly, with its slope, at the ends of P panels over the range of the queries, and interpolated at the N queries by the cubic of
each panel: four rows of a small table a query, whatever P. That is O(N + M·P) instead of O(N·M), with no map in memory, in the backward
pass as well. P follows from the range of s·q·k by a proven bound, whose derivation and source stand in :mod:`nasseg.models.strip_bound`;
where the range is too wide, or N·M too small to gain, the exact form runs.

Letters: B batch, h heads, N queries, M keys, d channels of a value, P panels, G = P + 1 nodes, X = B·h, Y = B·N·h; s the scale.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nasseg.errors import ConfigError, Problem
from nasseg.models.strip_bound import panels_for

Mode = Literal["auto", "exact", "interpolated"]

TOLERANCE = 1e-4
"""Error allowed by default, relative to max|v|. Below what bf16 keeps, and 10 to 100 times below what moves a class decision."""

FINEST = 1e-12
"""The smallest tolerance that float64 holds with a margin."""

FLOAT32_FLOOR = 1e-5
"""Below this tolerance all work is done in float64: float32 arithmetic alone errs by up to a few 1e-6."""

NODE_COST, QUERY_COST, START_COST = 2.0, 20.0, 85_000
"""Measured crossover, in units of one exact (query, key) pair: what a (node, key) pair, a query and a call cost, forward with backward.
``bench/attention.py --crossover`` measures them; values of 2 threads of an AVX-512 CPU, d = 32. Not measured on a GPU yet."""

_ROWS = 8192  # queries collected at a time in the backward pass: their terms stay in the cache
_ROWS_CUDA = 1 << 18
_PAIRS = 1 << 22  # of the map held at a time in the exact backward pass of compiled code
_STRETCH = 1 + 2.0**-18  # the last panel ends a little behind the last query, which so falls inside it
_WIDEST = 1e37  # a range of queries whose width float32 can hold


class Ranges(NamedTuple):
    """What decides over form and precision, the largest over all heads."""

    product: float
    """T = |s|·R·Δ of :mod:`strip_bound`."""
    logit: float
    """|s·q·(k - middle of the keys)|."""
    query: float
    """Half-width of the queries' range, R."""


def strip_attention(
    q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, *, tolerance: float = TOLERANCE, mode: Mode = "auto"
) -> Tensor:
    """``out[n] = Σ_j softmax_j(scale · q[n] · k[j]) v[j]`` for queries (B, h, N), keys (B, h, M), values (B, h, M, d) → (B, h, N, d).

    The error against exact arithmetic stays below ``tolerance · max|v|`` for every input whose logits a float64 can hold apart, and the
    gradient to q below ``tolerance · |scale| · (max k - min k) · max|v| · Σ_d|dL/dout|``. Gradients go to q, k and v; there are no second
    derivatives. Inputs may be float32, float64, bfloat16 or float16; the work is done in float32 (float64 where the input, a tolerance
    below 1e-5 or very large logits ask for it) and the result has the type of v, whose own rounding comes on top.

    ``mode``: ``interpolated`` interpolates wherever the bound allows (a range product up to 276 at 1e-4) and uses the exact form beyond;
    ``exact`` never interpolates; ``auto`` does where that is cheaper as well (:func:`interpolates`). The exact form is
    ``scaled_dot_product_attention``.

    Under ``torch.compile`` the call is one opaque operator, ``nasseg::strip_attention``. Under ``torch.export``, and so in ONNX, the exact
    form is written: the number of panels depends on the data, and a program keeps its bound only if it can look at them.

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


def interpolates(batch_heads: int, queries: int, keys: int, panels: int) -> bool:
    """Whether P panels are cheaper than the exact form: ``X·(NODE_COST·(P + 1)·M + QUERY_COST·N) + START_COST < X·N·M``, in exact pairs."""
    cost = batch_heads * (NODE_COST * (panels + 1) * keys + QUERY_COST * queries) + START_COST
    return cost < batch_heads * queries * keys


def ranges(q_BhN: Tensor, k_BhM: Tensor, scale: float) -> Ranges:
    """The range product and the largest logit over all heads, as numbers: the one place where the host waits for the device."""
    q, k = q_BhN.detach(), k_BhM.detach()
    # amin and amax apart: aminmax along a dimension takes ten times as long.
    ends = torch.stack((q.amin(-1), q.amax(-1), k.amin(-1), k.amax(-1))).double()
    wide_q, wide_k = (ends[1] - ends[0]) / 2, ends[3] - ends[2]
    largest_q = torch.maximum(ends[0].abs(), ends[1].abs())
    seen = torch.stack((wide_q * wide_k * abs(scale), largest_q * wide_k * (abs(scale) / 2), wide_q))
    product, logit, query = seen.flatten(1).amax(1).tolist()
    return Ranges(product, logit, query)


class _Form(NamedTuple):
    """What runs: the interpolated form on so many panels, or (None) the exact one; and in which type."""

    panels: int | None
    work: torch.dtype


def _form(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, tolerance: float, mode: str) -> _Form:
    if not (q_BhN.numel() and v_BhMd.numel()):
        return _Form(None, torch.float32)
    seen = ranges(q_BhN, k_BhM, scale)
    # A logit of size L is rounded by up to L·2^-23 in float32, which moves a softmax mean by up to twice that, times max|v|.
    double = v_BhMd.dtype == torch.float64 or tolerance < FLOAT32_FLOOR or seen.logit * 2.0**-21 > tolerance or seen.query >= _WIDEST
    work = torch.float64 if double else torch.float32
    if mode == "exact":
        return _Form(None, work)
    # Half of the tolerance is the interpolation's, the other half the rounding's.
    panels = panels_for(seen.product, tolerance / 2) if seen.query < _WIDEST else None
    if panels is not None and mode == "auto" and not interpolates(q_BhN.shape[0] * q_BhN.shape[1], q_BhN.shape[2], k_BhM.shape[2], panels):
        panels = None
    return _Form(panels, work)


def _attend(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, tolerance: float, mode: str) -> Tensor:
    panels, work = _form(q_BhN, k_BhM, v_BhMd, scale, tolerance, mode)
    with torch.autocast(q_BhN.device.type, enabled=False):
        q, k, v = q_BhN.to(work), k_BhM.to(work), v_BhMd.to(work)
        out_BhNd: Tensor = _exact(q, k, v, scale) if panels is None else _Interpolated.apply(q, k, v, scale, panels)
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
    k = k_BhM.detach()
    return k_BhM - (k.amin(-1, keepdim=True) * 0.5 + k.amax(-1, keepdim=True) * 0.5)


def _exact(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float) -> Tensor:
    return fused_attention(q_BhN.unsqueeze(-1), _centred(k_BhM).unsqueeze(-1), v_BhMd, scale)


def _exact_backward(g_BhNd: Tensor, q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the exact form, a part of the queries at a time; for compiled code, which cannot go through autograd in an operator."""
    k_BhM = _centred(k_BhM)
    dq_BhN, dk_BhM, dv_BhMd = torch.empty_like(q_BhN), torch.zeros_like(k_BhM), torch.zeros_like(v_BhMd)
    heads, queries = q_BhN.shape[0] * q_BhN.shape[1], q_BhN.shape[2]
    step = max(64, _PAIRS // (heads * k_BhM.shape[2]))
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


class _Nodes(NamedTuple):
    """The exact function at the P + 1 ends of the panels of every head, and what its derivatives and gradients need. G = P + 1."""

    low_X1: Tensor  # the first end, as a query value
    width_X1: Tensor  # of a panel
    q_XG: Tensor
    c_XGM: Tensor  # keys less their mean under p
    p_XGM: Tensor  # softmax rows
    f_XGd: Tensor
    tilt_XGd: Tensor  # ``Σ_j p_j c_j v_j``, which is f'/s


def _at_nodes(q_XN: Tensor, k_XM: Tensor, v_XMd: Tensor, scale: float, panels: int) -> _Nodes:
    low_X1, high_X1 = q_XN.amin(-1, keepdim=True), q_XN.amax(-1, keepdim=True)
    width_X1 = (high_X1 - low_X1) * (_STRETCH / panels)
    q_XG = low_X1 + width_X1 * torch.arange(panels + 1, dtype=q_XN.dtype, device=q_XN.device)
    k_X1M = _centred(k_XM).unsqueeze(1)
    p_XGM = torch.softmax((q_XG * scale).unsqueeze(-1) * k_X1M, dim=-1)
    c_XGM = k_X1M - torch.matmul(p_XGM, k_X1M.transpose(1, 2))
    return _Nodes(low_X1, width_X1, q_XG, c_XGM, p_XGM, torch.bmm(p_XGM, v_XMd), torch.bmm(p_XGM * c_XGM, v_XMd))


def _cubics(value_XGd: Tensor, slope_XGd: Tensor, width_X1: Tensor) -> Tensor:
    """Coefficients of each panel's cubic in u in [0, 1], from values and slopes at its ends: rows (X·P·4, d), powers innermost."""
    f, g = value_XGd[:, :-1], value_XGd[:, 1:]
    rise = slope_XGd * width_X1.unsqueeze(-1)
    a, b = rise[:, :-1], rise[:, 1:]
    step = g - f
    return torch.stack((f, a, 3 * step - 2 * a - b, a + b - 2 * step), dim=2).flatten(0, 2)


class _Places(NamedTuple):
    """Where every query falls, queries in the order (B, N, h): its panel among all heads' (int32), and 1, u, u², u³ of its place there."""

    panel_Y: Tensor
    powers_Y4: Tensor

    def part(self, some: slice) -> _Places:
        """Those of a part of the queries."""
        return _Places(self.panel_Y[some], self.powers_Y4[some])

    def evaluate(self, rows_Rd: Tensor) -> Tensor:
        """The cubics of :func:`_cubics` at the queries: (Y, d). One fused gather and weighted sum of four rows a query."""
        queries = self.panel_Y.shape[0]
        device = self.panel_Y.device
        rows_Y4 = (self.panel_Y * 4).unsqueeze(1) + torch.arange(4, dtype=torch.int32, device=device)
        bags = torch.arange(0, 4 * queries + 1, 4, dtype=torch.int32, device=device)
        weights = self.powers_Y4.reshape(-1)
        out_Yd: Tensor = torch.embedding_bag(rows_Rd, rows_Y4.reshape(-1), bags, False, 0, False, weights, True)[0]
        return out_Yd

    def collect(self, g_Yd: Tensor, moments_P4d: Tensor, scratch_y4d: Tensor) -> None:
        """The transpose of ``evaluate``: adds Σ over a panel's queries of u^k g to ``moments_P4d`` (panels, 4, d)."""
        panels, _, d = moments_P4d.shape
        terms_y4d = torch.mul(self.powers_Y4.unsqueeze(-1), g_Yd.unsqueeze(1), out=scratch_y4d[: g_Yd.shape[0]])
        if g_Yd.is_cuda:
            # Additions in a fixed order, so that a run can be repeated bit by bit; atomic ones have none.
            moments_P4d.view(panels, 4 * d).addmm_(F.one_hot(self.panel_Y.long(), panels).to(g_Yd.dtype).T, terms_y4d.view(-1, 4 * d))
        else:
            index = self.panel_Y.long().unsqueeze(1).expand(-1, 4 * d)
            moments_P4d.view(panels, 4 * d).scatter_add_(0, index, terms_y4d.view(-1, 4 * d))


def _places(q_BhN: Tensor, at: _Nodes, panels: int) -> _Places:
    B, h, _ = q_BhN.shape
    inverse_X1 = 1 / at.width_X1.clamp_min(torch.finfo(q_BhN.dtype).tiny)
    u_BhN = (q_BhN - at.low_X1.view(B, h, 1)).mul_(inverse_X1.view(B, h, 1))
    u_Y = u_BhN.transpose(1, 2).reshape(-1)
    panel_Y = u_Y.to(torch.int32)
    place_Y = torch.frac(u_Y)
    powers_Y4 = u_Y.new_empty(u_Y.shape[0], 4)
    powers_Y4[:, 0] = 1
    powers_Y4[:, 1] = place_Y
    square_Y = place_Y * place_Y
    powers_Y4[:, 2] = square_Y
    torch.mul(square_Y, place_Y, out=powers_Y4[:, 3])
    if B * h > 1:
        first_Bh = torch.arange(0, B * h * panels, panels, dtype=torch.int32, device=u_Y.device).view(B, 1, h)
        panel_Y.view(B, -1, h).add_(first_Bh)
    return _Places(panel_Y, powers_Y4)


def _flat(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q_BhN.flatten(0, 1), k_BhM.flatten(0, 1), v_BhMd.flatten(0, 1)


def _interpolate(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, panels: int) -> tuple[Tensor, _Nodes, _Places]:
    """Piecewise cubic Hermite interpolation from exact values and slopes at the panels' ends; with what the backward pass goes on from."""
    B, h, N = q_BhN.shape
    at = _at_nodes(*_flat(q_BhN, k_BhM, v_BhMd), scale, panels)
    places = _places(q_BhN, at, panels)
    out_Yd = places.evaluate(_cubics(at.f_XGd, at.tilt_XGd * scale, at.width_X1))
    return out_Yd.view(B, N, h, -1).transpose(1, 2), at, places


def _interpolate_backward(
    g_BhNd: Tensor, q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, panels: int, at: _Nodes, places: _Places
) -> tuple[Tensor, Tensor, Tensor]:
    """dq is f' at the queries, interpolated from exact f' and ``f'' = s² Σ_j p_j (c_j² - Σ_i p_i c_i²) v_j``: ``dq = Σ_d dout · f'(q)``.

    dk and dv are the gradients of the interpolant itself: dout is collected into the panels' coefficients, from there into values and
    slopes at the nodes, and goes through their softmax rows exactly. Nothing of size N·M or N·P is held.
    """
    B, h, N = q_BhN.shape
    d = v_BhMd.shape[3]
    v_XMd = v_BhMd.flatten(0, 1)
    g_Yd = g_BhNd.transpose(1, 2).reshape(-1, d)

    pc_XGM = at.p_XGM * at.c_XGM
    spread_XG1 = (pc_XGM * at.c_XGM).sum(-1, keepdim=True)
    curve_XGd = torch.bmm(pc_XGM * at.c_XGM, v_XMd).sub_(spread_XG1 * at.f_XGd).mul_(scale * scale)
    slopes_Rd = _cubics(at.tilt_XGd * scale, curve_XGd, at.width_X1)
    dq_Y = g_Yd.new_empty(g_Yd.shape[0])
    moments_P4d = g_Yd.new_zeros(B * h * panels, 4, d)
    rows = _ROWS_CUDA if g_Yd.is_cuda else _ROWS
    scratch_y4d = g_Yd.new_empty(min(rows, g_Yd.shape[0]), 4, d)
    for start in range(0, g_Yd.shape[0], rows):
        some = slice(start, start + rows)
        here, g_yd = places.part(some), g_Yd[some]
        torch.sum(here.evaluate(slopes_Rd).mul_(g_yd), dim=-1, out=dq_Y[some])
        here.collect(g_yd, moments_P4d, scratch_y4d)
    dq_BhN = dq_Y.view(B, N, h).transpose(1, 2)

    c0, c1, c2, c3 = moments_P4d.view(B * h, panels, 4, d).unbind(2)
    df_XGd, dtilt_XGd = torch.zeros_like(at.f_XGd), torch.zeros_like(at.f_XGd)
    step = 3 * c2 - 2 * c3
    df_XGd[:, :-1] += c0 - step
    df_XGd[:, 1:] += step
    dtilt_XGd[:, :-1] += c1 - 2 * c2 + c3
    dtilt_XGd[:, 1:] += c3 - c2
    dtilt_XGd *= at.width_X1.unsqueeze(-1) * scale
    # With a = dL/df and b = dL/d(Σ p c v): logits get p (a·(v - f) + c b·(v - f) - b·Σ p c v), keys p b·(v - f) beside, values p (a + c b).
    pull_XGM = torch.bmm(dtilt_XGd, v_XMd.transpose(1, 2)).sub_((dtilt_XGd * at.f_XGd).sum(-1, keepdim=True))
    rest_XG1 = (df_XGd * at.f_XGd).sum(-1, keepdim=True) + (dtilt_XGd * at.tilt_XGd).sum(-1, keepdim=True)
    dl_XGM = at.p_XGM * (torch.bmm(df_XGd, v_XMd.transpose(1, 2)).sub_(rest_XG1).addcmul_(at.c_XGM, pull_XGM))
    dk_XM = torch.bmm((at.q_XG * scale).unsqueeze(1), dl_XGM).squeeze(1) + (at.p_XGM * pull_XGM).sum(1)
    dv_XMd = torch.bmm(at.p_XGM.transpose(1, 2), df_XGd).baddbmm_(pc_XGM.transpose(1, 2), dtilt_XGd)
    return dq_BhN, dk_XM.view(k_BhM.shape), dv_XMd.view(v_BhMd.shape)


class _Interpolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float, panels: int) -> Tensor:
        out_BhNd, at, places = _interpolate(q_BhN, k_BhM, v_BhMd, scale, panels)
        ctx.save_for_backward(q_BhN, k_BhM, v_BhMd, *at, *places)
        ctx.scale, ctx.panels = scale, panels
        return out_BhNd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_BhN, k_BhM, v_BhMd, *kept = ctx.saved_tensors
        at, places = _Nodes(*kept[: len(_Nodes._fields)]), _Places(*kept[len(_Nodes._fields) :])
        return *_interpolate_backward(grads[0], q_BhN, k_BhM, v_BhMd, ctx.scale, ctx.panels, at, places), None, None


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
    panels, work = _form(q_BhN, k_BhM, v_BhMd, scale, tolerance, mode)
    g, q, k, v = (x.to(work) for x in (g_BhNd, q_BhN, k_BhM, v_BhMd))
    with torch.autocast(q_BhN.device.type, enabled=False):
        if panels is None:
            dq, dk, dv = _exact_backward(g, q, k, v, scale)
        else:
            _, at, places = _interpolate(q, k, v, scale, panels)
            dq, dk, dv = _interpolate_backward(g, q, k, v, scale, panels, at, places)
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
