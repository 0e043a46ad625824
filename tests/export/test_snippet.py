"""The example with ONNX Runtime, run as printed on every validation image, has the card's mIoU."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from kits_trainer import TINY, Told
from PIL import Image

from nasseg.data.layouts import open_data
from nasseg.export.bundle import export_run
from nasseg.export.onnx_file import write_onnx
from nasseg.export.preprocessing import Preprocessing
from nasseg.export.program import trace
from nasseg.training.evaluate import evaluate
from nasseg.training.job import forward
from nasseg.training.metrics import SegmentationMetrics
from nasseg.training.rundir import RunDir
from nasseg.training.trial import Trial

pytestmark = pytest.mark.xdist_group("snippet")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "bundle.md"
DATA = "synthetic:streets?seed=0&size=100x150&train=8&val=6"
SETTINGS = {"iterations": 40, "batch_size": 4, "threads": 1, "device": "cpu", "ema": 0.0, "lr": 2e-2, "scale_low": 1.0, "scale_high": 1.5,
            "class_weights": "none"}  # fmt: skip
SIZE = (60, 90)
"""The network's stride, 8, divides neither side: padded, its last cells reach beyond the image; unpadded they do not."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = RunDir.create(
        tmp_path_factory.mktemp("snippet") / "run", Trial(genotype=TINY, data=DATA, size=SIZE, trainer="full", settings=SETTINGS)
    )
    assert made.run(Told()).metrics["miou"] > 15
    return made


@pytest.fixture(scope="module")
def bundle(run: RunDir) -> Path:
    export_run(run.path, run.path.parent / "bundle", images=1)
    return run.path.parent / "bundle"


def example(page: Path) -> str:
    """The first Python block of a page, as printed."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0]


def miou_of(code: str) -> float:
    """mIoU of what the example writes for each validation image; it runs in the current folder."""
    data = open_data(DATA)
    metrics = SegmentationMetrics(data.num_classes)
    for image, mask in data.split("val"):
        Image.fromarray(image).save("image.png")
        exec(code, {})
        with Image.open("mask.png") as found:
            metrics.update(torch.from_numpy(np.array(found)).long(), torch.from_numpy(mask))
    return metrics.compute().miou


@pytest.mark.parametrize("printed", ["card", "docs"])
def test_it_has_the_cards_miou(bundle: Path, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shutil.copytree(bundle, tmp_path / "b"))
    card = Path("README.md").read_text()
    said = re.search(r"\| mIoU \| val \| ([\d.]+) % \|", card)
    assert said is not None
    assert miou_of(example(Path("README.md") if printed == "card" else DOCS)) == pytest.approx(float(said[1]), abs=0.05)
    assert "which is how the accuracy above was measured." in card


def test_an_unpadded_network_has_its_miou(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights without padding, as an ONNX file: the cells of its logits cover the image exactly."""
    model = run.load_model()
    model.pad_multiple = 1
    facts = Preprocessing(
        classes=run.classes,
        palette=tuple((red, green, blue) for red, green, blue in run.facts["palette"]),
        size=SIZE,
        mean=tuple(run.facts["mean"]),
        std=tuple(run.facts["std"]),
        stride=model.stride,
        pad_multiple=1,
    )
    monkeypatch.chdir(tmp_path)
    facts.save("preprocessing.json")
    write_onnx(trace(model, SIZE, 3).program, "model.onnx", facts.to_dict())
    measured = evaluate(
        functools.partial(forward, model),
        open_data(DATA).split("val"),
        num_classes=facts.num_classes,
        classes=facts.classes,
        mean=facts.mean,
        std=facts.std,
        **facts.protocol.options(),
    ).miou
    assert abs(measured - run.metrics["metrics"]["miou"]) > 0.5
    assert miou_of(example(DOCS)) == pytest.approx(measured, abs=0.05)
