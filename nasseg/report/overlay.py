"""A prediction as a picture: class colours over the image, borders between regions, and a legend with each class's share of the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]

SHORTEST_LONG_SIDE = 640
"""Images whose longer side is below this are enlarged by a whole factor, so that thin classes and the legend can be read."""
PAPER: Colour = (250, 250, 250)
INK: Colour = (32, 32, 32)
FAINT: Colour = (120, 120, 120)
MOST_ROWS = 28
"""Classes the legend names; the rest are summed up on one line."""


@dataclass(frozen=True, slots=True)
class Share:
    """What part of an image one class covers, in percent of all its pixels."""

    label: int
    name: str
    colour: Colour | None
    percent: float


def class_shares(mask_HW: Pixels, classes: Sequence[str], palette: Sequence[Colour], ignore_index: int = 255) -> list[Share]:
    """The classes that occur in a mask, largest first; pixels of ``ignore_index`` come last, as ``(ignored)``.

    Raises ``ValueError`` for a label that is neither a class nor ignored.
    """
    counts = np.bincount(mask_HW.ravel(), minlength=256)
    strange = [int(v) for v in np.flatnonzero(counts) if v >= len(classes) and v != ignore_index]
    if strange:
        raise ValueError(f"the mask holds label {strange[0]}; {len(classes)} classes are named, {ignore_index} is ignored")
    shares = [
        Share(k, name, palette[k], 100.0 * counts[k] / mask_HW.size) for k, name in enumerate(classes) if counts[k] and k != ignore_index
    ]
    shares.sort(key=lambda share: (-share.percent, share.label))
    if counts[ignore_index]:
        shares.append(Share(ignore_index, "(ignored)", None, 100.0 * counts[ignore_index] / mask_HW.size))
    return shares


def percent_text(percent: float) -> str:
    """``12.3 %``; what is there but rounds to nothing is ``<0.1 %``."""
    return "<0.1 %" if percent < 0.05 else f"{percent:.1f} %"


def palette_image(mask_HW: Pixels, palette: Sequence[Colour]) -> Image.Image:
    """The mask as a palette picture: pixel values are class ids, a viewer shows the class colours, 255 is white."""
    picture = Image.fromarray(np.ascontiguousarray(mask_HW, dtype=np.uint8))
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
    if len(palette) < 256:
        colours[255] = 255
    picture.putpalette(colours.ravel().tolist())
    return picture


def paint(image_HW3: Pixels, mask_HW: Pixels, palette: Sequence[Colour], alpha: float = 0.5, ignore_index: int = 255) -> Pixels:
    """``(1 - alpha) * image + alpha * colour``, and nearly the full colour along borders between regions; ignored pixels stay as they are.

    ``image_HW3`` and ``mask_HW`` have one size. A border is drawn on both of its sides, as wide as a 1/500 of the longer side and at
    least one pixel; regions thinner than their border are therefore seen in their full colour.
    """
    colours = np.full((256, 3), 0, dtype=np.float32)
    colours[: len(palette)] = np.asarray(palette, dtype=np.float32).reshape(-1, 3)
    weight = np.full(256, alpha, dtype=np.float32)
    weight[ignore_index] = 0.0
    strength_HW = weight[mask_HW]
    strength_HW[_borders(mask_HW, max(1, round(max(mask_HW.shape) / 500))) & (mask_HW != ignore_index)] = (
        max(alpha, 0.9) if alpha > 0 else 0.0
    )
    strength_HW1 = strength_HW[..., None]
    blended = image_HW3.astype(np.float32) * (1.0 - strength_HW1) + colours[mask_HW] * strength_HW1
    return np.asarray(np.rint(blended), dtype=np.uint8)


def draw_overlay(
    image_HW3: Pixels,
    mask_HW: Pixels,
    classes: Sequence[str],
    palette: Sequence[Colour],
    *,
    alpha: float = 0.5,
    ignore_index: int = 255,
    title: str = "",
    longest_side: int = 2048,
) -> Image.Image:
    """The picture a person looks at: :func:`paint`, and the legend beside an upright image or below a wide one.

    ``alpha`` in [0, 1] is how strongly classes cover the image. Small images are enlarged by a whole factor, large ones reduced to
    ``longest_side`` pixels; shares are those of the mask as given.
    """
    if image_HW3.shape[:2] != mask_HW.shape:
        raise ValueError(f"image of {image_HW3.shape[:2]} and mask of {mask_HW.shape} pixels")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    shares = class_shares(mask_HW, classes, palette, ignore_index)
    height, width = mask_HW.shape
    long_side = max(height, width)
    factor: float = (
        max(1, math.ceil(SHORTEST_LONG_SIDE / long_side)) if long_side < SHORTEST_LONG_SIDE else min(1.0, longest_side / long_side)
    )
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = Image.fromarray(image_HW3)
    labels = Image.fromarray(mask_HW)
    if size != (width, height):
        picture = picture.resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)
        labels = labels.resize(size, Image.Resampling.NEAREST)
    painted = Image.fromarray(paint(np.asarray(picture), np.asarray(labels), palette, alpha, ignore_index))
    text_size = min(34, max(15, round(max(size) / 48)))
    wide = size[0] >= 1.2 * size[1]
    legend = _legend(shares, text_size, title, width=size[0] if wide else None, height=None if wide else size[1])
    if wide:
        page = Image.new("RGB", (max(size[0], legend.width), size[1] + legend.height), PAPER)
        page.paste(painted, (0, 0))
        page.paste(legend, (0, size[1]))
    else:
        page = Image.new("RGB", (size[0] + legend.width, max(size[1], legend.height)), PAPER)
        page.paste(painted, (0, 0))
        page.paste(legend, (size[0], 0))
    return page


def _borders(mask_HW: Pixels, thickness: int) -> npt.NDArray[np.bool_]:
    """Pixels that lie within ``thickness`` of a pixel with another label, along rows or columns."""
    found = np.zeros(mask_HW.shape, dtype=bool)
    for step in range(1, thickness + 1):
        down = mask_HW[step:] != mask_HW[:-step]
        found[step:] |= down
        found[:-step] |= down
        right = mask_HW[:, step:] != mask_HW[:, :-step]
        found[:, step:] |= right
        found[:, :-step] |= right
    return found


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib carries DejaVu Sans, which knows Latin, Greek and Cyrillic letters; Pillow's own font knows ASCII.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _rows(shares: Sequence[Share], most: int) -> list[tuple[Colour | None, str, str]]:
    """(colour, name, share) of each legend line; beyond ``most`` lines the smallest classes become one."""
    if len(shares) > most:
        kept, rest = shares[: most - 1], shares[most - 1 :]
    else:
        kept, rest = shares, ()
    rows: list[tuple[Colour | None, str, str]] = [(s.colour, s.name, percent_text(s.percent)) for s in kept]
    if rest:
        rows.append((None, f"{len(rest)} more", percent_text(sum(s.percent for s in rest))))
    return rows


def _legend(shares: Sequence[Share], text_size: int, title: str, *, width: int | None, height: int | None) -> Image.Image:
    """Swatches with names and shares: in as many columns as fit a given width, or in one column beside an image of the given height."""
    font = _font(text_size)
    line = round(text_size * 1.55)
    margin = round(text_size * 0.8)
    head = line if title else 0
    most = MOST_ROWS if height is None else max(4, min(MOST_ROWS, (height - 2 * margin - head) // line))
    rows = _rows(shares, most)
    swatch = text_size
    names = max(font.getlength(name) for _, name, _ in rows)
    numbers = max(font.getlength(number) for _, _, number in rows)
    column = math.ceil(swatch + 0.6 * text_size + names + 0.9 * text_size + numbers)
    gap = round(text_size * 1.6)
    columns = 1 if width is None else max(1, (width - 2 * margin + gap) // (column + gap))
    per_column = math.ceil(len(rows) / columns)
    columns = math.ceil(len(rows) / per_column)
    title_width = math.ceil(font.getlength(title)) if title else 0
    page = Image.new(
        "RGB",
        (2 * margin + max(columns * column + (columns - 1) * gap, title_width), 2 * margin + head + per_column * line),
        PAPER,
    )
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((margin, margin + line / 2), title, FAINT, font, anchor="lm")
    for index, (colour, name, number) in enumerate(rows):
        left = margin + (index // per_column) * (column + gap)
        middle = margin + head + (index % per_column) * line + line / 2
        # What has no colour of its own (ignored pixels, the rest) has an empty box.
        box = (left, middle - swatch / 2, left + swatch, middle + swatch / 2)
        draw.rounded_rectangle(box, radius=max(2, swatch // 6), fill=colour, outline=FAINT)
        draw.text((left + swatch + 0.6 * text_size, middle), name, INK, font, anchor="lm")
        draw.text((left + column, middle), number, INK, font, anchor="rm")
    return page
