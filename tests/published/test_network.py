"""Opening a published network: what it says of itself, and what a fine-tuning begins with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kits_published import CITY_NAMES, image, nvlabs, randomised
from torch import Tensor

from nasseg.data.ade20k import Ade20k
from nasseg.data.cityscapes import Cityscapes
from nasseg.data.palette import default_palette
from nasseg.errors import WeightsError
from nasseg.models.segmenter import SegModel, build
from nasseg.published.description import Description, classes_of
from nasseg.published.network import Published, is_published
from tests.published.test_recognise import smp_names


def saved(folder: Path, classes: int = 3, **beside: Any) -> Path:
    state = nvlabs(smp_names(classes), classes)
    generator = torch.Generator().manual_seed(1)
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.ones_like(value) if "running_var" in key else torch.randn(value.shape, generator=generator) * 0.05
    torch.save({"state_dict": state, **beside}, folder / "net.pth")
    return folder / "net.pth"


def configured(text: str, **meta: Any) -> dict[str, Any]:
    return {"meta": {"config": text, **meta}}


def test_a_file_that_says_nothing(tmp_path: Path) -> None:
    found = Published.open(saved(tmp_path))
    assert (found.classes, found.size, found.protocol) == (None, None, None)
    assert found.palette == default_palette(3)
    assert found.remarks == (
        "it does not say how images were normalised; ImageNet's mean and deviation are taken",
        "2 tensors that the network never uses are left out, such as decode_head.conv_seg.weight",
    )


def test_names_of_a_public_set_bring_its_spelling_and_colours(tmp_path: Path) -> None:
    names = tuple(f"{name.upper()} " for name in CITY_NAMES)
    found = Published.open(saved(tmp_path, 19, **configured("", CLASSES=names)))
    facts = Cityscapes().facts
    assert facts is not None
    assert (found.classes, found.palette) == (facts.names, facts.palette)
    ade = Ade20k().facts
    assert ade is not None
    own = tuple((i, i, i) for i in range(150))
    assert classes_of(Description(classes=ade.names, palette=own), 150) == (ade.names, own)


@pytest.mark.parametrize("names", [("a", "b"), ("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "1", "2")])
def test_names_that_say_nothing_are_none(names: tuple[str, ...]) -> None:
    assert classes_of(Description(classes=names, palette=((1, 2, 3),)), 3) == (None, default_palette(3))


def test_other_statistics_become_the_backbones(tmp_path: Path) -> None:
    text = "img_norm_cfg = dict(mean=[127.5, 127.5, 127.5], std=[51.0, 51.0, 51.0], to_rgb=True)"
    found = Published.open(saved(tmp_path, **configured(text)))
    assert found.genotype.backbone == "mit_b0?mean=0.5,0.5,0.5&std=0.2,0.2,0.2"
    backbone: Any = found.model().backbone
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    usual = "img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)"
    assert Published.open(saved(tmp_path, **configured(usual))).genotype.backbone == "mit_b0"


def test_a_network_on_bgr_takes_rgb(tmp_path: Path) -> None:
    rgb = Published.open(saved(tmp_path)).model()
    bgr = Published.open(saved(tmp_path, **configured("img_norm_cfg = dict(mean=[0, 0, 0], std=[255, 255, 255], to_rgb=False)")))
    assert "it was trained on BGR images; its first convolution is turned round, so that it takes RGB" in bgr.remarks
    x_BCHW = image((32, 64))
    with torch.no_grad():
        torch.testing.assert_close(bgr.model()(x_BCHW.flip(1)), rgb(x_BCHW), rtol=1e-4, atol=1e-5)


def test_padding_is_the_configurations(tmp_path: Path) -> None:
    text = "model = dict(data_preprocessor=dict(test_cfg=dict(size_divisor=64)))"
    assert Published.open(saved(tmp_path, **configured(text))).model().pad_multiple == 64
    with pytest.raises(WeightsError, match=r"net.pth: it pads images to multiples of 20; nasseg's networks to none or multiples of 32"):
        Published.open(saved(tmp_path, **configured(text.replace("64", "20"))))


def test_aligned_corners_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"net.pth: its head resizes with align_corners=True; nasseg's resize with corners not aligned"):
        Published.open(saved(tmp_path, **configured("model = dict(decode_head=dict(align_corners=True))")))


def filled(found: Published, classes: tuple[str, ...]) -> tuple[str, SegModel, Tensor]:
    model = build(found.genotype, len(classes))
    randomised(model, seed=5)
    before = model.state_dict()["decoder.fusion.classifier.weight"].clone()
    found.begin(model, classes)
    return found.beginning(classes), model, before


def test_fine_tuning_keeps_a_classifier_that_fits(tmp_path: Path) -> None:
    found = Published.open(saved(tmp_path, **configured("", CLASSES=("road", "car", "sky"))))
    for classes in (("road", "car", "sky"), ("Road", " car", "sky")):
        said, model, _ = filled(found, classes)
        assert said == f"begins with all weights of {found.path}, the classifier of 3 classes included"
        assert all(torch.equal(value, found.tensors[key]) for key, value in model.state_dict().items())
    unnamed = Published.open(saved(tmp_path))
    assert filled(unnamed, ("a", "b", "c"))[0].startswith("begins with all weights")


@pytest.mark.parametrize(
    ("classes", "why"), [(("road", "car"), "3 classes there, 2 here"), (("road", "sky", "car"), "both have 3 classes, but of other names")]
)
def test_fine_tuning_on_other_classes_begins_with_a_new_classifier(classes: tuple[str, ...], why: str, tmp_path: Path) -> None:
    found = Published.open(saved(tmp_path, **configured("", CLASSES=("road", "car", "sky"))))
    said, model, before = filled(found, classes)
    assert said == f"begins with the weights of {found.path}, but for the classifier, which is new: {why}"
    state = model.state_dict()
    assert torch.equal(state["decoder.fusion.classifier.weight"], before)
    others = [key for key in state if ".classifier." not in key]
    assert all(torch.equal(state[key], found.tensors[key]) for key in others)


def test_what_looks_like_a_published_network(tmp_path: Path) -> None:
    file = saved(tmp_path)
    assert is_published(file)
    assert not is_published(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_model_class": "Segformer", "encoder_name": "mit_b0"}))
    assert not is_published(tmp_path)
    file.rename(tmp_path / "pytorch_model.bin")
    assert is_published(str(tmp_path))
    assert Published.open(tmp_path).num_classes == 3
    (tmp_path / "genotype.yaml").touch()
    assert not is_published(tmp_path / "genotype.yaml")


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a published network's folder holds config.json and model.safetensors or pytorch_model.bin"):
        Published.open(tmp_path)
    with pytest.raises(WeightsError, match=r"nowhere.pth: no such weights file"):
        Published.open(tmp_path / "nowhere.pth")
