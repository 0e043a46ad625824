"""A camera, and a canvas it paints on from far to near: colour, label and depth of every sample point.

Two by two sample points a pixel, so edges are blended in the image while each mask pixel takes one label. Only + − · ÷, square
roots, comparisons and rounding are used, whose results IEEE 754 fixes: the same scene has the same bytes on every machine.

Units: metres in the world (X right, Y up from the ground, Z ahead), image heights on the canvas (u right and v down from the
vanishing point), so that u = f·X / Z and v = f·(h − Y) / Z with the focal length f and the camera's height h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasseg.data.images import IGNORE, UInt8

Floats = NDArray[np.floating[Any]]  # always float32; the name is wider because numpy's types lose track of it
Bools = NDArray[np.bool_]
RGB = tuple[float, float, float]

SUB = 2  # sample points a pixel, along each side
FAR = 1e6  # depth of the sky in metres
f32 = np.float32


@dataclass(frozen=True, slots=True)
class Camera:
    """``horizon`` and ``centre``: the vanishing point, in image heights from the top and from the middle. ``roll``: rise of v by u."""

    focal: float
    height: float
    horizon: float
    centre: float
    roll: float


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the canvas: ``u`` (1, w) and ``v`` (h, w) of its sample points."""

    where: tuple[slice, slice]
    u: Floats
    v: Floats


class Canvas:
    """Sample points of an image of ``size`` (H, W) pixels: ``rgb`` (3, 2H, 2W) in 0…1, ``label`` and ``depth`` (2H, 2W)."""

    def __init__(self, size: tuple[int, int], camera: Camera) -> None:
        self.size = size
        self.camera = camera
        rows, columns = SUB * size[0], SUB * size[1]
        self.scale = float(rows)  # sample points an image height
        self.left = columns / 2 / self.scale + camera.centre
        self.u: Floats = (np.arange(columns, dtype=f32) + f32(0.5)) / f32(self.scale) - f32(self.left)
        y = (np.arange(rows, dtype=f32) + f32(0.5)) / f32(self.scale) - f32(camera.horizon)
        self.v: Floats = y[:, None] - f32(camera.roll) * self.u[None, :]
        self.rgb: Floats = np.zeros((3, rows, columns), dtype=f32)
        self.label: UInt8 = np.full((rows, columns), IGNORE, dtype=np.uint8)
        self.depth: Floats = np.full((rows, columns), FAR, dtype=f32)
        self._lean = abs(camera.roll) * max(abs(float(self.u[0])), abs(float(self.u[-1])))

    def part(self, rows: slice, columns: slice = slice(None)) -> Window:
        """The window of some rows and columns."""
        return Window((rows, columns), self.u[None, columns], self.v[rows, columns])

    def below(self, v: float) -> Window:
        """All rows that reach below ``v``."""
        return self.part(slice(self._row(v - self._lean), None))

    def above(self, v: float) -> Window:
        """All rows that reach above ``v``."""
        return self.part(slice(0, min(self._row(v + self._lean) + 1, self.v.shape[0])))

    def _row(self, v: float) -> int:
        return int(min(max((v + self.camera.horizon) * self.scale, 0), self.v.shape[0]))

    def window(self, u0: float, u1: float, v0: float, v1: float) -> Window | None:
        """The sample points of a rectangle, or None where it lies outside the canvas."""
        c0, c1 = (u0 + self.left) * self.scale, (u1 + self.left) * self.scale
        lean = (self.camera.roll * u0, self.camera.roll * u1)
        r0 = (v0 + self.camera.horizon + min(lean)) * self.scale
        r1 = (v1 + self.camera.horizon + max(lean)) * self.scale
        rows, columns = self.v.shape
        if not (c0 < columns and c1 > 0 and r0 < rows and r1 > 0):
            return None
        return self.part(slice(int(max(r0, 0)), int(min(r1 + 1, rows))), slice(int(max(c0, 0)), int(min(c1 + 1, columns))))

    def around(self, x: float, z: float, half_width: float, low: float, high: float) -> tuple[Window, Floats, Floats] | None:
        """The window of an upright rectangle at depth ``z``, with X − x (1, w) and Y (h, w) of its points; None where it is not seen."""
        f, h = self.camera.focal, self.camera.height
        seen = self.window(f * (x - half_width) / z, f * (x + half_width) / z, f * (h - high) / z, f * (h - low) / z)
        if seen is None:
            return None
        step = f32(z / f)
        return seen, seen.u * step - f32(x), f32(h) - seen.v * step

    def beside(self, x: float, near: float, far: float, low: float, high: float) -> tuple[Window, Floats, Floats] | None:
        """The window of an upright plane along the street at X = x, with Z (1, w), 0 where the plane is not met, and Y (h, w)."""
        f, h = self.camera.focal, self.camera.height
        if x == 0:
            return None
        ends = sorted((f * x / near, f * x / far))
        heights = [f * (h - y) / z for y in (low, high) for z in (near, far)]
        seen = self.window(ends[0], ends[1], min(heights), max(heights))
        if seen is None:
            return None
        z = f32(f * x) / np.where(seen.u * f32(x) > 0, seen.u, f32(1e-9))
        z = np.where((z >= near) & (z <= far), z, f32(0))
        return seen, z, f32(h) - seen.v * (z / f32(f))

    def paint(self, window: Window, where: Bools, colour: Floats | RGB) -> None:
        """Cover the points of ``where`` with a colour, one or (3, h, w)."""
        tone = np.asarray(colour, dtype=f32)
        rgb = self.rgb[:, window.where[0], window.where[1]]
        np.copyto(rgb, tone[:, None, None] if tone.ndim == 1 else tone, where=where)

    def mark(self, window: Window, where: Bools, label: int, depth: Floats | float) -> None:
        """Say what the points of ``where`` show, and how far away."""
        np.copyto(self.label[window.where], np.uint8(label), where=where)
        np.copyto(self.depth[window.where], f32(depth) if isinstance(depth, float) else depth, where=where)

    def shade(self, window: Window, where: Bools, factor: float) -> None:
        """Darken (or lighten) what is there."""
        rgb = self.rgb[:, window.where[0], window.where[1]]
        np.multiply(rgb, f32(factor), out=rgb, where=where)

    def picture(self) -> Floats:
        """Colours averaged to pixels, (3, H, W)."""
        c = self.rgb
        rows = c[:, 0::2] + c[:, 1::2]
        out: Floats = (rows[..., 0::2] + rows[..., 1::2]) * f32(0.25)
        return out

    def mask(self, thin: Sequence[int]) -> UInt8:
        """A pixel's label by majority of its four points; two against two: a label of ``thin`` wins, else, as with four labels, 255."""
        c = self.label
        p, q, r, s = c[0::2, 0::2], c[0::2, 1::2], c[1::2, 0::2], c[1::2, 1::2]
        # sort the four by a network of five exchanges
        p, q, r, s = np.minimum(p, q), np.maximum(p, q), np.minimum(r, s), np.maximum(r, s)
        p, r, q, s = np.minimum(p, r), np.maximum(p, r), np.minimum(q, s), np.maximum(q, s)
        q, r = np.minimum(q, r), np.maximum(q, r)
        out = q.copy()  # right wherever q == r: two or more in the middle
        low, high, open_ = p == q, r == s, q != r
        np.copyto(out, s, where=open_ & high & ~low)
        np.copyto(out, np.uint8(IGNORE), where=open_ & (low == high))
        is_thin = np.zeros(256, dtype=np.bool_)
        is_thin[list(thin)] = True
        tie = open_ & low & high
        np.copyto(out, p, where=tie & is_thin[p])
        np.copyto(out, s, where=tie & is_thin[s])
        return out


class Noise:
    """Smooth noise in 0…1 over the plane, changing over a unit's length, repeated every 64. A table looked up at an offset of one's own."""

    def __init__(self, right: float, up: float) -> None:
        self.right, self.up = f32(64 + right), f32(64 + up)

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """The height of the noise at these places."""
        column = ((x + self.right) * f32(_FINE)).astype(np.int32) & (_SIDE - 1)
        row = ((y + self.up) * f32(_FINE)).astype(np.int32) & (_SIDE - 1)
        out: Floats = _smooth_table().take((row * _SIDE) + column)
        return out

    def cells(self, x: Floats, y: Floats) -> Floats:
        """One number a unit cell, not smoothed."""
        out: Floats = _rough_table().take((y.astype(np.int32) & 63) * 64 + (x.astype(np.int32) & 63))
        return out


_FINE = 8  # table entries a unit
_SIDE = 64 * _FINE


@lru_cache(maxsize=1)
def _rough_table() -> Floats:
    return np.random.default_rng(20240229).random(64 * 64, dtype=f32)


@lru_cache(maxsize=1)
def _smooth_table() -> Floats:
    """Bilinear between the rough table's numbers, its ends joined."""
    rough = _rough_table().reshape(64, 64)
    at = np.arange(_SIDE) // _FINE
    share = ((np.arange(_SIDE) % _FINE).astype(f32) + f32(0.5)) / f32(_FINE)
    rows = rough[at] * (1 - share)[:, None] + rough[(at + 1) % 64] * share[:, None]
    both: Floats = rows[:, at] * (1 - share) + rows[:, (at + 1) % 64] * share
    return both.ravel()
