"""What must be known to use exported weights: pixels in, class numbers out. The file ``preprocessing.json`` of a bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasseg.errors import BundleError
from nasseg.files import write_atomic
from nasseg.models.ops import PAD_MULTIPLE
from nasseg.training.protocol import Protocol

FORMAT = 2
"""Version of ``preprocessing.json``; a reader refuses a higher one. 2 says what the network pads to, and how it was measured."""
INPUT, OUTPUT = "image", "logits"
"""Names of the one input and the one output of the ONNX file."""
SCALE = 1 / 255
RESIZE = "bilinear, antialiased, to size, aspect ratio not kept"
IGNORE = 255

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The border between pixels and network.

    ``input = (resize(pixels) * scale - mean) / std``, (B, in_chans, *size) float32, RGB. The network answers with logits (B, K, h, w),
    ``h = ceil(size[0] / stride)``. ``size`` is the (height, width) of the exported files' input; ``image_size`` the median size of the
    validation images before any resizing, where known: it tells which pictures are large for this network. ``pad_multiple`` is what the
    network pads images to (:class:`nasseg.models.segmenter.SegModel`), ``evaluation`` how it was measured, where that is known.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride: int
    in_chans: int = 3
    image_size: tuple[int, int] | None = None
    pad_multiple: int = PAD_MULTIPLE
    evaluation: Protocol | None = None

    def __post_init__(self) -> None:
        problems = []
        if not self.classes or len(self.classes) != len(self.palette):
            problems.append(f"{len(self.classes)} classes and {len(self.palette)} colours")
        if len(self.classes) > IGNORE:
            problems.append(f"{len(self.classes)} classes; a mask has room for {IGNORE}")
        if len(self.mean) != self.in_chans or len(self.std) != self.in_chans:
            problems.append(f"mean of {len(self.mean)} and std of {len(self.std)} numbers for {self.in_chans} input channels")
        if any(s <= 0 for s in self.std):
            problems.append("a std that is not positive")
        if self.stride not in (4, 8, 16, 32):
            problems.append(f"stride {self.stride}, which is none of 4, 8, 16, 32")
        if any(side < 1 for size in (self.size, self.image_size or (1, 1)) for side in size):
            problems.append("a size without pixels")
        if self.evaluation is not None and self.evaluation.pad_multiple != self.pad_multiple:
            problems.append(f"a network that pads to {self.pad_multiple} and was measured padding to {self.evaluation.pad_multiple}")
        if problems:
            raise BundleError(f"preprocessing does not fit together: {'; '.join(problems)}")

    @property
    def num_classes(self) -> int:
        """K, the channels of the logits."""
        return len(self.classes)

    @property
    def logits_size(self) -> tuple[int, int]:
        """(height, width) of the logits of one image of ``size``."""
        return -(-self.size[0] // self.stride), -(-self.size[1] // self.stride)

    @property
    def image_cells(self) -> tuple[float, float]:
        """Rows and columns of the logits that an image of ``size`` covers: all of them, but for the part of the last ones that lies beyond
        an image that is padded and whose sides ``stride`` does not divide."""
        if self.pad_multiple == 1:
            return self.logits_size
        return self.size[0] / self.stride, self.size[1] / self.stride

    @property
    def protocol(self) -> Protocol:
        """How the network is measured: as it was, or, where that is not known, on whole images stretched to ``size``."""
        return self.evaluation or Protocol(size=self.size, pad_multiple=self.pad_multiple)

    def normalise(self, pixels_HWC: NDArray[np.uint8]) -> Tensor:
        """uint8 pixels, already of the size the network shall see, to its float32 input (C, H, W)."""
        x_CHW = torch.from_numpy(np.require(pixels_HWC, requirements=["C", "W"])).permute(2, 0, 1).to(torch.float32)
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (x_CHW / 255 - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """The content of the file; :meth:`from_dict` gives the same back."""
        return {
            "format": FORMAT,
            "input": INPUT,
            "output": OUTPUT,
            "layout": "BCHW",
            "dtype": "float32",
            "color_order": "RGB",
            "in_chans": self.in_chans,
            "size": list(self.size),
            "resize": RESIZE,
            "scale": SCALE,
            "mean": list(self.mean),
            "std": list(self.std),
            "stride": self.stride,
            "logits_size": list(self.logits_size),
            "image_cells": list(self.image_cells),
            "pad_multiple": self.pad_multiple,
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "palette": [list(colour) for colour in self.palette],
            "ignore_index": IGNORE,
            "image_size": None if self.image_size is None else list(self.image_size),
            "evaluation": None if self.evaluation is None else self.evaluation.to_dict(),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "preprocessing") -> Self:
        """Read a file's content. Raises :class:`BundleError` for a newer format, and for what is missing or of the wrong kind."""
        version = raw.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise BundleError(f"{where}: format {version!r}, must be a whole number from 1")
        if version > FORMAT:
            raise BundleError(f"{where}: format {version} was written by a newer nasseg; this one reads format {FORMAT}")
        try:
            image_size, evaluation = raw.get("image_size"), raw.get("evaluation")
            return cls(
                classes=tuple(str(name) for name in raw["classes"]),
                palette=tuple(_colour(colour) for colour in raw["palette"]),
                size=_pair(raw["size"]),
                mean=tuple(float(v) for v in raw["mean"]),
                std=tuple(float(v) for v in raw["std"]),
                stride=int(raw["stride"]),
                in_chans=int(raw["in_chans"]),
                image_size=None if image_size is None else _pair(image_size),
                # Format 1 has neither: its networks pad to 32, and how they were measured is not known.
                pad_multiple=int(raw.get("pad_multiple", PAD_MULTIPLE)),
                evaluation=None if evaluation is None else Protocol.from_dict(evaluation),
            )
        except KeyError as error:
            raise BundleError(f"{where}: key {error.args[0]!r} is missing") from error
        except (TypeError, ValueError) as error:
            raise BundleError(f"{where}: not readable as preprocessing: {error}") from error
        except BundleError as error:
            raise BundleError(f"{where}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``preprocessing.json``."""
        write_atomic(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read ``preprocessing.json``."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise BundleError(f"{path}: not readable as JSON: {error}") from error
        if not isinstance(raw, dict):
            raise BundleError(f"{path}: must hold one JSON object, not a {type(raw).__name__}")
        return cls.from_dict(raw, where=str(path))


def _pair(value: Sequence[Any]) -> tuple[int, int]:
    height, width = value
    return int(height), int(width)


def _colour(value: Sequence[Any]) -> Colour:
    red, green, blue = (int(v) for v in value)
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ValueError(f"a colour is three numbers from 0 to 255, not {list(value)}")
    return red, green, blue
