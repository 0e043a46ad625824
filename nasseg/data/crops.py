"""Where a training crop lies: not all one class, or around a rare one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasseg.data.images import IGNORE, UInt8

TRIES = 10
"""Crops drawn in place of one that is too uniform, before the last of them is taken as it is."""


@dataclass(frozen=True, slots=True)
class Crops:
    """A second thought on a crop's place; a pure function of mask, place and generator.

    ``cat_max_ratio``: while the commonest class of a crop has this share of its counted pixels or more, another is drawn, up to 10 times;
    the eleventh is taken as it is (mmsegmentation's ``RandomCrop``). ``rare``: with this probability the crop is laid around a pixel
    instead, and then stays: the pixel's class is drawn among those of the mask by the weights ``rarity`` (by class number), the pixel
    among those of the class.
    """

    cat_max_ratio: float = 1.0
    rare: float = 0.0
    rarity: tuple[float, ...] = ()

    def corner(
        self, mask_HW: UInt8, size: tuple[int, int], first: tuple[int, int], random: np.random.Generator, ignore_index: int = IGNORE
    ) -> tuple[int, int]:
        """Top and left of a crop of ``size``, whose place was to be ``first``; 0 along a side where there is no more than the crop."""
        free = (max(0, mask_HW.shape[0] - size[0]), max(0, mask_HW.shape[1] - size[1]))
        if free == (0, 0):
            return first
        if self.rare and random.random() < self.rare:
            pixel = self._rare_pixel(mask_HW, random)
            if pixel is not None:
                return min(max(pixel[0] - size[0] // 2, 0), free[0]), min(max(pixel[1] - size[1] // 2, 0), free[1])
        corner = first
        if self.cat_max_ratio < 1:
            for _ in range(TRIES):
                if not self._uniform(mask_HW[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]], ignore_index):
                    break
                corner = (int(random.integers(0, free[0] + 1)), int(random.integers(0, free[1] + 1)))
        return corner

    def _uniform(self, mask_HW: UInt8, ignore_index: int) -> bool:
        """One class alone, none at all, or one with too large a share."""
        counts = np.bincount(mask_HW.ravel(), minlength=256)
        counts[ignore_index] = 0
        return int((counts > 0).sum()) < 2 or float(counts.max() / counts.sum()) >= self.cat_max_ratio

    def _rare_pixel(self, mask_HW: UInt8, random: np.random.Generator) -> tuple[int, int] | None:
        """Row and column; None where the mask holds no class that has a weight."""
        there = np.bincount(mask_HW.ravel(), minlength=256)[: len(self.rarity)] > 0
        weights = np.asarray(self.rarity) * there
        if not weights.sum() > 0:
            return None
        label = random.choice(len(weights), p=weights / weights.sum())
        places = np.flatnonzero(mask_HW == label)
        row, column = divmod(int(places[random.integers(len(places))]), mask_HW.shape[1])
        return row, column


def inverse_frequency(pixels: Sequence[int]) -> tuple[float, ...]:
    """Weights of classes from their pixels: all pixels / those of the class; 0 for a class that has none."""
    counts = np.asarray(pixels, dtype=np.float64)
    return tuple(float(counts.sum() / count) if count else 0.0 for count in counts)
