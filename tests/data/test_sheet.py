"""Contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from kits_data import write_tree

from nasseg.data.layouts import open_data
from nasseg.data.palette import overlay
from nasseg.data.sheet import contact_sheet


def test_image_above_its_overlay() -> None:
    data = open_data("synthetic:streets?train=5&size=32x48")
    sheet = contact_sheet(data, data.splits["train"], count=3, columns=2, width=48)
    assert sheet.shape[1] == 2 * 48 + 6
    first, last = data.splits["train"][0], data.splits["train"][4]
    np.testing.assert_array_equal(sheet[:32, :48], first.image)
    np.testing.assert_array_equal(sheet[32:64, :48], overlay(first.image, first.mask, data.palette, 0.6))
    row = 2 * 32 + 16 + 6
    np.testing.assert_array_equal(sheet[row : row + 32, :48], last.image)  # evenly spread: 0, 2, 4
    legend = sheet[2 * row :].reshape(-1, 3)
    for colour in data.palette:
        assert (legend == np.array(colour)).all(-1).any()


def test_fewer_samples_than_asked(tmp_path: Path) -> None:
    data = open_data(str(write_tree(tmp_path, splits={"train": ("ä→",), "val": ("v",)})))
    assert contact_sheet(data, data.splits["train"], count=12, width=32).shape[1] == 32
