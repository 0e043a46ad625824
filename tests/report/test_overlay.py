"""The drawing of predictions: shares, colours, borders, legend."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nasseg.report.overlay import class_shares, draw_overlay, paint, palette_image, percent_text

CLASSES = ("road", "sky", "pole")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def mask() -> np.ndarray:
    labels = np.zeros((4, 10), dtype=np.uint8)
    labels[:, 6:] = 1
    labels[0, 9] = 255
    return labels


def test_shares_are_percent_of_all_pixels_largest_first():
    shares = class_shares(mask(), CLASSES, PALETTE)
    assert [(s.label, s.name, s.colour, s.percent) for s in shares] == [
        (0, "road", (200, 0, 0), 60.0),
        (1, "sky", (0, 200, 0), 37.5),
        (255, "(ignored)", None, 2.5),
    ]


def test_a_label_without_a_class_is_refused():
    labels = mask()
    labels[1, 1] = 7
    with pytest.raises(ValueError, match="holds label 7; 3 classes are named, 255 is ignored"):
        class_shares(labels, CLASSES, PALETTE)


@pytest.mark.parametrize(("percent", "text"), [(12.34, "12.3 %"), (0.05, "0.1 %"), (0.049, "<0.1 %"), (100.0, "100.0 %")])
def test_percent_text(percent: float, text: str):
    assert percent_text(percent) == text


def test_palette_image_keeps_ids_and_shows_colours():
    file = io.BytesIO()
    palette_image(mask(), PALETTE).save(file, "PNG")
    back = Image.open(file)
    assert back.mode == "P"
    assert np.array_equal(np.asarray(back), mask())
    rgb = np.asarray(back.convert("RGB"))
    assert rgb[3, 0].tolist() == [200, 0, 0]
    assert rgb[3, 9].tolist() == [0, 200, 0]
    assert rgb[0, 9].tolist() == [255, 255, 255]


def test_paint_blends_inside_and_is_strong_on_borders():
    image = np.full((4, 10, 3), 100, dtype=np.uint8)
    painted = paint(image, mask(), PALETTE, alpha=0.25)
    assert painted[2, 2].tolist() == [125, 75, 75]  # 0.75 * 100 + 0.25 * (200, 0, 0)
    assert painted[2, 8].tolist() == [75, 125, 75]
    assert painted[2, 5].tolist() == [190, 10, 10]  # both sides of the border: 0.1 * 100 + 0.9 * colour
    assert painted[2, 6].tolist() == [10, 190, 10]
    assert painted[0, 9].tolist() == [100, 100, 100]  # ignored: the image itself


def test_alpha_zero_is_the_image_and_one_the_colours():
    image = np.random.default_rng(0).integers(0, 256, (4, 10, 3), dtype=np.uint8)
    labels = np.minimum(mask(), 1)
    assert np.array_equal(paint(image, labels, PALETTE, alpha=0.0), image)
    assert np.array_equal(paint(image, labels, PALETTE, alpha=1.0), np.asarray(PALETTE, dtype=np.uint8)[labels])


def test_small_wide_images_are_enlarged_with_the_legend_below():
    labels = np.zeros((72, 96), dtype=np.uint8)
    labels[:, 60:] = 2
    page = draw_overlay(np.full((72, 96, 3), 128, dtype=np.uint8), labels, CLASSES, PALETTE)
    assert page.width == 672  # 96 times 7
    assert page.height > 504
    pixels = np.asarray(page)
    assert pixels[200, 100].tolist() == [164, 64, 64]
    assert pixels[200, 600].tolist() == [64, 64, 164]
    below = pixels[504:].reshape(-1, 3)
    for colour in (PALETTE[0], PALETTE[2]):
        assert (below == colour).all(axis=1).sum() > 100  # a swatch
    assert not (below == PALETTE[1]).all(axis=1).any()  # a class that does not occur has none


def test_upright_images_have_the_legend_beside_them_and_large_ones_are_reduced():
    labels = np.zeros((3000, 500), dtype=np.uint8)
    page = draw_overlay(np.zeros((3000, 500, 3), dtype=np.uint8), labels, CLASSES, PALETTE, title="a.png", longest_side=1500)
    assert page.height == 1500
    assert page.width > 250
    assert np.asarray(page)[700, 100].tolist() == [100, 0, 0]
    assert (np.asarray(page)[:100, 250:] == PALETTE[0]).all(axis=2).sum() > 100


def test_many_classes_end_in_a_line_of_the_rest():
    names = [f"class {k}" for k in range(150)]
    colours = [(k, 255 - k, k // 2) for k in range(150)]
    labels = np.arange(150, dtype=np.uint8).repeat(100).reshape(100, 150)
    page = draw_overlay(np.zeros((100, 150, 3), dtype=np.uint8), labels, names, colours)
    below = np.asarray(page)[500:]
    assert not (below == colours[149]).all(axis=2).any()
    assert (below == colours[0]).all(axis=2).any()
    assert page.height < 1000


def test_sizes_and_alpha_are_checked():
    with pytest.raises(ValueError, match=r"image of \(4, 9\) and mask of \(4, 10\) pixels"):
        draw_overlay(np.zeros((4, 9, 3), dtype=np.uint8), mask(), CLASSES, PALETTE)
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 1, not 2.0"):
        draw_overlay(np.zeros((4, 10, 3), dtype=np.uint8), mask(), CLASSES, PALETTE, alpha=2.0)
