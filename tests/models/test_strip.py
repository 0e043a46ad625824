"""Strip attention: its error bound on random and adversarial inputs, its gradients, its precision, and where it runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasseg.errors import ConfigError
from nasseg.models import strip
from nasseg.models.strip import fused_attention, interpolates, ranges, strip_attention

INTERPOLATED = 400
"""Queries, more than enough that 20 keys are worth interpolating where the mode leaves no choice."""


def reference(q_BhN: Tensor, k_BhM: Tensor, v_BhMd: Tensor, scale: float) -> Tensor:
    """The definition, in float64: no centring, no kernel."""
    q, k, v = q_BhN.double(), k_BhM.double(), v_BhMd.double()
    return torch.softmax(scale * q.unsqueeze(-1) * (k.unsqueeze(-2) - k.unsqueeze(-2).amax(-1, keepdim=True)), dim=-1) @ v


def error(out_BhNd: Tensor, exact_BhNd: Tensor, v_BhMd: Tensor) -> float:
    if out_BhNd.numel() == 0:
        return 0.0
    return float((out_BhNd.double() - exact_BhNd).abs().max() / v_BhMd.double().abs().max().clamp_min(1e-300))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clusters(wide: float) -> tuple[Tensor, Tensor, Tensor]:
    """Half of the keys at each end, opposite values: tanh, whose poles lie as near as poles can."""
    q = torch.linspace(-1, 1, INTERPOLATED).expand(2, 1, -1)
    k = (torch.arange(20) % 2 * wide).float().expand(2, 1, -1)
    v = (torch.arange(20) % 2 * 2.0 - 1).view(20, 1).expand(2, 1, 20, 3)
    return q, k, v


ADVERSARIAL: dict[str, tuple[Tensor, Tensor, Tensor]] = {
    **{f"clusters {wide:g}": clusters(wide) for wide in (0.1, 3.0, 12.0, 60.0, 1e3, 1e6)},
    "an outlier among the queries": (F.pad(normal(2, 1, 300) * 0.1, (0, 1), value=300.0), normal(2, 1, 20), normal(2, 1, 20, 4)),
    "an outlier among the keys": (normal(2, 1, 300), F.pad(normal(2, 1, 20) * 0.1, (0, 1), value=-50.0), normal(2, 1, 21, 4)),
    "equal queries": (torch.full((2, 1, 300), 3.7), normal(2, 1, 20), normal(2, 1, 20, 4)),
    "all zero": (torch.zeros(2, 1, 300), torch.zeros(2, 1, 20), normal(2, 1, 20, 4)),
    "equal keys": (normal(2, 1, 300), torch.full((2, 1, 20), -2.5), normal(2, 1, 20, 4)),
    "one key": (normal(2, 1, 300), normal(2, 1, 1), normal(2, 1, 1, 4)),
    "one query": (normal(2, 1, 1), normal(2, 1, 20), normal(2, 1, 20, 4)),
    "one of each": (normal(1, 1, 1), normal(1, 1, 1), normal(1, 1, 1, 1)),
    "a far offset": (normal(2, 1, 300) + 1e3, normal(2, 1, 20) * 0.1 + 1e4, normal(2, 1, 20, 4)),
    "huge ranges": (normal(2, 1, 300) * 1e4, normal(2, 1, 20) * 1e3, normal(2, 1, 20, 4)),
    "tiny numbers": (normal(2, 1, 300) * 1e-30, normal(2, 1, 20) * 1e-30, normal(2, 1, 20, 4) * 1e-30),
    "large values": (normal(2, 1, 300), normal(2, 1, 20), normal(2, 1, 20, 4) * 1e20),
    "one large value": (normal(2, 1, 300), normal(2, 1, 20), F.pad(torch.zeros(2, 1, 19, 4), (0, 0, 0, 1), value=5.0)),
    "heads of different range": (normal(1, 4, 300) * torch.tensor([1e-3, 1, 4, 20.0]).view(1, 4, 1), normal(1, 4, 20), normal(1, 4, 20, 4)),
    "queries on the ends of panels": (torch.linspace(-2, 2, 17).view(1, 1, 17).repeat(1, 1, 20), normal(1, 1, 20), normal(1, 1, 20, 4)),
    "queries wider than float32": (torch.linspace(-1, 1, 300).view(1, 1, 300) * 3e38, normal(1, 1, 20) * 1e-38, normal(1, 1, 20, 4)),
    "no image": (normal(0, 2, 300), normal(0, 2, 20), normal(0, 2, 20, 4)),
    "no query": (normal(2, 2, 0), normal(2, 2, 20), normal(2, 2, 20, 4)),
    "no channel": (normal(2, 2, 30), normal(2, 2, 20), normal(2, 2, 20, 0)),
}


@pytest.mark.parametrize("mode", ["auto", "exact", "interpolated"])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_error_stays_under_the_tolerance(name: str, mode: strip.Mode) -> None:
    q, k, v = ADVERSARIAL[name]
    out = strip_attention(q, k, v, 0.9, mode=mode)
    assert out.shape == (*q.shape, v.shape[3])
    assert out.dtype == torch.float32
    assert error(out, reference(q, k, v, 0.9), v) <= 1e-4


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 300), st.integers(1, 40), st.integers(1, 9)),
    spread=st.tuples(st.floats(-6, 4), st.floats(-6, 4), st.floats(-6, 6)),
    tolerance=st.sampled_from([1e-2, 1e-3, 1e-4, 1e-5, 1e-7, 1e-10]),
    scale=st.sampled_from([1.0, 0.177, -0.5, 0.0]),
    seed=st.integers(0, 999),
)
def test_any_tolerance_holds_for_any_spread(sizes: Any, spread: Any, tolerance: float, scale: float, seed: int) -> None:
    B, h, N, M, d = sizes
    wide_q, wide_k, wide_v = (10.0**x for x in spread)
    q, k, v = normal(B, h, N, seed=seed) * wide_q, normal(B, h, M, seed=seed + 1) * wide_k, normal(B, h, M, d, seed=seed + 2) * wide_v
    for mode in ("auto", "exact", "interpolated"):
        out = strip_attention(q, k, v.double(), scale, tolerance=tolerance, mode=mode)
        assert error(out, reference(q, k, v, scale), v) <= tolerance


def test_interpolating_is_what_the_mode_does(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = normal(1, 2, 300), normal(1, 2, 20), normal(1, 2, 20, 4)
    used: list[int] = []
    whole = strip._interpolate
    monkeypatch.setattr(strip, "_interpolate", lambda *given: (used.append(given[-1]), whole(*given))[1])
    strip_attention(q, k, v, 0.5, mode="interpolated")
    product = ranges(q, k, 0.5).product
    by_hand = max(0.5 * (q[0, i].max() - q[0, i].min()) / 2 * (k[0, i].max() - k[0, i].min()) for i in range(2))
    assert product == pytest.approx(float(by_hand), rel=1e-6)
    assert used == [strip.panels_for(product, 5e-5)]
    strip_attention(q, k, v, 0.5, mode="exact")
    strip_attention(q, k, v, 0.5, mode="auto")  # 6,000 pairs a head: not worth a start
    strip_attention(q * 1000, k, v, 0.5, mode="interpolated")  # too wide
    strip_attention(q * 1e38, k * 1e-38, v, 0.5, mode="interpolated")  # its width is more than float32 holds
    assert len(used) == 1
    strip_attention(normal(1, 1, 4096), normal(1, 1, 256), normal(1, 1, 256, 4), 0.5, mode="auto")
    assert len(used) == 2


def test_the_crossover_by_hand() -> None:
    # 2·33·256 + 20·4096 + 85,000 = 183,816 < 4096·256 = 1,048,576; and 2·33·256 + 20·256 + 85,000 = 107,016 > 256·256 = 65,536.
    assert interpolates(1, 4096, 256, 32)
    assert not interpolates(1, 256, 256, 32)
    assert interpolates(4, 256, 256, 32)


@pytest.mark.parametrize("mode", ["exact", "interpolated"])
@pytest.mark.parametrize("heads", [1, 3])
def test_gradients_are_those_of_the_definition(mode: strip.Mode, heads: int) -> None:
    inputs = [x.double().requires_grad_() for x in (normal(2, heads, 90), normal(2, heads, 12), normal(2, heads, 12, 5))]
    pull = normal(2, heads, 90, 5, seed=7).double()
    out = strip_attention(*inputs, 0.7, tolerance=1e-11, mode=mode)
    exact = reference(*inputs, 0.7)
    for found, wanted in zip(torch.autograd.grad(out, inputs, pull), torch.autograd.grad(exact, inputs, pull), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in ADVERSARIAL if not name.startswith(("no ", "queries wider"))])
def test_gradients_keep_their_bound_on_adversarial_inputs(name: str) -> None:
    inputs = [x.clone().requires_grad_() for x in ADVERSARIAL[name]]
    pull = torch.sign(normal(*inputs[0].shape, inputs[2].shape[3], seed=5))
    found = torch.autograd.grad(strip_attention(*inputs, 0.9, mode="interpolated"), inputs, pull)
    wanted = torch.autograd.grad(reference(*inputs, 0.9), inputs, pull)
    q, k, v = (x.detach() for x in inputs)
    wide = float((k.amax(-1) - k.amin(-1)).max())
    unit_q = 0.9 * wide * float(v.abs().max()) * v.shape[3]
    assert float((found[0] - wanted[0]).abs().max()) <= 1e-4 * unit_q
    assert float((found[2] - wanted[2]).abs().max()) <= 1e-4 * q.shape[2]
    # dk_j = s Σ_n q p_j (v_j - f)·g: each query gives at most s·|q|·2·max|v|·d.
    assert float((found[1] - wanted[1]).abs().max()) <= 1e-4 * 0.9 * float(q.abs().sum(-1).max()) * 2 * float(v.abs().max()) * v.shape[3]


@pytest.mark.parametrize("mode", ["exact", "interpolated"])
def test_gradcheck(mode: strip.Mode) -> None:
    inputs = [x.double().requires_grad_() for x in (normal(1, 2, 6), normal(1, 2, 4), normal(1, 2, 4, 3))]
    assert torch.autograd.gradcheck(lambda q, k, v: strip_attention(q, k, v, 0.8, tolerance=1e-12, mode=mode), inputs)


def test_no_second_derivative() -> None:
    q = normal(1, 1, 90).requires_grad_()
    out = strip_attention(q, normal(1, 1, 12), normal(1, 1, 12, 5), 0.7, mode="interpolated")
    (slope,) = torch.autograd.grad((out**2).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mode", ["auto", "exact", "interpolated"])
def test_other_types_work_in_float32_and_round_once(dtype: torch.dtype, mode: strip.Mode) -> None:
    q, k, v = (x.to(dtype) for x in (normal(2, 2, 300), normal(2, 2, 20), normal(2, 2, 20, 4)))
    out = strip_attention(q, k, v, 0.5, mode=mode)
    assert out.dtype == dtype
    exact = reference(q, k, v, 0.5)
    assert float((out.double() - exact).abs().max() / v.double().abs().max()) <= 1e-4 + torch.finfo(dtype).eps
    # One rounding at the end: what float32 gives, rounded.
    torch.testing.assert_close(out, strip_attention(q.float(), k.float(), v.float(), 0.5, mode=mode).to(dtype), rtol=0.01, atol=1e-4)


def test_autocast_does_not_reach_in() -> None:
    q, k, v = normal(1, 1, 300), normal(1, 1, 20), normal(1, 1, 20, 4).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = strip_attention(q, k, v, 0.5, mode="interpolated")
        strip_attention(q, k, v, 0.5, mode="exact").sum().backward()
    assert out.dtype == torch.float32
    assert error(out.detach(), reference(q, k, v.detach(), 0.5), v.detach()) <= 1e-4
    assert v.grad is not None


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_comes_out_so(where: int, value: float) -> None:
    # An overflowing fp16 step must be seen by the gradient scaler, not hidden and not raised here.
    inputs = [normal(1, 1, 300), normal(1, 1, 20), normal(1, 1, 20, 4)]
    inputs[where].view(-1)[3] = value
    assert not strip_attention(*inputs, 0.5).isfinite().all()


def test_heads_merge_without_a_copy() -> None:
    out = strip_attention(normal(2, 3, 300), normal(2, 3, 20), normal(2, 3, 20, 4), 0.5, mode="interpolated")
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("r", "d"), [(1, 8), (2, 8), (8, 8), (12, 8)])
def test_the_fused_kernel_takes_any_width(r: int, d: int) -> None:
    q, k, v = normal(2, 3, 50, r), normal(2, 3, 20, r, seed=1), normal(2, 3, 20, d)
    torch.testing.assert_close(fused_attention(q, k, v, 0.3), torch.softmax(0.3 * q @ k.mT, -1) @ v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(300, 20), (4096, 256)])
def test_compiled_code_calls_one_operator_with_the_same_numbers(sizes: tuple[int, int]) -> None:
    N, M = sizes
    inputs = [normal(1, 2, N).requires_grad_(), normal(1, 2, M).requires_grad_(), normal(1, 2, M, 4).requires_grad_()]
    plain = strip_attention(*inputs, 0.5)
    compiled = torch.compile(lambda q, k, v: strip_attention(q, k, v, 0.5), backend="aot_eager", fullgraph=True)(*inputs)
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-6)
    pull = normal(*plain.shape, seed=3)
    for one, other in zip(torch.autograd.grad(compiled, inputs, pull), torch.autograd.grad(plain, inputs, pull), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the check itself looks at it
@pytest.mark.parametrize("mode", ["exact", "interpolated"])
def test_the_operator_keeps_pytorchs_rules(mode: strip.Mode) -> None:
    inputs = [normal(1, 2, 300).requires_grad_(), normal(1, 2, 20).requires_grad_(), normal(1, 2, 20, 4).requires_grad_()]
    torch.library.opcheck(torch.ops.nasseg.strip_attention.default, (*inputs, 0.5, 1e-4, mode))


def test_on_the_meta_device_only_shapes_are_made() -> None:
    out = strip_attention(
        torch.empty(2, 3, 7, device="meta"), torch.empty(2, 3, 5, device="meta"), torch.empty(2, 3, 5, 4, device="meta"), 1.0
    )
    assert out.is_meta
    assert out.shape == (2, 3, 7, 4)


class Strip(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return strip_attention(q, k, v, 0.5)


def test_an_exported_program_holds_the_exact_form() -> None:
    inputs = (normal(2, 2, 4096), normal(2, 2, 256), normal(2, 2, 256, 4))
    program = torch.export.export(Strip(), inputs)
    assert [str(node.target) for node in program.graph.nodes if "attention" in str(node.target)] == [
        "aten.scaled_dot_product_attention.default"
    ]
    assert error(program.module()(*inputs), reference(*inputs, 0.5), inputs[2]) <= 1e-5


@pytest.mark.parametrize(
    ("shapes", "options", "says"),
    [
        (((2, 3, 7), (2, 3, 5), (2, 3, 6, 4)), {}, r"q must be \(B, h, N\).*the same B, h and M.*6, 4"),
        (((2, 3, 7), (2, 2, 5), (2, 3, 5, 4)), {}, "the same B, h and M"),
        (((2, 3, 7, 1), (2, 3, 5), (2, 3, 5, 4)), {}, "the same B, h and M"),
        (((2, 3, 7), (2, 3, 0), (2, 3, 0, 4)), {}, "at least one key"),
        (((2, 3, 7), (2, 3, 5), (2, 3, 5, 4)), {"tolerance": 0.0}, "tolerance: must be from 1e-12 and below 1.*nearest legal: 1e-12"),
        (((2, 3, 7), (2, 3, 5), (2, 3, 5, 4)), {"tolerance": 2.0}, "nearest legal: 0.0001"),
        (((2, 3, 7), (2, 3, 5), (2, 3, 5, 4)), {"mode": "fast"}, "mode: must be one of auto, exact, interpolated.*'fast'"),
    ],
)
def test_what_is_refused(shapes: tuple[tuple[int, ...], ...], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        strip_attention(*(torch.zeros(shape) for shape in shapes), 1.0, **options)
