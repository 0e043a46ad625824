"""A program without what need not be computed again for every image: weight arithmetic done once, BatchNorms inside convolutions.

A BatchNorm in eval mode is a scale and a shift of each channel, ``y_c = a_c·x_c + b_c`` with ``a = γ / sqrt(var + eps)`` and
``b = β - a·mean``. A convolution takes it in:

* before it (``BN(W∗x + w)``):  ``W'_o = a_o·W_o``,  ``w'_o = a_o·w_o + b_o``;
* behind it, where it pads nothing (``W∗BN(x) + w``):  ``W'_oi = W_oi·a_i``,  ``w'_o = w_o + Σ_ik W_oik·b_i``. With padding the zeros at
  the border would have to become ``-b/a``, so it stays.

Pairs are found in the graph that ``torch.export`` makes, from who reads what and not from names or classes of modules: any activation may
follow, and a norm computed by other means than ``batch_norm`` is simply not seen. The sums are taken in float64, the result has the
weights' own type. Equal up to rounding; the tests hold logits within 1e-5 of the largest.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

aten = torch.ops.aten

CONVOLUTIONS = (aten.conv1d, aten.conv2d, aten.conv3d)
"""Their arguments are (input, weight, bias, stride, padding, dilation, groups), their weight is (O, I / groups, …)."""
GROWTH = 2
"""A result of weight arithmetic is stored if it has at most so many times the elements of the weights it comes from …"""
SMALL = 4096
"""… or at most so many elements at all."""


@dataclass(frozen=True, slots=True)
class Folding:
    """What was done to a program. Names are those of modules in the network.

    ``pairs``: (BatchNorm, convolution) that became one; ``left``: BatchNorms that the program still computes; ``constants``: results of
    weight arithmetic that are now stored.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    left: tuple[str, ...] = ()
    constants: int = 0

    def __str__(self) -> str:
        """For the card and the command line."""
        return (
            f"BatchNorms folded into convolutions: {len(self.pairs)}, left: {len(self.left)}; "
            f"results of weight arithmetic stored: {self.constants}"
        )


@dataclass(frozen=True)
class Folded:
    """``module`` computes what the program computed; ``what`` says how it differs."""

    module: GraphModule
    what: Folding = field(default_factory=Folding)


def fold(program: ExportedProgram) -> Folded:
    """The function of a program (eval mode, as ``torch.export.export`` gives it) with weight arithmetic and BatchNorms folded.

    ``program`` and the network it was made from keep their weights. The module has tensors of its own where anything changed, under the
    network's names; a new bias is called ``bias`` beside its ``weight``.
    """
    module = program.module()
    assert isinstance(module, GraphModule)
    with torch.no_grad():
        _without_guards(module)
        constants = _store_constants(module)
        pairs = []
        for node in list(module.graph.nodes):
            if _is_norm(node):
                pair = _into_convolution_before(module, node) or _into_convolution_behind(module, node)
                pairs += [pair] if pair is not None else []
    _drop_unused(module)
    left = [_owner(_name(node.args[3])) for node in module.graph.nodes if _packet(node) is aten.batch_norm]
    return Folded(module, Folding(tuple(pairs), tuple(left), constants))


def _packet(node: Node) -> Any:
    """The operation without its overload, None where a node is no ATen call."""
    return getattr(node.target, "overloadpacket", None) if node.op == "call_function" else None


def _name(node: Any) -> str:
    return str(node.target) if isinstance(node, Node) and node.op == "get_attr" else ""


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _get(module: nn.Module, name: str) -> Tensor:
    return reduce(getattr, name.split("."), module)  # type: ignore[return-value]


def _set(module: GraphModule, name: str, value: Tensor) -> None:
    """Put a tensor under a dotted name: a parameter where it can be trained, as the weights it replaces; only this module sees it."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    if hasattr(owner, last):
        delattr(owner, last)
    owner.register_parameter(last, nn.Parameter(value, requires_grad=value.is_floating_point()))


def _without_guards(module: GraphModule) -> None:
    """Remove the check of input shapes that torch ≥ 2.9 puts in front: exporting again makes a new one."""
    for node in list(module.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            module.graph.erase_node(node)


# Weight arithmetic


def _store_constants(module: GraphModule) -> int:
    """Compute what depends on weights alone, and store it where the rest of the graph reads it; the number of results stored."""
    values: dict[Node, Any] = {}
    sources: dict[Node, frozenset[Node]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node], sources[node] = _get(module, str(node.target)), frozenset([node])
            continue
        for given in [given for given in node.all_input_nodes if given in values and _writes(node, given)]:
            _forget(values, values[given])
        if _computable(node) and all(given in values for given in node.all_input_nodes):
            origin = frozenset[Node]().union(*(sources[given] for given in node.all_input_nodes))
            # The recorded shape says whether a result is worth having before it is computed.
            if _worth_storing(node, sum(values[source].numel() for source in origin)):
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node], sources[node] = node.target(*args, **kwargs), origin
    weights = {_storage(values[node]) for node in values if node.op == "get_attr"}
    stored = 0
    for node, value in list(values.items()):
        # What only other constants read needs no place.
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in values for user in node.users):
            continue
        name = f"constant_{stored}"
        if _storage(value) in weights:
            # A view costs nothing; where nobody reads the weight otherwise, the view may stand for it, and a norm finds it.
            seen = _seen_through(node)
            if seen is None or _get(module, str(seen.target)).numel() != value.numel():
                continue
            name = str(seen.target)
        else:
            stored += 1
        _set(module, name, value.detach().clone())
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        constant.meta = dict(node.meta)
        node.replace_all_uses_with(constant)
    module.graph.eliminate_dead_code()
    return stored


def _computable(node: Node) -> bool:
    """Whether a node is a function of its inputs and of nothing else: no random numbers, nothing written, at least one tensor read."""
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    if node.target is operator.getitem:
        return True
    tags = getattr(node.target, "tags", ())
    return hasattr(node.target, "_schema") and not _mutable(node) and torch.Tag.nondeterministic_seeded not in tags


def _worth_storing(node: Node, elements: int) -> bool:
    """Whether a result stays within :data:`GROWTH` times the weights it comes from; several results (a split) are looked at one by one."""
    value = node.meta.get("val")
    return not isinstance(value, Tensor) or value.numel() <= max(SMALL, GROWTH * elements)


def _seen_through(view: Node) -> Node | None:
    """The weight that a chain of views ends in, if nothing reads it or the views between but this chain."""
    while view.op != "get_attr":
        if len(view.all_input_nodes) != 1:
            return None
        view = view.all_input_nodes[0]
        if len(view.users) != 1:
            return None
    return view


def _mutable(node: Node) -> bool:
    """Whether an operation writes into any of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _writes(user: Node, node: Node) -> bool:
    """Whether ``user`` changes ``node`` in place."""
    schema = getattr(user.target, "_schema", None)
    if schema is None:
        return False
    given = [*zip(schema.arguments, user.args, strict=False), *((a, user.kwargs.get(a.name)) for a in schema.arguments)]
    return any(value is node and argument.alias_info is not None and argument.alias_info.is_write for argument, value in given)


def _forget(values: dict[Node, Any], written: Tensor) -> None:
    """Drop every value that lies in the memory of ``written``."""
    for node in [node for node, value in values.items() if isinstance(value, Tensor) and _storage(value) == _storage(written)]:
        del values[node]


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


# BatchNorm and convolution


def _is_norm(node: Node) -> bool:
    """A BatchNorm over running statistics that lie in the network."""
    if _packet(node) is not aten.batch_norm:
        return False
    _, weight, bias, mean, variance, training = node.args[:6]
    stored = all(_name(given) for given in (mean, variance)) and all(given is None or _name(given) for given in (weight, bias))
    return stored and not training


def _scale_and_shift(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` of ``a·x + b``, float64, one number a channel."""
    weight, bias, mean, variance = (None if given is None else _get(module, _name(given)).double() for given in norm.args[1:5])
    assert mean is not None
    assert variance is not None
    epsilon = norm.args[7]
    assert isinstance(epsilon, float)
    scale = torch.rsqrt(variance + epsilon) * (1.0 if weight is None else weight)
    return scale, (0.0 if bias is None else bias) - scale * mean


def _own_weights(node: Any) -> tuple[Node, Node | None] | None:
    """Weight and bias of a convolution, if they lie in the network and nobody else reads them."""
    if not isinstance(node, Node) or _packet(node) not in CONVOLUTIONS:
        return None
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    if not isinstance(weight, Node) or not _name(weight) or len(weight.users) != 1:
        return None
    if bias is None:
        return weight, None
    return (weight, bias) if isinstance(bias, Node) and _name(bias) and len(bias.users) == 1 else None


def _into_convolution_before(module: GraphModule, norm: Node) -> tuple[str, str] | None:
    """``BN(conv(x))`` as one convolution, where nobody else reads the convolution."""
    conv = norm.args[0]
    own = _own_weights(conv)
    if own is None or not isinstance(conv, Node) or len(conv.users) != 1:
        return None
    weight, bias = own
    scale_O, shift_O = _scale_and_shift(module, norm)
    weight_OI = _get(module, _name(weight)).double()
    bias_O = torch.zeros_like(scale_O) if bias is None else _get(module, _name(bias)).double()
    _rewrite(module, conv, own, weight_OI * _along(scale_O, weight_OI), scale_O * bias_O + shift_O)
    norm.replace_all_uses_with(conv)
    return _close(module, norm, weight)


def _into_convolution_behind(module: GraphModule, norm: Node) -> tuple[str, str] | None:
    """``conv(BN(x))`` as one convolution, where it pads nothing and is the only reader of the norm."""
    conv = next(iter(norm.users), None)
    own = _own_weights(conv)
    if own is None or conv is None or len(norm.users) != 1 or conv.args[0] is not norm or not _unpadded(conv):
        return None
    # The convolution is to read what the norm reads, later than the norm did.
    if any(_mutable(between) for between in _between(norm, conv)):
        return None
    weight, bias = own
    scale_I, shift_I = _scale_and_shift(module, norm)
    weight_OI = _get(module, _name(weight)).double()
    groups = len(scale_I) // weight_OI.shape[1]
    per_group = weight_OI.reshape(groups, -1, *weight_OI.shape[1:])
    scaled = per_group * _along(scale_I.view(groups, 1, -1), per_group, 3)
    shifted = (per_group * _along(shift_I.view(groups, 1, -1), per_group, 3)).flatten(2).sum(2).flatten()
    bias_O = 0.0 if bias is None else _get(module, _name(bias)).double()
    _rewrite(module, conv, own, scaled.flatten(0, 1), shifted + bias_O)
    source = norm.args[0]
    assert isinstance(source, Node)
    norm.replace_all_uses_with(source)
    return _close(module, norm, weight)


def _between(first: Node, last: Node) -> Iterator[Node]:
    node = first.next
    while node is not last:
        yield node
        node = node.next


def _unpadded(conv: Node) -> bool:
    padding = conv.args[4] if len(conv.args) > 4 else conv.kwargs.get("padding", 0)
    if isinstance(padding, str):
        return padding == "valid"
    return all(p == 0 for p in (padding if isinstance(padding, Sequence) else [padding]))


def _along(values: Tensor, weight: Tensor, dims: int = 1) -> Tensor:
    """``values`` with the trailing dimensions that a product with ``weight`` needs."""
    return values.reshape(*values.shape, *[1] * (weight.dim() - dims))


def _rewrite(module: GraphModule, conv: Node, own: tuple[Node, Node | None], weight_OI: Tensor, bias_O: Tensor) -> None:
    """Give a convolution other weights; one without a bias gets one."""
    weight, bias = own
    kept = _get(module, _name(weight))
    # Its own memory order: a channels-last weight stays one.
    _set(module, _name(weight), torch.empty_like(kept).copy_(weight_OI))
    if bias is not None:
        _set(module, _name(bias), bias_O.to(kept.dtype))
        return
    owner = _owner(_name(weight))
    stem = _name(weight).rpartition(".")[2]
    last = "bias" if stem == "weight" else f"{stem}_bias"
    while hasattr(module.get_submodule(owner), last):
        last += "_folded"
    name = f"{owner}.{last}" if owner else last
    _set(module, name, bias_O.to(kept.dtype))
    with module.graph.inserting_before(conv):
        added = module.graph.get_attr(name)
    conv.args = (*conv.args[:2], added, *conv.args[3:])
    conv.kwargs = {key: value for key, value in conv.kwargs.items() if key != "bias"}


def _close(module: GraphModule, norm: Node, weight: Node) -> tuple[str, str]:
    names = (_owner(_name(norm.args[3])), _owner(_name(weight)) or _name(weight))
    module.graph.erase_node(norm)
    return names


# What nobody reads any more


def _drop_unused(module: GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(_tensors(module)):
        if name not in read:
            delattr(module.get_submodule(_owner(name)), name.rpartition(".")[2])
    module.recompile()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
