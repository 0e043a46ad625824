"""Whole networks: every published design on every kind of backbone."""

from __future__ import annotations

import pytest
import torch
from kits_backbone import image, without_gradient

from nasseg.errors import BackboneError
from nasseg.genes.presets import PRESETS, preset
from nasseg.models.backbones.registry import create_backbone
from nasseg.models.segmenter import build

BACKBONES = ("mit_b0", "mscan_t", "resnet18", "tf_efficientnet_lite0", "convnext_atto")
CLASSES = 5


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", PRESETS)
def test_every_design_learns_on_every_backbone(name: str, backbone: str) -> None:
    torch.manual_seed(0)
    genotype = preset(name, backbone).override({"fusion_width": 32})
    model = build(genotype, CLASSES).train()
    logits_BKhw = model(image((64, 64)))
    assert logits_BKhw.shape == (2, CLASSES, 64 // model.stride, 64 // model.stride)
    assert logits_BKhw.isfinite().all()
    torch.nn.functional.cross_entropy(
        logits_BKhw, torch.arange(2 * logits_BKhw[0, 0].numel()).reshape(2, *logits_BKhw.shape[2:]) % CLASSES
    ).backward()
    assert without_gradient(model) == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_drop_path_reaches_the_backbone_that_has_it() -> None:
    def dropping(backbone: str) -> tuple[bool, bool]:
        with torch.device("meta"):
            model = build(preset("segformer", backbone).override({"lpm": "se"}), CLASSES, drop_path=0.2)
        parts = (model.backbone, model.decoder)
        first, second = (any(type(module).__name__ == "DropPath" for module in part.modules()) for part in parts)
        return first, second

    assert dropping("mit_b0") == (True, True)
    assert dropping("vgg11") == (False, True)  # VGG has no residual to drop
    with pytest.raises(BackboneError, match="vgg11 has no stochastic depth"):
        create_backbone("vgg11", drop_path=0.2)


def test_two_spellings_of_a_backbone_are_one_genotype() -> None:
    one, two = preset("scaseg", "mobilenetv2_100?std=0.5&mean=0.5"), preset("scaseg", "timm:mobilenetv2_100?mean=0.5&std=0.5")
    assert one.backbone == "mobilenetv2_100?mean=0.5&std=0.5"
    assert one.id == two.id


def test_a_network_on_four_channels_and_an_odd_size() -> None:
    torch.manual_seed(0)
    model = build(preset("csap", "mscan_t"), CLASSES, in_chans=4).eval()
    with torch.no_grad():
        assert model(image((50, 70), channels=4)).shape == (2, CLASSES, 7, 9)
        assert model.predict(image((50, 70), channels=4)).shape == (2, CLASSES, 50, 70)
