"""timm's models behind our contract: families with habits of their own, and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from kits_backbone import ODD, image, loss_of, without_gradient
from safetensors.torch import save_file

from nasseg.errors import BackboneError, WeightsError
from nasseg.models.backbones import timm_adapter
from nasseg.models.backbones.registry import create_backbone, describe_backbone

MULTIPLES = {"mobilevitv2_050": 64, "halonet26t": 256}
SIZES = {"hiera_tiny_224": (224, 224), "mvitv2_tiny": (224, 224), "test_maxvit": (160, 160)}


@pytest.mark.parametrize("name", ODD)
def test_odd_families(name: str) -> None:
    spec = describe_backbone(name)
    assert (spec.multiple, spec.size) == (MULTIPLES.get(name, 32), SIZES.get(name))
    height, width = spec.size or (64, 96)
    with torch.device("meta"):
        backbone = create_backbone(name)
        maps = backbone(torch.empty(2, 3, height, width))
        loss_of(maps).backward()
    assert [tuple(one.shape) for one in maps] == [(2, c, height // s, width // s) for c, s in zip(spec.channels, spec.strides, strict=True)]
    assert without_gradient(backbone) == []


@pytest.mark.parametrize("name", ODD)
def test_odd_families_take_timms_own_weights(name: str) -> None:
    """By name and shape: a file of the plain classifier, made for three channels, leaves nothing open."""
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
        backbone = create_backbone(name)
        offered, spare = backbone.rename(whole)
    wanted = backbone.state_dict()
    assert {key: value.shape for key, value in offered.items()} == {key: value.shape for key, value in wanted.items()}
    assert len(spare) + len(offered) >= len(whole)


def test_windows_see_a_padded_image_and_the_maps_are_cropped() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("mobilevitv2_050").eval()
    assert isinstance(backbone, timm_adapter.TimmBackbone)
    x = image((64, 96), batch=1)
    with torch.no_grad():
        cropped = backbone(x)
        whole = backbone.body(torch.nn.functional.pad(x, (0, 32)))
    assert [one.shape[-1] for one in whole] == [32, 16, 8, 4]
    for one, two in zip(cropped, whole, strict=True):
        assert torch.equal(one, two[..., : one.shape[-1]])


def test_maps_with_channels_last_are_turned() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("test_mambaout").eval()
    assert isinstance(backbone, timm_adapter.TimmBackbone)
    x = image()
    with torch.no_grad():
        for ours, theirs in zip(backbone(x), backbone.body(x), strict=True):
            assert torch.equal(ours, theirs.permute(0, 3, 1, 2))


def test_another_fixed_size_stands_in_the_name() -> None:
    spec = describe_backbone("hiera_tiny_224?img_size=64x96")
    assert (spec.name, spec.size) == ("hiera_tiny_224?img_size=64x96", (64, 96))
    assert describe_backbone("hiera_tiny_224?img_size=96").size == (96, 96)
    with torch.device("meta"):
        backbone = create_backbone(spec.name)
        assert [one.shape[-1] for one in backbone(torch.empty(1, 3, 64, 96))] == [24, 12, 6, 3]
    with pytest.raises(BackboneError, match=r"takes images of 64x96 only, not 64x64; .* hiera_tiny_224\?img_size=64x64"):
        backbone(torch.empty(1, 3, 64, 64, device="meta"))


def test_the_last_feature_of_a_stride_is_taken() -> None:
    names = [info["module"] for info in timm.create_model("mobilenetv2_100", features_only=True).feature_info.info]
    plan = timm_adapter.plan_timm("mobilenetv2_100", "mobilenetv2_100", (), 3)
    assert [names[index] for index in plan.indices] == ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]


def test_a_model_that_gives_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(architecture: str, **arguments: Any) -> Any:
        raise RuntimeError("features_only not implemented for this model.")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(BackboneError, match="ghostnet_050 cannot be a backbone: timm says features_only not implemented for this model"):
        timm_adapter.plan_timm("ghostnet_050", "ghostnet_050", (), 3)


def test_a_model_that_needs_an_argument_we_do_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(architecture: str, **arguments: Any) -> Any:
        raise TypeError("missing 1 required positional argument: 'depth'")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(BackboneError, match="ghostnet_050 cannot be a backbone: timm says missing 1 required positional argument"):
        timm_adapter.plan_timm("ghostnet_050", "ghostnet_050", (), 3)


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    describe_backbone("test_resnet")
    create = timm.create_model

    def offline(architecture: str, **arguments: Any) -> Any:
        if arguments.get("pretrained"):
            raise OSError("cannot find the file in the cache") from ConnectionError("Name or service not known")
        return create(architecture, **arguments)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        WeightsError, match=r"test_resnet could not be fetched from timm's hub \(Name or service not known\): .* --weights PATH"
    ):
        create_backbone("test_resnet", pretrained=True)


def test_a_model_that_nobody_trained() -> None:
    with pytest.raises(
        WeightsError, match="timm has no published weights for efficientnet_lite1: give a file of your own with --weights PATH"
    ):
        create_backbone("efficientnet_lite1", pretrained=True)


def test_published_weights_are_adapted_to_the_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's file, here in a local place, goes the same way into three channels and into one."""
    describe_backbone("test_resnet"), describe_backbone("test_resnet", in_chans=1)
    create = timm.create_model
    torch.manual_seed(5)
    whole = create("test_resnet")
    save_file(whole.state_dict(), tmp_path / "hub.safetensors")

    def from_file(architecture: str, **arguments: Any) -> Any:
        return create(architecture, pretrained_cfg_overlay={"file": str(tmp_path / "hub.safetensors")}, **arguments)

    monkeypatch.setattr(timm, "create_model", from_file)
    for in_chans in (3, 1):
        fetched = create_backbone("test_resnet", pretrained=True, in_chans=in_chans).state_dict()
        local = create_backbone("test_resnet", weights=str(tmp_path / "hub.safetensors"), in_chans=in_chans).state_dict()
        assert all(torch.equal(fetched[key], local[key]) for key in local)
        assert torch.equal(fetched["body.layer1.0.conv1.weight"], whole.state_dict()["layer1.0.conv1.weight"])
