"""The card: what it says, and that its examples run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from kits_export import preprocessing
from PIL import Image

from nasseg.export.card import Facts, card, licence_note, onnxruntime_example, without_folders
from nasseg.export.parity import Agreement, Parity
from nasseg.genes.presets import preset
from nasseg.models.costing import cost
from nasseg.models.folding import Folding

pytestmark = pytest.mark.xdist_group("bundle")

FOLDING = Folding((("body.bn1", "body.conv1"), ("body.bn2", "body.conv2")), ("body.bn3",), 4)
VERSIONS = {"nasseg": "0.1.0", "torch": "2.9"}


def text(facts: Facts, parity: Parity | None = None, design: str = "csap") -> str:
    genotype = preset(design, backbone="test_resnet")
    counted = cost(genotype, size=(64, 64), num_classes=3)
    agreed = parity or Parity("3 random pictures", (Agreement("model.onnx", 2e-6, 2.0, 99.99, None),))
    return card(genotype, preprocessing((64, 64), None, 8), counted, facts, agreed, FOLDING, VERSIONS)


def test_what_is_known_of_a_run_stands_on_the_card():
    facts = Facts(
        trainer="full",
        settings={"lr": 1e-3, "scale": [0.5, 2.0], "ema": False},
        data="camvid:/home/me/camvid?holdout=x",
        seed=3,
        iteration=400,
        metrics={"miou": 61.236, "aacc_holdout": 80.0},
        per_class={"red": 70.0, "blue": 52.5},
        protocol={"split": "val", "size": [64, 64], "flip": False},
        pretrained=False,
        environment={"torch": "2.9", "device": "cpu", "commit": None},
    )
    made = text(facts, Parity("3 images of val", (Agreement("model.onnx", 2e-6, 2.0, 99.99, 61.2),), 61.21, 9))
    for line in (
        "# Segmentation of red, green and blue",
        "| mIoU | val | 61.24 % |",
        "| aAcc | holdout | 80.00 % |",
        "| red | 70.00 % |",
        "| green | no pixels |",
        "Protocol: split val; size 64x64; flip no. Weights of iteration 400.",
        "| trainer | `full` |",
        "| data | `camvid:…/camvid?holdout=x` |",
        "| lr | `0.001` |",
        "| scale | `0.5, 2.0` |",
        "Trained with: torch 2.9; device cpu.",
        "| model.onnx | 2e-06 | 1e-06 | 99.990 % | 61.200 % (-0.010) |",
        "mIoU of the module over 9 images of the validation split: 61.210 %.",
        "The backbone was trained from scratch: no one else's weights are in here.",
        "In the ONNX file and the program: BatchNorms folded into convolutions: 2, left: 1; results of weight arithmetic stored: 4. "
        "The weights in `model.safetensors` are as they were trained.",
    ):
        assert line in made
    assert "/home/me" not in made
    counted = cost(preset("csap", backbone="test_resnet"), size=(64, 64), num_classes=3)
    assert f"| **all** | {counted.params:,} | {counted.macs:,} | 100.0 % |" in made
    assert f"| stage4 | {counted.parts['stage4'].params:,} | {counted.parts['stage4'].macs:,} |" in made
    assert "| stage1 |" not in made
    assert re.search(r"Written by nasseg 0\.1\.0 on \d{4}-\d\d-\d\d with torch 2\.9\.\n$", made)


@pytest.mark.parametrize(("design", "strips"), [("scaseg", True), ("segformer", False)])
def test_the_form_of_strips_is_said_where_there_are_any(design: str, strips: bool):
    assert ("Strips of attention stand there in their exact form" in text(Facts(), design=design)) == strips


def test_what_is_not_known_is_said():
    made = text(Facts())
    assert "Not known: the network was exported without measurements." in made
    assert "Not known: the network was exported from Python without its history." in made
    assert "mIoU was not compared: the data were not at hand." in made
    assert "| model.onnx | 2e-06 | 1e-06 | 99.990 % | not measured |" in made
    assert "What the backbone's weights started from, and its licence, is not known to nasseg." in made


@pytest.mark.parametrize(
    ("backbone", "pretrained", "weights", "words"),
    [
        ("mit_b0", True, None, r"weights \(nvidia/mit-b0 on the Hugging Face Hub\), licence NVIDIA .* \(non-commercial use\)\.$"),
        ("mscan_t?norm_eps=1e-6", True, None, r"OpenMMLab's copy .*/mscan_t_20230227-119e8c9f\.pth\), licence Apache-2\.0\.$"),
        ("test_resnet", False, "/a/b/lite0.safetensors", "the weights file `lite0.safetensors`: its licence"),
        ("resnet18", True, None, r"timm's weights of `resnet18` \(timm/resnet18\..*\), licence apache-2\.0"),
    ],
)
def test_licence_notes(backbone: str, pretrained: bool, weights: str | None, words: str):
    assert re.search(words, licence_note(backbone, pretrained, weights))


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("synthetic:streets?train=2&size=96x128", "synthetic:streets?train=2&size=96x128"),
        ("camvid:/data/sets/camvid?holdout=0006R0_*", "camvid:…/camvid?holdout=0006R0_*"),
        ("/data/sets/mine", "…/mine"),
        ("/data/sets/mine?classes=/x/c.txt", "…/mine?classes=/x/c.txt"),
    ],
)
def test_folders_are_left_out(spec: str, shown: str):
    assert without_folders(spec) == shown


def test_the_examples_of_the_card_run_in_the_bundle(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "b"))
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    assert blocks[0].strip() == onnxruntime_example()
    assert len([line for line in blocks[0].splitlines() if line]) <= 20
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    Image.fromarray(image).save("image.png")
    first: dict[str, object] = {}
    exec(blocks[0], first)
    with Image.open("mask.png") as mask:
        assert mask.size == (150, 100)
        assert np.asarray(mask).max() < 11
    second: dict[str, object] = {}
    exec(blocks[1], second)
    assert second["mask"].shape == (1, 64, 64)
    with torch.no_grad():
        expected = second["model"](torch.from_numpy(first["x"]))
    torch.testing.assert_close(torch.from_numpy(first["logits"]), expected[0], rtol=1e-4, atol=1e-4)
    program = torch.export.load("model.pt2").module()
    torch.testing.assert_close(program(second["x"]), second["model"](second["x"]), rtol=1e-4, atol=1e-4)
