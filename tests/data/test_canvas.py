"""The canvas: perspective, painting order, and how four sample points become one label."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nasseg.data.canvas import FAR, Camera, Canvas, Noise

CAMERA = Camera(focal=1.0, height=1.5, horizon=0.5, centre=0.0, roll=0.0)


def test_points_of_the_camera() -> None:
    canvas = Canvas((4, 6), CAMERA)
    np.testing.assert_allclose(canvas.u, (np.arange(12) + 0.5) / 8 - 0.75)
    np.testing.assert_allclose(canvas.v[:, 0], (np.arange(8) + 0.5) / 8 - 0.5)
    assert (canvas.depth == FAR).all()
    assert (canvas.label == 255).all()


def test_roll_leans_the_horizon() -> None:
    canvas = Canvas((4, 6), Camera(1.0, 1.5, 0.5, 0.0, 0.2))
    np.testing.assert_allclose(canvas.v[0] - canvas.v[0, 0], -0.2 * (canvas.u - canvas.u[0]), atol=1e-6)


def test_upright_rectangle_lies_where_perspective_says() -> None:
    """2 m wide, 1 m high, 4 m ahead, 1 m to the right: u 0…1/2, v 1/8…3/8."""
    canvas = Canvas((64, 64), CAMERA)
    seen = canvas.around(1.0, 4.0, 1.0, 0.0, 1.0)
    assert seen is not None
    window, a, b = seen
    canvas.mark(window, (np.abs(a) < 1) & (b > 0) & (b < 1), 3, 4.0)
    rows, columns = np.nonzero(canvas.label == 3)
    scale = 128
    assert (columns.min(), columns.max() + 1) == (0.5 * scale, scale)
    assert (rows.min(), rows.max() + 1) == ((0.5 + 1 / 8) * scale, (0.5 + 3 / 8) * scale)
    assert (canvas.depth[canvas.label == 3] == 4).all()


def test_plane_beside_the_street() -> None:
    """X = 2 from 4 to 8 m ahead: u from 1/4 to 1/2; its depth is f·X / u."""
    canvas = Canvas((64, 64), CAMERA)
    seen = canvas.beside(2.0, 4.0, 8.0, 0.0, 1.5)
    assert seen is not None
    window, z, b = seen
    inside = (z > 0) & (b > 0) & (b < 1.5)
    canvas.mark(window, inside, 2, np.broadcast_to(z, inside.shape))
    rows, columns = np.nonzero(canvas.label == 2)
    assert (columns.min(), columns.max() + 1) == (64 + 32, 128)
    assert rows.min() == 64  # as high as the camera: up to the horizon
    np.testing.assert_allclose(canvas.depth[rows, columns], 2 / canvas.u[columns], rtol=1e-5)
    assert canvas.beside(0.0, 4.0, 8.0, 0.0, 1.5) is None


@pytest.mark.parametrize("x", [-40.0, 40.0])
def test_outside_is_none(x: float) -> None:
    canvas = Canvas((16, 16), CAMERA)
    assert canvas.around(x, 4.0, 1.0, 0.0, 1.0) is None
    assert canvas.beside(x, 1.0, 2.0, 0.0, 1.0) is None
    assert canvas.window(-0.1, 0.1, 0.6, 0.7) is None


def test_paint_and_shade() -> None:
    canvas = Canvas((2, 2), CAMERA)
    window = canvas.part(slice(0, 2), slice(1, 3))
    where = np.array([[True, False], [False, True]])
    canvas.paint(window, where, (0.5, 0.25, 1.0))
    assert canvas.rgb[:, 0, 1].tolist() == canvas.rgb[:, 1, 2].tolist() == [0.5, 0.25, 1.0]
    assert canvas.rgb.sum() == pytest.approx(3.5)
    canvas.shade(window, where, 0.5)
    assert canvas.rgb[:, 0, 1].tolist() == [0.25, 0.125, 0.5]
    canvas.paint(window, where, np.ones((3, 2, 2), dtype=np.float32))
    np.testing.assert_allclose(canvas.picture()[:, 0, 0], 0.25)
    assert (canvas.label == 255).all()


def test_above_and_below_share_the_canvas() -> None:
    canvas = Canvas((8, 8), CAMERA)
    assert canvas.below(0.0).where[0] == slice(8, None)
    assert canvas.above(0.0).where[0] == slice(0, 9)
    assert canvas.below(9.0).v.size == 0
    assert canvas.above(9.0).v.shape == (16, 16)


def test_label_of_four_points() -> None:
    """Against a plain majority count, over all cases of four labels; 0 and 3 are thin."""
    thin = (0, 3)
    cases = list(product(range(5), repeat=4))
    canvas = Canvas((1, len(cases)), CAMERA)
    canvas.label[:] = np.array(cases, dtype=np.uint8).reshape(len(cases), 2, 2).transpose(1, 0, 2).reshape(2, -1)
    for case, got in zip(cases, canvas.mask(thin)[0], strict=True):
        counts = {label: case.count(label) for label in set(case)}
        most = max(counts.values())
        best = sorted(label for label, count in counts.items() if count == most)
        if len(best) == 1:
            assert got == best[0], case
        elif most == 1:
            assert got == 255, case
        else:
            slim = [label for label in best if label in thin]
            assert got == (slim[-1] if slim else 255), case


def test_noise() -> None:
    noise = Noise(3.0, 5.0)
    x, y = np.meshgrid(np.linspace(0, 20, 400, dtype=np.float32), np.linspace(0, 20, 400, dtype=np.float32))
    values = noise(x, y)
    assert values.dtype == np.float32
    assert 0 <= values.min() < 0.1
    assert 0.9 < values.max() < 1
    assert np.abs(np.diff(values, axis=1)).max() < 0.2  # smooth: a twentieth of a unit moves it little
    np.testing.assert_array_equal(noise(x + 64, y), values)
    cells = noise.cells(x, y)
    assert len(np.unique(cells)) <= 21 * 21
    np.testing.assert_array_equal(cells[:19, :19], np.full((19, 19), cells[0, 0]))
