"""SegFormer as four code bases write it: logits as those of transformers' and segmentation_models_pytorch's own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kits_published import CLASSES, SIZES, MmsegSegFormer, hugging_face, image, nvlabs, same_logits, smp_logits, smp_segformer
from safetensors.torch import load_file, save_file

from nasseg.published.network import Published


@pytest.mark.parametrize("original", [True, False], ids=["names of 4", "names of 5"])
def test_hugging_face(original: bool, tmp_path: Path) -> None:
    network = hugging_face()
    network.save_pretrained(tmp_path, save_original_format=original)  # type: ignore[operator]
    assert any("decode_head.linear_c.0" in key for key in load_file(tmp_path / "model.safetensors")) == original
    found = Published.open(tmp_path)
    assert found.kind == "SegFormer as Hugging Face's transformers writes it"
    assert (found.genotype.backbone, found.genotype.project, found.genotype.fusion_width) == ("mit_b0?norm_eps=1e-05", 256, 256)
    model = found.model()
    for size in SIZES:
        with torch.no_grad():
            same_logits(network(image(size)).logits, model(image(size)))


def test_hugging_face_as_a_file_alone(tmp_path: Path) -> None:
    network = hugging_face()
    torch.save(network.state_dict(), tmp_path / "network.bin")
    with torch.no_grad():
        same_logits(network(image((64, 64))).logits, Published.open(tmp_path / "network.bin").model()(image((64, 64))))


@pytest.mark.parametrize("width", [128, 256])
def test_segmentation_models_pytorch(width: int, tmp_path: Path) -> None:
    network: Any = smp_segformer(decoder_segmentation_channels=width)
    network.save_pretrained(tmp_path)
    found = Published.open(tmp_path)
    assert found.kind == "SegFormer as segmentation_models_pytorch writes it"
    assert (found.genotype.backbone, found.genotype.project, found.genotype.fusion_width) == ("mit_b0", width, width)
    model = found.model()
    with torch.no_grad():
        same_logits(smp_logits(network, image((64, 96))), model(image((64, 96))))
    # The original refuses other sizes and says to pad them, which is what is done.
    assert model.pad_multiple == 32


def test_segmentation_models_pytorch_of_one_channel_in_lightning(tmp_path: Path) -> None:
    network = smp_segformer(in_channels=1, aux_params={"classes": 3})
    torch.save({"state_dict": {f"model.{key}": value for key, value in network.state_dict().items()}, "epoch": 3}, tmp_path / "last.ckpt")
    found = Published.open(tmp_path / "last.ckpt")
    assert found.in_chans == 1
    assert "2 tensors that the network never uses are left out, such as classification_head.3.weight" in found.remarks
    x_BCHW = image((32, 64), channels=1)
    with torch.no_grad():
        same_logits(smp_logits(network, x_BCHW), found.model()(x_BCHW))


def test_the_authors(tmp_path: Path) -> None:
    network = smp_segformer()
    torch.save({"meta": {"epoch": 1}, "state_dict": nvlabs(network.state_dict())}, tmp_path / "segformer.b0.pth")
    found = Published.open(tmp_path / "segformer.b0.pth")
    assert found.kind == "SegFormer as its authors (NVlabs) write it"
    assert found.genotype.backbone == "mit_b0"
    assert "2 tensors that the network never uses are left out, such as decode_head.conv_seg.weight" in found.remarks
    model = found.model()
    with torch.no_grad():
        same_logits(smp_logits(network, image((64, 96))), model(image((64, 96))))
    assert model.pad_multiple == 1


def test_mmsegmentation(tmp_path: Path) -> None:
    network = MmsegSegFormer()
    meta = {"dataset_meta": {"classes": ("a", "b", "c", "d", "e"), "palette": [[i, i, i] for i in range(5)]}, "cfg": "crop_size = (64, 96)"}
    torch.save({"state_dict": network.published(), "meta": meta, "message_hub": {}}, tmp_path / "iter_160000.pth")
    found = Published.open(tmp_path / "iter_160000.pth")
    assert found.kind == "SegFormer as mmsegmentation writes it"
    genotype = found.genotype
    assert (genotype.backbone, genotype.project, genotype.project_norm) == ("mit_b0?norm_eps=1e-06", 64, "batch")
    assert (found.classes, found.palette[4], found.size) == (("a", "b", "c", "d", "e"), (4, 4, 4), (64, 96))
    model = found.model()
    for size in SIZES:
        with torch.no_grad():
            same_logits(network(image(size)), model(image(size)))


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    state = {key: value.half() if value.is_floating_point() else value for key, value in smp_segformer().state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    model = Published.open(tmp_path / "half.safetensors").model()
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.num_classes == CLASSES
