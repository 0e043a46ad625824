"""Backbones by name: our own, and timm's.

A name may carry arguments of the model behind a question mark: ``mobilenetv2_100?pad_type=same``. ``mean`` and ``std`` among them replace
the statistics the model comes with, for weights trained with others: ``mobilenetv2_100?mean=0.5&pad_type=same&std=0.5``. Our own MiT takes
``norm_eps``, for weights that were trained with another constant in its layer norms (``mit_b0?norm_eps=1e-05``: Hugging Face's). The
canonical name has them sorted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import timm
import torch

from nasseg.errors import BackboneError, WeightsError, nearest
from nasseg.models.backbones.contract import Backbone, BackboneSpec
from nasseg.models.backbones.mit import EPS, MIT_SHAPES, MiT
from nasseg.models.backbones.mscan import MSCAN, MSCAN_SHAPES
from nasseg.models.backbones.pretrained import fetch, origin_of
from nasseg.models.backbones.timm_adapter import TimmBackbone, plan_timm
from nasseg.models.backbones.weights import load_weights

BUILTIN: tuple[str, ...] = (*MIT_SHAPES, *MSCAN_SHAPES)
"""Our own backbones."""

_SUGGESTED = (
    "mobilenetv2_100", "tf_efficientnet_lite0", "mobilenetv4_conv_small", "convnext_atto", "pvt_v2_b0", "repvit_m0_9", "resnet18",
    "regnety_008", "efficientnet_b0", "convnext_tiny", "pvt_v2_b2", "resnet50", "swin_tiny_patch4_window7_224",
)  # fmt: skip

# Arguments that are ours to set, or that would break the contract.
_RESERVED = frozenset(
    (
        *("in_chans", "num_classes", "features_only", "out_indices", "output_fmt", "output_stride", "feature_cls", "feature_cfg"),
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir"),
        *("drop_rate", "drop_path_rate", "scriptable", "exportable", "no_jit", "device", "dtype"),
    )
)


PADDINGS = ("symmetric", "same", "valid")
ODD_SIZES = ((33, 63), (47, 34), (36, 40), (56, 49))
"""Images on which a backbone shows whether it rounds the sizes of its maps up: the sides leave 1, 2, 4, 8, 15, 17, 24 and 31 over 32."""


def suggested() -> tuple[str, ...]:
    """Names to start from: all of our own, and a few of timm's from small to large."""
    return (*BUILTIN, *_SUGGESTED)


def is_backbone(architecture: str) -> bool:
    """Whether there is a network of that name, without arguments; it may still break the contract (:func:`describe_backbone`)."""
    return architecture in BUILTIN or timm.is_model(architecture)


def canonical_name(name: str) -> str:
    """One spelling: no ``timm:`` before it, arguments sorted by name. Raises :class:`BackboneError` for a name that cannot be read."""
    architecture, arguments = parse_name(name)
    query = "&".join(f"{key}={_text(value)}" for key, value in sorted(arguments.items()))
    return f"{architecture}?{query}" if query else architecture


def parse_name(name: str) -> tuple[str, dict[str, Any]]:
    """``mobilenetv2_100?pad_type=same`` → ``("mobilenetv2_100", {"pad_type": "same"})``.

    Values are numbers, true and false, HxW, lists a,b,c, or words. Raises :class:`BackboneError`.
    """
    architecture, _, query = name.strip().removeprefix("timm:").partition("?")
    arguments: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not (equals and key.isidentifier() and value):
            raise BackboneError(f"{name}: arguments behind the question mark are written key=value and joined by &, not {part!r}")
        if key in arguments:
            raise BackboneError(f"{name}: {key} is given twice")
        if key in _RESERVED:
            raise BackboneError(f"{name}: {key} is not an argument of the name; nasseg sets it")
        if key == "pad_type" and value not in PADDINGS:  # timm takes any other word for symmetric
            raise BackboneError(f"{name}: pad_type is one of {', '.join(PADDINGS)}")
        arguments[key] = _value(value)
    return architecture, arguments


def create_backbone(
    name: str, *, pretrained: bool = False, weights: str | None = None, in_chans: int = 3, drop_path: float = 0.0
) -> Backbone:
    """Build a backbone by name, in training mode, on the current default device.

    ``pretrained`` fetches published weights (:mod:`nasseg.models.backbones.pretrained`, and timm's own), ``weights`` names a local file
    instead (read by :func:`nasseg.models.backbones.weights.load_weights`). ``drop_path`` is the rate at the last block; a network without
    stochastic depth (``BackboneSpec.supports_drop_path`` is False) takes only 0.
    Raises :class:`BackboneError` for an unknown name, a network without the four strides, or a drop path it does not have;
    :class:`WeightsError` for weights that are not to be had or belong to another model.
    """
    spec = describe_backbone(name, in_chans)
    if pretrained and weights is not None:
        raise WeightsError(f"{spec.name}: give either published weights (--pretrained) or a file (--weights {weights}), not both")
    if not 0 <= drop_path < 1:
        raise BackboneError(f"{spec.name}: drop path is a probability from 0 to below 1 (given {drop_path})")
    if drop_path > 0 and not spec.supports_drop_path:
        raise BackboneError(f"{spec.name} has no stochastic depth: drop_path must be 0 (given {drop_path})")
    architecture, arguments = parse_name(name)
    backbone: Backbone
    if architecture in BUILTIN:
        backbone = _own(architecture, name, arguments, in_chans=in_chans, drop_path=drop_path)
    else:
        plan = plan_timm(canonical_name(name), architecture, _model_arguments(arguments), in_chans)
        backbone = TimmBackbone(plan, drop_path=drop_path, pretrained=pretrained)
    backbone.spec = spec
    if weights is not None:
        load_weights(backbone, weights, rivals=_rivals)
    elif pretrained and architecture in BUILTIN:
        published = fetch(architecture)
        load_weights(backbone, published.path, rivals=_rivals)
        backbone.weights_digest = published.digest
    return backbone


@lru_cache(maxsize=512)
def describe_backbone(name: str, in_chans: int = 3) -> BackboneSpec:
    """The contract's data of a backbone, from a build on the meta device: no weights are allocated. Raises :class:`BackboneError`."""
    architecture, arguments = parse_name(name)
    if in_chans < 1:
        raise BackboneError(f"{name}: an image has at least one channel (given {in_chans})")
    if architecture in BUILTIN:
        with torch.device("meta"):
            spec = _own(architecture, name, arguments, in_chans=in_chans).spec
    elif timm.is_model(architecture):
        try:
            spec = plan_timm(canonical_name(name), architecture, _model_arguments(arguments), in_chans).spec
        except BackboneError as error:
            if arguments or "." in architecture:  # it may be those that do not fit
                raise
            raise BackboneError(f"{error}; nasseg backbones lists some that are") from error
    else:
        close = nearest(architecture, (*BUILTIN, *timm.list_models()))
        hint = f"nearest: {close}" if close else "nasseg backbones lists some, timm.list_models() the rest"
        raise BackboneError(f"unknown backbone {name!r}; {hint}")
    return replace(
        spec,
        name=canonical_name(name),
        mean=_statistics(name, "mean", arguments, spec.mean),
        std=_statistics(name, "std", arguments, spec.std),
    )


def pretrained_source(name: str) -> str | None:
    """Where ``pretrained`` gets the weights of a backbone, in words; None where nothing is published for it."""
    architecture, _ = parse_name(name)
    origin = origin_of(architecture)
    if origin is not None:
        return origin.name
    known = timm.get_pretrained_cfg(architecture)
    if known is None or not known.has_weights:
        return None
    return f"{known.hf_hub_id} on the Hugging Face Hub" if known.hf_hub_id else str(known.url or known.file)


@lru_cache(maxsize=512)
def check_unpadded(name: str, in_chans: int = 3) -> None:
    """Whether a backbone runs on images whose sides are no multiples of 32, with maps of ceil(H/s) × ceil(W/s) positions.

    Our own do at any size from 32×32. timm's are tried on the meta device at :data:`ODD_SIZES`: networks whose convolutions pad their input
    do, those that cut it into patches drop what is left at the edge. Raises :class:`BackboneError` for those, and for networks of one size.
    """
    architecture, _ = parse_name(name)
    if architecture in BUILTIN:
        return
    with torch.device("meta"):
        backbone = create_backbone(name, in_chans=in_chans).eval()
        for size in ODD_SIZES:
            try:
                backbone(torch.empty(1, in_chans, *size))
            except Exception as error:  # ours, or a model's own assertions
                reason = " ".join(str(error).split()) or type(error).__name__
                raise BackboneError(f"{name} does not run unpadded, take pad_multiple 32: {reason[:200]}") from error


def _own(architecture: str, name: str, arguments: Mapping[str, Any], **options: Any) -> Backbone:
    """One of our own. Raises :class:`BackboneError` for arguments it does not take."""
    given = dict(_model_arguments(arguments))
    if architecture in MSCAN_SHAPES:
        taken, rule = {"mean", "std"}, "mean and std are the only ones"
    else:
        taken, rule = {"mean", "std", "norm_eps"}, "mean, std and norm_eps are the only ones"
    for key in given:
        if key not in taken:
            raise BackboneError(f"{name}: {architecture} takes no argument {key!r}; {rule}")
    eps = given.get("norm_eps", EPS)
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise BackboneError(f"{name}: norm_eps is a number above 0 and below 1, such as 1e-05")
    return (MSCAN if architecture in MSCAN_SHAPES else MiT)(architecture, **given, **options)


def _model_arguments(arguments: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((key, value) for key, value in arguments.items() if key not in ("mean", "std")))


def _statistics(name: str, key: str, arguments: Mapping[str, Any], default: tuple[float, ...]) -> tuple[float, ...]:
    if key not in arguments:
        return default
    given = arguments[key] if isinstance(arguments[key], tuple) else (arguments[key],)
    if len(given) not in (1, len(default)) or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in given):
        raise BackboneError(f"{name}: {key} is one number, or {len(default)} joined by commas")
    if key == "std" and min(given) <= 0:
        raise BackboneError(f"{name}: std must be above 0")
    return tuple(float(v) for v in (given * len(default) if len(given) == 1 else given))


def _rivals() -> Iterator[Backbone]:
    """The suggested backbones on the meta device: to say whose weights a file has."""
    for name in suggested():
        with torch.device("meta"):
            yield create_backbone(name)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"\d+x\d+", text):
        return tuple(int(edge) for edge in text.split("x"))
    if "," in text:
        return tuple(_value(part) for part in text.split(","))
    try:
        return float(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ("x" if len(value) == 2 and all(type(v) is int for v in value) else ",").join(_text(v) for v in value)
    return str(value)
