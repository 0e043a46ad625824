"""A camera, and a canvas it paints on from far to near: colour, label and depth of every sample point.

Two by two sample points a pixel, so edges are blended in the image while each mask pixel takes one label. Only + − · ÷, square roots, comparisons and
rounding are used, whose results IEEE 754 fixes: the same scene has the same bytes on every machine.

Units: metres in the world (X right, Y up from the ground, Z ahead), image heights on the canvas (u right and v down from the vanishing point), so that
u = f·X / Z and v = f·(h − Y) / Z with the focal length f and the camera's height h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasseg.data.images import IGNORE, UInt8

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
RGB = tuple[float, float, float]

SUB = 2  # sample points a pixel, along each side
FAR = 1e6  # depth of the sky in metres


@dataclass(frozen=True, slots=True)
class Camera:
    """``horizon`` and ``centre``: the vanishing point, in image heights from the top and from the middle. ``roll``: how far v falls a unit of u."""

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
    """Sample points of an image of ``size`` (H, W) pixels: ``rgb`` (2H, 2W, 3) in 0…1, ``label`` and ``depth`` (2H, 2W)."""

    def __init__(self, size: tuple[int, int], camera: Camera) -> None:
        self.size = size
        self.camera = camera
        rows, columns = SUB * size[0], SUB * size[1]
        self.scale = float(rows)  # sample points an image height
        self.left = columns / 2 / self.scale + camera.centre
        self.u = (np.arange(columns, dtype=np.float32) + np.float32(0.5)) / np.float32(self.scale) - np.float32(self.left)
        y = (np.arange(rows, dtype=np.float32) + np.float32(0.5)) / np.float32(self.scale) - np.float32(camera.horizon)
        self.v: Floats = y[:, None] - np.float32(camera.roll) * self.u[None, :]
        self.rgb: Floats = np.zeros((rows, columns, 3), dtype=np.float32)
        self.label: UInt8 = np.full((rows, columns), IGNORE, dtype=np.uint8)
        self.depth: Floats = np.full((rows, columns), FAR, dtype=np.float32)

    def all(self) -> Window:
        """The whole canvas."""
        return Window((slice(None), slice(None)), self.u[None, :], self.v)

    def below(self, v: float) -> Window:
        """All rows that reach below ``v``."""
        lean = abs(self.camera.roll) * max(abs(float(self.u[0])), abs(float(self.u[-1])))
        first = int(min(max((v + self.camera.horizon - lean) * self.scale, 0), self.v.shape[0]))
        return Window((slice(first, None), slice(None)), self.u[None, :], self.v[first:])

    def window(self, u0: float, u1: float, v0: float, v1: float) -> Window | None:
        """The sample points of a rectangle, or None where it lies outside the canvas or between two of them."""
        c0, c1 = (u0 + self.left) * self.scale, (u1 + self.left) * self.scale
        lean = (self.camera.roll * u0, self.camera.roll * u1)
        r0 = (v0 + self.camera.horizon + min(lean)) * self.scale
        r1 = (v1 + self.camera.horizon + max(lean)) * self.scale
        rows, columns = self.v.shape
        if not (c0 < columns and c1 > 0 and r0 < rows and r1 > 0):
            return None
        where = (slice(int(max(r0, 0)), int(min(r1 + 1, rows))), slice(int(max(c0, 0)), int(min(c1 + 1, columns))))
        return Window(where, self.u[None, where[1]], self.v[where])

    def around(self, x: float, z: float, half_width: float, low: float, high: float) -> tuple[Window, Floats, Floats] | None:
        """The window of an upright rectangle at depth ``z``, with a = X − x (1, w) and b = Y (h, w) in metres; None where it is not seen."""
        f, h = self.camera.focal, self.camera.height
        seen = self.window(f * (x - half_width) / z, f * (x + half_width) / z, f * (h - high) / z, f * (h - low) / z)
        if seen is None:
            return None
        step = np.float32(z / f)
        return seen, seen.u * step - np.float32(x), np.float32(h) - seen.v * step

    def beside(self, x: float, near: float, far: float, low: float, high: float) -> tuple[Window, Floats, Floats] | None:
        """The window of an upright plane along the street at X = x, with Z (1, w) and Y (h, w) of its points; Z is 0 where the plane is not met."""
        f, h = self.camera.focal, self.camera.height
        if x == 0:
            return None
        ends = sorted((f * x / near, f * x / far))
        seen = self.window(ends[0], ends[1], f * min((h - high) / near, (h - high) / far), f * max((h - low) / near, (h - low) / far))
        if seen is None:
            return None
        z = np.float32(f * x) / np.where(seen.u * np.float32(x) > 0, seen.u, np.float32(1e-9))
        z = np.where((z >= near) & (z <= far), z, np.float32(0))
        return seen, z, np.float32(h) - seen.v * (z / np.float32(f))

    def paint(self, window: Window, where: Bools, colour: Floats | RGB) -> None:
        """Cover the points of ``where`` with a colour, one or (h, w, 3)."""
        tone = np.asarray(colour, dtype=np.float32)
        rgb = self.rgb[window.where]
        if tone.ndim == 1:
            rgb[where] = tone
        else:
            np.copyto(rgb, tone, where=where[..., None])

    def mark(self, window: Window, where: Bools, label: int, depth: Floats | float) -> None:
        """Say what the points of ``where`` show, and how far away."""
        self.label[window.where][where] = label
        np.copyto(self.depth[window.where], np.float32(depth) if isinstance(depth, float) else depth, where=where)

    def shade(self, window: Window, where: Bools, factor: float) -> None:
        """Darken (or lighten) what is there."""
        rgb = self.rgb[window.where]
        np.multiply(rgb, np.float32(factor), out=rgb, where=where[..., None])

    def picture(self) -> Floats:
        """Colours averaged to pixels, (H, W, 3)."""
        c = self.rgb
        out: Floats = (c[0::2, 0::2] + c[0::2, 1::2] + c[1::2, 0::2] + c[1::2, 1::2]) * np.float32(0.25)
        return out

    def mask(self, thin: Sequence[int]) -> UInt8:
        """Labels by majority of a pixel's points. Two against two: the label in ``thin`` wins, else the pixel is ignored; so is one of four labels."""
        c = self.label
        four = np.sort(np.stack([c[0::2, 0::2], c[0::2, 1::2], c[1::2, 0::2], c[1::2, 1::2]]), axis=0)
        first, second, third, fourth = four
        out = second.copy()  # second == third: at least two in the middle
        low, high = first == second, third == fourth
        undecided = second != third
        np.copyto(out, fourth, where=undecided & high & ~low)
        is_thin = np.zeros(256, dtype=np.bool_)
        is_thin[list(thin)] = True
        tie = undecided & low & high
        np.copyto(out, np.uint8(IGNORE), where=undecided & (low == high))
        np.copyto(out, first, where=tie & is_thin[first])
        np.copyto(out, fourth, where=tie & is_thin[fourth])
        return out


class Noise:
    """Smooth noise in 0…1 over the plane: bilinear between random numbers on a grid of unit cells, repeated every 64."""

    def __init__(self, random: np.random.Generator) -> None:
        self.table: Floats = random.random((64, 64), dtype=np.float32)
        self.flat: Floats = self.table.ravel()

    def cells(self, x: Floats, y: Floats) -> Floats:
        """One number a unit cell, not smoothed."""
        out: Floats = self.flat[(_whole(y) & 63) * 64 + (_whole(x) & 63)]
        return out

    def __call__(self, x: Floats, y: Floats) -> Floats:
        x, y = np.broadcast_arrays(x, y)
        i, j = _whole(x), _whole(y)
        s, t = x - i.astype(np.float32), y - j.astype(np.float32)
        i0, i1, j0, j1 = i & 63, (i + 1) & 63, (j & 63) * 64, ((j + 1) & 63) * 64
        top = self.flat[j0 + i0] * (1 - s) + self.flat[j0 + i1] * s
        bottom = self.flat[j1 + i0] * (1 - s) + self.flat[j1 + i1] * s
        out: Floats = top * (1 - t) + bottom * t
        return out


def _whole(x: Floats) -> NDArray[np.int32]:
    return np.floor(np.clip(x, np.float32(-1e6), np.float32(1e6))).astype(np.int32)
