"""``synthetic:streets``: a street seen from a car, drawn from a key.

A road with markings between two pavements, verges and rows of buildings, gaps and fences; before them trees, lamp posts, signs, people and cars, standing where
such things stand, painted from far to near. Light (sun from either side, or clouds), cast shadows, haze, texture, camera noise. Colours overlap on purpose: road, pavement,
walls and poles may be the same grey, glass mirrors the sky, a covered sky is as pale as a wall, so that place and surroundings must decide. Image and mask
come from one geometry. The lower rim may show the camera car's own bonnet, which is ignored (255), as are pixels on an even border.

All of a scene's choices are drawn before its size matters, so one key is one scene at any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nasseg.data.canvas import FAR, RGB, Camera, Canvas, Floats, Noise, Window
from nasseg.data.images import IGNORE, UInt8
from nasseg.data.palette import Palette
from nasseg.data.street_things import (
    Dice,
    Label,
    Light,
    paint_bush,
    paint_car,
    paint_fence,
    paint_person,
    paint_pole,
    paint_sign,
    paint_tree,
    scaled,
    tinted,
)

VERSION = 1
"""Goes up when a scene's bytes change: caches and fingerprints hold it."""

CLASSES = tuple(label.name.lower() for label in Label)
PALETTE: Palette = (
    (112, 80, 128),  # road
    (226, 130, 190),  # pavement
    (245, 245, 130),  # marking
    (120, 90, 80),  # building
    (190, 150, 110),  # fence
    (250, 150, 40),  # pole
    (250, 230, 30),  # sign
    (70, 140, 50),  # vegetation
    (110, 170, 230),  # sky
    (225, 40, 70),  # person
    (40, 60, 200),  # car
)
_THIN = (Label.MARKING, Label.POLE, Label.SIGN, Label.PERSON, Label.FENCE)
_LONGEST = 160.0  # metres of street


@dataclass(frozen=True, slots=True)
class Row:
    """A row of houses along one side, by distance: house k reaches from ``ends[k]`` to ``ends[k + 1]``. ``height`` 0 is a gap."""

    ends: Floats
    height: Floats
    colour: Floats
    storey: Floats
    bay: Floats
    pane: Floats


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the street: lateral distance (m) of kerb, verge and wall from the road's middle line, and its two rows of houses."""

    kerb: float
    verge: float
    wall: float
    back: float
    front_row: Row
    back_row: Row


def render_street(size: tuple[int, int], key: Sequence[int]) -> tuple[UInt8, UInt8]:
    """The scene of a key, whole numbers from 0 up: image uint8 (H, W, 3) and mask uint8 (H, W) with :data:`CLASSES` and 255. The same key, the same bytes."""
    dice = Dice(np.random.default_rng([*key, 0]))
    noise = Noise(np.random.default_rng([*key, 1]))
    camera = Camera(
        dice.between(0.8, 1.2), dice.between(1.25, 2.1), dice.between(0.36, 0.52), dice.between(-0.18, 0.18), dice.between(-0.03, 0.03)
    )
    scene = _Scene(dice, noise, Canvas(size, camera))
    scene.paint()
    return scene.develop(np.random.default_rng([*key, 2])), scene.canvas.mask(_THIN)


class _Scene:
    """Draws the choices that hold for the whole picture, then paints it from back to front."""

    def __init__(self, dice: Dice, noise: Noise, canvas: Canvas) -> None:
        self.dice, self.noise, self.canvas = dice, noise, canvas
        self.curve = dice.between(-0.0025, 0.0025)  # the road's middle lies at X = curve · Z²
        sun = dice.pick((-1, 1, 0))
        self.sky_top, self.sky_low = self._sky_colours(sun != 0)
        self.light = Light(sun, dice.between(1.0, 1.2), dice.between(0.5, 0.75), self.sky_low)
        self.shadow = dice.between(0.45, 0.65)
        self.shadow_reach = dice.between(0.0, 9.0)
        self.haze = dice.between(60.0, 500.0)
        self.road_tone = dice.grey(0.2, 0.45, 0.02)
        same = dice.chance(0.4)
        self.pavement_tone = (
            dice.near(self.road_tone, 0.12) if same else dice.pick((dice.grey(0.35, 0.62), dice.near((0.5, 0.4, 0.34), 0.2)))
        )
        self.green = dice.pick(((0.26, 0.4, 0.14), (0.33, 0.42, 0.16), (0.2, 0.32, 0.14), (0.5, 0.4, 0.15), (0.36, 0.34, 0.2)))
        self.left, self.right = self._side(), self._side()
        self.kerbs = (-self.left.kerb, self.right.kerb)

    def _sky_colours(self, sunny: bool) -> tuple[RGB, RGB]:
        dice = self.dice
        if sunny:
            top, low = dice.near((0.3, 0.5, 0.85), 0.15), dice.pick(((0.72, 0.83, 0.95), (0.85, 0.88, 0.9), (0.95, 0.82, 0.66)))
        else:
            level = dice.between(0.55, 0.95)
            top, low = dice.near((level * 0.92, level * 0.95, level), 0.05), dice.near((level, level, level), 0.04)
        return top, low

    def _side(self) -> Side:
        dice = self.dice
        kerb = dice.between(2.2, 6.5)
        verge = kerb + dice.between(1.2, 4.5)
        wall = verge + (dice.between(0.8, 4.5) if dice.chance(0.4) else 0.0)
        gaps = dice.pick((0.05, 0.2, 0.45))
        return Side(kerb, verge, wall, wall + dice.between(7, 16), self._row(gaps, (4.0, 20.0)), self._row(0.35, (6.0, 26.0)))

    def _row(self, gaps: float, heights: tuple[float, float]) -> Row:
        dice = self.dice
        ends, houses = [-5.0], []
        family = dice.between(*heights)
        while ends[-1] < _LONGEST:
            ends.append(ends[-1] + dice.between(6, 24))
            height = 0.0 if dice.chance(gaps) else min(max(family * dice.between(0.7, 1.35), heights[0]), heights[1])
            material = dice.pick(
                ((0.5, 0.34, 0.27), (0.62, 0.56, 0.46), (0.5, 0.5, 0.5), (0.75, 0.72, 0.66), (0.4, 0.44, 0.48), (0.35, 0.32, 0.3))
            )
            houses.append((height, dice.near(material, 0.25), dice.between(2.8, 4.2), dice.between(1.8, 4.5), dice.between(0.3, 0.75)))
        height, colour, storey, bay, pane = zip(*houses, strict=True)
        as_array = [np.asarray(part, dtype=np.float32) for part in (ends, height, colour, storey, bay, pane)]
        return Row(*as_array)

    def paint(self) -> None:
        """Sky, far end, ground, back row, front row, things."""
        self._paint_sky()
        self._paint_skyline()
        self._paint_ground()
        for row in ("back", "front"):
            for facing, side in ((1, self.left), (-1, self.right)):
                if row == "back":
                    self._paint_row(side.back_row, -facing * side.back, facing)
                else:
                    self._paint_row(side.front_row, -facing * side.wall, facing)
        for _, _, paint in sorted(self._things(), key=lambda thing: (-thing[0], thing[1])):
            paint()
        self._paint_bonnet()

    def _paint_sky(self) -> None:
        window = self.canvas.all()
        dice = self.dice
        cover, drift = dice.between(0.2, 0.75), dice.between(0, 60)
        height = np.clip(-window.v * np.float32(1.8), 0, 1)
        sky = tinted(height, self.sky_top) + tinted(1 - height, self.sky_low)
        clouds = self.noise(window.u * np.float32(3) + np.float32(drift), window.v * np.float32(7))
        clouds = clouds * np.float32(0.65) + np.float32(0.35) * self.noise(window.u * np.float32(9), window.v * np.float32(17))
        thick = np.clip((clouds - np.float32(cover)) * np.float32(3), 0, 0.8)[..., None]
        cloud_tone = np.asarray(scaled((1.0, 1.0, 1.0), dice.between(0.75, 1.0)), dtype=np.float32)
        self.canvas.rgb[:] = sky * (1 - thick) + cloud_tone * thick
        self.canvas.label[:] = Label.SKY

    def _paint_skyline(self) -> None:
        """What closes the street far away: roofs or tree tops."""
        dice, canvas = self.dice, self.canvas
        wooded, rise = dice.chance(0.5), dice.between(0.0, 0.09)
        steps = self.noise.cells(canvas.u * np.float32(dice.between(8, 20)), np.float32(3))
        smooth = self.noise(canvas.u * np.float32(26), np.float32(9)) * np.float32(0.5) + self.noise(
            canvas.u * np.float32(7), np.float32(5)
        )
        top = np.float32(rise) * (smooth if wooded else steps + np.float32(0.2))
        colour = scaled(self.green, 0.7) if wooded else dice.grey(0.3, 0.55)
        window = canvas.below(-0.2)
        where = -window.v < top[None, :]
        canvas.paint(window, where, colour)
        canvas.mark(window, where, Label.VEGETATION if wooded else Label.BUILDING, _LONGEST)

    def _paint_ground(self) -> None:
        dice, canvas, camera = self.dice, self.canvas, self.canvas.camera
        window = canvas.below(0.0)
        v = np.maximum(window.v, np.float32(1e-3))
        down = window.v > 0
        z = np.float32(camera.focal * camera.height) / v
        x = window.u * (np.float32(camera.height) / v) - np.float32(self.curve) * z * z
        grain = self.noise(x * np.float32(0.9), z * np.float32(0.25))
        fine = self.noise.cells(x * np.float32(9), z * np.float32(5))
        tone = np.float32(0.8) + np.float32(0.25) * grain + np.float32(0.15) * fine

        on_road = (x > self.kerbs[0]) & (x < self.kerbs[1])
        left, right = x < 0, x >= 0
        on_walk = ~on_road & (((x > -self.left.verge) & left) | ((x < self.right.verge) & right))
        crossing = self._side_streets(x, z)
        green = ~on_road & ~on_walk
        colour = tinted(tone, self.road_tone)
        label = np.full(z.shape, Label.ROAD, dtype=np.uint8)

        walk = on_walk & ~crossing
        joint = np.float32(dice.between(0.5, 1.2))
        gx, gz = x / joint, z / joint
        slab = ((gx - np.floor(gx) < 0.07) | (gz - np.floor(gz) < 0.07)) & (z < 14)
        np.copyto(colour, tinted(tone * np.where(slab, np.float32(0.8), np.float32(1)), self.pavement_tone), where=walk[..., None])
        kerb = walk & ((np.abs(x - np.float32(self.kerbs[0])) < 0.16) | (np.abs(x - np.float32(self.kerbs[1])) < 0.16))
        np.copyto(colour, np.asarray(scaled(self.pavement_tone, 1.25), dtype=np.float32), where=kerb[..., None])
        label[walk] = Label.PAVEMENT

        lawn = green & ~crossing
        blades = np.float32(0.55) + np.float32(0.5) * grain + np.float32(0.5) * fine
        np.copyto(colour, tinted(blades, self.green), where=lawn[..., None])
        label[lawn] = Label.VEGETATION

        self._paint_markings(x, z, on_road & down, colour, label, fine)
        self._patch(x, z, on_road, colour)
        canvas.paint(window, down, colour)
        canvas.label[window.where][down] = label[down]
        np.copyto(canvas.depth[window.where], z, where=down)
        self._cast_shadows(window, x, z, down)

    def _side_streets(self, x: Floats, z: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Where a gap between houses is a street of its own."""
        out = np.zeros(z.shape, dtype=np.bool_)
        for facing, side in ((1, self.left), (-1, self.right)):
            row = side.front_row
            is_street = [float(h) == 0.0 and self.dice.chance(0.5) for h in row.height]
            for near, far, street in zip(row.ends[:-1], row.ends[1:], is_street, strict=True):
                if street and far - near < 14:
                    out |= (z > near + 1) & (z < far - 1) & (x * facing < 0)
        return out

    def _paint_markings(self, x: Floats, z: Floats, on_road: np.ndarray, colour: Floats, label: UInt8, fine: Floats) -> None:  # type: ignore[type-arg]
        dice = self.dice
        paint_tone = dice.pick(((0.85, 0.85, 0.83), (0.85, 0.85, 0.83), (0.8, 0.68, 0.25)))
        worn = dice.between(0.0, 0.5)
        middle = (self.kerbs[0] + self.kerbs[1]) / 2 if dice.chance(0.6) else 0.0
        dash, gap, wide = dice.between(2, 5), dice.between(2, 6), dice.between(0.08, 0.14)
        phase = z / np.float32(dash + gap)
        where = (np.abs(x - np.float32(middle)) < wide) & (phase - np.floor(phase) < dash / (dash + gap))
        if dice.chance(0.15):
            where = np.abs(x - np.float32(middle)) < wide
        if dice.chance(0.5):
            where |= (np.abs(x - np.float32(self.kerbs[0] + 0.35)) < wide * 0.8) | (
                np.abs(x - np.float32(self.kerbs[1] - 0.35)) < wide * 0.8
            )
        zebra_at = dice.between(5, 30)
        if dice.chance(0.3):
            stripe = x / np.float32(1.0)
            where |= (z > zebra_at) & (z < zebra_at + 3) & (stripe - np.floor(stripe) < 0.5)
        where &= on_road
        label[where] = Label.MARKING
        np.copyto(colour, tinted(np.float32(0.85) + np.float32(0.15) * fine, paint_tone), where=(where & (fine >= worn))[..., None])

    def _patch(self, x: Floats, z: Floats, on_road: np.ndarray, colour: Floats) -> None:  # type: ignore[type-arg]
        """Repairs of the road: other tar, the same label."""
        dice = self.dice
        for _ in range(dice.pick((0, 1, 2, 3))):
            near, left = dice.between(3, 25), dice.between(-4, 4)
            where = on_road & (z > near) & (z < near + dice.between(1, 8)) & (x > left) & (x < left + dice.between(0.5, 2.5))
            colour[where] *= np.float32(dice.between(0.65, 1.3))

    def _cast_shadows(self, window: Window, x: Floats, z: Floats, down: np.ndarray) -> None:  # type: ignore[type-arg]
        sun = self.light.sun_side
        if sun == 0:
            return
        side = self.left if sun < 0 else self.right
        row = side.front_row
        steps = np.arange(0, int(_LONGEST) * 2, dtype=np.float32) / np.float32(2)
        house = np.clip(np.searchsorted(row.ends, steps, side="right") - 1, 0, len(row.height) - 1)
        reach = row.height[house] * np.float32(self.shadow_reach / 10)
        at = np.minimum(z * np.float32(2), np.float32(len(steps) - 1)).astype(np.int32)
        self.canvas.shade(window, down & (np.float32(side.wall) - x * np.float32(sun) < reach[at]), self.shadow)

    def _paint_row(self, row: Row, x: float, facing: int) -> None:
        """The houses at X = x + curve · Z²: one distance a column, then brick, storeys and windows by height."""
        canvas, camera, dice = self.canvas, self.canvas.camera, self.dice
        tidy = dice.between(0.0, 0.5)
        glass = scaled(self.light.glass, dice.between(0.3, 0.95))
        a = canvas.u * np.float32(facing * -1 / camera.focal)  # ray direction, positive towards this side
        bend = np.float32(self.curve * facing * -1)
        under = a * a - np.float32(4) * bend * np.float32(abs(x))
        divisor = a + np.sqrt(np.maximum(under, 0))
        met = (under >= 0) & (divisor > 1e-4)
        z = np.float32(2 * abs(x)) / np.where(met, divisor, np.float32(1))
        met &= (z < _LONGEST) & (z > 0.3)
        house = np.clip(np.searchsorted(row.ends, z, side="right") - 1, 0, len(row.height) - 1)
        height = np.where(met, row.height[house], np.float32(0))
        if not height.any():
            return
        columns = np.flatnonzero(height > 0)
        first, last = int(columns[0]), int(columns[-1]) + 1
        where = (slice(None), slice(first, last))
        window = Window(where, canvas.u[None, first:last], canvas.v[:, first:last])
        z, house, height = z[first:last], house[first:last], height[first:last]
        y = np.float32(camera.height) - window.v * (z / np.float32(camera.focal))[None, :]
        inside = (y > 0) & (y < height[None, :])
        storey, bay, pane = row.storey[house], row.bay[house], row.pane[house]
        along = z / bay
        in_bay = np.abs(along - np.floor(along) - np.float32(0.5)) * 2 < pane
        floor = y / storey[None, :]
        level = floor - np.floor(floor)
        lights = self.noise.cells(along[None, :], floor + np.float32(0.01))
        panes = in_bay[None, :] & (level > 0.28) & (level < 0.82) & (y < height[None, :] - 0.6)
        rough = self.noise(z[None, :] * np.float32(0.7), y * np.float32(0.8))
        tone = (np.float32(0.82) + np.float32(0.3) * rough) * np.float32(self.light.on_side(facing))
        colour = tone[..., None] * row.colour[house][None, :, :]
        mirrored = np.float32(0.25) + np.float32(0.75) * (lights if tidy < 0.35 else np.broadcast_to(np.float32(tidy), y.shape))
        np.copyto(colour, tinted(mirrored, glass), where=panes[..., None])
        eaves = inside & (y > height[None, :] - 0.35)
        colour[eaves] *= np.float32(0.7)
        canvas.paint(window, inside, np.minimum(colour, np.float32(1)))
        canvas.mark(window, inside, Label.BUILDING, np.broadcast_to(z[None, :], y.shape))

    def _things(self) -> list[tuple[float, int, Callable[[], None]]]:
        """(distance, running number, painter) of everything that stands in the street; each has dice of its own."""
        dice, canvas, noise, light = self.dice, self.canvas, self.noise, self.light
        out: list[tuple[float, int, Callable[[], None]]] = []

        def add(z: float, paint: Callable[[Dice], None]) -> None:
            own = Dice(np.random.default_rng(int(dice.random.integers(2**63))))
            out.append((z, len(out), lambda: paint(own)))

        for facing, side in ((1, self.left), (-1, self.right)):

            def at(lateral: float, z: float, facing: int = facing) -> float:
                return -facing * lateral + self.curve * z * z

            step, start = dice.between(7, 25), dice.between(3, 14)
            if dice.chance(0.55):
                lateral = side.kerb + dice.between(0.5, 0.9) * (side.wall - side.kerb)
                for k in range(6):
                    z = start + k * step * dice.between(0.8, 1.2)
                    tone = dice.near(self.green, 0.25)
                    add(z, lambda own, x=at(lateral, z), z=z, tone=tone: paint_tree(canvas, own, noise, light, x, z, tone))  # type: ignore[misc]
            for _ in range(dice.pick((0, 1, 3, 5))):
                z, tone = dice.between(4, 45), dice.near(self.green, 0.3)
                lateral = side.wall + dice.between(-0.6, 1.5)
                add(z, lambda own, x=at(lateral, z), z=z, tone=tone: paint_bush(canvas, own, noise, light, x, z, tone))  # type: ignore[misc]
            if dice.chance(0.65):
                gap, start, tone = dice.between(14, 30), dice.between(4, 20), dice.grey(0.12, 0.55)
                for k in range(4):
                    z = start + k * gap
                    add(z, lambda own, x=at(side.kerb + 0.5, z), z=z, tone=tone, to=facing: paint_pole(canvas, own, light, x, z, to, tone))  # type: ignore[misc]
            for _ in range(dice.pick((0, 1, 1, 2, 3))):
                z = dice.between(4.5, 32)
                add(z, lambda own, x=at(side.kerb + dice.between(0.3, 0.9), z), z=z: paint_sign(canvas, own, light, x, z))  # type: ignore[misc]
            if dice.chance(0.4):
                near, long = dice.between(2, 25), dice.between(6, 30)
                lateral = dice.pick((side.kerb + 0.35, side.verge, side.wall - 0.1))
                add(
                    near + long / 2,
                    lambda own, x=at(lateral, near + long / 2), a=near, b=near + long: paint_fence(canvas, own, light, x, a, b),
                )  # type: ignore[misc]
            for _ in range(dice.pick((0, 1, 2, 4))):
                z, lateral = dice.between(4, 35), side.kerb + dice.between(0.5, max(0.7, side.verge - side.kerb))
                for _ in range(dice.pick((1, 1, 2, 3))):
                    z, lateral = z + dice.between(-0.6, 0.6), lateral + dice.between(-0.6, 0.6)
                    add(z, lambda own, x=at(lateral, z), z=z: paint_person(canvas, own, light, x, z))  # type: ignore[misc]
            if dice.chance(0.5) and side.kerb > 3.4:
                z = dice.between(3.5, 14)
                for _ in range(dice.pick((1, 2, 4, 6))):
                    add(z, lambda own, x=at(side.kerb - 1.05, z), z=z, back=facing < 0: paint_car(canvas, own, light, x, z, back))  # type: ignore[misc]
                    z += dice.between(5.3, 10)
        for _ in range(dice.pick((0, 0, 1, 2))):  # crossing the road
            z, lateral = dice.between(6, 28), dice.between(self.kerbs[0], self.kerbs[1])
            add(z, lambda own, x=lateral + self.curve * z * z, z=z: paint_person(canvas, own, light, x, z))  # type: ignore[misc]
        for _ in range(dice.pick((0, 1, 1, 2, 3))):  # driving
            z, ahead = dice.between(7, 50), dice.chance(0.5)
            lateral = (self.kerbs[1] if ahead else self.kerbs[0]) * dice.between(0.25, 0.5)
            add(z, lambda own, x=lateral + self.curve * z * z, z=z, back=ahead: paint_car(canvas, own, light, x, z, back))  # type: ignore[misc]
        return out

    def _paint_bonnet(self) -> None:
        """The camera's own car: no class, ignored."""
        dice, canvas = self.dice, self.canvas
        shown, top, bulge, tone = dice.chance(0.3), dice.between(0.86, 0.95), dice.between(0.05, 0.2), dice.grey(0.05, 0.7)
        if not shown:
            return
        edge = np.float32(top - canvas.camera.horizon)
        window = canvas.below(float(edge) - 0.2)
        where = window.v > edge + np.float32(bulge) * (window.u + np.float32(canvas.camera.centre)) * (
            window.u + np.float32(canvas.camera.centre)
        )
        sheen = np.float32(0.7) + np.float32(0.5) * np.clip(1 - (window.v - edge) * np.float32(6), 0, 1)
        canvas.paint(window, where, np.minimum(tinted(sheen, tone), np.float32(1)))
        canvas.mark(window, where, IGNORE, 0.5)

    def develop(self, random: np.random.Generator) -> UInt8:
        """Haze by distance, then what a camera does: exposure, white balance, contrast, noise, 8 bits."""
        dice, canvas = self.dice, self.canvas
        gain, contrast, noise = dice.between(0.75, 1.2), dice.between(0.0, 0.6), dice.between(0.01, 0.045)
        balance = np.asarray([dice.between(0.93, 1.07), 1.0, dice.between(0.93, 1.07)], dtype=np.float32) * np.float32(gain)
        away = np.where(canvas.depth < FAR, canvas.depth, np.float32(0))
        share = (away / (away + np.float32(self.haze)))[..., None]
        canvas.rgb += (np.asarray(self.sky_low, dtype=np.float32) - canvas.rgb) * share
        c = np.clip(canvas.picture() * balance, 0, 1)
        c = c + np.float32(contrast) * (c * c * (3 - 2 * c) - c)
        height, width = canvas.size
        grain = random.random((height, width, 3), dtype=np.float32) + random.random((height, width, 1), dtype=np.float32) - 1
        c = c + np.float32(noise) * grain
        out: UInt8 = np.rint(np.clip(c, 0, 1) * np.float32(255)).astype(np.uint8)
        return out
