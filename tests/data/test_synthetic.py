"""The built-in street scenes: the same bytes for the same key, everywhere."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from nasseg.data.layouts import open_data
from nasseg.data.street_plan import Dice, Label, Light, Row, Street
from nasseg.data.streets import CLASSES, PALETTE, VERSION, render_street
from nasseg.data.synthetic import DEFAULTS
from nasseg.errors import DataError

GOLDEN = {
    (96, 128): "8f64d1f668f20ef7",
    (40, 33): "8e20500bb6500825",
}
"""SHA-256 of the image's and mask's bytes of key (0, 0, 3), first 16 digits, at VERSION 1."""


def fingerprint(size: tuple[int, int], key: tuple[int, ...]) -> str:
    image, mask = render_street(size, key)
    return hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()[:16]


def test_golden_bytes() -> None:
    assert VERSION == 1
    assert {size: fingerprint(size, (0, 0, 3)) for size in GOLDEN} == GOLDEN


def test_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from nasseg.data.streets import render_street; i, m = render_street((48, 64), (7, 1, 2));"
        "print(hashlib.sha256(i.tobytes() + m.tobytes()).hexdigest()[:16])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == fingerprint((48, 64), (7, 1, 2))


def test_global_generators_are_left_alone() -> None:
    state = np.random.get_state()[1].copy()
    render_street((32, 32), (0,))
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_defaults() -> None:
    data = open_data("synthetic")
    assert data.spec == "synthetic:streets?seed=0&size=96x128&train=64&val=16"
    assert data.spec == f"synthetic:streets?{'&'.join(f'{key}={DEFAULTS[key]}' for key in sorted(DEFAULTS))}"
    assert (data.name, data.classes_from, data.num_classes) == ("synthetic streets", "built in", 11)
    assert data.classes == CLASSES == tuple(label.name.lower() for label in Label)
    assert data.palette == PALETTE
    assert len(set(PALETTE)) == 11
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 64, "val": 16}
    image, mask = data.splits["train"][0]
    assert (image.shape, mask.shape, image.dtype, mask.dtype) == ((96, 128, 3), (96, 128), np.uint8, np.uint8)
    assert open_data(data.spec).fingerprint == data.fingerprint
    assert open_data("synthetic:streets?seed=1").fingerprint != data.fingerprint


def test_a_larger_split_begins_with_the_smaller() -> None:
    small = open_data("synthetic?train=2&size=32x48").splits["train"]
    large = open_data("synthetic?train=5&val=2&size=32x48").splits["train"]
    assert large.ids[:2] == small.ids == ("train_000000", "train_000001")
    for index in range(2):
        np.testing.assert_array_equal(small[index].image, large[index].image)
        np.testing.assert_array_equal(small[index].mask, large[index].mask)


def test_splits_and_seeds_and_indices_differ() -> None:
    first = open_data("synthetic?train=6&val=6&size=32x48").splits
    other = open_data("synthetic?train=6&val=6&size=32x48&seed=1").splits
    seen = {sample.image.tobytes() for splits in (first, other) for split in splits.values() for sample in split}
    assert len(seen) == 24


def test_one_scene_at_any_size() -> None:
    """The same key at three times the size is the same picture: masks agree but for edges and thin things."""
    for key in ((0, 0, 1), (0, 0, 2), (3, 1, 4)):
        _, small = render_street((48, 64), key)
        _, large = render_street((144, 192), key)
        centre = large[1::3, 1::3]
        both = (small != 255) & (centre != 255)
        assert (small == centre)[both].mean() > 0.93


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 200), (200, 64), (32, 512)])
def test_any_size(size: tuple[int, int]) -> None:
    for index in range(4):
        image, mask = render_street(size, (1, index))
        assert image.shape == (*size, 3)
        assert mask.shape == size
        assert image.flags.c_contiguous
        assert image.flags.writeable
        assert mask.flags.writeable


def test_shares_are_those_of_a_street() -> None:
    """Large classes are large, thin ones thin, all of them there, some pixels ignored."""
    split = open_data("synthetic:streets?train=48&size=96x128").splits["train"]
    counts = sum(np.bincount(sample.mask.ravel(), minlength=256) for sample in split)
    share = dict(zip(CLASSES, 100 * counts[:11] / counts[:255].sum(), strict=True))
    assert counts[11:255].sum() == 0
    assert 25 < share["road"] < 40
    assert 18 < share["building"] < 32
    assert 10 < share["sky"] < 22
    for name in ("marking", "fence", "pole", "sign", "person"):
        assert 0.2 < share[name] < 3, name
    for name in ("pavement", "vegetation", "car"):
        assert 1.5 < share[name] < 15, name
    assert 1 < 100 * counts[255] / counts.sum() < 7


def test_poles_are_thin() -> None:
    """Half of all runs of pole pixels along a row are one or two pixels wide."""
    runs = []
    for sample in open_data("synthetic:streets?train=24").splits["train"]:
        for row in sample.mask == Label.POLE:
            edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
            runs += list(edges[1::2] - edges[::2])
    assert np.median(runs) <= 2


def test_colour_alone_does_not_tell_the_class() -> None:
    """Nearest mean colour, fitted on the very pixels it is scored on, reaches little: place and surroundings must decide."""
    samples = list(open_data("synthetic:streets?train=24&size=64x96").splits["train"])
    pixels = np.concatenate([s.image.reshape(-1, 3) for s in samples]).astype(float)
    labels = np.concatenate([s.mask.ravel() for s in samples])
    pixels, labels = pixels[labels != 255], labels[labels != 255]
    means = np.stack([pixels[labels == k].mean(0) for k in range(11)])
    guess = ((pixels[:, None] - means[None]) ** 2).sum(-1).argmin(1)
    iou = [((guess == k) & (labels == k)).sum() / ((guess == k) | (labels == k)).sum() for k in range(11)]
    assert np.mean(iou) < 0.2


def test_split_crosses_processes() -> None:
    split = open_data("synthetic?train=3&size=32x32").splits["train"]
    again = pickle.loads(pickle.dumps(split))
    assert again.key == split.key
    np.testing.assert_array_equal(again[2].image, split[2].image)
    part = split.subset([2, 0], "part")
    assert (part.name, part.ids) == ("part", ("train_000002", "train_000000"))
    np.testing.assert_array_equal(part[0].image, split[2].image)
    assert part.key != split.key
    assert repr(part) == "SyntheticSplit('part', 2 samples)"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("synthetic:street", "no built-in scenes named 'street'; there are streets; nearest: streets"),
        ("synthetic:zzz", "no built-in scenes named 'zzz'; there are streets$"),
        ("synthetic?train=0", "train is a whole number from 1 to 1000000, '0' given"),
        ("synthetic?val=many", "val is a whole number from 1 to 1000000, 'many' given"),
        ("synthetic?seed=-1", "seed is a whole number from 0 to 4294967295, '-1' given"),
        ("synthetic?size=16x16", "size is HEIGHTxWIDTH, each from 32 to 4096 pixels, '16x16' given"),
        ("synthetic?holdout=a", "unknown setting 'holdout'; this kind of data knows seed, size, train, val"),
    ],
)
def test_refused(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(spec)


def test_dice() -> None:
    dice = Dice(np.random.default_rng(0))
    assert all(2 <= dice.between(2, 3) < 3 for _ in range(50))
    assert {dice.pick("abc") for _ in range(50)} == set("abc")
    assert 10 < sum(dice.chance(0.5) for _ in range(50)) < 40
    assert all(0 <= part <= 1 for part in dice.near((0.0, 0.5, 0.9), 0.1))


def test_light() -> None:
    sunny, cloudy = Light(1, 1.2, 0.6), Light(0, 1.2, 0.6)
    assert (sunny.on(1), sunny.on(-1), sunny.on(0)) == (1.2, 0.6, pytest.approx(0.9))
    assert {cloudy.on(facing) for facing in (-1, 0, 1)} == {0.92}


def test_rows_reach_the_far_end() -> None:
    for seed in range(5):
        row = Row.draw(Dice(np.random.default_rng(seed)), 0.3, (4.0, 20.0))
        assert row.ends[0] < 0
        assert row.ends[-1] >= 160
        assert (np.diff(row.ends) > 0).all()
        assert len(row.height) == len(row.colour) == len(row.ends) - 1
        assert set(row.height[row.height < 4]) <= {0}


def test_street_sides() -> None:
    street = Street.draw(Dice(np.random.default_rng(1)))
    assert [side.sign for side in street.sides] == [-1, 1]
    for side in street.sides:
        assert side.kerb < side.verge <= side.wall < side.back
    assert street.kerbs == (-street.left.kerb, street.right.kerb)
    assert street.at(2.0, 10.0) == 2.0 + street.curve * 100
