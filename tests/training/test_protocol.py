"""What sizes a protocol makes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from nasseg.errors import BundleError, ConfigError
from nasseg.training.protocol import Protocol


@pytest.mark.parametrize(
    ("size", "shape", "divisor", "expected"),
    [
        # By hand: factor = min(2048 / long, 512 / short), side · factor + 0.5, cut.
        ((512, 2048), (512, 683), 1, (512, 683)),
        ((512, 2048), (683, 512), 1, (683, 512)),
        ((2048, 512), (512, 683), 1, (512, 683)),
        ((512, 2048), (256, 300), 1, (512, 600)),
        ((512, 2048), (100, 800), 1, (256, 2048)),
        ((512, 2048), (333, 500), 1, (512, 769)),
        ((512, 2048), (333, 500), 32, (512, 800)),
        ((512, 512), (720, 960), 1, (384, 512)),
    ],
)
def test_kept_ratio_is_mmsegmentations(size: tuple[int, int], shape: tuple[int, int], divisor: int, expected: tuple[int, int]) -> None:
    assert Protocol(size=size, keep_ratio=True, size_divisor=divisor).fitted(shape) == expected


def test_stretched() -> None:
    protocol = Protocol(size=(100, 130), size_divisor=32, scales=(0.5, 1.0))
    assert [protocol.fitted((7, 9), scale) for scale in protocol.scales] == [(64, 96), (128, 160)]
    assert Protocol(size=(100, 130)).fitted((7, 9), 0.75) == (75, 97)


def test_scales_bound_before_they_fit() -> None:
    # 512x2048 at 0.75 is 384x1536; 333x500 then grows by 384/333.
    assert Protocol(size=(512, 2048), keep_ratio=True).fitted((333, 500), 0.75) == (384, 577)


@pytest.mark.parametrize(
    ("options", "plain"),
    [({}, True), ({"scales": (0.5,)}, True), ({"flip": True}, False), ({"scales": (0.5, 1.0)}, False), ({"keep_ratio": True}, False)],
)
def test_what_can_be_measured_in_batches(options: dict[str, Any], plain: bool) -> None:
    assert Protocol(size=(8, 8), **options).plain is plain


def test_everything_stands_in_the_result() -> None:
    protocol = Protocol(size=(64, 96), mode="slide", crop=(32, 48), stride=(20, 30), scales=(0.5, 1.5), flip=True, keep_ratio=True)
    assert protocol.to_dict() == {
        "size": [64, 96],
        "resize": "keep_ratio",
        "size_divisor": 1,
        "pad_multiple": 32,
        "window": "slide",
        "crop": [32, 48],
        "stride": [20, 30],
        "flip": True,
        "scale": "multi",
        "scales": [0.5, 1.5],
        "masks": "original",
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "slide", "crop": (32, 48), "stride": (20, 30), "pad_multiple": 1},
        {"scales": (0.5, 1.5), "flip": True, "keep_ratio": True, "size_divisor": 32},
        {"masks": "resized"},
    ],
)
def test_it_comes_back_from_a_file(options: dict[str, Any]) -> None:
    protocol = Protocol(size=(64, 96), **options)
    assert Protocol.from_dict({**protocol.to_dict(), "split": "val"}) == protocol
    assert Protocol(**protocol.options()) == protocol


UNREADABLE = [
    ({"size": None}, "here: not readable as an evaluation protocol"),
    ({"size": [1, 2, 3]}, "here: not readable as an evaluation protocol"),
    ({"window": "slide"}, "here: not readable as an evaluation protocol: evaluation: crop: mode slide wants the windows' size"),
    ({"scales": ["x"]}, "here: not readable as an evaluation protocol"),
]


@pytest.mark.parametrize(("changes", "sentence"), UNREADABLE)
def test_unreadable_files(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence):
        Protocol.from_dict({**Protocol(size=(64, 96)).to_dict(), **changes}, where="here")


def test_a_key_that_is_missing_is_named() -> None:
    raw = Protocol(size=(64, 96)).to_dict()
    del raw["masks"]
    with pytest.raises(BundleError, match="evaluation: key 'masks' is missing"):
        Protocol.from_dict(raw)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        # As it is: images, or windows, of exactly that size already.
        ({"size": (64, 96), "flip": True}, {}),
        ({"size": (50, 70), "size_divisor": 32}, {}),
        ({"size": (512, 2048), "keep_ratio": True, "mode": "slide", "crop": (64, 96), "stride": (32, 32)}, {}),
        # Stretched and seen whole.
        ({"size": (512, 2048), "keep_ratio": True, "size_divisor": 32, "pad_multiple": 1}, {"keep_ratio": False, "size_divisor": 1}),
        ({"size": (64, 96), "scales": (0.5, 1.0), "flip": True}, {"scales": (1.0,)}),
        ({"size": (64, 96), "mode": "slide", "crop": (64, 64), "stride": (32, 32)}, {"mode": "whole", "crop": None, "stride": None}),
        ({"size": (128, 96), "masks": "resized"}, {}),
    ],
)
def test_a_file_of_one_size_is_measured_as_closely_as_it_can_be(options: dict[str, Any], changes: dict[str, Any]) -> None:
    size = (64, 96)
    protocol = Protocol(**options)
    expected = protocol if not changes and protocol.fitted((1, 1)) == size else Protocol(**{**options, "size": size, **changes})
    if "mode" in options and options["crop"] == size:
        expected = protocol
    assert protocol.at(size) == expected


REFUSED = [
    ({"masks": "tiny"}, r"evaluation: masks: must be one of original, resized \(given 'tiny'\)"),
    ({"mode": "slid"}, "mode: must be one of whole, slide .*nearest legal: slide"),
    ({"size": (0, 8)}, "size: height and width from 1"),
    ({"scales": ()}, "scales: must be numbers above 0"),
    ({"scales": (1.0, -1.0)}, "scales: must be numbers above 0"),
    ({"size_divisor": 0}, "size_divisor: must be a whole number from 1"),
    ({"pad_multiple": 16}, r"pad_multiple: must be 1 \(images as they are\) or a multiple of 32 \(given 16\); nearest legal: 32"),
    ({"keep_ratio": True, "masks": "resized"}, "keep_ratio: goes with original masks"),
    ({"mode": "slide"}, "crop: mode slide wants the windows' size"),
    ({"mode": "slide", "crop": (0, 4), "stride": (1, 1)}, "crop: height and width from 1"),
    ({"mode": "slide", "crop": (30, 60)}, "stride: mode slide wants the way from window to window; nearest legal: 20x40"),
    ({"mode": "slide", "crop": (4, 4), "stride": (5, 4)}, "stride: from 1 pixel to the crop, or pixels are left out"),
    ({"stride": (4, 4)}, "stride: belongs to mode slide"),
    ({"crop": (4, 4)}, "crop: belongs to mode slide"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Protocol(**{"size": (8, 8), **options})


def test_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Protocol(size=(8, 8), masks="x", mode="y", size_divisor=0)
    assert [problem.key for problem in caught.value.problems] == ["masks", "mode", "size_divisor"]
