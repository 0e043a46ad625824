"""The contract as data, and what its base class does for every backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from kits_backbone import OWN, TIMM, BackboneContract, image
from torch import Tensor, nn

from nasseg.errors import BackboneError
from nasseg.models.backbones.contract import Backbone, BackboneSpec, channel_statistics

SPEC = BackboneSpec(name="plain", channels=(2, 3, 4, 5), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class Plain(Backbone):
    """Averages, then a batch norm: the least a backbone can be."""

    def __init__(self, spec: BackboneSpec = SPEC) -> None:
        super().__init__(spec)
        self.norm = nn.BatchNorm2d(3)

    def maps(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.norm(x_BCHW)
        pooled = [
            torch.nn.functional.avg_pool2d(x, s)[:, :1].expand(-1, c, -1, -1) for c, s in zip(self.channels, self.strides, strict=True)
        ]
        return pooled[0], pooled[1], pooled[2], pooled[3]

    def rename(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
        return dict(tensors), set()

    @property
    def input_convs(self) -> tuple[str, ...]:
        return ()


class TestOwn(BackboneContract):
    names = OWN


class TestTimm(BackboneContract):
    names = TIMM


def test_a_description_must_have_the_four_strides() -> None:
    with pytest.raises(
        BackboneError, match=r"plain yields maps at strides 2, 4, 8, 16; a backbone here has one map at each of 4, 8, 16, 32"
    ):
        replace(SPEC, strides=(2, 4, 8, 16))
    with pytest.raises(BackboneError, match="plain yields maps at strides none"):
        replace(SPEC, strides=())


def test_a_description_must_have_four_widths() -> None:
    with pytest.raises(BackboneError, match="plain has channels 2, 3, 4; a backbone here has four stages"):
        replace(SPEC, channels=(2, 3, 4))
    with pytest.raises(BackboneError, match="plain has channels 2, 3, 4, 0"):
        replace(SPEC, channels=(2, 3, 4, 0))


def test_each_input_channel_has_a_mean_and_a_deviation() -> None:
    with pytest.raises(BackboneError, match="plain has 3 means and 3 deviations for 4 input channels; each channel needs one of both"):
        replace(SPEC, in_chans=4)


def test_a_fixed_size_is_a_multiple_of_32() -> None:
    with pytest.raises(BackboneError, match="plain takes images of 224x200 only; both edges must be multiples of 32"):
        replace(SPEC, size=(224, 200))


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BackboneError, match="plain was built for 3 input channels, the image has 4"):
        Plain()(image(channels=4))
    with pytest.raises(BackboneError, match="plain takes heights and widths from 32, not 64x31: pad the image to multiples of 32"):
        Plain()(image((64, 31)))
    # Its averages leave out what is left at the edge.
    with pytest.raises(
        BackboneError, match="plain gives maps of 16x25, 8x12, 4x6, 2x3 for an image of 64x100, where rounding up gives 16x25, 8x13"
    ):
        Plain()(image((64, 100)))
    fixed = Plain(replace(SPEC, size=(64, 64)))
    assert fixed(image((64, 64)))[3].shape == (2, 5, 2, 2)
    with pytest.raises(
        BackboneError, match=r"plain takes images of 64x64 only, not 64x96; its name can carry another size: plain\?img_size=64x96"
    ):
        fixed(image((64, 96)))


def test_a_frozen_norm_keeps_its_statistics_and_a_thawed_one_does_not() -> None:
    backbone = Plain().freeze()
    assert backbone.training
    backbone.train()(image())
    assert backbone.norm.num_batches_tracked == 0
    backbone.unfreeze()(image())
    assert backbone.norm.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("in_chans", "expected"),
    [(3, (0.1, 0.2, 0.6)), (1, (0.3,)), (2, (0.1, 0.2)), (4, (0.1, 0.2, 0.6, 0.1)), (7, (0.1, 0.2, 0.6, 0.1, 0.2, 0.6, 0.1))],
)
def test_statistics_of_other_channel_counts(in_chans: int, expected: tuple[float, ...]) -> None:
    assert channel_statistics((0.1, 0.2, 0.6), in_chans) == pytest.approx(expected)
