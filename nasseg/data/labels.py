"""What counts of labels give away: masks of black and white, grey tones instead of class numbers, numbers that are all one too high."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasseg.data.images import IGNORE

BACKGROUND = ("background", "void", "unlabeled", "unlabelled", "unknown", "other", "others", "ignore", "none")
"""Names of a first class for what is no other class: then label 0 is right as it is."""
MOST = 0.75
"""Labels look shifted only where so many of 1…K are used: one wrong number does not look like all of them moved."""


@dataclass(frozen=True, slots=True)
class LabelFinding:
    """``level`` is ``error`` or ``note``; ``text`` ends in what to set."""

    level: str
    kind: str
    text: str


def label_findings(
    classes: Sequence[str] | None, labels: NDArray[np.int64], relabelled: bool, images: NDArray[np.int64] | None = None
) -> list[LabelFinding]:
    """What is wrong with the labels as a whole.

    Args:
        classes: their names, None where they were counted from the masks.
        labels: pixels of each label 0…255, after ``?relabel``.
        relabelled: whether ``?relabel`` or the layout mapped the labels: then no mapping is advised.
        images: images that hold each label 0…255; None where they were not counted.

    Returns:
        At most one finding. Single labels beyond the classes are none of these.
    """
    used = [int(label) for label in np.flatnonzero(labels[:IGNORE])]
    if not used:
        ignored = int(labels[IGNORE])
        return [LabelFinding("error", "nothing to learn", f"all {ignored} pixels are ignored ({IGNORE})")] if ignored else []
    if used == [0]:
        return [_one_label(int(labels[IGNORE]) > 0, relabelled)]
    highest = used[-1]
    if classes is None and highest > 10 and len(used) * 2 <= highest + 1:
        return [_tones(used)]
    if classes is not None and highest == len(classes) and not relabelled:
        return _one_too_high(classes, used, images)
    if classes is None and used[0] == 1:
        text = (
            f"no pixel has label 0, labels run from 1 to {highest}: if classes were counted from 1, set ?relabel=reduce_zero "
            f"({highest} classes, 0 ignored)"
        )
        return [LabelFinding("note", "labels look one too high", text)]
    return []


def _one_label(with_ignored: bool, relabelled: bool) -> LabelFinding:
    if with_ignored and not relabelled:
        text = (
            f"masks hold 0 and {IGNORE} only, and {IGNORE} is ignored: one class is left; if {IGNORE} means the object, set ?relabel=255:1"
        )
        return LabelFinding("error", "masks of 0 and 255", text)
    return LabelFinding("error", "one class", "masks hold label 0 only; segmentation needs two classes or more")


def _tones(used: Sequence[int]) -> LabelFinding:
    pairs = ",".join(f"{label}:{index}" for index, label in enumerate(used) if label != index)
    setting = f"?relabel={pairs}" if len(used) <= 24 else "?relabel=OLD:NEW,…"
    text = (
        f"{len(used)} different labels between {used[0]} and {used[-1]} look like grey tones or a subset of other class numbers; "
        f"to number them 0…{len(used) - 1} set {setting}"
    )
    return LabelFinding("note", "labels with gaps", text)


def _one_too_high(classes: Sequence[str], used: Sequence[int], images: NDArray[np.int64] | None) -> list[LabelFinding]:
    """Where all labels up to the number of classes are used: they are one too high, or 0 is what is no class. Else nothing is known."""
    count = len(classes)
    if sum(label > 0 for label in used) < MOST * count:
        return []
    if 0 not in used:
        text = f"no pixel has label 0, labels run from {used[0]} to {count} for {count} classes (0…{count - 1}): they look one too high"
        return [LabelFinding("error", "labels look one too high", f"{text}; set ?relabel=reduce_zero")]
    # One wrong number shows in a few images; a class that lost its place shows in as many as the others do.
    seldom = images is not None and 2 * images[count] < min(images[label] for label in used if 0 < label < count)
    if seldom or classes[0].lower() in BACKGROUND:
        return []
    text = (
        f"labels run from 0 to {count} for {count} classes (0…{count - 1}): if 0 is background or void, set ?relabel=reduce_zero "
        f"(0 ignored, the others one less), else name {count + 1} classes"
    )
    return [LabelFinding("error", "labels look one too high", text)]
