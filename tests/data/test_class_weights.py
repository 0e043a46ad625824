"""Weights of classes by hand, and the rule that decides whether there are any."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from nasseg.data.class_weights import ClassWeights, class_pixels, rare_classes, sqrt_median_frequency, weigh_classes
from nasseg.data.dataset import DataSet, Sample, Split
from nasseg.data.layouts import open_data
from nasseg.data.palette import default_palette
from nasseg.data.statistics import class_counts
from nasseg.errors import DataError


class Masks(Split):
    """A split of given masks over black images; counts how often it is read."""

    def __init__(self, masks: Sequence[np.ndarray], key: str = "masks") -> None:
        self.name = "train"
        self.masks = masks
        self.ids = tuple(str(i) for i in range(len(masks)))
        self.reads = 0
        self._key = key

    @property
    def key(self) -> str:
        return self._key

    def read(self, index: int) -> Sample:
        self.reads += 1
        mask = np.asarray(self.masks[index], dtype=np.uint8)
        return Sample(np.zeros((*mask.shape, 3), dtype=np.uint8), mask)

    def subset(self, indices: Sequence[int], name: str) -> Split:
        return Masks([self.masks[i] for i in indices], self._key + name)


def data_of(split: Split, classes: str) -> DataSet:
    names = tuple(classes)
    return DataSet("masks", "masks", names, default_palette(len(names)), {"train": split}, "0" * 12, "the test")


def test_by_hand() -> None:
    # f = 80/100, 10/100, 10/20 (class 2 lies in one image of 20 counted pixels), 1/100; class 4 never. Median of four: (.1 + .5) / 2 = .3.
    weights = sqrt_median_frequency([80, 10, 10, 1, 0], [100, 100, 20, 100, 0])
    assert weights == pytest.approx([sqrt(0.375), sqrt(3.0), sqrt(0.6), sqrt(5.0), sqrt(5.0)])
    assert sqrt_median_frequency([990, 5, 5], [1000, 1000, 1000])[0] == pytest.approx(sqrt(0.3))


def test_pixels_are_counted_once_and_remembered() -> None:
    split = Masks([np.array([[0, 0, 1], [255, 255, 2]]), np.array([[0, 255]])], key="counted once")
    assert class_pixels(class_counts(split, 4)) == ([3, 1, 1, 0], [5, 4, 4, 0])
    assert class_pixels(class_counts(split, 4)) == ([3, 1, 1, 0], [5, 4, 4, 0])
    assert split.reads == 2
    other = Masks([np.array([[1]])], key="other content")
    assert class_pixels(class_counts(other, 4)) == ([0, 1, 0, 0], [0, 1, 0, 0])


def test_a_torn_memory_is_counted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASSEG_CACHE", str(tmp_path))
    split = Masks([np.array([[0, 1]])])
    first = class_counts(split, 2)
    (found,) = (tmp_path / "class_counts").iterdir()
    found.write_text("{torn")
    assert (class_counts(split, 2) == first).all()
    assert split.reads == 2


@pytest.mark.parametrize(
    ("pixels", "rare"),
    [
        # Of two classes an equal share is a half, and half of it a quarter.
        ([75, 25], {}),
        ([76, 24], {1: 0.24}),
        # A class without a pixel does not count: of the other three the bound is a sixth.
        ([50, 0, 34, 16], {3: 0.16}),
        ([50, 0, 33, 17], {}),
        ([1, 1, 1, 1], {}),
        ([997, 2, 1], {1: 0.002, 2: 0.001}),
        ([5, 0, 0], {}),
        ([0, 0], {}),
    ],
)
def test_a_class_is_rare_below_half_of_an_equal_share(pixels: list[int], rare: dict[int, float]) -> None:
    assert rare_classes(np.array(pixels)) == pytest.approx(rare)


def test_rules() -> None:
    rare = Masks([np.array([[0] * 30 + [1] * 9 + [2]])], key="rare")
    even = Masks([np.array([[0, 0, 0, 1, 1, 2, 2]])], key="even")
    assert weigh_classes("none", data_of(rare, "abc")) == ClassWeights("none")
    assert rare.reads == 0
    # f = 30/40, 9/40, 1/40.
    weighted = ClassWeights("sqrt_median_frequency", tuple(sqrt(w) for w in (0.3, 1.0, 5.0)))
    for rule in ("sqrt_median_frequency", "auto"):
        assert weigh_classes(rule, data_of(rare, "abc")) == weighted
    assert weigh_classes("auto", data_of(even, "abc")) == ClassWeights("none")
    assert weigh_classes("sqrt_median_frequency", data_of(even, "abc")).weights == pytest.approx([sqrt(2 / 3), 1.0, 1.0])
    assert weighted.to_dict("abc") == {"rule": "sqrt_median_frequency", "weights": {"a": 0.5477, "b": 1.0, "c": 2.2361}}
    assert ClassWeights("none").to_dict("abc") == {"rule": "none", "weights": {}}


def test_masks_without_a_counted_pixel_are_refused() -> None:
    with pytest.raises(DataError, match="every pixel of its 2 masks is 255"):
        weigh_classes("auto", data_of(Masks([np.full((2, 2), 255)] * 2, key="empty"), "abc"))


def test_the_built_in_scenes_have_rare_classes() -> None:
    found = weigh_classes("auto", open_data("synthetic:streets?train=8&size=64x64"))
    assert found.rule == "sqrt_median_frequency"


@pytest.mark.shared
def test_frequencies_of_camvid_are_the_published_ones(shared: Path) -> None:
    """Frequencies of three classes as the data's own description lists them."""
    data = open_data(f"camvid:{shared / 'data' / 'camvid'}")
    pixels, _ = class_pixels(class_counts(data.split("train"), 11))
    shares = np.asarray(pixels) / sum(pixels)
    assert shares[[0, 2, 10]] == pytest.approx([0.175376, 0.010233, 0.003037], abs=2e-6)
    # An equal share of eleven is 9.1 %, half of it 4.5 %.
    assert sorted(data.classes[c] for c in rare_classes(np.asarray(pixels))) == ["bicyclist", "fence", "pedestrian", "pole", "sign_symbol"]
