"""Every backbone keeps one contract: own encoders, and timm's of several families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nasseg.errors import BackboneError, WeightsError
from nasseg.models.backbones.contract import BackboneSpec, channel_statistics
from nasseg.models.backbones.registry import BUILTIN, canonical_name, create_backbone, describe_backbone, suggested
from nasseg.models.counting import count

WIDTHS = {
    "mit_b0": (32, 64, 160, 256),
    "mscan_t": (32, 64, 160, 256),
    "resnet18": (64, 128, 256, 512),
    "tf_efficientnet_lite0": (24, 40, 112, 320),
    "mobilenetv2_100": (24, 32, 96, 320),
    "convnext_atto": (40, 80, 160, 320),
    "pvt_v2_b0": (32, 64, 160, 256),
    "swin_tiny_patch4_window7_224": (96, 192, 384, 768),
}


@pytest.fixture(params=WIDTHS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_maps_have_the_widths_and_strides_of_the_contract(name: str) -> None:
    backbone = create_backbone(name).eval()
    assert backbone.channels == WIDTHS[name] == describe_backbone(name).channels
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))
        again = backbone(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
        same = backbone(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    assert [tuple(m.shape) for m in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(WIDTHS[name], backbone.strides, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(again, same, strict=True))


def test_every_parameter_is_live(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name).eval()
    for parameter in backbone.parameters():
        # A residual branch that starts at zero passes no gradient on before its first step.
        if not parameter.any():
            torch.nn.init.ones_(parameter)
    maps = backbone(torch.randn(2, 3, 64, 64))
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()  # type: ignore[union-attr]
    silent = [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_frozen_backbones_neither_learn_nor_move_their_statistics(name: str) -> None:
    backbone = create_backbone(name).freeze().train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert not any(p.requires_grad for p in backbone.parameters())
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert all(p.requires_grad for p in backbone.unfreeze().parameters())


# ARCHITECTURES §1.1, at 512×512; MSCAN-L as in SegNeXt's own configuration.
@pytest.mark.parametrize(
    ("name", "params_m", "macs_g"),
    [
        ("mit_b0", 3.319, 3.204),
        ("mit_b1", 13.151, 10.434),
        ("mit_b2", 24.196, 20.235),
        ("mscan_t", 3.904, 4.637),
        ("mscan_s", 13.450, 13.375),
        ("mscan_b", 26.278, 26.549),
    ],
)
def test_own_encoders_cost_what_the_papers_build_costs(name: str, params_m: float, macs_g: float) -> None:
    with torch.device("meta"):
        counted = count(create_backbone(name).eval(), torch.empty(1, 3, 512, 512))
    assert round(counted.params / 1e6, 3) == params_m
    assert round(counted.macs / 1e9, 3) == macs_g


@pytest.mark.parametrize("name", BUILTIN)
def test_drop_path_acts_in_training_alone(name: str) -> None:
    with torch.device("meta"):
        rates = [m.drop_prob for m in create_backbone(name, drop_path=0.3).modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    assert rates[-1] == max(rates)


def test_a_network_without_stochastic_depth_refuses_a_rate() -> None:
    assert describe_backbone("pvt_v2_b0").supports_drop_path
    assert not describe_backbone("repvit_m0_9").supports_drop_path
    with pytest.raises(BackboneError, match="repvit_m0_9 has no stochastic depth: drop_path must be 0"):
        create_backbone("repvit_m0_9", drop_path=0.1)
    with pytest.raises(BackboneError, match="drop path is a probability from 0 to below 1"):
        create_backbone("mit_b0", drop_path=1.0)


@pytest.mark.parametrize("name", ["mit_b0", "mscan_t", "resnet18", "tf_efficientnet_lite0"])
def test_exports_and_compiles(name: str) -> None:
    backbone = create_backbone(name).eval()
    x_BCHW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(x_BCHW)
        exported = torch.export.export(backbone, (x_BCHW,)).module()(x_BCHW)
        compiled = torch.compile(backbone, backend="eager", fullgraph=True)(x_BCHW)
    for wanted, one, other in zip(expected, exported, compiled, strict=True):
        torch.testing.assert_close(one, wanted)
        torch.testing.assert_close(other, wanted)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_input_channels(in_chans: int) -> None:
    for name in ("mit_b0", "mscan_t", "resnet18"):
        backbone = create_backbone(name, in_chans=in_chans).eval()
        assert len(backbone.mean) == len(backbone.std) == in_chans
        assert backbone(torch.randn(1, in_chans, 32, 32))[3].shape[2:] == (1, 1)
        with pytest.raises(BackboneError, match=f"was built for {in_chans} input channels, the image has 3"):
            backbone(torch.randn(1, 3, 32, 32))
    assert channel_statistics((0.1, 0.2, 0.6), 1) == pytest.approx((0.3,))
    assert channel_statistics((0.1, 0.2, 0.6), 4) == (0.1, 0.2, 0.6, 0.1)


def test_names_have_one_spelling() -> None:
    assert canonical_name("timm:mobilenetv2_100?std=0.5&pad_type=same&mean=0.5") == "mobilenetv2_100?mean=0.5&pad_type=same&std=0.5"
    spec = describe_backbone("mobilenetv2_100?mean=0.5&std=0.25")
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.25,) * 3)
    assert set(BUILTIN) < set(suggested())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mitt_b0", r"unknown backbone 'mitt_b0'; nearest: mit_b0"),
        ("resnet118", r"unknown backbone 'resnet118'; nearest: resnet1\d"),
        ("vit_base_patch16_224", r"yields maps at strides 16; a backbone needs 4, 8, 16 and 32; near it"),
        ("resnet18?in_chans=4", "in_chans is not an argument of the name; nasseg sets it"),
        ("resnet18?x", r"arguments behind the question mark are written key=value and joined by &, not 'x'"),
        ("resnet18?a=1&a=2", "a is given twice"),
        ("resnet18?bogus=1", "takes no argument 'bogus'"),
        ("mobilenetv2_100?pad_type=odd", "pad_type is one of symmetric, same, valid"),
        ("mit_b0?depth=3", "mit_b0 takes no argument 'depth'; mean and std are the only ones"),
        ("mit_b0?mean=1,2", "mean is one number, or 3 joined by commas"),
        ("mit_b0?std=0", "std must be above 0"),
        ("resnet18.nothing", "timm's resnet18 has no weights of that name; there are "),
    ],
)
def test_names_that_are_no_backbone(name: str, sentence: str) -> None:
    with pytest.raises(BackboneError, match=sentence):
        describe_backbone(name)


def test_the_contract_is_checked_as_data() -> None:
    fine = {"name": "n", "channels": (1, 2, 3, 4), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    for change, sentence in (
        ({"strides": (2, 4, 8, 16)}, "yields maps at strides 2, 4, 8, 16; a backbone here has one map at each of 4, 8, 16, 32"),
        ({"channels": (1, 2, 3)}, "has channels 1, 2, 3; a backbone here has four stages"),
        ({"mean": (0.0,)}, "has 1 means and 3 deviations for 3 input channels"),
        ({"size": (224, 200)}, "takes images of 224x200 only; both edges must be multiples of 32"),
    ):
        with pytest.raises(BackboneError, match=sentence):
            BackboneSpec(**{**fine, **change})  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match="multiples of 32, not 33x64: pad the image first"):
        create_backbone("mit_b0")(torch.randn(1, 3, 33, 64))
    with pytest.raises(BackboneError, match=r"an image has at least one channel \(given 0\)"):
        describe_backbone("mit_b0", 0)


@pytest.mark.parametrize("name", ["mit_b0", "mscan_t", "resnet18", "swin_tiny_patch4_window7_224"])
def test_a_weights_file_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved = create_backbone(name)
    save_file({key: value.contiguous() for key, value in saved.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = create_backbone(name, weights=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in saved.state_dict().items())


def test_weights_that_are_not_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="give either published weights"):
        create_backbone("resnet18", pretrained=True, weights="w.safetensors")
    with pytest.raises(WeightsError, match="timm's hub has no weights for mit_b0: download a published checkpoint"):
        create_backbone("mit_b0", pretrained=True)
    save_file({key: value.contiguous() for key, value in create_backbone("mscan_t").state_dict().items()}, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match=r"m\.safetensors: weights of another model than mit_b0: .* are missing, such as "):
        create_backbone("mit_b0", weights=str(tmp_path / "m.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    for file in ("torn.safetensors", "nothing.safetensors"):
        with pytest.raises(WeightsError, match=file):
            create_backbone("mit_b0", weights=str(tmp_path / file))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "file"), [("tf_efficientnet_lite0", "tf_efficientnet_lite0"), ("mobilenetv2_100?pad_type=same", "mobilenetv2_100")]
)
def test_real_weights_are_loaded_whole(name: str, file: str, shared: Path) -> None:
    path = shared / "weights" / f"{file}.safetensors"
    held = load_file(path)
    backbone = create_backbone(name, weights=str(path)).eval()
    assert all(value.isfinite().all() for value in backbone.state_dict().values())
    first = next(key for key in backbone.state_dict() if key.endswith("conv_stem.weight"))
    assert torch.equal(backbone.state_dict()[first], held["conv_stem.weight"])
    with torch.no_grad():
        assert all(m.isfinite().all() and m.std() > 0 for m in backbone(torch.randn(1, 3, 64, 64)))
    gray = create_backbone(name, weights=str(path), in_chans=1)
    torch.testing.assert_close(gray.state_dict()[first], held["conv_stem.weight"].sum(1, keepdim=True))
