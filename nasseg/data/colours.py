"""Masks painted in colours instead of numbered: which colour stands for which number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nasseg.errors import DataError


@dataclass(frozen=True, slots=True)
class ColourTable:
    """``numbers``: label number by (red, green, blue). Can be pickled."""

    numbers: Mapping[tuple[int, int, int], int]
    keys: NDArray[np.int32] = field(init=False, repr=False, compare=False)
    values: NDArray[np.uint8] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        packed = sorted((red << 16 | green << 8 | blue, number) for (red, green, blue), number in self.numbers.items())
        object.__setattr__(self, "keys", np.array([key for key, _ in packed], dtype=np.int32))
        object.__setattr__(self, "values", np.array([number for _, number in packed], dtype=np.uint8))

    def decode(self, pixels_HW3: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
        """Label numbers (H, W). DataError naming the commonest colour that is in no table, its pixels and ``where``."""
        channels_HW3 = pixels_HW3.astype(np.int32)
        keys_HW = channels_HW3[..., 0] << 16 | channels_HW3[..., 1] << 8 | channels_HW3[..., 2]
        keys = keys_HW.ravel()
        # A mask is runs of one colour: what is looked up is a run.
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if keys.size else np.zeros(0, dtype=np.int64)
        runs = keys[starts]
        places = np.searchsorted(self.keys, runs).clip(max=len(self.keys) - 1)
        if (self.keys[places] != runs).any():
            raise DataError(self._strange(keys[~np.isin(keys, self.keys)], where))
        numbers: NDArray[np.uint8] = np.repeat(self.values[places], np.diff(starts, append=keys.size))
        return numbers.reshape(keys_HW.shape)

    def _strange(self, keys: NDArray[np.int32], where: str) -> str:
        found, counts = np.unique(keys, return_counts=True)
        worst = int(found[counts.argmax()])
        colour = (worst >> 16, worst >> 8 & 255, worst & 255)
        near = min(self.numbers, key=lambda known: sum((a - b) ** 2 for a, b in zip(known, colour, strict=True)))
        others = f" and {int(keys.size - counts.max())} of {len(found) - 1} other unknown colours" if len(found) > 1 else ""
        return (
            f"{where}: {int(counts.max())} pixels of colour {colour}{others}, which stands for no class (nearest known: {near}); "
            "masks keep their exact colours only as PNG, resized by nearest neighbour"
        )
