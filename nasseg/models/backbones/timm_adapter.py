"""Any timm model whose features come at strides 4, 8, 16 and 32, behind our contract.

timm describes a model's feature maps as data (``feature_info``: width, stride, module); which maps to take is decided from that alone, on
the meta device. Where several features share a stride, the last of them is taken; a map at stride 2 is left out.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath, Format
from torch import Tensor, nn

from nasseg.errors import BackboneError, WeightsError
from nasseg.models.backbones.contract import IMAGENET_MEAN, IMAGENET_STD, STRIDES, Backbone, BackboneSpec, channel_statistics

Arguments = tuple[tuple[str, Any], ...]
"""Model arguments, sorted by name: hashable."""

# Ways to free a network from the one image size it was made for, in this order: position tables built per size, size check off.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


@dataclass(frozen=True)
class TimmPlan:
    """How to build one timm model as a backbone: found once on the meta device, then used for every build."""

    spec: BackboneSpec
    architecture: str
    arguments: Arguments
    indices: tuple[int, ...]

    def create(self, *, drop_path: float = 0.0, pretrained: bool = False) -> nn.Module:
        """timm's feature extractor, as built by ``timm.create_model``."""
        arguments = dict(self.arguments)
        if drop_path > 0:
            arguments["drop_path_rate"] = drop_path
        made: nn.Module = _create(
            self.architecture, features_only=True, out_indices=self.indices, in_chans=self.spec.in_chans, pretrained=pretrained, **arguments
        )
        return made

    def whole(self) -> nn.Module:
        """The whole classifier on the meta device, made for the three channels its weights were trained with."""
        with torch.device("meta"):
            made: nn.Module = _create(self.architecture, **dict(self.arguments))
            return made


class TimmBackbone(Backbone):
    """A timm feature extractor. Its parameters keep timm's names, behind ``body.``."""

    def __init__(self, plan: TimmPlan, *, drop_path: float = 0.0, pretrained: bool = False) -> None:
        super().__init__(plan.spec)
        self.plan = plan
        self.body = _fetch(plan, drop_path) if pretrained else plan.create(drop_path=drop_path)
        self.channels_last_out = getattr(self.body, "output_fmt", None) == Format.NHWC

    def maps(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four maps, channels second, whatever the model's own order.

        A model whose windows need more than multiples of 32 sees the image with zeros at the right and bottom; the maps are cropped again.
        """
        height, width = x_BCHW.shape[2:]
        multiple = self.spec.multiple if self.spec.multiple > STRIDES[-1] else 1
        below, right = -height % multiple, -width % multiple
        out: list[Tensor] = self.body(F.pad(x_BCHW, (0, right, 0, below)) if below or right else x_BCHW)
        if self.channels_last_out:
            out = [x_BHWC.permute(0, 3, 1, 2) for x_BHWC in out]
        if below or right:
            out = [map_BCHW[:, :, : -(-height // stride), : -(-width // stride)] for map_BCHW, stride in zip(out, STRIDES, strict=True)]
        return out[0], out[1], out[2], out[3]

    def rename(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
        """Reads own names and timm's names of the whole classifier; failing that, what timm's converter for the family makes of them."""
        whole = self.plan.whole()
        out, spare = self._from_whole(tensors, whole)
        convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
        if convert is not None and not self.state_dict().keys() <= out.keys():
            try:
                converted = convert(dict(tensors), whole)
            except Exception:  # a converter meets keys it was never written for: the file is not of this family
                return out, spare
            second, second_spare = self._from_whole(converted, whole)
            if len(second.keys() & self.state_dict().keys()) > len(out.keys() & self.state_dict().keys()):
                return second, second_spare
        return out, spare

    @property
    def input_convs(self) -> tuple[str, ...]:
        """What timm names as the first convolution, if it has one."""
        named = timm.get_pretrained_cfg(self.plan.architecture)
        convs = getattr(named, "first_conv", None) or ()
        own = self.state_dict().keys()
        keys = (f"{conv}.weight" for conv in ((convs,) if isinstance(convs, str) else convs))
        return tuple(name for key in keys for name in _forms(key) if name in own)

    def _from_whole(self, tensors: Mapping[str, Tensor], whole: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
        own = self.state_dict().keys()
        known = whole.state_dict().keys()
        out: dict[str, Tensor] = {}
        spare: set[str] = set()
        for key, value in tensors.items():
            name = next((form for form in (key, *_forms(key)) if form in own), None)
            if name is None and key in known:
                spare.add(key)
            else:
                out[name or key] = value
        return out, spare


@lru_cache(maxsize=512)
def plan_timm(name: str, architecture: str, arguments: Arguments, in_chans: int) -> TimmPlan:
    """Decide from timm's description which features to take. Raises :class:`BackboneError` where the model does not fit the contract."""
    try:
        cfg = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:  # no weights of that tag
        base = architecture.partition(".")[0]
        tags = timm.list_pretrained(f"{base}.*") or ["none"]
        raise BackboneError(f"{name}: timm's {base} has no weights of that name; there are {', '.join(tags[:8])}") from error
    given = dict(arguments)
    fixed = bool(getattr(cfg, "fixed_input_size", False)) and "img_size" not in given
    for extra in _ANY_SIZE if fixed else ({},):
        extractor = _describe(name, architecture, {**extra, **given}, in_chans, tolerant=bool(extra))
        if extractor is not None:
            break
    assert extractor is not None  # the last way is tried without tolerance: it raises
    kept = {**extra, **given}
    info = extractor.feature_info
    reductions: list[int] = [stage["reduction"] for stage in info.info]
    last = {reduction: index for index, reduction in enumerate(reductions)}
    if any(stride not in last for stride in STRIDES):
        yields = ", ".join(map(str, sorted(last))) or "none"
        raise BackboneError(f"{name} yields maps at strides {yields}; a backbone needs 4, 8, 16 and 32")
    indices = tuple(last[stride] for stride in STRIDES)
    dropping = _describe(name, architecture, {**kept, "drop_path_rate": 0.5}, in_chans, indices=indices, tolerant=True)
    taken = dropping or _describe(name, architecture, kept, in_chans, indices=indices)
    spec = BackboneSpec(
        name=name,
        channels=tuple(info.info[index]["num_chs"] for index in indices),
        strides=tuple(reductions[index] for index in indices),
        mean=channel_statistics(tuple(getattr(cfg, "mean", None) or IMAGENET_MEAN), in_chans),
        std=channel_statistics(tuple(getattr(cfg, "std", None) or IMAGENET_STD), in_chans),
        in_chans=in_chans,
        supports_drop_path=dropping is not None and any(isinstance(module, DropPath) for module in dropping.modules()),
        size=_only_size(cfg, given) if (fixed and not extra) or "img_size" in given else None,
    )
    spec = replace(spec, multiple=_multiple(spec, taken))
    return TimmPlan(spec=spec, architecture=architecture, arguments=tuple(sorted(kept.items())), indices=indices)


def _only_size(cfg: Any, given: Mapping[str, Any]) -> tuple[int, int]:
    size = given.get("img_size", tuple(cfg.input_size[1:]) if cfg is not None else (224, 224))
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _describe(
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    in_chans: int,
    *,
    indices: tuple[int, ...] | None = None,
    tolerant: bool = False,
) -> Any:
    """The feature extractor on the meta device; None where ``tolerant`` and the model does not know an argument."""
    try:
        with torch.device("meta"):
            return _create(architecture, features_only=True, out_indices=indices, in_chans=in_chans, **arguments)
    except TypeError as error:
        if tolerant:
            return None
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is not None and unknown[1] in arguments:
            raise BackboneError(f"{name}: timm's {architecture} takes no argument {unknown[1]!r}") from error
        raise BackboneError(f"{name} cannot be a backbone: timm says {_sentence(error)}") from error
    except Exception as error:
        raise BackboneError(f"{name} cannot be a backbone: timm says {_sentence(error)}") from error


def _multiple(spec: BackboneSpec, extractor: Any) -> int:
    """The smallest of 32, 64, 128, 256 at whose multiples the maps really have 1/4 … 1/32 of the image's size: a run on the meta device.

    ``feature_info`` does not tell of unpadded convolutions and of windows that must divide a map.
    """
    reason = ""
    extractor.eval()
    for multiple in (32, 64, 128, 256) if spec.size is None else (32,):
        height, width = spec.size or (2 * multiple, 3 * multiple)
        try:
            maps = extractor(torch.empty(2, spec.in_chans, height, width, device="meta"))
        except Exception as error:  # a model's own assertions
            reason = f"it takes no image of {height}x{width}: {_sentence(error)}"
            continue
        if getattr(extractor, "output_fmt", None) == Format.NHWC:
            maps = [x_BHWC.permute(0, 3, 1, 2) for x_BHWC in maps]
        got = [tuple(map_BCHW.shape[1:]) for map_BCHW in maps]
        due = [(c, height // stride, width // stride) for c, stride in zip(spec.channels, STRIDES, strict=True)]
        if got == due:
            return multiple
        reason = f"an image of {height}x{width} gives maps of {_sizes(got)}, where 4, 8, 16, 32 pixels each would give {_sizes(due)}"
    raise BackboneError(f"{spec.name} cannot be a backbone: {reason}")


def _sizes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def _fetch(plan: TimmPlan, drop_path: float) -> nn.Module:
    cfg = timm.get_pretrained_cfg(plan.architecture)
    if cfg is None or not cfg.has_weights:
        raise WeightsError(f"timm has no published weights for {plan.architecture}: give a file of your own with --weights PATH")
    try:
        return plan.create(drop_path=drop_path, pretrained=True)
    except Exception as error:  # the hub client raises a dozen kinds: no network, no such file, refused, torn download
        raise WeightsError(
            f"the weights of {plan.architecture} could not be fetched from timm's hub ({_sentence(error)}): "
            "download them where there is a network and give the file with --weights PATH"
        ) from error


def _create(architecture: str, **arguments: Any) -> Any:
    with _quiet():
        return timm.create_model(architecture, **arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    """timm logs what it does to weights at warning level; the errors among it reach us as exceptions."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _forms(key: str) -> tuple[str, ...]:
    """Names under which timm's extractors may hold the classifier's ``key``: as it is, first level flattened, wrapped whole."""
    return f"body.{key}", f"body.{key.replace('.', '_', 1)}", f"body.body.{key}", f"body.model.{key}"


def _sentence(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
