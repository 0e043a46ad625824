"""A contact sheet of measured images: as taken, as labelled, as predicted, and where the two differ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nasseg.data.dataset import Split
from nasseg.report.worst import Case

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

IGNORE = 255
PAPER: Colour = (250, 250, 250)
INK: Colour = (32, 32, 32)
FAINT: Colour = (120, 120, 120)
WRONG: Colour = (214, 39, 40)
GAP, TEXT, LINE = 8, 14, 22
HEADS = ("image", "truth", "prediction", "errors")


def draw_gallery(
    cases: Sequence[Case], split: Split, classes: Sequence[str], palette: Sequence[Colour], *, width: int = 320, opacity: float = 0.75
) -> Image.Image:
    """One row a case, four panels of ``width`` pixels each, and below them the classes that occur. Raises what ``split`` raises."""
    page_width = 4 * width + 5 * GAP
    rows = [_row(case, split[case.index].image, palette, width, opacity) for case in cases]
    maps = [labels_HW for case in cases for labels_HW in (case.truth_HW, case.prediction_HW)]
    used = sorted({int(label) for labels_HW in maps for label in np.unique(labels_HW)} - {IGNORE})
    legend = _legend([(classes[label], palette[label]) for label in used], page_width)
    page = Image.new("RGB", (page_width, LINE + GAP + sum(row.height + GAP for row in rows) + legend.height), PAPER)
    draw = ImageDraw.Draw(page)
    for column, head in enumerate(HEADS):
        draw.text((GAP + column * (width + GAP), GAP), head, INK, _font())
    top = LINE + GAP
    for row in rows:
        page.paste(row, (0, top))
        top += row.height + GAP
    page.paste(legend, (0, top))
    return page


def errors(image_HW3: Pixels, prediction_HW: Pixels, truth_HW: Pixels) -> Pixels:
    """The image in grey, wrong pixels red, ignored pixels dark."""
    grey_HW1 = image_HW3.astype(np.float32).mean(axis=2, keepdims=True)
    out_HW3 = np.repeat(0.5 * grey_HW1 + 110, 3, axis=2)
    out_HW3[truth_HW == IGNORE] *= 0.3
    wrong_HW = (truth_HW != IGNORE) & (prediction_HW != truth_HW)
    out_HW3[wrong_HW] = 0.2 * out_HW3[wrong_HW] + 0.8 * np.asarray(WRONG, dtype=np.float32)
    return np.asarray(np.rint(out_HW3), dtype=np.uint8)


def _row(case: Case, image_HW3: Pixels, palette: Sequence[Colour], width: int, opacity: float) -> Image.Image:
    shape = case.truth_HW.shape
    height = max(1, round(width * shape[0] / shape[1]))
    picture = Image.fromarray(image_HW3)
    if image_HW3.shape[:2] != shape:
        picture = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    pixels_HW3 = np.asarray(picture)
    panels = (
        pixels_HW3,
        painted(pixels_HW3, case.truth_HW, palette, opacity),
        painted(pixels_HW3, case.prediction_HW, palette, opacity),
        errors(pixels_HW3, case.prediction_HW, case.truth_HW),
    )
    row = Image.new("RGB", (4 * width + 5 * GAP, height + LINE), PAPER)
    for column, panel in enumerate(panels):
        small = Image.fromarray(panel).resize((width, height), Image.Resampling.BOX if width < shape[1] else Image.Resampling.NEAREST)
        row.paste(small, (GAP + column * (width + GAP), 0))
    draw = ImageDraw.Draw(row)
    draw.text((GAP, height + 3), f"{case.id}   mIoU {case.miou:.1f} %   pixels right {case.aacc:.1f} %", FAINT, _font())
    return row


def painted(image_HW3: Pixels, labels_HW: Pixels, palette: Sequence[Colour], opacity: float) -> Pixels:
    """Class colours over the image; ignored pixels are black."""
    table = np.zeros((256, 3), dtype=np.float32)
    table[: len(palette)] = np.asarray(palette, dtype=np.float32).reshape(-1, 3)
    out_HW3 = (1 - opacity) * image_HW3 + opacity * table[labels_HW]
    out_HW3[labels_HW == IGNORE] = 0
    return np.asarray(np.rint(out_HW3), dtype=np.uint8)


def _legend(entries: Sequence[tuple[str, Colour]], width: int) -> Image.Image:
    spots: list[tuple[int, int]] = []
    x, y = GAP, 0
    for name, _ in entries:
        need = TEXT + 8 + round(_font().getlength(name)) + 18
        if x > GAP and x + need > width:
            x, y = GAP, y + LINE
        spots.append((x, y))
        x += need
    legend = Image.new("RGB", (width, y + LINE + GAP), PAPER)
    draw = ImageDraw.Draw(legend)
    for (left, top), (name, colour) in zip(spots, entries, strict=True):
        draw.rectangle((left, top + 4, left + TEXT - 2, top + TEXT + 2), fill=colour, outline=FAINT)
        draw.text((left + TEXT + 6, top + 2), name, INK, _font())
    return legend


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", TEXT)
