"""The example with ONNX Runtime, run as printed on every validation image, has the card's mIoU."""

from __future__ import annotations

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
from nasseg.training.metrics import SegmentationMetrics
from nasseg.training.rundir import RunDir
from nasseg.training.trial import Trial

pytestmark = pytest.mark.xdist_group("snippet")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "bundle.md"
DATA = "synthetic:streets?seed=0&size=100x150&train=8&val=6"
SETTINGS = {"iterations": 40, "batch_size": 4, "threads": 1, "device": "cpu", "ema": 0.0, "lr": 2e-2, "scale_low": 1.0, "scale_high": 1.5}
# The network's stride, 8, divides neither side: padded, its last cells reach beyond the image; unpadded they do not.
CASES = {"padded": ((60, 90), {}), "unpadded": ((90, 130), {"pad_multiple": 1})}


@pytest.fixture(scope="module", params=CASES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    size, settings = CASES[request.param]
    folder = tmp_path_factory.mktemp("snippet")
    run = RunDir.create(folder / "run", Trial(genotype=TINY, data=DATA, size=size, trainer="full", settings={**SETTINGS, **settings}))
    assert run.run(Told()).metrics["miou"] > 15
    export_run(run.path, folder / "bundle", images=6)
    return folder / "bundle"


@pytest.mark.parametrize("printed", ["card", "docs"])
def test_it_has_the_cards_miou(bundle: Path, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shutil.copytree(bundle, tmp_path / "b"))
    card = Path("README.md").read_text()
    example = re.findall(r"```python\n(.*?)```", card if printed == "card" else DOCS.read_text(), re.DOTALL)[0]
    data = open_data(DATA)
    metrics = SegmentationMetrics(data.num_classes)
    for image, mask in data.split("val"):
        Image.fromarray(image).save("image.png")
        exec(example, {})
        with Image.open("mask.png") as found:
            metrics.update(torch.from_numpy(np.array(found)).long(), torch.from_numpy(mask))
    said = re.search(r"\| mIoU \| val \| ([\d.]+) % \|", card)
    assert said is not None
    assert metrics.compute().miou == pytest.approx(float(said[1]), abs=0.05)
    assert "which is how the accuracy above was measured." in card
