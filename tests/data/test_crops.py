"""Crops that think again: mmsegmentation's cat_max_ratio, and crops around rare classes."""

from __future__ import annotations

import numpy as np
import pytest

from nasseg.data.crops import Crops, inverse_frequency

SIZE = (8, 8)


def halves() -> np.ndarray:
    """40×40: all 0 but a 4-pixel square of class 1, and one pixel of class 2."""
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[30:32, 6:8] = 1
    mask[3, 37] = 2
    return mask


def slow(mask: np.ndarray, ratio: float, first: tuple[int, int], random: np.random.Generator) -> tuple[int, int]:
    """The rule of mmsegmentation's RandomCrop, with sets and counts."""
    corner = first
    for _ in range(10):
        part = mask[corner[0] : corner[0] + SIZE[0], corner[1] : corner[1] + SIZE[1]].ravel().tolist()
        counts = {label: part.count(label) for label in set(part) if label != 255}
        if len(counts) > 1 and max(counts.values()) / sum(counts.values()) < ratio:
            break
        corner = (int(random.integers(0, mask.shape[0] - SIZE[0] + 1)), int(random.integers(0, mask.shape[1] - SIZE[1] + 1)))
    return corner


@pytest.mark.parametrize("seed", range(30))
def test_cat_max_ratio_is_mmsegmentations(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.integers(0, 3, (5, 6)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    mask[random.random(mask.shape) < 0.2] = 255
    first = (int(random.integers(0, 13)), int(random.integers(0, 17)))
    for ratio in (0.4, 0.6, 0.9):
        expected = slow(mask, ratio, first, np.random.default_rng([seed, 2]))
        assert Crops(cat_max_ratio=ratio).corner(mask, SIZE, first, np.random.default_rng([seed, 2])) == expected


def test_a_good_crop_stays_and_ten_tries_are_all() -> None:
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[:, 20:] = 1
    crops = Crops(cat_max_ratio=0.75)
    assert crops.corner(mask, SIZE, (5, 16), np.random.default_rng(0)) == (5, 16)
    assert crops.corner(mask, SIZE, (5, 0), np.random.default_rng(0)) != (5, 0)

    class Counting:
        calls = 0

        def integers(self, low: int, high: int) -> int:
            self.calls += 1
            return 0

    counting = Counting()
    assert crops.corner(np.zeros((40, 40), dtype=np.uint8), SIZE, (5, 5), counting) == (0, 0)
    assert counting.calls == 20


def test_rare_crops_hold_a_pixel_of_the_drawn_class() -> None:
    mask = halves()
    crops = Crops(rare=1.0, rarity=(0.0, 1.0, 3.0))
    found = [crops.corner(mask, SIZE, (16, 16), np.random.default_rng([seed, 2])) for seed in range(200)]
    around = [set(np.unique(mask[top : top + 8, left : left + 8]).tolist()) for top, left in found]
    assert all(labels in ({0, 1}, {0, 2}) for labels in around)
    assert 125 < sum(2 in labels for labels in around) < 175  # three of four
    # The pixel of class 2 lies at (3, 37): the crop is pushed back inside.
    assert {corner for corner, labels in zip(found, around, strict=True) if 2 in labels} == {(0, 32)}
    assert {corner for corner, labels in zip(found, around, strict=True) if 1 in labels} == {(26, 2), (26, 3), (27, 2), (27, 3)}


def test_rare_crops_as_often_as_asked() -> None:
    crops = Crops(rare=0.3, rarity=(0.0, 1.0, 0.0))
    found = [crops.corner(halves(), SIZE, (16, 16), np.random.default_rng([seed, 2])) for seed in range(600)]
    assert 140 < sum(corner != (16, 16) for corner in found) < 220


def test_without_a_weighted_class_the_place_stays() -> None:
    mask = np.zeros((40, 40), dtype=np.uint8)
    assert Crops(rare=1.0, rarity=(0.0, 1.0)).corner(mask, SIZE, (7, 9), np.random.default_rng(0)) == (7, 9)
    ignored = np.full((40, 40), 255, dtype=np.uint8)
    assert Crops(rare=1.0, rarity=(1.0, 1.0)).corner(ignored, SIZE, (7, 9), np.random.default_rng(0)) == (7, 9)


def test_where_there_is_no_room_nothing_is_drawn() -> None:
    crops = Crops(cat_max_ratio=0.5, rare=1.0, rarity=(1.0, 1.0))
    assert crops.corner(np.zeros((6, 8), dtype=np.uint8), SIZE, (0, 0), np.random.default_rng(0)) == (0, 0)
    tall = np.zeros((30, 5), dtype=np.uint8)
    tall[20, 2] = 1
    assert Crops(rare=1.0, rarity=(0.0, 1.0)).corner(tall, SIZE, (0, 0), np.random.default_rng(0)) == (16, 0)


def test_inverse_frequency() -> None:
    assert inverse_frequency([50, 0, 25, 25]) == (2.0, 0.0, 4.0, 4.0)
