"""What stands in a street: trees, poles, signs, fences, people and cars, each painted on a canvas at its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nasseg.data.canvas import RGB, Bools, Canvas, Floats, Window, f32
from nasseg.data.street_plan import Dice, Label, Light, Street, scaled, tinted


def ground_shadow(canvas: Canvas, x: float, z: float, half_width: float, half_length: float, factor: float) -> None:
    """A dark ellipse on the ground."""
    near, far = max(z - half_length, 0.8), z + half_length
    f, h = canvas.camera.focal, canvas.camera.height
    edges = [f * (x + side) / depth for side in (-half_width, half_width) for depth in (near, far)]
    seen = canvas.window(min(edges), max(edges), f * h / far, f * h / near)
    if seen is None:
        return
    v = np.maximum(seen.v, f32(1e-4))
    a = (seen.u * (f32(h) / v) - f32(x)) / f32(half_width)
    b = (f32(f * h) / v - f32(z)) / f32(half_length)
    canvas.shade(seen, (a * a + b * b < 1) & (seen.v > 0), factor)


def paint_tree(canvas: Canvas, dice: Dice, street: Street, x: float, z: float, colour: RGB) -> None:
    """A trunk and a crown of a few balls with a ragged edge; holes show what is behind, but belong to the tree."""
    height = dice.between(3.5, 10.0)
    radius = dice.between(0.22, 0.4) * height
    trunk_radius = dice.between(0.02, 0.035) * height
    bark = dice.near((0.27, 0.22, 0.17), 0.3)
    balls = [
        (
            dice.between(-0.45, 0.45) * radius,
            height - radius * dice.between(0.6, 1.5),
            radius * dice.between(0.6, 0.95),
            radius * dice.between(0.55, 0.9),
        )
        for _ in range(4)
    ]
    offset = dice.between(0, 60)
    seen = canvas.around(x, z, 1.5 * radius + 0.1, 0.0, height + 0.3 * radius)
    if seen is None:
        return
    window, a, b = seen
    trunk = (np.abs(a) < trunk_radius) & (b > 0) & (b < height - radius)
    canvas.paint(window, trunk, scaled(bark, street.light.on(0)))
    canvas.mark(window, trunk, Label.VEGETATION, z)
    _foliage(canvas, street, window, a, b, balls, offset, colour, z)


def paint_bush(canvas: Canvas, dice: Dice, street: Street, x: float, z: float, colour: RGB) -> None:
    """A low, wide plant."""
    width, height = dice.between(0.6, 2.0), dice.between(0.6, 1.8)
    balls = [
        (dice.between(-0.5, 0.5) * width, height * dice.between(0.3, 0.5), width * dice.between(0.5, 0.8), height * 0.55) for _ in range(3)
    ]
    offset = dice.between(0, 60)
    seen = canvas.around(x, z, 1.6 * width, 0.0, 1.3 * height)
    if seen is not None:
        window, a, b = seen
        _foliage(canvas, street, window, a, np.where(b > 0, b, f32(1e3)), balls, offset, colour, z)


def _foliage(
    canvas: Canvas,
    street: Street,
    window: Window,
    a: Floats,
    b: Floats,
    balls: Sequence[tuple[float, float, float, float]],
    offset: float,
    colour: RGB,
    z: float,
) -> None:
    coarse = street.noise(a * f32(1.3) + f32(offset), b * f32(1.3))
    fine = street.noise(a * f32(4.1) + f32(offset), b * f32(4.1))
    edge = f32(0.55) + f32(0.5) * coarse + f32(0.35) * fine
    inside = np.zeros(b.shape, dtype=np.bool_)
    tone = np.zeros(b.shape, dtype=f32)
    side = f32(0.35 * street.light.sun_side)
    for centre, middle, wide, high in balls:
        p, q = (a - f32(centre)) / f32(wide), (b - f32(middle)) / f32(high)
        ball = p * p + q * q < edge
        inside |= ball
        np.copyto(tone, f32(0.62) + f32(0.28) * q + side * p, where=ball)
    tone *= f32(0.35) + f32(0.5) * fine + f32(0.8) * coarse
    hole = fine > 0.83
    canvas.paint(window, inside & ~hole, np.clip(tinted(tone * f32(street.light.lit), colour), 0.01, 1))
    canvas.mark(window, inside, Label.VEGETATION, z)


def paint_pole(canvas: Canvas, dice: Dice, light: Light, x: float, z: float, towards: int, colour: RGB) -> None:
    """A lamp post: a thin mast, mostly with an arm over the road and a lamp."""
    height, radius = dice.between(4.0, 8.5), dice.between(0.05, 0.11)
    arm = dice.between(0.8, 2.2) if dice.chance(0.7) else 0.0
    seen = canvas.around(x + towards * arm / 2, z, arm / 2 + 0.5, 0.0, height + 0.2)
    if seen is None:
        return
    window, a, b = seen
    a = (a + f32(towards * arm / 2)) * f32(towards)  # from the mast, positive over the road
    mast = (np.abs(a) < radius) & (b > 0) & (b < height)
    across = (a > 0) & (a < arm) & (np.abs(b - f32(height)) < radius)
    lamp = (a > arm - 0.4) & (a < arm + 0.15) & (np.abs(b - f32(height)) < 0.11) if arm else np.zeros_like(across)
    lit = scaled(colour, light.on(0))
    canvas.paint(window, mast | across, lit)
    canvas.paint(window, mast & (a > 0.3 * radius), scaled(lit, 0.75))
    canvas.paint(window, lamp, scaled(lit, 1.2))
    canvas.mark(window, mast | across | lamp, Label.POLE, z)


def paint_sign(canvas: Canvas, dice: Dice, light: Light, x: float, z: float) -> None:
    """A traffic sign seen from the front or from its grey back, or traffic lights, on a thin pole."""
    height, radius, size = dice.between(2.0, 3.0), dice.between(0.035, 0.06), dice.between(0.3, 0.5)
    shape = dice.pick(("disc", "disc", "triangle", "square", "lights", "lights", "board"))
    back = dice.chance(0.2)
    rim = dice.pick(((0.75, 0.1, 0.1), (0.75, 0.1, 0.1), (0.1, 0.2, 0.65), (0.9, 0.75, 0.1)))
    heart = dice.pick(((0.9, 0.9, 0.88), (0.9, 0.9, 0.88), (0.12, 0.25, 0.7), (0.85, 0.7, 0.1)))
    burning = dice.pick((0, 1, 2))
    grey = dice.grey(0.3, 0.55)
    seen = canvas.around(x, z, size * 1.5 + 0.05, 0.0, height + 1.3 * size)
    if seen is None:
        return
    window, a, b = seen
    mast = (np.abs(a) < radius) & (b > 0) & (b < height)
    canvas.paint(window, mast, scaled(grey, light.on(0)))
    canvas.mark(window, mast, Label.POLE, z)
    c = b - f32(height)
    if shape == "disc":
        plate, inner = a * a + c * c < size * size, a * a + c * c < 0.5 * size * size
    elif shape == "triangle":
        slope = np.abs(a) * f32(1.75)
        plate, inner = (c > -0.6 * size) & (c + slope < 1.1 * size), (c > -0.35 * size) & (c + slope < 0.6 * size)
    elif shape == "square":
        plate, inner = (np.abs(a) < size) & (np.abs(c) < size), (np.abs(a) < 0.6 * size) & (np.abs(c) < 0.6 * size)
    elif shape == "board":
        plate, inner = (np.abs(a) < 1.4 * size) & (np.abs(c) < 0.7 * size), (np.abs(a) < 1.1 * size) & (np.abs(c) < 0.25 * size)
    else:
        plate, inner = (np.abs(a) < 0.45 * size) & (np.abs(c) < 1.15 * size), np.zeros(b.shape, dtype=np.bool_)
    if shape == "lights":
        canvas.paint(window, plate, (0.06, 0.06, 0.06))
        middle = f32((1 - burning) * 0.7 * size)
        lamp = a * a + (c - middle) * (c - middle) < 0.08 * size * size
        canvas.paint(window, lamp & (not back), ((0.95, 0.15, 0.1), (0.95, 0.65, 0.1), (0.2, 0.9, 0.5))[burning])
    elif back:
        canvas.paint(window, plate, scaled(grey, 0.9))
    else:
        canvas.paint(window, plate, scaled(rim, light.on(0)))
        canvas.paint(window, inner, scaled(heart, light.on(0)))
    canvas.mark(window, plate, Label.SIGN, z)


def paint_fence(canvas: Canvas, dice: Dice, light: Light, x: float, near: float, far: float) -> None:
    """Railings, planks or a low wall along the street: one label, though railings show what is behind."""
    height = dice.between(0.8, 1.6)
    kind = dice.pick(("railings", "railings", "planks", "wall"))
    colour = {"railings": dice.grey(0.1, 0.6), "planks": dice.near((0.42, 0.3, 0.2), 0.3), "wall": dice.near((0.5, 0.45, 0.4), 0.3)}[kind]
    pitch = dice.between(0.25, 0.5)
    seen = canvas.beside(x, near, far, 0.0, height)
    if seen is None:
        return
    window, z, b = seen
    inside = (z > 0) & (b > 0) & (b < height)
    along = z / f32(pitch)
    bar = (along - np.floor(along) < 0.35) | (b > height - 0.1) | (np.abs(b - f32(0.2)) < 0.06)
    lit = scaled(colour, light.on(-1 if x > 0 else 1))
    if kind == "railings":
        canvas.paint(window, inside & bar, lit)
    else:
        groove = (along - np.floor(along) < 0.15) if kind == "planks" else np.zeros_like(bar)
        canvas.paint(window, inside, lit)
        canvas.paint(window, inside & groove, scaled(lit, 0.7))
    canvas.mark(window, inside, Label.FENCE, np.broadcast_to(z, inside.shape))


def paint_person(canvas: Canvas, dice: Dice, light: Light, x: float, z: float) -> None:
    """Head, trunk, arms and legs in stride."""
    height = dice.between(1.05, 1.35) if dice.chance(0.15) else dice.between(1.5, 1.9)
    skin = dice.near(dice.pick(((0.75, 0.55, 0.43), (0.5, 0.34, 0.25), (0.3, 0.2, 0.15))), 0.15)
    hair = dice.pick(((0.1, 0.08, 0.06), (0.3, 0.2, 0.1), (0.55, 0.45, 0.3), (0.5, 0.5, 0.5)))
    top = dice.pick((dice.grey(0.05, 0.3), dice.grey(0.05, 0.8), (dice.between(0, 0.8), dice.between(0, 0.8), dice.between(0, 0.8))))
    trousers = dice.pick((dice.grey(0.05, 0.3), (0.13, 0.17, 0.3), dice.grey(0.3, 0.6)))
    stride, wide = dice.between(-0.16, 0.16) * height, dice.between(0.115, 0.15) * height
    ground_shadow(canvas, x, z, 0.45, 0.35, 0.6)
    seen = canvas.around(x, z, 0.3 * height, 0.0, height)
    if seen is None:
        return
    window, a, b = seen
    y = b / f32(height)
    head = (a / (0.068 * height)) ** 2 + ((y - 0.925) / 0.075) ** 2 < 1
    trunk = (np.abs(a) < wide * (f32(0.75) + f32(0.5) * np.minimum(y - 0.45, f32(0.35)))) & (y > 0.46) & (y < 0.85)
    swing = f32(stride) * (f32(0.5) - y) * 2
    legs = ((np.abs(a - swing) < 0.05 * height) | (np.abs(a + swing) < 0.05 * height)) & (y > 0) & (y <= 0.48)
    arms = (np.abs(np.abs(a) - f32(wide * 1.02)) < 0.028 * height) & (y > 0.45) & (y < 0.8)
    lit = light.on(0)
    canvas.paint(window, legs, scaled(trousers, lit))
    canvas.paint(window, arms, scaled(top, 0.8 * lit))
    canvas.paint(window, trunk, scaled(top, lit))
    canvas.paint(window, head, scaled(skin, lit))
    canvas.paint(window, head & (y > 0.94), scaled(hair, lit))
    canvas.mark(window, head | trunk | legs | arms, Label.PERSON, z)


CAR_COLOURS: tuple[RGB, ...] = (
    (0.08, 0.08, 0.09),
    (0.2, 0.2, 0.22),
    (0.35, 0.36, 0.38),
    (0.5, 0.5, 0.52),
    (0.68, 0.69, 0.7),
    (0.85, 0.85, 0.84),
    (0.5, 0.07, 0.07),
    (0.1, 0.15, 0.38),
    (0.12, 0.25, 0.16),
    (0.6, 0.55, 0.4),
)


def paint_car(canvas: Canvas, dice: Dice, street: Street, x: float, z: float, from_behind: bool) -> None:
    """A car whose near end is at ``z``: the side that is seen, then its near face."""
    wide, long, high = dice.between(1.65, 1.9), dice.between(3.6, 4.8), dice.between(1.35, 1.6)
    if dice.chance(0.15):
        wide, long, high = wide + 0.2, long + 1.0, dice.between(1.9, 2.5)  # a van
    paintwork = dice.near(dice.pick(CAR_COLOURS), 0.2)
    bright = dice.between(0.25, 0.6)
    light, glass = street.light, scaled(street.sky_low, bright)
    ground_shadow(canvas, x, z + long / 2, wide * 0.56, long * 0.56, 0.35)
    for side in (-1, 1):
        if x * side < 0 and abs(x) > wide / 2:
            _car_side(canvas, x + side * wide / 2, z, long, high, scaled(paintwork, light.on(side)), glass)
    seen = canvas.around(x, z, wide / 2, 0.0, high)
    if seen is None:
        return
    window, a, b = seen
    y, across = b / f32(high), np.abs(a) / f32(wide / 2)
    body = (y > 0.16) & (y < 0.62) & (across < 1)
    cabin = (y >= 0.62) & (y < 1) & (across < f32(0.95) - (y - f32(0.62)) * f32(0.55))
    pane = (y > 0.64) & (y < 0.93) & (across < f32(0.83) - (y - f32(0.62)) * f32(0.55))
    wheels = (y > 0) & (y <= 0.2) & (across > 0.68) & (across < 0.97)
    lit = scaled(paintwork, 0.9 * light.on(0))
    canvas.paint(window, body | cabin, lit)
    canvas.paint(window, body & (y < 0.3), scaled(lit, 0.6))
    canvas.paint(window, cabin & (y > 0.93), scaled(lit, 1.15))
    canvas.paint(window, pane, glass)
    canvas.paint(window, wheels, (0.03, 0.03, 0.03))
    lamps = body & (y > 0.44) & (y < 0.56) & (across > 0.7) & (across < 0.96)
    canvas.paint(window, lamps, (0.55, 0.05, 0.04) if from_behind else (0.95, 0.95, 0.85))
    canvas.paint(window, body & (y > 0.34) & (y < 0.42) & (across < 0.28), (0.85, 0.8, 0.5) if from_behind else (0.8, 0.8, 0.8))
    canvas.mark(window, body | cabin | wheels, Label.CAR, z)


def _car_side(canvas: Canvas, x: float, z: float, long: float, high: float, colour: RGB, glass: RGB) -> None:
    seen = canvas.beside(x, max(z, 0.8), max(z, 0.8) + long, 0.0, high)
    if seen is None:
        return
    window, depth, b = seen
    t = (depth - f32(z)) / f32(long)
    y = b / f32(high)
    there: Bools = depth > 0
    roof = np.minimum(f32(0.6) + (t - f32(0.04)) * f32(3.2), f32(0.6) + (f32(0.82) - t) * f32(2.0))
    body = there & (y > 0.16) & (y < 0.62)
    cabin = there & (y >= 0.6) & (y < 1) & (y < roof)
    pane = cabin & (y > 0.64) & (y < 0.92) & (y < roof - 0.07) & (np.abs(t - f32(0.43)) > 0.02)
    radius = f32(0.32)
    wheel = np.zeros(b.shape, dtype=np.bool_)
    for axle in (0.18, 0.82):
        from_axle = (t - f32(axle)) * f32(long)
        wheel |= there & (from_axle * from_axle + (b - radius) * (b - radius) < radius * radius)
    canvas.paint(window, body | cabin, colour)
    canvas.paint(window, body & (y < 0.3), scaled(colour, 0.7))
    canvas.paint(window, pane, glass)
    canvas.paint(window, wheel, (0.03, 0.03, 0.03))
    canvas.mark(window, body | cabin | wheel, Label.CAR, np.broadcast_to(depth, b.shape))
