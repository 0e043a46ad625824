"""Sky, far end, ground and houses of a street: what lies behind everything that stands in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nasseg.data.canvas import Bools, Canvas, Floats, Window, f32
from nasseg.data.images import UInt8
from nasseg.data.street_plan import LONGEST, Dice, Label, Row, Street, scaled, tinted

FAR_DOWN = 1e3  # v of a roof that is not there


def paint_backdrop(canvas: Canvas, dice: Dice, street: Street) -> None:
    """Everything but the things, from far to near."""
    _paint_sky(canvas, dice, street)
    _paint_skyline(canvas, dice, street)
    _Ground(canvas, dice, street).paint()
    fronts = [Facade.of(canvas, street, side.front_row, side.sign * side.wall) for side in street.sides]
    backs = [Facade.of(canvas, street, side.back_row, side.sign * side.back) for side in street.sides]
    hidden = np.minimum(fronts[0].top, fronts[1].top)
    for facade in backs:
        facade.paint(canvas, dice, street, facade.top < hidden)
    for facade in fronts:
        facade.paint(canvas, dice, street, facade.height > 0)


def _paint_sky(canvas: Canvas, dice: Dice, street: Street) -> None:
    cover, drift, bright = dice.between(0.2, 0.75), dice.between(0, 60), dice.between(0.75, 1.0)
    window = canvas.above(0.0)
    up = np.clip(window.v * f32(-1.8), 0, 1)
    clouds = street.noise(window.u * f32(3) + f32(drift), window.v * f32(7)) * f32(0.65)
    clouds += street.noise(window.u * f32(9), window.v * f32(17)) * f32(0.35)
    thick = np.clip((clouds - f32(cover)) * f32(3), 0, 0.8)
    for channel, (top, low) in enumerate(zip(street.sky_top, street.sky_low, strict=True)):
        clear = up * f32(top - low) + f32(low)
        canvas.rgb[channel, window.where[0]] = clear + (f32(bright) - clear) * thick
    canvas.label[:] = Label.SKY


def _paint_skyline(canvas: Canvas, dice: Dice, street: Street) -> None:
    """What closes the street far away: roofs or tree tops."""
    wooded, rise, pitch, grey = dice.chance(0.5), dice.between(0.0, 0.09), dice.between(8, 20), dice.grey(0.3, 0.55)
    u = canvas.u
    top: Floats
    if wooded:
        top = street.noise(u * f32(26), np.full_like(u, 9)) * f32(0.5) + street.noise(u * f32(7), np.full_like(u, 5))
    else:
        top = street.noise.cells(u * f32(pitch) + f32(64), np.full_like(u, 3)) + f32(0.2)
    window = canvas.part(slice(canvas.below(-0.2).where[0].start, canvas.above(0.01).where[0].stop))
    where = -window.v < f32(rise) * top[None, :]
    canvas.paint(window, where, scaled(street.green, 0.7) if wooded else grey)
    canvas.mark(window, where, Label.VEGETATION if wooded else Label.BUILDING, LONGEST)


class _Ground:
    """The plane Y = 0: ``x`` beside the road's middle line, ``z`` ahead, of every point below the horizon."""

    def __init__(self, canvas: Canvas, dice: Dice, street: Street) -> None:
        self.canvas, self.dice, self.street = canvas, dice, street
        camera = street.camera
        self.window: Window = canvas.below(0.0)
        self.down: Bools = self.window.v > 0
        v = np.maximum(self.window.v, f32(1e-3))
        self.z: Floats = f32(camera.focal * camera.height) / v
        self.x: Floats = self.window.u * (f32(camera.height) / v) - f32(street.curve) * self.z * self.z
        self.grain: Floats = street.noise(self.x * f32(0.9), self.z * f32(0.25))
        self.fine: Floats = street.noise(self.x * f32(7), self.z * f32(4))

    def paint(self) -> None:
        """Road, pavements, verges, markings, shadows."""
        dice, street, x, z = self.dice, self.street, self.x, self.z
        joint, size = dice.chance(0.7), dice.between(0.5, 1.2)
        on_road = (x > street.kerbs[0]) & (x < street.kerbs[1])
        walk = ~on_road & (x > -street.left.verge) & (x < street.right.verge)
        crossing = self._side_streets()
        lawn = ~on_road & ~walk & ~crossing
        walk &= ~crossing
        tone = f32(0.78) + f32(0.25) * self.grain + f32(0.2) * self.fine
        colour = tinted(tone, street.road)
        label: UInt8 = np.full(z.shape, Label.ROAD, dtype=np.uint8)
        if joint:
            a, b = x / f32(size), z / f32(size)
            gap = ((a - np.floor(a) < 0.07) | (b - np.floor(b) < 0.07)) & (z < 14)
            tone = np.where(gap & walk, tone * f32(0.8), tone)
        kerb = walk & ((np.abs(x - f32(street.kerbs[0])) < 0.16) | (np.abs(x - f32(street.kerbs[1])) < 0.16))
        np.copyto(tone, f32(1.25), where=kerb)
        np.copyto(colour, tinted(tone, street.pavement), where=walk)
        np.copyto(label, np.uint8(Label.PAVEMENT), where=walk)
        np.copyto(colour, tinted(f32(0.5) + f32(0.5) * self.grain + f32(0.6) * self.fine, street.green), where=lawn)
        np.copyto(label, np.uint8(Label.VEGETATION), where=lawn)
        self._repairs(on_road, colour)
        self._markings(on_road, colour, label)
        where = self.window.where
        self.canvas.paint(self.window, self.down, colour)
        np.copyto(self.canvas.label[where], label, where=self.down)
        np.copyto(self.canvas.depth[where], z, where=self.down)
        self._cast_shadows()

    def _side_streets(self) -> Bools:
        """Where a gap between houses is a street of its own."""
        out: Bools = np.zeros(self.z.shape, dtype=np.bool_)
        for side in self.street.sides:
            row = side.front_row
            streets = [float(height) == 0 and self.dice.chance(0.5) for height in row.height]
            for near, far, street in zip(row.ends[:-1], row.ends[1:], streets, strict=True):
                if street and far - near < 14:
                    out |= (self.z > near + 1) & (self.z < far - 1) & (self.x * side.sign > 0)
        return out

    def _markings(self, on_road: Bools, colour: Floats, label: UInt8) -> None:
        dice, x, z = self.dice, self.x, self.z
        left, right = self.street.kerbs
        paint = dice.pick(((0.85, 0.85, 0.83), (0.85, 0.85, 0.83), (0.8, 0.68, 0.25)))
        worn, middle = dice.between(0.0, 0.5), (left + right) / 2 if dice.chance(0.6) else 0.0
        dash, gap, wide = dice.between(2, 5), dice.between(2, 6), dice.between(0.08, 0.14)
        solid, edged, zebra, zebra_at = dice.chance(0.15), dice.chance(0.5), dice.chance(0.3), dice.between(5, 30)
        where = np.abs(x - f32(middle)) < wide
        if not solid:
            phase = z / f32(dash + gap)
            where &= phase - np.floor(phase) < dash / (dash + gap)
        if edged:
            where |= (np.abs(x - f32(left + 0.35)) < 0.8 * wide) | (np.abs(x - f32(right - 0.35)) < 0.8 * wide)
        if zebra:
            where |= (z > zebra_at) & (z < zebra_at + 3) & (x - np.floor(x) < 0.5)
        where &= on_road
        np.copyto(label, np.uint8(Label.MARKING), where=where)
        np.copyto(colour, tinted(f32(0.8) + f32(0.2) * self.fine, paint), where=where & (self.fine >= worn))

    def _repairs(self, on_road: Bools, colour: Floats) -> None:
        """Patches of other tar; the label is the same."""
        dice = self.dice
        for _ in range(dice.pick((0, 1, 2, 3))):
            near, left, long, wide, factor = (dice.between(*r) for r in ((3, 25), (-4, 4), (1, 8), (0.5, 2.5), (0.65, 1.3)))
            where = on_road & (self.z > near) & (self.z < near + long) & (self.x > left) & (self.x < left + wide)
            np.multiply(colour, f32(factor), out=colour, where=where)

    def _cast_shadows(self) -> None:
        """Of the houses between sun and road: as far as they are high."""
        street = self.street
        side = next((side for side in street.sides if side.sign == street.light.sun_side), None)
        if side is None:
            return
        steps = np.arange(2 * int(LONGEST), dtype=f32) / f32(2)
        reach = side.front_row.height[houses_at(side.front_row, steps)] * f32(street.shadow_reach)
        at = np.minimum(self.z * f32(2), f32(len(steps) - 1)).astype(np.int32)
        self.canvas.shade(self.window, self.down & (f32(side.wall) - self.x * f32(side.sign) < reach[at]), street.shadow)


@dataclass(frozen=True, slots=True)
class Facade:
    """A row of houses as the canvas sees it, by column: distance ``z``, which house, how high (0: none), and ``top``, its roof's v."""

    row: Row
    sign: int
    z: Floats
    house: NDArray[np.intp]
    height: Floats
    top: Floats

    @classmethod
    def of(cls, canvas: Canvas, street: Street, row: Row, x: float) -> Self:
        """A ray of column u meets X = x + curve · Z² where curve·Z² − (u/f)·Z + x = 0: the nearer root, in its stable form."""
        camera = street.camera
        sign = 1 if x > 0 else -1
        a = canvas.u * f32(sign / camera.focal)
        under = a * a - f32(4 * street.curve * x)
        divisor = a + np.sqrt(np.maximum(under, 0))
        met = (under >= 0) & (divisor > 1e-4)
        z = f32(2 * abs(x)) / np.where(met, divisor, f32(1))
        met &= (z < LONGEST) & (z > 0.3)
        house = houses_at(row, z)
        height = np.where(met, row.height[house], f32(0))
        top = np.where(height > 0, f32(camera.focal) * (f32(camera.height) - height) / z, f32(FAR_DOWN))
        return cls(row, sign, z, house, height, top)

    def paint(self, canvas: Canvas, dice: Dice, street: Street, seen: Bools) -> None:
        """Brick, storeys and windows of the columns from the first to the last one seen."""
        tidy, mirror = dice.between(0.0, 0.5), dice.between(0.3, 0.95)
        columns = np.flatnonzero(seen & (self.height > 0))
        if not columns.size:
            return
        part = slice(int(columns[0]), int(columns[-1]) + 1)
        z, house, height = self.z[part], self.house[part], self.height[part][None]
        roof = canvas.below(float(self.top[part].min())).where[0].start
        foot = canvas.above(float((f32(street.camera.focal * street.camera.height) / z[height[0] > 0]).max())).where[0].stop
        window = canvas.part(slice(roof, foot), part)
        y = f32(street.camera.height) - window.v * (z / f32(street.camera.focal))[None]
        inside = (y > 0) & (y < height)
        along, floor = z / self.row.bay[house], y / self.row.storey[house][None]
        in_bay = np.abs(along - np.floor(along) - f32(0.5)) * 2 < self.row.pane[house]
        level = floor - np.floor(floor)
        panes = in_bay[None] & (level > 0.28) & (level < 0.82) & (y < height - 0.6)
        tone = (f32(0.82) + f32(0.3) * street.noise((z * f32(0.7))[None], y * f32(0.8))) * f32(street.light.on(-self.sign))
        np.multiply(tone, f32(0.7), out=tone, where=y > height - 0.35)  # eaves
        colour = np.minimum(tone[None] * self.row.colour[house].T[:, None, :], f32(1))
        glow = street.noise.cells(along[None] + f32(64), floor + f32(64)) if tidy < 0.35 else np.full_like(y, tidy)
        np.copyto(colour, tinted(f32(0.25) + f32(0.75) * glow, scaled(street.sky_low, mirror)), where=panes)
        canvas.paint(window, inside, colour)
        canvas.mark(window, inside, Label.BUILDING, z[None])


def houses_at(row: Row, z: Floats) -> NDArray[np.intp]:
    """Which house stands at a distance."""
    return np.clip(np.searchsorted(row.ends, z, side="right") - 1, 0, len(row.height) - 1)
