"""Counts a real module: what its forward pass multiplies, and which of its parameters its output depends on.

Independent of the arithmetic of :mod:`nasseg.cost.macs`: nothing here knows a genotype. Every ATen operation of one forward pass is
watched below autograd, where linear, einsum, ``scaled_dot_product_attention`` and the like have become convolutions, matrix products or a
fused attention kernel; the shapes of each say what it multiplies. On the meta device no number is computed, so a network of any size is
counted in the time its Python takes.

Two conventions (:class:`nasseg.cost.cost.Part` says the same in one place):

==============================  ===================  =======================================
operation                       ``macs``             ``fvcore`` adds
==============================  ===================  =======================================
convolution, matrix product     its multiplications
fused attention                 both products
strip attention                 by panels, or exact: :func:`_strip`
weighted sum of table rows      one an element read
LayerNorm, GroupNorm                                 5 an input element (4 without weight)
BatchNorm in eval mode                               2 an input element (1 without weight)
bilinear resize, grid sampling                       4 an output element
nearest resize                                       1 an output element
adaptive average pooling                             1 an input element
mean over positions                                  1 an input element
everything else                 0                    0
==============================  ===================  =======================================

A mean over positions is one over height, width or both of a BCHW tensor, or over the tokens of a BNC tensor: adaptive average pooling to
one position is turned into just that. A mean over channels counts as nothing. fvcore sees ``adaptive_avg_pool2d`` only, not ``mean``; here
the two ways to write one pooling count alike.

What is counted is what is called: a decoder as written (:func:`nasseg.models.form.written_out`) gives the papers' numbers, any other
the work that is done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nasseg.cost.cost import Part
from nasseg.cost.executed import PANELS
from nasseg.errors import NassegError
from nasseg.models.strip import interpolates

aten = torch.ops.aten
Rule = Callable[[tuple[Any, ...], Any], int]


@dataclass(frozen=True)
class Count:
    """One forward pass of a module: live parameters, MACs, MACs as fvcore counts them.

    ``parts`` holds the same for every submodule by its dotted name (``""`` is the module itself); an operation counts in each module that
    is being called when it runs. ``dead`` names the parameters that no output depends on; they are in no number.
    """

    params: int
    macs: int
    fvcore: int
    parts: Mapping[str, Part]
    dead: tuple[str, ...]

    @property
    def part(self) -> Part:
        """The whole module as a :class:`Part`."""
        return Part(self.params, self.macs, self.fvcore)


def count(module: nn.Module, *inputs: Any, outputs: Callable[[Any], Any] | None = None, panels: int = PANELS) -> Count:
    """Count one forward pass of ``module(*inputs)`` in eval mode, for the whole batch given.

    A parameter is live when the gradient of some output reaches it; ``outputs`` picks those that are read, where not all are. Works on any
    device and dtype; nothing of the module is changed. The number of panels of a strip follows from the range of its queries and keys; on
    the meta device, which has no data, it is ``panels``. Raises :class:`NassegError` for an operation that multiplies and has no rule here,
    rather than leave its work out.
    """
    watch = _Watch(panels)
    with ExitStack() as stack:
        stack.enter_context(_as_counted(module))
        for name, child in module.named_modules():
            stack.callback(child.register_forward_pre_hook(partial(watch.enter, name)).remove)
            stack.callback(child.register_forward_hook(partial(watch.leave, name), always_call=True).remove)
        stack.enter_context(torch.enable_grad())
        with watch:
            out = module(*inputs)
        live = _reached(out if outputs is None else outputs(out))
    return _summary(module, watch, live)


def _summary(module: nn.Module, watch: _Watch, live: set[int]) -> Count:
    held: defaultdict[str, dict[int, int]] = defaultdict(dict)
    dead = []
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) not in live:
            dead.append(name)
            continue
        path = name.split(".")
        for depth in range(len(path)):
            held[".".join(path[:depth])][id(parameter)] = parameter.numel()
    parts = {
        name: Part(sum(held[name].values()), watch.macs[name], watch.macs[name] + watch.extra[name]) for name, _ in module.named_modules()
    }
    whole = parts[""]
    return Count(whole.params, whole.macs, whole.fvcore, parts, tuple(dead))


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds each operation to every module on the call stack."""

    def __init__(self, panels: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panels = panels
        self.macs: defaultdict[str, int] = defaultdict(int)
        self.extra: defaultdict[str, int] = defaultdict(int)
        self.calls: list[str] = []

    def enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.calls.append(name)

    def leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.calls.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet is torch.ops.nasseg.strip_attention:
            self._add(self.macs, _strip(self.panels, _positional(func, args, kwargs)))
        elif packet in _MACS:
            self._add(self.macs, _MACS[packet](_positional(func, args, kwargs), out))
        elif packet in _EXTRA:
            self._add(self.extra, _EXTRA[packet](_positional(func, args, kwargs), out))
        elif packet in flop_registry or packet in _UNCOUNTED:
            raise NassegError(f"cannot count {func}: it multiplies, and nasseg.models.counting has no rule for it")
        return out

    def _add(self, into: defaultdict[str, int], amount: int) -> None:
        for name in set(self.calls):
            into[name] += amount


def _positional(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """All arguments in the order of the operation's schema, absent ones as None."""
    named = kwargs or {}
    return args + tuple(named.get(a.name, a.default_value) for a in func._schema.arguments[len(args) :])


@contextmanager
def _as_counted(module: nn.Module) -> Iterator[None]:
    """Eval mode and a gradient for every parameter, put back afterwards."""
    training = {child: child.training for child in module.modules()}
    wants = {p: p.requires_grad for p in module.parameters()}
    try:
        module.eval()
        for parameter in wants:
            # Integer parameters of quantised layers cannot carry a gradient.
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.requires_grad_(True)
        yield
    finally:
        for child, was in training.items():
            child.training = was
        for parameter, wanted in wants.items():
            parameter.requires_grad_(wanted)


def _reached(outputs: Any) -> set[int]:
    """Ids of the leaves that the gradients of the outputs reach."""
    pending = [leaf.grad_fn for leaf in _tensors(outputs)]
    reached: set[int] = set()
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            reached.add(id(variable))
        pending.extend(following for following, _ in node.next_functions)
    return reached


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _convolution(args: tuple[Any, ...], out: Any) -> int:
    """B · prod(weight) · prod(positions): of the output, or of the input where the convolution is transposed."""
    x, weight, transposed = args[0], args[1], args[6]
    positions = x.shape[2:] if transposed else out.shape[2:]
    return int(x.shape[0] * prod(weight.shape) * prod(positions))


def _product(first: int, args: tuple[Any, ...], out: Any) -> int:
    """(…, n, k) times (…, k, m), or times a vector: n·k·m of each; ``first`` is where the left factor stands among the arguments."""
    left, right = args[first], args[first + 1]
    return int(left.numel() * (right.shape[-1] if right.dim() > 1 else 1))


def _attention(args: tuple[Any, ...], out: Any) -> int:
    """Q (B, h, N, d), K (B, h, M, d), V (B, h, M, e): Q·Kᵀ and A·V, B·h·N·M·(d + e)."""
    q, k, v = args[0], args[1], args[2]
    return int(prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1]))


def _strip(panels: int, args: tuple[Any, ...]) -> int:
    """q (B, h, N), k (B, h, M), v (B, h, M, d), by P panels or exact as :func:`nasseg.models.strip.strip_attention` decides.

    By panels: at P + 1 nodes the logits and the mean key, 2M, and two sums of values, 2M·d; then four rows of d numbers for each of N
    queries. Exact: N·M·2d, for q and k are filled up with zeros to d channels. The softmax and the polynomials' weights are elementwise
    and count as nothing, like any softmax.
    """
    q, k, v, mode = *args[:3], args[5]
    heads, queries, keys, d = prod(q.shape[:2]), q.shape[2], k.shape[2], v.shape[3]
    if mode == "interpolated" or (mode == "auto" and interpolates(heads, queries, keys, panels)):
        return int(heads * ((panels + 1) * keys * (2 + 2 * d) + queries * 4 * d))
    return int(heads * queries * keys * 2 * d)


def _rows(args: tuple[Any, ...], out: Any) -> int:
    """Rows (R, d) of a table, each with its weight; without weights they are only added."""
    rows, indices, weights = args[0], args[1], args[6]
    return 0 if weights is None else int(indices.numel() * rows.shape[1])


def _norm(weight: int, args: tuple[Any, ...], out: Any) -> int:
    return int(args[0].numel() * (4 if args[weight] is None else 5))


def _batch_norm(training: int | None, args: tuple[Any, ...], out: Any) -> int:
    """In eval mode a scale and a shift; with the batch's own statistics (instance normalisation comes so) as a LayerNorm."""
    affine = args[1] is not None
    rate = (5 if affine else 4) if training is not None and args[training] else (2 if affine else 1)
    return int(args[0].numel() * rate)


def _per_output(rate: int, args: tuple[Any, ...], out: Any) -> int:
    return int(rate * out.numel())


def _mean(args: tuple[Any, ...], out: Any) -> int:
    x, dims = args[0], args[1] if len(args) > 1 else None
    if not dims:
        return 0
    reduced = {d % x.dim() for d in dims}
    over_positions = (x.dim() == 4 and reduced <= {2, 3}) or (x.dim() == 3 and reduced == {1})
    return int(x.numel()) if over_positions else 0


_MACS: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten.convolution_overrideable: _convolution,
    aten._convolution: _convolution,
    aten.mm: partial(_product, 0),
    aten.bmm: partial(_product, 0),
    aten.mv: partial(_product, 0),
    aten.dot: partial(_product, 0),
    aten.addmm: partial(_product, 1),
    aten.addmv: partial(_product, 1),
    aten._embedding_bag: _rows,
    aten._embedding_bag_forward_only: _rows,
    aten.addbmm: partial(_product, 1),
    aten.baddbmm: partial(_product, 1),
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_attention_math_for_mps: _attention,
}

_EXTRA: dict[Any, Rule] = {
    aten.native_layer_norm: partial(_norm, 2),
    aten.native_group_norm: partial(_norm, 1),
    aten.native_batch_norm: partial(_batch_norm, 5),
    aten.cudnn_batch_norm: partial(_batch_norm, 5),
    aten.miopen_batch_norm: partial(_batch_norm, 5),
    aten._native_batch_norm_legit: partial(_batch_norm, 5),
    aten._native_batch_norm_legit_no_training: partial(_batch_norm, None),
    aten._batch_norm_no_update: partial(_batch_norm, None),
    aten.upsample_bilinear2d: partial(_per_output, 4),
    aten._upsample_bilinear2d_aa: partial(_per_output, 4),
    aten.grid_sampler_2d: partial(_per_output, 4),
    aten.upsample_nearest2d: partial(_per_output, 1),
    aten._adaptive_avg_pool2d: lambda args, out: int(args[0].numel()),
    aten.mean: _mean,
}

_UNCOUNTED = frozenset({aten._native_multi_head_attention, aten._transformer_encoder_layer_fwd})
"""Whole layers in one operation, as PyTorch runs them where no gradient is asked for; under this counter they come apart."""
