"""Boundary IoU: how well outlines fit, whatever the size of what they enclose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

IGNORE = 255
RATIO = 0.02
"""Width of a boundary as a share of the image's diagonal."""


def boundary_width(shape: Sequence[int], ratio: float = RATIO) -> int:
    """Pixels d: ``ratio`` of the diagonal, rounded, at least 1."""
    return max(1, round(ratio * math.hypot(shape[0], shape[1])))


def boundary(labels_HW: NDArray[np.integer], width: int) -> NDArray[np.bool_]:
    """Pixels of each region within ``width`` of its outline, the image's border being outline too.

    For every class at once: a pixel survives ``width`` erosions by 3×3, its surroundings beyond the image empty, if and only if all of the
    (2·width + 1)² window around it has its own label.
    """
    wide = labels_HW.astype(np.int16)
    side = 2 * width + 1
    highest = ndimage.maximum_filter(wide, size=side, mode="constant", cval=-1)
    lowest = ndimage.minimum_filter(wide, size=side, mode="constant", cval=-1)
    found: NDArray[np.bool_] = highest != lowest
    return found


class BoundaryIoU:
    """Counts over a whole split: 3×K int64, whatever the split's size.

    With G_d the pixels of a class's true region within d pixels of that region's outline and P_d the same of the predicted region:
    |G_d ∩ P_d| / |G_d ∪ P_d| (Cheng et al., Boundary IoU, 2103.16562, equation 1; d = 2 % of the image's diagonal), both counted over the
    split before they are divided, as IoU is here. The paper measures single objects; a class's region is all of its pixels in an image.
    Pixels of label 255 belong to no class in either map and count nowhere; an outline along them is an outline.
    """

    def __init__(self, num_classes: int, ratio: float = RATIO) -> None:
        self.num_classes = num_classes
        self.ratio = ratio
        self.counts = np.zeros((3, num_classes), dtype=np.int64)
        """Rows: pixels in both boundaries, in the true one, in the predicted one."""

    def update(self, prediction_HW: NDArray[np.integer], target_HW: NDArray[np.integer]) -> None:
        """Add one image: class numbers, and 255 in the target where nothing counts."""
        counted = target_HW != IGNORE
        said_HW = np.where(counted, prediction_HW, IGNORE).astype(np.int16)
        width = boundary_width(target_HW.shape, self.ratio)
        true = boundary(target_HW, width) & counted
        said = boundary(said_HW, width) & counted
        both = true & said & (said_HW == target_HW)
        for row, labels in enumerate((target_HW[both], target_HW[true], said_HW[said])):
            self.counts[row] += np.bincount(labels, minlength=self.num_classes)

    def compute(self) -> dict[int, float]:
        """Percent by class number; classes without any boundary are absent."""
        both, true, said = self.counts
        union = true + said - both
        return {c: float(100 * both[c] / union[c]) for c in range(self.num_classes) if union[c]}
