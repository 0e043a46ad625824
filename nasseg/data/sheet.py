"""Contact sheets: images beside their masks, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nasseg.data.dataset import DataSet, Sample, Split
from nasseg.data.images import UInt8
from nasseg.data.palette import Colour, overlay

_GAP, _LINE = 6, 16


def contact_sheet(data: DataSet, split: Split, count: int = 12, columns: int = 4, width: int = 240, opacity: float = 0.6) -> UInt8:
    """``count`` samples spread evenly over a split, each the image above its overlay, and the classes' legend below: RGB (H, W, 3)."""
    picked = [int(index) for index in np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int))]
    columns = min(columns, len(picked))
    cells = [_cell(split[index], split.ids[index], data.palette, width, opacity) for index in picked]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + _GAP for row in rows]
    legend = _legend(data.classes, data.palette, columns * (width + _GAP) - _GAP)
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, sum(heights) + legend.height), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for place, cell in enumerate(row):
            sheet.paste(cell, (place * (width + _GAP), top))
        top += height
    sheet.paste(legend, (0, top))
    return np.array(sheet)


def _cell(sample: Sample, id_: str, palette: Sequence[Colour], width: int, opacity: float) -> Image.Image:
    height = max(1, round(sample.image.shape[0] * width / sample.image.shape[1]))
    above = Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR)
    below = Image.fromarray(overlay(sample.image, sample.mask, palette, opacity)).resize((width, height), Image.Resampling.BILINEAR)
    cell = Image.new("RGB", (width, 2 * height + _LINE), "white")
    cell.paste(above, (0, 0))
    cell.paste(below, (0, height))
    ImageDraw.Draw(cell).text((2, 2 * height + 2), _printable(id_), fill="black", font=_font())
    return cell


def _legend(classes: Sequence[str], palette: Sequence[Colour], width: int) -> Image.Image:
    spots: list[tuple[int, int]] = []
    x = y = 0
    for name in classes:
        need = 24 + round(_font().getlength(_printable(name)))
        if x and x + need > width:
            x, y = 0, y + _LINE + 2
        spots.append((x, y))
        x += need
    legend = Image.new("RGB", (width, y + _LINE + _GAP), "white")
    draw = ImageDraw.Draw(legend)
    for (left, top), name, colour in zip(spots, classes, palette, strict=True):
        draw.rectangle((left, top + 2, left + 11, top + 13), fill=colour, outline="black")
        draw.text((left + 15, top + 2), _printable(name), fill="black", font=_font())
    return legend


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=11)


def _printable(text: str) -> str:
    """Pillow's fallback font knows Latin-1 only."""
    return text.encode("latin-1", "replace").decode("latin-1")
