"""How a network is measured: the size images enter at, whole or through windows, scales, mirroring. What two numbers must share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from nasseg.cost.macs import PAD
from nasseg.errors import BundleError, ConfigError, Problem, nearest

Size = tuple[int, int]

MASKS = ("original", "resized")
MODES = ("whole", "slide")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol; raises :class:`ConfigError` with everything that is wrong with it at once.

    ``size`` (H, W): without ``keep_ratio`` images are stretched to exactly that. With it they keep their aspect and become the largest that
    fits, long side to long side and short to short: mmsegmentation's ``Resize(scale=(2048, 512), keep_ratio=True)`` is 512x2048 here,
    turned either way, and factor = min(2048 / long, 512 / short), sides int(side · factor + 0.5). ``size_divisor`` d > 1 then rounds both
    sides up to multiples of d (``ResizeToMultiple``; SegFormer's ``AlignedResize``), in one resampling where those take two.

    ``pad_multiple`` is what the network does with sides that are no multiples of 32 even so: it pads them with the mean colour to multiples
    of this (mmsegmentation's ``SegDataPreProcessor(test_cfg=dict(size_divisor=32))``), or, with 1, runs on them as they are
    (mmsegmentation's SegFormer). It is the network that does so: here it is on record.

    ``mode`` ``whole``: the image in one piece. ``slide``: ``crop``-sized windows every ``stride`` pixels, the last ones shifted back
    inside, logits summed and divided by the windows that saw the pixel (``EncoderDecoder.slide_inference``).

    ``scales`` multiply ``size`` (as ``MultiScaleFlipAug``'s ``img_ratios``), and with ``flip`` every scale is seen mirrored too; the
    softmax probabilities, at the mask's size, are averaged (``aug_test``). With one look, logits are compared.

    Different from mmsegmentation in one thing: images are resized with an antialiased filter (as in training), OpenCV's is not, which
    shows where images are reduced.
    """

    size: Size
    masks: str = "original"
    mode: str = "whole"
    crop: Size | None = None
    stride: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    keep_ratio: bool = False
    size_divisor: int = 1
    pad_multiple: int = PAD

    def __post_init__(self) -> None:
        problems = []
        for key, given, allowed in (("masks", self.masks, MASKS), ("mode", self.mode, MODES)):
            if given not in allowed:
                problems.append(_problem(key, f"must be one of {', '.join(allowed)}", given, nearest(given, allowed)))
        if min(self.size) < 1:
            problems.append(_problem("size", "height and width from 1", self.size))
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            problems.append(_problem("scales", "must be numbers above 0", self.scales, "0.75,1.0,1.25"))
        if self.size_divisor < 1:
            problems.append(_problem("size_divisor", "must be a whole number from 1", self.size_divisor, 32))
        if self.pad_multiple != 1 and (self.pad_multiple < 1 or self.pad_multiple % PAD):
            rule = f"must be 1 (images as they are) or a multiple of {PAD}"
            problems.append(_problem("pad_multiple", rule, self.pad_multiple, PAD))
        if self.keep_ratio and self.masks == "resized":
            problems.append(_problem("keep_ratio", "goes with original masks: every image has its own size", self.masks, "original"))
        if self.mode == "slide":
            problems += self._window_problems()
        elif self.crop is not None or self.stride is not None:
            problems.append(_problem("crop" if self.crop else "stride", "belongs to mode slide", self.crop or self.stride))
        if problems:
            raise ConfigError(problems)

    def _window_problems(self) -> list[Problem]:
        if self.crop is None:
            return [_problem("crop", "mode slide wants the windows' size", None, "512x512")]
        problems = [] if min(self.crop) >= 1 else [_problem("crop", "height and width from 1", self.crop)]
        if self.stride is None:
            third = (max(1, self.crop[0] * 2 // 3), max(1, self.crop[1] * 2 // 3))
            problems.append(_problem("stride", "mode slide wants the way from window to window", None, f"{third[0]}x{third[1]}"))
        elif min(self.stride) < 1 or self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            problems.append(_problem("stride", "from 1 pixel to the crop, or pixels are left out", self.stride, self.crop))
        return problems

    @property
    def plain(self) -> bool:
        """One look at whole images of one size: they can be measured in batches."""
        return self.mode == "whole" and not self.keep_ratio and len(self.scales) == 1 and not self.flip

    def fitted(self, shape: Sequence[int], scale: float = 1.0) -> Size:
        """The size at which an image of ``shape`` (height, width) enters at ``scale``."""
        # The bounds are whole pixels before the image is fitted into them, as in MultiScaleFlipAug.
        height, width = (max(1, int(side * scale)) for side in self.size)
        if self.keep_ratio:
            factor = min(max(height, width) / max(shape[0], shape[1]), min(height, width) / min(shape[0], shape[1]))
            height, width = (max(1, int(side * factor + 0.5)) for side in shape[:2])
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a result."""
        return {
            "size": list(self.size),
            "resize": "keep_ratio" if self.keep_ratio else "stretch",
            "size_divisor": self.size_divisor,
            "pad_multiple": self.pad_multiple,
            "window": self.mode,
            "crop": None if self.crop is None else list(self.crop),
            "stride": None if self.stride is None else list(self.stride),
            "flip": self.flip,
            "scale": "single" if len(self.scales) == 1 else "multi",
            "scales": list(self.scales),
            "masks": self.masks,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "evaluation") -> Self:
        """The inverse of :meth:`to_dict`; other keys are passed over. Raises :class:`BundleError` for what is missing or makes no sense."""
        try:
            return cls(
                size=_pair(raw["size"]),
                masks=str(raw["masks"]),
                mode=str(raw["window"]),
                crop=None if raw["crop"] is None else _pair(raw["crop"]),
                stride=None if raw["stride"] is None else _pair(raw["stride"]),
                scales=tuple(float(scale) for scale in raw["scales"]),
                flip=bool(raw["flip"]),
                keep_ratio=raw["resize"] == "keep_ratio",
                size_divisor=int(raw["size_divisor"]),
                pad_multiple=int(raw["pad_multiple"]),
            )
        except KeyError as error:
            raise BundleError(f"{where}: key {error.args[0]!r} is missing") from error
        except (ConfigError, TypeError, ValueError) as error:
            raise BundleError(f"{where}: not readable as an evaluation protocol: {error}") from error

    def options(self) -> dict[str, Any]:
        """The fields by name: options of :func:`nasseg.training.evaluate.evaluate`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def at(self, size: Size) -> Self:
        """The protocol closest to this one for a network that takes images, or windows, of exactly ``size``, as an exported file does.

        It is this one where that is so already; else images are stretched to ``size`` and seen whole, at one scale.
        """
        windows = self.mode == "slide" and self.crop == size
        if windows or (self.mode == "whole" and not self.keep_ratio and self.scales == (1.0,) and self.fitted((1, 1)) == size):
            return self
        whole: dict[str, Any] = {"mode": "whole", "crop": None, "stride": None, "scales": (1.0,), "keep_ratio": False, "size_divisor": 1}
        return replace(self, size=size, **whole)


def _pair(value: Sequence[Any]) -> Size:
    height, width = value
    return int(height), int(width)


def _problem(key: str, rule: str, given: Any, legal: Any = None) -> Problem:
    text = "x".join(str(side) for side in given) if isinstance(given, tuple) and key != "scales" else given
    legal = "x".join(str(side) for side in legal) if isinstance(legal, tuple) else legal
    return Problem("evaluation", key, rule, text, legal)
