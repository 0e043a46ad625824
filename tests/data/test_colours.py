"""Colour masks to numbers."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kits_data import save
from PIL import Image

from nasseg.data.colours import ColourTable
from nasseg.data.images import read_mask
from nasseg.errors import DataError

COLOUR = st.tuples(*[st.integers(0, 255)] * 3)


@given(st.dictionaries(COLOUR, st.integers(0, 255), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_decodes_what_it_knows(numbers: dict[tuple[int, int, int], int], seed: int) -> None:
    table = ColourTable(numbers)
    drawn = np.random.default_rng(seed).integers(0, len(numbers), (3, 5))
    colours, values = np.array(list(numbers), dtype=np.uint8), np.array(list(numbers.values()))
    np.testing.assert_array_equal(table.decode(colours[drawn], "x"), values[drawn])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)).decode(colours[drawn], "x"), values[drawn])


def test_strangers_are_counted() -> None:
    table = ColourTable({(0, 0, 0): 0, (255, 255, 255): 1})
    pixels = np.zeros((2, 4, 3), dtype=np.uint8)
    pixels[0, :3] = (255, 255, 254)
    with pytest.raises(
        DataError, match=r"^x: 3 pixels of colour \(255, 255, 254\), which stands for no class .nearest known: \(255, 255, 255\)"
    ):
        table.decode(pixels, "x")
    pixels[1, :2] = 7
    with pytest.raises(DataError, match=r"3 pixels of colour \(255, 255, 254\) and 2 of 1 other unknown colours"):
        table.decode(pixels, "x")


def test_masks_of_any_mode(tmp_path: Path) -> None:
    table = ColourTable({(9, 9, 9): 0, (1, 2, 3): 4})
    pixels = np.full((2, 3, 3), 9, dtype=np.uint8)
    pixels[0, 0] = (1, 2, 3)
    file = save(tmp_path / "a.png", pixels)
    assert read_mask(file, 5, None, table)[0].tolist() == [4, 0, 0]
    Image.fromarray(pixels).convert("RGBA").save(file)
    assert read_mask(file, 5, None, table)[0].tolist() == [4, 0, 0]
    with pytest.raises(DataError, match="mask has 4 channels"):
        read_mask(file, 5)
    save(file, np.array([[3, 2]], dtype=np.uint8))
    assert read_mask(file, 5, None, table).tolist() == [[3, 2]]
