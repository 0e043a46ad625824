"""Weights files: what loads, and the sentence for what does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from kits_backbone import image
from safetensors.torch import load_file, save_file
from timm.models import adapt_input_conv

from nasseg.errors import WeightsError
from nasseg.models.backbones.registry import create_backbone
from nasseg.models.backbones.weights import load_weights, read_weights

TINY = "test_resnet"  # timm's own miniature


def tiny_file(folder: Path, name: str = "weights.safetensors", **changes: torch.Tensor | None) -> str:
    """timm's whole miniature classifier as a file; ``changes`` replace tensors, None leaves one out (dots written as __)."""
    torch.manual_seed(3)
    tensors = dict(timm.create_model(TINY).state_dict())
    for key, value in changes.items():
        tensors.pop(key.replace("__", "."), None)
        if value is not None:
            tensors[key.replace("__", ".")] = value
    path = folder / name
    save_file(tensors, path)
    return str(path)


def test_a_timm_classifier_fills_every_tensor(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    backbone = create_backbone(TINY, weights=path)
    tensors = load_file(path)
    assert all(torch.equal(value, tensors[key.removeprefix("body.")]) for key, value in backbone.state_dict().items())


def test_a_classifier_of_other_classes_is_left_over_too(tmp_path: Path) -> None:
    create_backbone(TINY, weights=tiny_file(tmp_path, fc__weight=torch.zeros(7, 96), fc__bias=torch.zeros(7)))


def test_missing_batch_counters_are_no_matter(tmp_path: Path) -> None:
    backbone = create_backbone(TINY, weights=tiny_file(tmp_path, bn1__num_batches_tracked=None))
    assert backbone.state_dict()["body.bn1.num_batches_tracked"] == 0


def test_a_whole_network_of_ours_gives_its_backbone(tmp_path: Path) -> None:
    source = create_backbone(TINY)
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    save_file(state | {"decoder.fusion.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    loaded = create_backbone(TINY, weights=str(tmp_path / "model.safetensors")).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": {f"module.{k}": v for k, v in s.items()}}])
def test_training_checkpoints_are_unwrapped(wrap: object, tmp_path: Path) -> None:
    state = timm.create_model(TINY).state_dict()
    assert callable(wrap)
    torch.save(wrap(state), tmp_path / "last.pth")
    assert read_weights(tmp_path / "last.pth").keys() == state.keys()


def test_averaged_weights_come_first(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": {"a": torch.ones(1)}}, tmp_path / "last.pth")
    assert read_weights(tmp_path / "last.pth")["a"] == 1


@pytest.mark.parametrize("in_chans", [1, 2, 5])
def test_the_first_convolution_is_adapted_as_timm_does_it(in_chans: int, tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    backbone = create_backbone(TINY, weights=path, in_chans=in_chans)
    (first,) = backbone.input_convs
    original = load_file(path)[first.removeprefix("body.")]
    assert torch.equal(backbone.state_dict()[first], adapt_input_conv(in_chans, original.clone()))
    assert backbone.state_dict()[first].shape[1] == in_chans


def test_grey_as_colour_and_grey_as_grey_agree(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    grey = image(channels=1)
    with torch.no_grad():
        three = create_backbone(TINY, weights=path).eval()(grey.expand(-1, 3, -1, -1))
        one = create_backbone(TINY, weights=path, in_chans=1).eval()(grey)
    for a, b in zip(three, one, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_our_own_stem_is_adapted_too(tmp_path: Path) -> None:
    source = create_backbone("mit_b0").state_dict()
    save_file(source, tmp_path / "b0.safetensors")
    loaded = create_backbone("mit_b0", weights=str(tmp_path / "b0.safetensors"), in_chans=1).state_dict()
    torch.testing.assert_close(loaded["stages.0.embed.proj.weight"], source["stages.0.embed.proj.weight"].sum(1, keepdim=True))


def test_a_stem_on_rearranged_pixels_cannot_take_more_channels(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = timm.create_model("tresnet_m").state_dict()
    save_file({key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}, tmp_path / "t.safetensors")
    with pytest.raises(WeightsError, match="tresnet_m cannot take its three-channel weights with 4 input channels"):
        create_backbone("tresnet_m", weights=str(tmp_path / "t.safetensors"), in_chans=4)


def test_a_file_that_lacks_a_tensor_is_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    backbone = create_backbone(TINY)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    path = tiny_file(tmp_path, layer2__0__conv1__weight=None)
    with pytest.raises(
        WeightsError, match=r"weights of another model than test_resnet: 1 of its \d+ tensors are missing, such as body.layer2.0.conv1"
    ):
        load_weights(backbone, path)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_a_file_with_tensors_of_nobody_is_refused(tmp_path: Path) -> None:
    path = tiny_file(tmp_path, extra__weight=torch.zeros(1))
    with pytest.raises(WeightsError, match=r"1 tensors of the file mean nothing to it, such as extra.weight$"):
        load_weights(create_backbone(TINY), path)


def test_a_file_with_another_shape_is_refused(tmp_path: Path) -> None:
    path = tiny_file(tmp_path, bn1__weight=torch.zeros(5))
    with pytest.raises(WeightsError, match=r"1 have another shape, such as body.bn1.weight: 5 in the file, 32 in the model$"):
        load_weights(create_backbone(TINY), path)


def test_the_owner_is_named_where_it_is_known(tmp_path: Path) -> None:
    save_file(create_backbone("mscan_t").state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"weights of another model than mit_b0: .*; it fits mscan_t$"):
        create_backbone("mit_b0", weights=str(tmp_path / "x.safetensors"))
    manifest = {"models": ["torn", {"file": "other"}, {"file": "x.safetensors", "timm_id": "somebody"}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match=re.escape(f"{tmp_path / 'manifest.json'} says it is of somebody")):
        create_backbone("mit_b0", weights=str(tmp_path / "x.safetensors"))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere.safetensors: no such weights file"):
        read_weights(tmp_path / "nowhere.safetensors")
    with pytest.raises(WeightsError, match=r"is a folder; name a weights file in it$"):
        read_weights(tmp_path)
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0")
    with pytest.raises(WeightsError, match=r"is a folder; name a weights file in it, such as torn.safetensors"):
        read_weights(tmp_path)
    with pytest.raises(WeightsError, match=r"torn.safetensors: not readable as safetensors: "):
        read_weights(tmp_path / "torn.safetensors")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(WeightsError, match=r"torn.pth: not readable as a PyTorch checkpoint: "):
        read_weights(tmp_path / "torn.pth")
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"weights are read from files that end in .safetensors, .pth, .*, not in .onnx"):
        read_weights(tmp_path / "net.onnx")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match=r"empty.pth: holds no named tensors"):
        read_weights(tmp_path / "empty.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list.pth: holds no named tensors"):
        read_weights(tmp_path / "list.pth")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0"),
        ("mobilenetv2_100?mean=0.5&pad_type=same&std=0.5", "mobilenetv2_100"),
    ],
)
def test_real_weights(name: str, file: str, shared: Path) -> None:
    path = shared / "weights" / f"{file}.safetensors"
    backbone = create_backbone(name, weights=str(path)).eval()
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tensors = load_file(path)
    assert all(torch.equal(value, tensors[key.removeprefix("body.")]) for key, value in backbone.state_dict().items())
    left_over = {key.partition(".")[0] for key in tensors} - {key.split(".")[1] for key in backbone.state_dict()}
    assert left_over == {"conv_head", "bn2", "classifier"}
    with torch.no_grad():
        whole = timm.create_model(file, **({"pad_type": "same"} if "pad_type" in name else {})).eval()
        whole.load_state_dict(tensors)
        deepest = backbone(image())[3]
        assert deepest.isfinite().all()
        features = whole.bn2(whole.conv_head(deepest))
        torch.testing.assert_close(features, whole.forward_features(image()), rtol=1e-4, atol=1e-4)


@pytest.mark.shared
def test_real_weights_of_another_model_are_refused(shared: Path) -> None:
    path = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    with pytest.raises(
        WeightsError, match=r"another model than resnet18: 96 of its 120 tensors are missing.*says it is of tf_efficientnet_lite0$"
    ):
        create_backbone("resnet18", weights=str(path))
