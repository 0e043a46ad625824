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
        (
            ("a", "b", "c"),
            (1, 2, 3),
            False,
            "error",
            "labels look one too high",
            "labels run from 1 to 3 for 3 classes (0…2)",
        ),
        (tuple("abcdefgh"), (1, 2, 4, 5, 7, 8), False, "error", "labels look one too high", "labels run from 1 to 8 for 8 classes"),
        (("a", "b", "c"), (0, 1, 2, 3), False, "error", "labels look one too high", "else name 4 classes"),
        (None, (0, 38, 75, 113), False, "note", "labels with gaps", "set ?relabel=38:1,75:2,113:3"),
    ],
)
def test_found(classes, labels: tuple[int, ...], relabelled: bool, level: str, kind: str, text: str) -> None:
    (finding,) = label_findings(classes, counts(*labels), relabelled)
    assert (finding.level, finding.kind) == (level, kind)
    assert text in finding.text


ABC = ("a", "b", "c")


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (None, (0, 1)),
        (None, (0, 1, 2, 255)),
        (ABC, (1, 2)),
        (ABC, (0, 1, 2)),
        (None, (0, 3, 5)),
        (None, ()),
        # One wrong number is not all of them one too high: 1 written as 3, 0 and 1 missing, further out of range.
        (ABC, (0, 2, 3)),
        (ABC, (2, 3)),
        (ABC, (1, 3)),
        (ABC, (1, 2, 3, 4)),
        (tuple("abcdefgh"), (1, 2, 4, 5, 8)),
        # A first class that is the background stands at 0 already.
        (("Background", "a", "b"), (0, 1, 2, 3)),
    ],
)
def test_nothing_to_find(classes, labels: tuple[int, ...]) -> None:
    assert label_findings(classes, counts(*labels), False) == []


def test_mapped_labels_are_not_to_be_mapped_again() -> None:
    assert label_findings(ABC, counts(1, 2, 3), True) == []


@pytest.mark.parametrize(("images", "shifted"), [((9, 9, 8, 4), True), ((9, 9, 8, 3), False), ((9, 2, 8, 1), True)])
def test_a_label_in_few_images_is_no_class_that_lost_its_place(images: tuple[int, ...], shifted: bool) -> None:
    by_label = np.zeros(256, dtype=np.int64)
    by_label[:4] = images
    assert bool(label_findings(ABC, counts(0, 1, 2, 3), False, by_label)) is shifted


def test_many_tones_are_not_spelled_out() -> None:
    (finding,) = label_findings(None, counts(*range(0, 250, 7)), False)
    assert finding.text.endswith("set ?relabel=OLD:NEW,…")
