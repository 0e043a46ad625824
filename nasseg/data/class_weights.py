"""Weights of classes for a loss, from the pixels of train; and the rule by which ``class_weights: auto`` decides whether there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasseg.data.dataset import DataSet
from nasseg.data.statistics import class_counts

NONE, SQRT_MEDIAN_FREQUENCY, AUTO = "none", "sqrt_median_frequency", "auto"

RARE = 0.5
"""A class is rare whose share of the counted pixels is below this part of an equal share 1/K, K the classes that occur.

Measured with a third class of 1, 2, 5 and 10 % of the pixels: without weights it was not learnt in 7 of 8 short runs, with them in 7 of 8
it was, and the other classes lost nothing (docs/losses-and-schedules.md).
"""


@dataclass(frozen=True, slots=True)
class ClassWeights:
    """What a rule came to: the rule that was followed, ``auto`` resolved, and a weight a class (None: all alike)."""

    rule: str
    weights: tuple[float, ...] | None = None

    @classmethod
    def of(cls, rule: str, counts_NK: NDArray[np.int32]) -> ClassWeights:
        """From the pixels by image and class (:func:`nasseg.data.statistics.class_counts`).

        ``none``: no weights. ``sqrt_median_frequency``: :func:`sqrt_median_frequency`. ``auto``: that where a class is rare
        (:func:`rare_classes`), else none: weights would move the classes of a balanced set by less than noise.
        """
        if rule == AUTO:
            rule = SQRT_MEDIAN_FREQUENCY if rare_classes(counts_NK.sum(axis=0, dtype=np.int64)) else NONE
        return cls(NONE) if rule == NONE else cls(rule, tuple(sqrt_median_frequency(*class_pixels(counts_NK))))

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """For files: the rule, and the weight of each class by name to four digits (none where there are none)."""
        weights = {} if self.weights is None else {name: round(w, 4) for name, w in zip(classes, self.weights, strict=True)}
        return {"rule": self.rule, "weights": weights}


def weigh_classes(rule: str, data: DataSet) -> ClassWeights:
    """The weights of a data set by a rule (:meth:`ClassWeights.of`); reads train's masks once, for ``none`` not at all.

    Raises:
        DataError: a mask that cannot be read, or no pixel of train counts.
    """
    return ClassWeights(NONE) if rule == NONE else ClassWeights.of(rule, class_counts(data.split("train"), data.num_classes))


def rare_classes(pixels: NDArray[np.int64]) -> dict[int, float]:
    """Share of the counted pixels, by class number, of the classes with less than half of an equal share (:data:`RARE`).

    Classes without a pixel neither count nor are rare: nothing can be learnt of them.
    """
    present = pixels > 0
    bound = RARE / max(1, int(present.sum()))
    share = pixels / max(1, int(pixels.sum()))
    return {int(c): float(share[c]) for c in np.flatnonzero(present & (share < bound))}


def sqrt_median_frequency(pixels: Sequence[int], seen_in: Sequence[int]) -> list[float]:
    """w_c = sqrt(clip(median(f) / f_c, 0.3, 5)), f_c = pixels of c / counted pixels of the images that hold c.

    Median frequency balancing of Eigen & Fergus (1411.4734, section 6.3.2), its range cut and its contrast halved on the log scale, so that
    rare classes are learnt in a short run and common ones are not lost. A class that no image holds gets the largest weight; the median is
    over the others.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency = np.asarray(pixels, dtype=np.float64) / np.asarray(seen_in, dtype=np.float64)
    present = np.asarray(pixels) > 0
    ratio = np.full(len(pixels), np.inf)
    ratio[present] = np.median(frequency[present]) / frequency[present]
    return [float(w) for w in np.sqrt(np.clip(ratio, 0.3, 5.0))]


def class_pixels(counts_NK: NDArray[np.int32]) -> tuple[list[int], list[int]]:
    """(pixels of each class, counted pixels of the images that hold it)."""
    images_N1 = counts_NK.sum(axis=1, dtype=np.int64, keepdims=True)
    return counts_NK.sum(axis=0, dtype=np.int64).tolist(), np.where(counts_NK > 0, images_N1, 0).sum(axis=0).tolist()
