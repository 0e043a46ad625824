"""A set with one rare class, drawn from a seed: ``write_fields(folder, weed=0.01)``. Soil, rows of crop, and a few weeds among them.

Weed differs from crop by the shape and a little by the shade of its leaves, as in photographs of fields; colours of all three overlap, so
that a network must learn it. What share of the pixels is weed is set; in a part of the images there is none.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("soil", "crop", "weed")
COLOURS = ((120, 95, 70), (70, 125, 60), (85, 130, 85))
NOISE = 14.0


def write_fields(
    folder: Path, *, weed: float = 0.01, images: int = 96, held_out: int = 32, size: tuple[int, int] = (96, 128), seed: int = 0
) -> Path:
    """Write ``train`` and ``val`` with ``classes.json``; ``weed`` is the share of pixels where every second image has weeds."""
    for stream, (split, number) in enumerate((("train", images), ("val", held_out))):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            image, mask = draw_field(np.random.default_rng([seed, stream, index]), size, 2 * weed * (index % 2))
            Image.fromarray(image).save(folder / split / "images" / f"{index:03d}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{index:03d}.png")
    (folder / "classes.json").write_text(json.dumps(CLASSES), encoding="utf-8")
    return folder


def draw_field(random: np.random.Generator, size: tuple[int, int], weed: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image and its mask; ``weed`` is the share of its pixels."""
    height, width = size
    mask = np.zeros(size, dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    for row in np.arange(random.uniform(8, 24), height, 30):
        for place in np.arange(random.uniform(0, 16), width, 20):
            leaf(mask, y, x, row + random.normal(0, 1.5), place + random.normal(0, 1.5), random.uniform(4.5, 7), 1.8, random, 1)
    while (mask == 2).mean() < weed:
        leaf(mask, y, x, random.uniform(0, height), random.uniform(0, width), random.uniform(3, 4.5), 1.0, random, 2)
    colours = np.asarray(COLOURS, dtype=np.float64) + random.normal(0, 5, (3, 3))
    light = 1 + 0.25 * np.sin(x / width * random.uniform(1, 4) + random.uniform(0, 6))[..., None]
    image = colours[mask] * light + random.normal(0, NOISE, (height, width, 1)) + random.normal(0, 5, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def leaf(
    mask: NDArray[np.uint8],
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    top: float,
    left: float,
    radius: float,
    stretch: float,
    random: np.random.Generator,
    label: int,
) -> None:
    """An ellipse at (top, left), ``stretch`` times as long as wide, turned at random."""
    turn = random.uniform(0, np.pi)
    along, across = (x - left) * np.cos(turn) + (y - top) * np.sin(turn), (y - top) * np.cos(turn) - (x - left) * np.sin(turn)
    mask[(along / stretch) ** 2 + across**2 <= radius**2] = label
