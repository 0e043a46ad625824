"""The whole network: padding, logits, prediction at input size, and what build refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kits_model import PRESET_CASES, image, tiny_model
from timm.layers import DropPath
from torch import nn

from nasseg.errors import BackboneError, ConfigError
from nasseg.genes.presets import preset
from nasseg.models.segmenter import SegModel, build


@pytest.fixture(scope="module")
def scaseg() -> SegModel:
    return build(preset("scaseg", "mit_b0"), 150).eval()


def test_build_puts_the_decoder_on_the_backbone(scaseg: SegModel) -> None:
    assert scaseg.genotype == preset("scaseg", "mit_b0")
    assert scaseg.num_classes == 150
    assert scaseg.stride == 4
    assert {name for name, _ in scaseg.named_children()} == {"backbone", "decoder"}
    with torch.no_grad():
        assert scaseg(image(1, (64, 96))).shape == (1, 150, 16, 24)
    # 4.910 M live, of the paper's printed 6.0 M with unused weights.
    assert sum(p.numel() for p in scaseg.parameters()) == pytest.approx(4.910e6, abs=500)


def test_odd_inputs_are_padded_with_zeros_and_cropped_back() -> None:
    model = tiny_model(PRESET_CASES["scaseg"])
    x_BCHW = image(2, (37, 51))
    padded = F.pad(x_BCHW, (0, 13, 0, 27))
    with torch.no_grad():
        logits, whole = model(x_BCHW), model(padded)
        resized, whole_resized = model.predict(x_BCHW), model.predict(padded)
    assert whole.shape == (2, 3, 16, 16)
    assert torch.equal(logits, whole[:, :, :10, :13])
    assert torch.equal(resized, whole_resized[:, :, :37, :51])
    assert torch.equal(whole_resized, F.interpolate(whole, size=(64, 64), mode="bilinear", align_corners=False))


def test_stride_is_the_fusion_stride() -> None:
    model = tiny_model(PRESET_CASES["csap"])
    assert model.stride == 8
    with torch.no_grad():
        assert model(image(1, (40, 33))).shape == (1, 3, 5, 5)


def test_input_channels_and_stochastic_depth_reach_the_backbone() -> None:
    model = build(preset("csap", "mit_b0"), 2, in_chans=1, drop_path=0.1, dropout=0.2)
    with torch.no_grad():
        assert model.eval()(image(1, (32, 32), channels=1)).shape == (1, 2, 4, 4)
    rates = [m.drop_prob for m in model.decoder.modules() if isinstance(m, DropPath)]
    assert rates == [0.1] * 6  # attention and FFN of stages 4, 3 and 2
    assert any(isinstance(m, DropPath) for m in model.backbone.modules())
    assert [m.p for m in model.decoder.modules() if isinstance(m, nn.Dropout2d)] == [0.2]


def test_a_genotype_without_a_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names no backbone: give one with genotype\.on\('mit_b0'\) or --backbone mit_b0"):
        build(preset("scaseg"), 19)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build(preset("scaseg"), 0, in_chans=0, drop_path=1.0, dropout=-0.1)
    assert [problem.key for problem in caught.value.problems] == ["backbone", "num_classes", "in_chans", "drop_path", "dropout"]
    assert "build: num_classes: must be a whole number from 1 (given 0); nearest legal: 1" in str(caught.value)
    assert "build: drop_path: must be at least 0 and below 1 (given 1.0); nearest legal: 0.9" in str(caught.value)


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(BackboneError, match="no_such_net"):
        build(preset("scaseg", "no_such_net"), 19)
