"""From (image, mask) to tensors: paired augmentation for training, plain resizing for measuring.

The operations are torchvision's (``torchvision.transforms.v2.functional``); the random numbers are drawn here from the sample's own
seed, so that a sample is the same in every worker and after a resume, and no global generator is touched.

Names: H, W are the sizes asked for; tensors are ``x_CHW`` (float32, normalised) and ``y_HW`` (int64).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from nasseg.data.crops import Crops
from nasseg.data.distort import Distortion
from nasseg.data.images import IGNORE, UInt8
from nasseg.errors import ConfigError, Problem

Size = tuple[int, int]

_DISTORT, _CROP = 1, 2  # streams of a sample's seed that are drawn from only where they are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One sample's random numbers. ``place``: where the crop lies, 0 top/left … 1 bottom/right. ``order``: of the colour changes."""

    scale: float
    place: tuple[float, float]
    flip: bool
    brightness: float
    contrast: float
    saturation: float
    order: tuple[int, ...]


class TrainTransform:
    """Random scale, crop, flip, colour, and normalisation: ``transform(image, mask, seed) -> (x_CHW, y_HW)``, a pure function.

    1. The image is scaled, aspect kept, by s · max(H / height, W / width): at s = 1 it just covers the crop (mmsegmentation's resize
       to the crop's short side). s is uniform over ``scale``, as there. Image by antialiased bilinear, mask by nearest.
    2. A crop of H×W at a uniformly random place; ``crops`` may think again (:class:`~nasseg.data.crops.Crops`). Where the image is
       smaller than the crop, it lies at a random place inside; the rest is the mean colour (0 after normalisation) and ``ignore_index``.
    3. Mirrored with probability ``flip``.
    4. Brightness, contrast and saturation, each by a factor uniform in 1 ± ``color``, in random order (no hue); with ``distort``
       mmsegmentation's photometric distortion instead (:class:`~nasseg.data.distort.Distortion`).
    5. x = (x / 255 − mean) / std.
    """

    def __init__(
        self,
        size: Size,
        *,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        color: float = 0.4,
        distort: bool = False,
        crops: Crops | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        ignore_index: int = IGNORE,
    ) -> None:
        """Raises ConfigError with everything out of range at once."""
        problems = _size_problems(size) + _norm_problems(mean, std, channels=3)
        if not 0 < scale[0] <= scale[1]:
            problems.append(Problem("transform", "scale", "two numbers above 0, the smaller first", tuple(scale), (0.5, 2.0)))
        if not 0 <= flip <= 1:
            problems.append(Problem("transform", "flip", "a probability from 0 to 1", flip, 0.5))
        if not 0 <= color < 1:
            problems.append(Problem("transform", "color", "from 0 up to, not including, 1", color, 0.4))
        if problems:
            raise ConfigError(problems)
        self.size = (int(size[0]), int(size[1]))
        self.scale = (float(scale[0]), float(scale[1]))
        self.flip = float(flip)
        self.color = float(color)
        self.distort = distort
        self.crops = crops
        self.mean = [float(m) for m in mean]
        self.std = [float(s) for s in std]
        self.ignore_index = ignore_index

    def draw(self, seed: int) -> Draw:
        """The random numbers that belong to a seed."""
        random = np.random.default_rng(seed)
        low, high = self.scale
        return Draw(
            scale=float(random.uniform(low, high)),
            place=(float(random.random()), float(random.random())),
            flip=bool(random.random() < self.flip),
            brightness=float(random.uniform(1 - self.color, 1 + self.color)),
            contrast=float(random.uniform(1 - self.color, 1 + self.color)),
            saturation=float(random.uniform(1 - self.color, 1 + self.color)),
            order=tuple(int(i) for i in random.permutation(3)),
        )

    def __call__(self, image: UInt8, mask: UInt8, seed: int) -> tuple[Tensor, Tensor]:
        drawn = self.draw(seed)
        height, width = mask.shape
        H, W = self.size
        factor = drawn.scale * max(H / height, W / width)
        scaled = [max(1, round(height * factor)), max(1, round(width * factor))]
        x = F.resize(_tensor(image), scaled, InterpolationMode.BILINEAR, antialias=True)
        y = F.resize(torch.from_numpy(mask)[None], scaled, InterpolationMode.NEAREST_EXACT)
        # free > 0: so many pixels are cut off; < 0: so many are filled up
        free = (scaled[0] - H, scaled[1] - W)
        top, left = (round(place * abs(room)) for place, room in zip(drawn.place, free, strict=True))
        cut_top, cut_left = (top if free[0] > 0 else 0), (left if free[1] > 0 else 0)
        if self.crops is not None:
            random = np.random.default_rng([seed, _CROP])
            cut_top, cut_left = self.crops.corner(y[0].numpy(), self.size, (cut_top, cut_left), random, self.ignore_index)
        part = (cut_top, cut_left, min(H, scaled[0]), min(W, scaled[1]))
        x, y = F.crop(x, *part), F.crop(y, *part)
        if drawn.flip:
            x, y = F.horizontal_flip(x), F.horizontal_flip(y)
        if self.distort:
            distortion = Distortion.draw(np.random.default_rng([seed, _DISTORT]))
            x = _tensor(distortion(np.ascontiguousarray(x.permute(1, 2, 0).numpy())))
        for change in drawn.order if self.color and not self.distort else ():
            if change == 0:
                x = F.adjust_brightness(x, drawn.brightness)
            elif change == 1:
                x = F.adjust_contrast(x, drawn.contrast)
            else:
                x = F.adjust_saturation(x, drawn.saturation)
        x = _normalise(x, self.mean, self.std)
        if min(free) < 0:
            up, before = (top if free[0] < 0 else 0), (left if free[1] < 0 else 0)
            sides = [before, up, W - part[3] - before, H - part[2] - up]  # left, top, right, bottom
            x, y = F.pad(x, sides, fill=0.0), F.pad(y, sides, fill=self.ignore_index)
        return x.contiguous(), y[0].long()


class EvalTransform:
    """``transform(image) -> x_CHW``: resized to exactly H×W (antialiased bilinear; the aspect is not kept), normalised.

    ``mean`` and ``std`` have a number for each channel: three, or one for grey images (H, W, 1).

    The mask keeps its own size: logits are resized to it before the comparison (:mod:`nasseg.training.evaluate`).
    """

    def __init__(self, size: Size, mean: Sequence[float], std: Sequence[float]) -> None:
        """Raises ConfigError for a size or normalisation out of range."""
        problems = _size_problems(size) + _norm_problems(mean, std, channels=1 if len(mean) == 1 else 3)
        if problems:
            raise ConfigError(problems)
        self.size = (int(size[0]), int(size[1]))
        self.mean = [float(m) for m in mean]
        self.std = [float(s) for s in std]

    def __call__(self, image: UInt8) -> Tensor:
        x = _tensor(image)
        if x.shape[-2:] != self.size:
            x = F.resize(x, list(self.size), InterpolationMode.BILINEAR, antialias=True)
        return _normalise(x, self.mean, self.std).contiguous()


def _tensor(image_HW3: UInt8) -> Tensor:
    return torch.from_numpy(image_HW3).permute(2, 0, 1)


def _normalise(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    out: Tensor = F.normalize(F.to_dtype(x, torch.float32, scale=True), mean, std, inplace=False)
    return out


def _size_problems(size: Size) -> list[Problem]:
    fits = len(size) == 2 and all(int(side) == side and side >= 1 for side in size)
    return [] if fits else [Problem("transform", "size", "two whole numbers, height and width, from 1 up", size, (512, 512))]


def _norm_problems(mean: Sequence[float], std: Sequence[float], *, channels: int) -> list[Problem]:
    count, of = ("three numbers", "each channel of an RGB image") if channels == 3 else ("one number", "the channel of a grey image")
    problems = []
    if len(mean) != channels:
        problems.append(Problem("transform", "mean", f"{count}, one for {of}", tuple(mean)))
    if len(std) != channels or not all(s > 0 for s in std):
        problems.append(Problem("transform", "std", f"{count} above 0, one for {of}", tuple(std)))
    return problems
