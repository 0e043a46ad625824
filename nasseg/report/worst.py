"""The images of a split on which a network does worst, found while it is measured, and every image's number in a table."""

from __future__ import annotations

import csv
import heapq
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE = 255

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Case:
    """One image: its place in the split, mIoU and share of right pixels in percent, what was said and what is true, both (H, W)."""

    index: int
    id: str
    miou: float
    aacc: float
    prediction_HW: Labels
    truth_HW: Labels


class Worst:
    """Hears of each image (:data:`nasseg.training.evaluate.Each`), in the split's order, and keeps the label maps of the ``count`` worst.

    An image's mIoU is the mean over the classes that occur in its truth or in its prediction: not mmsegmentation's number, which has no
    images, but enough to rank them. Images without a counted pixel are left out.
    """

    def __init__(self, num_classes: int, count: int = 12) -> None:
        self.num_classes = num_classes
        self.count = count
        self.heard = 0
        self._heap: list[tuple[float, int, Case]] = []
        self._table = io.StringIO()
        self._rows = csv.writer(self._table, lineterminator="\n")
        self._rows.writerow(("id", "miou", "aacc", "pixels"))

    def __call__(self, id_: str, prediction_HW: Labels, truth_HW: Labels) -> None:
        """Measure one prediction; called once an image, in order."""
        index = self.heard
        self.heard += 1
        counted = truth_HW != IGNORE
        true, said = truth_HW[counted], prediction_HW[counted]
        if not true.size:
            return
        right = np.bincount(true[true == said], minlength=self.num_classes)
        union = np.bincount(true, minlength=self.num_classes) + np.bincount(said, minlength=self.num_classes) - right
        miou = float(100 * (right[union > 0] / union[union > 0]).mean())
        aacc = float(100 * right.sum() / true.size)
        self._rows.writerow((id_, f"{miou:.3f}", f"{aacc:.3f}", true.size))
        # Of equals the first stays; cases themselves are never compared.
        key = (-miou, -index)
        if len(self._heap) < self.count or key > self._heap[0][:2]:
            case = Case(index, id_, miou, aacc, prediction_HW, truth_HW)
            (heapq.heappush if len(self._heap) < self.count else heapq.heapreplace)(self._heap, (*key, case))

    @property
    def cases(self) -> list[Case]:
        """The worst first."""
        return [case for *_, case in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]

    @property
    def table(self) -> str:
        """Every image's numbers as CSV."""
        return self._table.getvalue()
