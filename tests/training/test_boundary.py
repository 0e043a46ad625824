"""Boundary IoU against a second, slow definition, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasseg.training.boundary import BoundaryIoU, boundary, boundary_width


def eroded(region: np.ndarray) -> np.ndarray:
    """One erosion by 3×3, pixel by pixel; beyond the image is outside."""
    H, W = region.shape
    out = np.zeros_like(region)
    for y in range(H):
        for x in range(W):
            around = [0 <= y + dy < H and 0 <= x + dx < W and bool(region[y + dy, x + dx]) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            out[y, x] = all(around)
    return out


def slow(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, ratio: float) -> dict[int, float]:
    """Class by class, one erosion after another."""
    both, either = [0] * classes, [0] * classes
    for prediction, target in pairs:
        width = max(1, round(ratio * math.sqrt(target.shape[0] ** 2 + target.shape[1] ** 2)))
        for c in range(classes):
            bands = []
            for labels in (prediction, target):
                region = (labels == c) & (target != 255)
                inner = region
                for _ in range(width):
                    inner = eroded(inner)
                bands.append(region & ~inner)
            both[c] += int((bands[0] & bands[1]).sum())
            either[c] += int((bands[0] | bands[1]).sum())
    return {c: 100 * both[c] / either[c] for c in range(classes) if either[c]}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 5), ratio=st.sampled_from([0.02, 0.1, 0.2]))
def test_agrees_with_the_slow_definition(seed: int, classes: int, ratio: float) -> None:
    random = np.random.default_rng(seed)
    metrics, pairs = BoundaryIoU(classes, ratio), []
    for _ in range(2):
        rows, columns = random.integers(1, 5, 2)
        # Blocks of pixels, so that regions have an inside.
        target = random.integers(0, classes, (rows, columns)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        prediction = np.where(random.random(target.shape) < 0.1, random.integers(0, classes, target.shape), target).astype(np.uint8)
        target[random.random(target.shape) < 0.05] = 255
        pairs.append((prediction, target))
        metrics.update(prediction, target)
    assert metrics.compute() == pytest.approx(slow(pairs, classes, ratio), rel=1e-12)


def test_by_hand() -> None:
    target = np.zeros((10, 10), dtype=np.uint8)
    target[2:8, 2:8] = 1
    prediction = np.zeros((10, 10), dtype=np.uint8)
    prediction[2:8, 3:8] = 1
    metrics = BoundaryIoU(2)
    metrics.update(prediction, target)
    # Width 1. Class 1: rings of 6×6 (20 pixels) and of 6×5 (18); shared: the right sides of both rings, 5 + 5 + 4.
    assert metrics.counts[:, 1].tolist() == [14, 20, 18]
    assert metrics.compute()[1] == pytest.approx(100 * 14 / 24)


def test_a_perfect_prediction_and_what_is_ignored() -> None:
    target = np.arange(144).reshape(12, 12).astype(np.uint8) % 3
    prediction = target.copy()
    target[4:6] = 255
    prediction[4:6] = 2
    metrics = BoundaryIoU(4)
    metrics.update(prediction, target)
    assert metrics.compute() == {0: 100.0, 1: 100.0, 2: 100.0}


def test_width_is_two_percent_of_the_diagonal() -> None:
    assert [boundary_width(shape) for shape in ((3, 4), (300, 400), (720, 960))] == [1, 10, 24]


def test_boundary_of_one_region_is_the_image_border() -> None:
    found = boundary(np.full((5, 6), 7, dtype=np.uint8), 1)
    assert found.sum() == 5 * 6 - 3 * 4
    assert not found[1:-1, 1:-1].any()
