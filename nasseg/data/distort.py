"""Photometric distortion as mmsegmentation's PhotoMetricDistortion does it, bytes in and bytes out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nasseg.data.images import UInt8

BRIGHTNESS = 32
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18  # of 180

_SHIFT = 12  # bits behind the point in OpenCV's tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Distortion:
    """What happens to one image; None: that change is left out. ``contrast_first``: before the colours, else after them."""

    brightness: float | None
    contrast: float | None
    contrast_first: bool
    saturation: float | None
    hue: int | None

    @classmethod
    def draw(cls, random: np.random.Generator) -> Distortion:
        """Each change with probability 1/2: brightness uniform in ±32, contrast and saturation in 0.5…1.5, hue a whole number −18…17.

        Nine numbers are drawn whatever they say, so that none depends on another.
        """
        on = random.random(5) < 0.5
        brightness, contrast, saturation = random.uniform(-BRIGHTNESS, BRIGHTNESS), random.uniform(*CONTRAST), random.uniform(*SATURATION)
        hue = int(random.integers(-HUE, HUE))
        return cls(
            brightness=float(brightness) if on[0] else None,
            contrast=float(contrast) if on[1] else None,
            contrast_first=bool(on[2]),
            saturation=float(saturation) if on[3] else None,
            hue=hue if on[4] else None,
        )

    def __call__(self, image_HW3: UInt8) -> UInt8:
        """Brightness, contrast (if first), saturation, hue, contrast (if not first); each leaves bytes, cut and not rounded."""
        out = image_HW3 if self.brightness is None else _scaled(image_HW3, beta=self.brightness)
        if self.contrast is not None and self.contrast_first:
            out = _scaled(out, self.contrast)
        if self.saturation is not None:
            hue_HW, saturation_HW, value_HW = to_hsv(out)
            out = from_hsv(hue_HW, _scaled(saturation_HW, self.saturation), value_HW)
        if self.hue is not None:
            hue_HW, saturation_HW, value_HW = to_hsv(out)
            out = from_hsv(((hue_HW.astype(np.int16) + self.hue) % 180).astype(np.uint8), saturation_HW, value_HW)
        if self.contrast is not None and not self.contrast_first:
            out = _scaled(out, self.contrast)
        return out


def _scaled(pixels: UInt8, alpha: float = 1.0, beta: float = 0.0) -> UInt8:
    out: UInt8 = np.clip(pixels.astype(np.float32) * np.float32(alpha) + np.float32(beta), 0, 255).astype(np.uint8)
    return out


def to_hsv(image_HW3: UInt8) -> tuple[UInt8, UInt8, UInt8]:
    """Hue 0…179 (two degrees each), saturation and value 0…255 of RGB bytes, to the byte OpenCV's 8-bit conversion."""
    red, green, blue = (image_HW3[..., channel].astype(np.int32) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    half = 1 << (_SHIFT - 1)
    saturation = (spread * _SATURATION[value] + half) >> _SHIFT
    sixth = np.where(value == red, green - blue, np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread))
    hue = (sixth * _HUE[spread] + half) >> _SHIFT
    hue += 180 * (hue < 0)
    return hue.astype(np.uint8), saturation.astype(np.uint8), value.astype(np.uint8)


def from_hsv(hue_HW: UInt8, saturation_HW: UInt8, value_HW: UInt8) -> UInt8:
    """The way back, (H, W, 3) RGB bytes: channel = value · (1 − saturation · c), c by channel and hue, cut to whole numbers.

    To the byte what OpenCV's vector code gives; the up to 31 pixels at a row's end that do not fill its registers OpenCV rounds instead.
    """
    value_HW1 = (value_HW * np.float32(1 / 255))[..., None]
    out: UInt8 = (value_HW1 * _left()[hue_HW, saturation_HW] * np.float32(255)).astype(np.uint8)
    return out


def _divisions(numerator: int, factor: float) -> NDArray[np.int32]:
    """round(numerator · 2^12 / (factor · i)) for i = 0…255, 0 for 0."""
    table = np.zeros(256, dtype=np.int32)
    table[1:] = np.rint((numerator << _SHIFT) / (factor * np.arange(1, 256)))
    return table


@lru_cache(maxsize=1)
def _left() -> NDArray[np.float32]:
    """1 − saturation · c of :func:`from_hsv`, (180 hues, 256 saturations, 3 channels).

    c is 0 where a channel has the whole value, 1 where saturation takes it away, between them linear in the hue.
    """
    place = np.arange(180, dtype=np.float32) * np.float32(6 / 180)
    sector = np.floor(place).astype(np.int64)
    part = place - sector.astype(np.float32)
    kinds = np.stack([np.zeros_like(part), np.ones_like(part), part, 1 - part], axis=1)
    of_sector = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])  # red, green, blue
    lack = np.take_along_axis(kinds, of_sector[sector], axis=1)
    saturation = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
    # Fused multiply and add: rounded to float32 once.
    left: NDArray[np.float32] = (1 - saturation[None, :, None].astype(np.float64) * lack[:, None, :]).astype(np.float32)
    return left


_SATURATION = _divisions(255, 1.0)
_HUE = _divisions(180, 6.0)
