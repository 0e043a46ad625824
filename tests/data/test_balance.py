"""Class-balanced sampling: DAFormer's probabilities, by hand and by counting; counts that are made once."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from nasseg.data.balance import Balanced, class_probability
from nasseg.data.dataset import Sample, Split
from nasseg.data.layouts import open_data
from nasseg.data.loader import train_batches
from nasseg.data.statistics import class_counts
from nasseg.data.transforms import TrainTransform
from nasseg.errors import DataError


class Coded(Split):
    """40 images of mixed sizes: class 0 everywhere, class 1 in every fourth, class 2 in the last two, class 3 nowhere."""

    def __init__(self, ids: Sequence[int] = range(40), name: str = "train") -> None:
        self.name, self.numbers = name, tuple(ids)
        self.ids = tuple(str(number) for number in self.numbers)
        self.reads = 0

    @property
    def key(self) -> str:
        return f"coded{self.numbers}"

    def read(self, index: int) -> Sample:
        self.reads += 1
        number = self.numbers[index]
        mask = np.zeros((20 + number % 7, 30 - number % 5), dtype=np.uint8)
        if number % 4 == 0:
            mask[:4, :5] = 1
        if number >= 38:
            mask[9, 9] = 2
        mask[-1] = 255
        return Sample(np.full((*mask.shape, 3), number, dtype=np.uint8), mask)

    def subset(self, indices: Sequence[int], name: str) -> Split:
        return Coded([self.numbers[index] for index in indices], name)


def test_counts_are_right_and_made_once() -> None:
    split = Coded()
    counts = class_counts(split, 4)
    assert split.reads == 40
    assert (counts.shape, counts.dtype) == ((40, 4), np.int32)
    for index, (_, mask) in enumerate(split):
        assert counts[index].tolist() == [int((mask == c).sum()) for c in range(4)]
    again = Coded()
    np.testing.assert_array_equal(class_counts(again, 4), counts)
    assert again.reads == 0
    assert class_counts(again, 5).shape == (40, 5)


def test_nothing_to_count() -> None:
    class Empty(Coded):
        key = "empty"

        def read(self, index: int) -> Sample:
            return Sample(np.zeros((2, 2, 3), dtype=np.uint8), np.full((2, 2), 255, dtype=np.uint8))

    with pytest.raises(DataError, match="every pixel of its 40 masks is 255"):
        class_counts(Empty(), 4)


def test_probability_by_hand() -> None:
    pixels = np.array([90, 10, 0])
    wanted = [math.exp((1 - share) / 0.5) for share in (0.9, 0.1)]
    assert class_probability(pixels, 0.5).tolist() == pytest.approx([wanted[0] / sum(wanted), wanted[1] / sum(wanted), 0.0])
    # At DAFormer's temperature a common class is hardly ever drawn, and nothing overflows.
    assert class_probability(pixels)[1] == pytest.approx(1.0)


def test_a_share_of_a_pass_is_drawn() -> None:
    split = Coded()
    counts = class_counts(split, 4)
    plain = split.order(3, 0)
    half = Balanced(split, counts, 0.5)
    assert Balanced(split, counts, 0.0).order(3, 0).tolist() == plain.tolist()
    seen = np.concatenate([half.order(3, number) for number in range(50)])
    kept = np.concatenate([half.order(3, number) == split.order(3, number) for number in range(50)])
    assert 0.45 < kept.mean() < 0.6
    # Class 2 is rarest by far, but within a temperature of class 1: f_1 about 0.008, f_2 about 0.
    odds = class_probability(counts.sum(axis=0, dtype=np.int64))
    drawn = np.isin(seen[~kept], (38, 39)).mean()
    assert drawn == pytest.approx(odds[2], abs=0.06)
    assert np.isin(seen[~kept], [*range(0, 40, 4), 38, 39]).mean() > 0.95


def test_is_a_function_of_seed_and_pass() -> None:
    split = Coded()
    sampler = Balanced(split, class_counts(split, 4), 0.7)
    again = pickle.loads(pickle.dumps(sampler))
    assert sampler.order(1, 5).tolist() == again.order(1, 5).tolist()
    assert sampler.order(1, 5).tolist() != sampler.order(1, 6).tolist()
    assert sampler.order(1, 5).tolist() != sampler.order(2, 5).tolist()
    assert sampler.order(1, 5).dtype == np.int64
    assert split.order(1, 5).tolist() == Coded().order(1, 5).tolist()


def test_a_sliver_counts_only_where_there_is_nothing_better() -> None:
    counts = np.array([[100_000, 50, 0], [100_000, 500, 3], [100_000, 0, 0]], dtype=np.int32)
    holding = Balanced(Coded(range(3)), counts, 1.0).holding
    assert [images.tolist() for images in holding] == [[0, 1, 2], [1], [1]]


def test_mixed_sizes_come_through_the_loader_alike_whatever_the_workers() -> None:
    split = Coded()
    transform = TrainTransform((16, 24), mean=(0, 0, 0), std=(1, 1, 1), distort=True)
    sampler = Balanced(split, class_counts(split, 4), 0.5)
    options = {"batch_size": 4, "iterations": 6, "seed": 9, "sampler": sampler}
    batches = list(train_batches(split, transform, **options))
    assert {(x.shape, y.shape) for x, y in batches} == {((4, 3, 16, 24), (4, 16, 24))}
    for (x, y), (same_x, same_y) in zip(batches[3:], train_batches(split, transform, **options, start=3, workers=2), strict=True):
        assert (x == same_x).all()
        assert (y == same_y).all()


def test_on_the_street_scenes() -> None:
    """A pass that is drawn by rarity shows rare classes more often."""
    data = open_data("synthetic?train=32&val=2&size=64x96")
    train = data.split("train")
    counts = class_counts(train, data.num_classes)
    rarest = int(np.argmin(np.where(counts.sum(0) > 0, counts.sum(0), counts.sum() + 1)))

    def often(share: float) -> float:
        sampler = Balanced(train, counts, share)
        return float(np.mean([(counts[sampler.order(0, number), rarest] > 0).mean() for number in range(10)]))

    assert often(1.0) > often(0.0)
