"""Colours for classes, and images painted with their masks."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from nasseg.data.images import IGNORE, UInt8

Colour = tuple[int, int, int]
Palette = tuple[Colour, ...]

IGNORED_COLOUR: Colour = (0, 0, 0)
_GOLDEN = 0.6180339887498949  # hue steps of the golden ratio stay far apart for any number of classes


def default_palette(num_classes: int) -> Palette:
    """Distinct colours for 0…num_classes−1; the first k do not change with their number."""
    colours = []
    for index in range(num_classes):
        hue = (0.08 + index * _GOLDEN) % 1.0
        saturation = (0.75, 0.5, 0.95)[index % 3]
        value = (0.95, 0.7, 0.5, 0.85)[index % 4]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colours)


def parse_colours(text: str) -> Palette:
    """Colours written in hexadecimal, ``ff0080``, parted by white space."""
    return tuple((int(word[:2], 16), int(word[2:4], 16), int(word[4:6], 16)) for word in text.split())


def colourise(mask_HW: UInt8, palette: Sequence[Colour]) -> UInt8:
    """A mask as an RGB image (H, W, 3); ignored pixels and labels beyond the palette are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[IGNORE] = IGNORED_COLOUR
    table[: len(palette)] = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
    return table[mask_HW]


def overlay(image_HW3: UInt8, mask_HW: UInt8, palette: Sequence[Colour], opacity: float = 0.5) -> UInt8:
    """The image with its mask's colours laid over it; ignored pixels keep the image, darkened."""
    colour = colourise(mask_HW, palette).astype(np.float32)
    return np.rint(image_HW3 * (1 - opacity) + colour * opacity).astype(np.uint8)
