"""Colours of classes."""

from __future__ import annotations

import numpy as np

from nasseg.data.palette import colourise, default_palette, overlay


def test_colours_are_distinct_and_stay() -> None:
    colours = default_palette(255)
    assert len(set(colours)) == 255
    assert default_palette(7) == colours[:7]
    assert all(0 <= part <= 255 for colour in colours for part in colour)
    apart = np.asarray(colours[:20])
    distance = np.abs(apart[:, None] - apart[None]).sum(-1) + 999 * np.eye(20, dtype=int)
    assert distance.min() > 40


def test_colourise() -> None:
    mask = np.array([[0, 1, 255, 9]], dtype=np.uint8)
    assert colourise(mask, [(1, 2, 3), (4, 5, 6)]).tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0], [0, 0, 0]]]


def test_overlay() -> None:
    image = np.full((1, 2, 3), 100, dtype=np.uint8)
    mask = np.array([[0, 255]], dtype=np.uint8)
    assert overlay(image, mask, [(200, 0, 100)], 0.25).tolist() == [[[125, 75, 100], [75, 75, 75]]]
