"""``synthetic:streets``: a street seen from a car, drawn from a key.

A road with markings between two pavements, verges, and rows of houses with gaps and fences; before them trees, lamp posts, signs,
people and cars, standing where such things stand, painted from far to near. Light (sun from either side, or clouds), cast shadows,
haze, texture, camera noise. Colours overlap on purpose: road, pavement, walls and poles may be of one grey, glass mirrors the sky, a
covered sky is as pale as a wall, so that place and surroundings must decide. Image and mask come from one geometry. The lower rim may
show the camera car's own bonnet, which is ignored (255), as are pixels that two large surfaces share evenly.

A scene's choices do not depend on its size: one key is one scene at any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from nasseg.data.canvas import FAR, Canvas, f32
from nasseg.data.images import IGNORE, UInt8
from nasseg.data.palette import Palette
from nasseg.data.street_backdrop import paint_backdrop
from nasseg.data.street_plan import Dice, Label, Side, Street, tinted
from nasseg.data.street_things import paint_bush, paint_car, paint_fence, paint_person, paint_pole, paint_sign, paint_tree

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

Thing = tuple[float, Callable[[], None]]  # distance, painter


def render_street(size: tuple[int, int], key: Sequence[int]) -> tuple[UInt8, UInt8]:
    """The scene of a key (whole numbers from 0 up): image uint8 (H, W, 3), mask uint8 (H, W) of :data:`CLASSES` and 255."""
    dice = Dice(np.random.default_rng([*key, 0]))
    street = Street.draw(dice)
    canvas = Canvas(size, street.camera)
    paint_backdrop(canvas, dice, street)
    things = [thing for side in street.sides for thing in _beside_road(canvas, dice, street, side)] + _on_road(canvas, dice, street)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    _paint_bonnet(canvas, dice)
    return _develop(canvas, dice, street, np.random.default_rng([*key, 1])), canvas.mask(_THIN)


def _beside_road(canvas: Canvas, dice: Dice, street: Street, side: Side) -> list[Thing]:
    """What stands between one kerb and its houses, and the cars parked there."""
    out: list[Thing] = []
    light, sign = street.light, side.sign
    if dice.chance(0.55):
        lateral, start, step = side.kerb + dice.between(0.5, 0.9) * (side.wall - side.kerb), dice.between(3, 14), dice.between(7, 25)
        for k in range(6):
            z = start + k * step * dice.between(0.8, 1.2)
            out.append((z, partial(paint_tree, canvas, dice, street, street.at(sign * lateral, z), z, dice.near(street.green, 0.25))))
    for _ in range(dice.pick((0, 1, 3, 5))):
        z, lateral = dice.between(4, 45), side.wall + dice.between(-0.6, 1.5)
        out.append((z, partial(paint_bush, canvas, dice, street, street.at(sign * lateral, z), z, dice.near(street.green, 0.3))))
    if dice.chance(0.65):
        start, step, tone = dice.between(4, 20), dice.between(14, 30), dice.grey(0.12, 0.55)
        for k in range(4):
            z = start + k * step
            out.append((z, partial(paint_pole, canvas, dice, light, street.at(sign * (side.kerb + 0.5), z), z, -sign, tone)))
    for _ in range(dice.pick((0, 1, 1, 2, 3))):
        z, lateral = dice.between(4.5, 32), side.kerb + dice.between(0.3, 0.9)
        out.append((z, partial(paint_sign, canvas, dice, light, street.at(sign * lateral, z), z)))
    if dice.chance(0.55):
        near, long = dice.between(2, 25), dice.between(6, 30)
        lateral, middle = dice.pick((side.kerb + 0.35, side.verge, side.wall - 0.1)), near + long / 2
        out.append((middle, partial(paint_fence, canvas, dice, light, street.at(sign * lateral, middle), near, near + long)))
    for _ in range(dice.pick((0, 1, 2, 3, 4))):
        z, lateral = dice.between(4, 30), side.kerb + dice.between(0.5, max(0.7, side.verge - side.kerb))
        for _ in range(dice.pick((1, 1, 2, 3))):
            z, lateral = z + dice.between(-0.6, 0.6), lateral + dice.between(-0.6, 0.6)
            out.append((z, partial(paint_person, canvas, dice, light, street.at(sign * lateral, z), z)))
    if dice.chance(0.5) and side.kerb > 3.4:
        z = dice.between(3.5, 14)
        for _ in range(dice.pick((1, 2, 4, 6))):
            out.append((z, partial(paint_car, canvas, dice, street, street.at(sign * (side.kerb - 1.05), z), z, sign > 0)))
            z += dice.between(5.3, 10)
    return out


def _on_road(canvas: Canvas, dice: Dice, street: Street) -> list[Thing]:
    """People who cross and cars that drive."""
    out: list[Thing] = []
    for _ in range(dice.pick((0, 0, 1, 2))):
        z, lateral = dice.between(6, 28), dice.between(*street.kerbs)
        out.append((z, partial(paint_person, canvas, dice, street.light, street.at(lateral, z), z)))
    for _ in range(dice.pick((0, 1, 1, 2, 3))):
        z, ahead = dice.between(7, 50), dice.chance(0.5)
        lateral = street.kerbs[ahead] * dice.between(0.25, 0.5)
        out.append((z, partial(paint_car, canvas, dice, street, street.at(lateral, z), z, ahead)))
    return out


def _paint_bonnet(canvas: Canvas, dice: Dice) -> None:
    """The camera's own car: no class, ignored."""
    shown, top, bulge, tone = dice.chance(0.3), dice.between(0.88, 0.96), dice.between(0.05, 0.2), dice.grey(0.05, 0.7)
    if not shown:
        return
    edge = top - canvas.camera.horizon
    window = canvas.below(edge)
    across = window.u + f32(canvas.camera.centre)
    where = window.v > f32(edge) + f32(bulge) * across * across
    sheen = f32(0.7) + f32(0.5) * np.clip(1 - (window.v - f32(edge)) * f32(6), 0, 1)
    canvas.paint(window, where, np.minimum(tinted(sheen, tone), f32(1)))
    canvas.mark(window, where, IGNORE, 0.5)


def _develop(canvas: Canvas, dice: Dice, street: Street, random: np.random.Generator) -> UInt8:
    """Haze by distance, then what a camera does: exposure, white balance, contrast, noise, 8 bits."""
    gain, contrast, noise = dice.between(0.75, 1.2), dice.between(0.0, 0.6), dice.between(0.01, 0.045)
    balance = (gain * dice.between(0.93, 1.07), gain, gain * dice.between(0.93, 1.07))
    away = np.where(canvas.depth < FAR, canvas.depth, f32(0))
    share = away / (away + f32(street.haze))
    canvas.rgb += (np.asarray(street.sky_low, dtype=f32)[:, None, None] - canvas.rgb) * share
    c = np.clip(canvas.picture() * np.asarray(balance, dtype=f32)[:, None, None], 0, 1)
    c += f32(contrast) * (c * c * (3 - 2 * c) - c)
    height, width = canvas.size
    c += f32(noise) * (random.random((3, height, width), dtype=f32) + random.random((1, height, width), dtype=f32) - 1)
    c = np.rint(np.clip(c, 0, 1) * f32(255)).astype(np.uint8)
    return np.ascontiguousarray(c.transpose(1, 2, 0))
