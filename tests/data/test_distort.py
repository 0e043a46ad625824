"""mmsegmentation's photometric distortion: OpenCV's bytes, a second slow definition, and how often what happens."""

from __future__ import annotations

import colorsys
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasseg.data.distort import Distortion, from_hsv, to_hsv

NOTHING = {"brightness": None, "contrast": None, "contrast_first": True, "saturation": None, "hue": None}


def test_colours_as_opencv_turns_them() -> None:
    """Made with OpenCV 4.10.0 and 5.0.0, cv2.cvtColor with COLOR_BGR2HSV and COLOR_HSV2BGR; rows fill its vector registers."""
    random = np.random.default_rng(7)
    image = random.integers(0, 256, (64, 1024, 3), dtype=np.uint8)
    hsv = np.stack(to_hsv(image), axis=-1)
    assert image[0, :3].tolist() == [[139, 74, 229], [241, 169, 65], [6, 160, 149]]
    assert hsv[0, :3].tolist() == [[133, 173, 229], [18, 186, 241], [88, 245, 160]]
    assert hashlib.sha256(hsv.tobytes()).hexdigest()[:32] == "4f96566be3f11278dab917be1999cef2"
    given_hsv = np.stack([random.integers(0, high, (64, 1024)) for high in (180, 256, 256)], axis=-1).astype(np.uint8)
    back = from_hsv(given_hsv[..., 0], given_hsv[..., 1], given_hsv[..., 2])
    assert given_hsv[0, :3].tolist() == [[126, 44, 80], [1, 164, 237], [92, 11, 40]]
    assert back[0, :3].tolist() == [[68, 66, 80], [237, 89, 84], [38, 39, 40]]
    assert hashlib.sha256(back.tobytes()).hexdigest()[:32] == "8c8a895dff0c2df350dcca3cc2837639"


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)))
def test_hsv_is_what_everyone_calls_hsv(rgb: tuple[int, int, int]) -> None:
    hue, saturation, value = (int(part[0, 0]) for part in to_hsv(np.array([[rgb]], dtype=np.uint8)))
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))
    # OpenCV divides by tables of 12 bits: over all 16.7 million colours a hue is at most 0.64 off, a saturation 0.522.
    assert abs(hue - 180 * h) <= 0.65 or abs(abs(hue - 180 * h) - 180) <= 0.65
    assert (abs(saturation - 255 * s) <= 0.53, value) == (True, round(255 * v))


def slow(image: np.ndarray, change: Distortion) -> np.ndarray:
    """The class of mmsegmentation, read off its documentation: one pixel after another, in Python numbers."""

    def cut(number: float) -> int:
        return int(min(max(number, 0.0), 255.0))

    out = image.copy()
    for place in np.ndindex(image.shape[:2]):
        pixel = [int(channel) for channel in image[place]]
        if change.brightness is not None:
            pixel = [cut(channel + change.brightness) for channel in pixel]
        if change.contrast_first and change.contrast is not None:
            pixel = [cut(channel * change.contrast) for channel in pixel]
        for what in ("saturation", "hue"):
            amount = getattr(change, what)
            if amount is None:
                continue
            h, s, v = (part for part in to_hsv(np.array([[pixel]], dtype=np.uint8)))
            if what == "saturation":
                s = np.array([[cut(int(s[0, 0]) * amount)]], dtype=np.uint8)
            else:
                h = np.array([[(int(h[0, 0]) + amount) % 180]], dtype=np.uint8)
            pixel = [int(channel) for channel in from_hsv(h, s, v)[0, 0]]
        if not change.contrast_first and change.contrast is not None:
            pixel = [cut(channel * change.contrast) for channel in pixel]
        out[place] = pixel
    return out


@pytest.mark.parametrize("seed", range(24))
def test_agrees_with_the_slow_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    change = Distortion.draw(random)
    before = image.copy()
    # A product that lies on a whole number may be cut one lower in float32.
    assert np.abs(change(image).astype(int) - slow(image, change)).max() <= 1
    assert (change(image) != slow(image, change)).mean() <= 0.02
    np.testing.assert_array_equal(image, before)


def test_by_hand() -> None:
    grey = np.full((1, 1, 3), 100, dtype=np.uint8)
    assert Distortion(**{**NOTHING, "brightness": 7.9})(grey).tolist() == [[[107] * 3]]
    assert Distortion(**{**NOTHING, "brightness": -200.0})(grey).tolist() == [[[0] * 3]]
    assert Distortion(**{**NOTHING, "contrast": 1.255})(grey).tolist() == [[[125] * 3]]
    red = np.array([[[200, 0, 0]]], dtype=np.uint8)
    assert Distortion(**{**NOTHING, "hue": 30})(red).tolist() == [[[200, 200, 0]]]
    assert Distortion(**{**NOTHING, "hue": -30})(red).tolist() == [[[200, 0, 199]]]  # as OpenCV has it
    assert Distortion(**{**NOTHING, "saturation": 0.5})(red).tolist() == [[[200, 100, 100]]]
    bright = np.array([[[200, 200, 200]]], dtype=np.uint8)
    # 200 · 1.5 is cut to 255 before the contrast's place matters: brightness first always.
    both = {**NOTHING, "brightness": 30.0, "contrast": 1.5}
    assert Distortion(**both)(bright).tolist() == [[[255] * 3]]
    vivid = np.array([[[200, 100, 100]]], dtype=np.uint8)
    first, last = (Distortion(**{**NOTHING, "contrast": 1.5, "saturation": 1.5, "contrast_first": order})(vivid) for order in (True, False))
    assert first.tolist() == [[[255, 97, 97]]]
    assert last.tolist() == [[[255, 75, 75]]]


def test_each_half_of_the_time_and_in_its_range() -> None:
    drawn = [Distortion.draw(np.random.default_rng([seed, 1])) for seed in range(1200)]
    for name, low, high in (("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5), ("hue", -18, 17)):
        values = [getattr(change, name) for change in drawn if getattr(change, name) is not None]
        assert 530 < len(values) < 670
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert 530 < sum(change.contrast_first for change in drawn) < 670
