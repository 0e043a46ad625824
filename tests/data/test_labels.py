"""What a histogram of labels gives away."""

from __future__ import annotations

import numpy as np
import pytest

from nasseg.data.labels import label_findings


def counts(*labels: int) -> np.ndarray:
    return np.bincount(labels, minlength=256).astype(np.int64)


@pytest.mark.parametrize(
    ("classes", "labels", "relabelled", "level", "kind", "text"),
    [
        (None, (255, 255), False, "error", "nothing to learn", "all 2 pixels are ignored"),
        (None, (0, 255), False, "error", "masks of 0 and 255", "set ?relabel=255:1"),
        (("a", "b"), (0, 255), False, "error", "masks of 0 and 255", "set ?relabel=255:1"),
        (None, (0, 0), False, "error", "one class", "two classes or more"),
        (None, (0, 255), True, "error", "one class", "two classes or more"),
        (None, (1, 2, 3), False, "note", "labels look one too high", "set ?relabel=reduce_zero (3 classes, 0 ignored)"),
        (("a", "b", "c"), (1, 2, 3), False, "error", "labels look one too high", "labels run from 1 to 3 for 3 classes (0…2)"),
        (("a", "b", "c"), (0, 1, 2, 3), False, "error", "labels look one too high", "else name 4 classes"),
        (None, (0, 38, 75, 113), False, "note", "labels with gaps", "set ?relabel=38:1,75:2,113:3"),
    ],
)
def test_found(classes, labels: tuple[int, ...], relabelled: bool, level: str, kind: str, text: str) -> None:
    (finding,) = label_findings(classes, counts(*labels), relabelled)
    assert (finding.level, finding.kind) == (level, kind)
    assert text in finding.text


@pytest.mark.parametrize(
    ("classes", "labels"),
    [(None, (0, 1)), (None, (0, 1, 2, 255)), (("a", "b", "c"), (1, 2)), (("a", "b", "c"), (0, 1, 2)), (None, (0, 3, 5)), (None, ())],
)
def test_nothing_to_find(classes, labels: tuple[int, ...]) -> None:
    assert label_findings(classes, counts(*labels), False) == []


def test_many_tones_are_not_spelled_out() -> None:
    (finding,) = label_findings(None, counts(*range(0, 250, 7)), False)
    assert finding.text.endswith("set ?relabel=OLD:NEW,…")
