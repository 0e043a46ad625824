"""Backbones by name."""

from __future__ import annotations

import pytest
import timm
import torch

from nasseg.errors import BackboneError, WeightsError
from nasseg.models.backbones.mit import MiT
from nasseg.models.backbones.mscan import MSCAN
from nasseg.models.backbones.registry import (
    BUILTIN,
    canonical_name,
    check_unpadded,
    create_backbone,
    describe_backbone,
    parse_name,
    suggested,
)
from nasseg.models.backbones.timm_adapter import TimmBackbone


def test_our_own_names() -> None:
    own = ("mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5", "mscan_t", "mscan_s", "mscan_b", "mscan_l")
    assert own == BUILTIN
    assert not set(BUILTIN) & set(timm.list_models())
    assert isinstance(create_backbone("mit_b0"), MiT)
    assert isinstance(create_backbone("mscan_t"), MSCAN)
    assert isinstance(create_backbone("timm:test_resnet"), TimmBackbone)


@pytest.mark.parametrize("name", suggested())
def test_every_suggestion_can_be_used(name: str) -> None:
    spec = describe_backbone(name)
    assert (spec.name, spec.strides, spec.size, spec.multiple) == (name, (4, 8, 16, 32), None, 32)


def test_descriptions() -> None:
    spec = describe_backbone("mit_b1")
    assert (spec.channels, spec.mean, spec.std) == ((64, 128, 320, 512), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    spec = describe_backbone("tf_efficientnet_lite0", in_chans=4)
    assert (spec.channels, spec.mean, spec.in_chans) == ((24, 40, 112, 320), (0.5, 0.5, 0.5, 0.5), 4)
    assert describe_backbone("resnet18").channels == (64, 128, 256, 512)


def test_a_description_allocates_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    create = timm.create_model

    def spy(*args: object, **kwargs: object) -> torch.nn.Module:
        model: torch.nn.Module = create(*args, **kwargs)
        made.extend(parameter.device for parameter in model.parameters())
        return model

    monkeypatch.setattr(timm, "create_model", spy)
    describe_backbone("test_convnext", in_chans=6)
    assert made
    assert set(made) == {torch.device("meta")}


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("mit_b0", "mit_b0"),
        (" timm:resnet18 ", "resnet18"),
        ("resnet18?", "resnet18"),
        ("mobilenetv2_100?std=0.5&pad_type=same&mean=0.50", "mobilenetv2_100?mean=0.5&pad_type=same&std=0.5"),
        ("x?a=true&b=3&c=1e-3&d=224x256&e=word&f=1,2.5&g=-1", "x?a=true&b=3&c=0.001&d=224x256&e=word&f=1,2.5&g=-1"),
    ],
)
def test_one_spelling(given: str, canonical: str) -> None:
    assert canonical_name(given) == canonical
    assert canonical_name(canonical) == canonical


def test_arguments_have_types() -> None:
    given = {"a": True, "b": 3, "c": 0.001, "d": (224, 256), "e": "word", "f": (1, 2.5), "g": False}
    assert parse_name("x?a=true&b=3&c=1e-3&d=224x256&e=word&f=1,2.5&g=false") == ("x", given)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18?pad", r"resnet18\?pad: arguments behind the question mark are written key=value and joined by &, not 'pad'"),
        ("resnet18?pad=", "written key=value and joined by &, not 'pad='"),
        ("resnet18?a=1&a=2", "a is given twice"),
        ("resnet18?in_chans=4", "in_chans is not an argument of the name; nasseg sets it"),
        ("mobilenetv2_100?pad_type=sane", "pad_type is one of symmetric, same, valid"),
        ("mit_b0?depth=3", r"mit_b0\?depth=3: mit_b0 takes no argument 'depth'; mean, std and norm_eps are the only ones"),
        ("mscan_t?norm_eps=1e-5", r"mscan_t takes no argument 'norm_eps'; mean and std are the only ones"),
        ("mit_b0?norm_eps=1", r"mit_b0\?norm_eps=1: norm_eps is a number above 0 and below 1, such as 1e-05"),
        ("mit_b0?norm_eps=small", r"norm_eps is a number above 0 and below 1"),
        ("resnet18?depth=3", r"resnet18\?depth=3: timm's resnet18 takes no argument 'depth'"),
        ("mit_b0?mean=0.5,0.5", "mean is one number, or 3 joined by commas"),
        ("mit_b0?std=wide", "std is one number, or 3 joined by commas"),
        ("mit_b0?std=0", "std must be above 0"),
        ("mit_b9", "unknown backbone 'mit_b9'; nearest: mit_b"),
        ("resnet_18", "unknown backbone 'resnet_18'; nearest: resnet18"),
        ("swin_tiny", "unknown backbone 'swin_tiny'; nearest: swin_tiny_patch4_window7_224"),
        ("hf-hub:somebody/model", "unknown backbone 'hf-hub:somebody/model'; nasseg backbones lists some, "),
        ("", "unknown backbone ''; nasseg backbones lists some"),
        ("resnet18.bogus", "timm's resnet18 has no weights of that name; there are resnet18.a1_in1k, "),
        (
            "vit_base_patch16_224",
            "vit_base_patch16_224 yields maps at strides 16; a backbone needs 4, 8, 16 and 32; nasseg",
        ),
        ("inception_v3", "cannot be a backbone: an image of 512x768 gives maps of 192x124x188, .* each would give 192x128x192, "),
    ],
)
def test_names_that_do_not_work(name: str, sentence: str) -> None:
    with pytest.raises(BackboneError, match=sentence):
        create_backbone(name)
    with pytest.raises(BackboneError, match=sentence):
        describe_backbone(name)


def test_statistics_in_the_name() -> None:
    backbone = create_backbone("mit_b0?std=0.2,0.3,0.4&mean=0.5")
    assert backbone.name == "mit_b0?mean=0.5&std=0.2,0.3,0.4"
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    assert create_backbone(backbone.name).spec == backbone.spec
    assert describe_backbone("mit_b0?mean=0.5", in_chans=5).mean == (0.5,) * 5


def test_arguments_reach_the_model() -> None:
    same, plain = create_backbone("mobilenetv2_100?pad_type=same"), create_backbone("mobilenetv2_100")
    assert type(same.get_submodule("body.conv_stem")).__name__ == "Conv2dSame"
    assert type(plain.get_submodule("body.conv_stem")).__name__ == "Conv2d"


def test_drop_path() -> None:
    assert any("DropPath" in type(module).__name__ for module in create_backbone("test_resnet", drop_path=0.2).modules())
    assert not describe_backbone("vgg11").supports_drop_path
    with pytest.raises(BackboneError, match=r"vgg11 has no stochastic depth: drop_path must be 0 \(given 0.1\)"):
        create_backbone("vgg11", drop_path=0.1)
    with pytest.raises(BackboneError, match=r"mit_b0: drop path is a probability from 0 to below 1 \(given 1.0\)"):
        create_backbone("mit_b0", drop_path=1.0)


def test_an_image_has_channels() -> None:
    with pytest.raises(BackboneError, match=r"mit_b0: an image has at least one channel \(given 0\)"):
        create_backbone("mit_b0", in_chans=0)


def test_weights_come_from_one_place() -> None:
    with pytest.raises(
        WeightsError, match=r"mit_b0: give either published weights \(--pretrained\) or a file \(--weights x.safetensors\), not both"
    ):
        create_backbone("mit_b0", pretrained=True, weights="x.safetensors")


@pytest.mark.parametrize("name", ["mit_b0", "mscan_t", "resnet18", "mobilenetv2_100", "mobilenetv2_100?pad_type=same", "mobilevitv2_050"])
def test_backbones_that_pad_their_convolutions_run_unpadded(name: str) -> None:
    check_unpadded(name)
    backbone = create_backbone(name).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 45, 77))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (c, -(-45 // s), -(-77 // s)) for c, s in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "convnext_atto",
            "convnext_atto gives maps of 8x15, 4x7, 2x3, 1x1 for an image of 33x63, where rounding up gives 9x16, 5x8, 3x4, 2x2",
        ),
        ("hiera_tiny_224", "hiera_tiny_224 takes images of 224x224 only"),
    ],
)
def test_backbones_that_cut_their_image_into_patches_do_not(name: str, reason: str) -> None:
    with pytest.raises(BackboneError, match=f"{name} does not run unpadded, take pad_multiple 32: {reason}"):
        check_unpadded(name)
