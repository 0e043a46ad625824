"""What a street is like before anything is painted: camera, light, width, houses, colours. All of it is drawn from a :class:`Dice`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self, TypeVar

import numpy as np

from nasseg.data.canvas import RGB, Camera, Floats, Noise, f32

T = TypeVar("T")

LONGEST = 160.0
"""Metres of street ahead."""


class Label(IntEnum):
    """The classes of ``synthetic:streets``."""

    ROAD = 0
    PAVEMENT = 1
    MARKING = 2
    BUILDING = 3
    FENCE = 4
    POLE = 5
    SIGN = 6
    VEGETATION = 7
    SKY = 8
    PERSON = 9
    CAR = 10


class Dice:
    """Draws with plain arithmetic: ``Generator.uniform`` may round differently from one machine to another."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random

    def between(self, low: float, high: float) -> float:
        """Uniform over an interval."""
        return low + (high - low) * float(self.random.random())

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return float(self.random.random()) < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of several, each as likely."""
        return options[int(float(self.random.random()) * len(options))]

    def grey(self, low: float, high: float, tint: float = 0.03) -> RGB:
        """A grey with a slight tint."""
        level = self.between(low, high)
        return (level + self.between(-tint, tint), level + self.between(-tint, tint) / 2, level + self.between(-tint, tint))

    def near(self, colour: RGB, spread: float) -> RGB:
        """A colour not far from the one given."""
        level = self.between(1 - spread, 1 + spread)
        red, green, blue = (max(0.0, part * level + self.between(-spread, spread) / 6) for part in colour)
        return (red, green, blue)


@dataclass(frozen=True, slots=True)
class Light:
    """``sun_side``: −1 the sun stands on the left, 1 on the right, 0 behind clouds. ``lit`` and ``shaded`` are factors on colours."""

    sun_side: int
    lit: float
    shaded: float

    def on(self, facing: int) -> float:
        """Factor on an upright plane that faces left (−1), right (1) or the camera (0)."""
        if self.sun_side == 0:
            return 0.92
        if facing == 0:
            return (self.lit + self.shaded) / 2
        return self.lit if facing == self.sun_side else self.shaded


@dataclass(frozen=True, slots=True)
class Row:
    """A row of houses along the street: house k reaches from distance ``ends[k]`` to ``ends[k + 1]``; ``height`` 0 is a gap.

    ``colour`` (houses, 3); ``storey`` and ``bay``: metres between windows, up and along; ``pane``: how much of a bay its window takes.
    """

    ends: Floats
    height: Floats
    colour: Floats
    storey: Floats
    bay: Floats
    pane: Floats

    @classmethod
    def draw(cls, dice: Dice, gaps: float, heights: tuple[float, float]) -> Self:
        """Houses of like height, with a share of gaps."""
        ends, houses = [-5.0], []
        family = dice.between(*heights)
        while ends[-1] < LONGEST:
            ends.append(ends[-1] + dice.between(6, 24))
            height = 0.0 if dice.chance(gaps) else min(max(family * dice.between(0.7, 1.35), heights[0]), heights[1])
            wall = dice.near(dice.pick(_WALLS), 0.25)
            houses.append((height, wall, dice.between(2.8, 4.2), dice.between(1.8, 4.5), dice.between(0.3, 0.75)))
        height_, colour, storey, bay, pane = zip(*houses, strict=True)
        return cls(*(np.asarray(part, dtype=f32) for part in (ends, height_, colour, storey, bay, pane)))


_WALLS: tuple[RGB, ...] = (
    (0.5, 0.34, 0.27),
    (0.62, 0.56, 0.46),
    (0.5, 0.5, 0.5),
    (0.75, 0.72, 0.66),
    (0.4, 0.44, 0.48),
    (0.35, 0.32, 0.3),
)
_GREENS: tuple[RGB, ...] = ((0.26, 0.4, 0.14), (0.33, 0.42, 0.16), (0.2, 0.32, 0.14), (0.5, 0.4, 0.15), (0.36, 0.34, 0.2))


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the street (``sign`` −1 left, 1 right): distances in metres from the road's middle line, and two rows of houses.

    From ``kerb`` to ``verge`` lies the pavement, from there to ``wall`` grass; the second row stands at ``back``.
    """

    sign: int
    kerb: float
    verge: float
    wall: float
    back: float
    front_row: Row
    back_row: Row

    @classmethod
    def draw(cls, dice: Dice, sign: int) -> Self:
        """A side between a narrow lane's and a wide avenue's."""
        kerb = dice.between(2.0, 6.0)
        verge = kerb + dice.between(1.4, 5.0)
        wall = verge + (dice.between(0.8, 4.5) if dice.chance(0.4) else 0.0)
        front = Row.draw(dice, dice.pick((0.05, 0.2, 0.45)), (4.0, 20.0))
        return cls(sign, kerb, verge, wall, wall + dice.between(7, 16), front, Row.draw(dice, 0.35, (6.0, 26.0)))


@dataclass(frozen=True, slots=True)
class Street:
    """Everything that holds for the whole scene. The road's middle line is X = ``curve`` · Z²."""

    camera: Camera
    curve: float
    light: Light
    sky_top: RGB
    sky_low: RGB
    haze: float
    shadow: float
    shadow_reach: float
    road: RGB
    pavement: RGB
    green: RGB
    left: Side
    right: Side
    noise: Noise

    @classmethod
    def draw(cls, dice: Dice) -> Self:
        """A street like no other."""
        sun = dice.pick((-1, 1, 0))
        sky_top, sky_low = _sky(dice, sun != 0)
        road = dice.grey(0.2, 0.45, 0.02)
        pavement = dice.near(road, 0.12) if dice.chance(0.4) else dice.pick((dice.grey(0.35, 0.62), dice.near((0.5, 0.4, 0.34), 0.2)))
        return cls(
            camera=Camera(
                focal=dice.between(0.8, 1.2),
                height=dice.between(1.25, 2.1),
                horizon=dice.between(0.38, 0.56),
                centre=dice.between(-0.18, 0.18),
                roll=dice.between(-0.03, 0.03),
            ),
            curve=dice.between(-0.0025, 0.0025),
            light=Light(sun, dice.between(1.0, 1.2), dice.between(0.5, 0.75)),
            sky_top=sky_top,
            sky_low=sky_low,
            haze=dice.between(60.0, 500.0),
            shadow=dice.between(0.45, 0.65),
            shadow_reach=dice.between(0.0, 0.9),
            road=road,
            pavement=pavement,
            green=dice.pick(_GREENS),
            left=Side.draw(dice, -1),
            right=Side.draw(dice, 1),
            noise=Noise(dice.between(0, 64), dice.between(0, 64)),
        )

    @property
    def sides(self) -> tuple[Side, Side]:
        """Left, right."""
        return self.left, self.right

    @property
    def kerbs(self) -> tuple[float, float]:
        """X of the road's two edges, from its middle line."""
        return -self.left.kerb, self.right.kerb

    def at(self, lateral: float, z: float) -> float:
        """X of a point so far beside the middle line."""
        return lateral + self.curve * z * z


def _sky(dice: Dice, sunny: bool) -> tuple[RGB, RGB]:
    if sunny:
        return dice.near((0.3, 0.5, 0.85), 0.15), dice.pick(((0.72, 0.83, 0.95), (0.85, 0.88, 0.9), (0.95, 0.82, 0.66)))
    level = dice.between(0.55, 0.95)
    return dice.near((level * 0.92, level * 0.95, level), 0.05), dice.near((level, level, level), 0.04)


def scaled(colour: RGB, factor: float) -> RGB:
    """The colour, brighter or darker."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def tinted(tone: Floats, colour: RGB) -> Floats:
    """(h, w) brightness times a colour: (3, h, w)."""
    out: Floats = tone[None] * np.asarray(colour, dtype=f32)[:, None, None]
    return out
