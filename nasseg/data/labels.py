"""What a histogram of labels gives away: masks of black and white, grey tones instead of class numbers, numbers one too high."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasseg.data.images import IGNORE


@dataclass(frozen=True, slots=True)
class LabelFinding:
    """``level`` is ``error`` or ``note``; ``text`` ends in what to set."""

    level: str
    kind: str
    text: str


def label_findings(classes: Sequence[str] | None, labels: NDArray[np.int64], relabelled: bool) -> list[LabelFinding]:
    """From the pixels of each label 0…255, after ``?relabel`` if ``relabelled``. ``classes`` None: counted from the masks."""
    used = [int(label) for label in np.flatnonzero(labels[:IGNORE])]
    if not used:
        ignored = int(labels[IGNORE])
        return [LabelFinding("error", "nothing to learn", f"all {ignored} pixels are ignored ({IGNORE})")] if ignored else []
    if used == [0]:
        return [_one_label(int(labels[IGNORE]) > 0, relabelled)]
    highest = used[-1]
    count = None if classes is None else len(classes)
    if count is None and highest > 10 and len(used) * 2 <= highest + 1:
        return [_tones(used)]
    if count is not None and highest == count:
        return [_one_too_high(count, used)]
    if 0 not in used and (count is None or highest < count):
        first = used[0]
        if first == 1 and count is None:
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


def _one_too_high(count: int, used: Sequence[int]) -> LabelFinding:
    if 0 not in used:
        text = f"labels run from {used[0]} to {count} for {count} classes (0…{count - 1}): they look one too high; set ?relabel=reduce_zero"
    else:
        text = (
            f"labels run from 0 to {count} for {count} classes (0…{count - 1}): if 0 is background or void, set ?relabel=reduce_zero "
            f"(0 ignored, the others one less), else name {count + 1} classes"
        )
    return LabelFinding("error", "labels look one too high", text)
