"""Stand-ins that the tests of export, predict and overlays share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from nasseg.export.preprocessing import Preprocessing
from nasseg.genes.presets import preset
from nasseg.models.segmenter import SegModel, build
from nasseg.training.rundir import RunDir
from nasseg.training.trial import Trial

CLASSES = ("red", "green", "blue")
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def preprocessing(size: tuple[int, int] = (32, 48), image_size: tuple[int, int] | None = (32, 48), stride: int = 4) -> Preprocessing:
    """Three classes, normalisation that leaves pixel / 255 as it is."""
    return Preprocessing(classes=CLASSES, palette=PALETTE, size=size, mean=(0.0,) * 3, std=(1.0,) * 3, stride=stride, image_size=image_size)


def strongest_colour(x_BCHW: Tensor) -> Tensor:
    """A network whose logits are the mean colour of each 4×4 cell: its class is the strongest channel. It sees nothing beyond a cell."""
    return F.avg_pool2d(x_BCHW, 4, ceil_mode=True)


def blocks(height: int, width: int, block: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image of square blocks in pure class colours, and its true mask."""
    labels = np.random.default_rng(seed).integers(0, 3, (-(-height // block), -(-width // block)))
    mask = labels.repeat(block, 0).repeat(block, 1)[:height, :width].astype(np.uint8)
    return np.eye(3, dtype=np.uint8)[mask] * 255, mask


def tiny_network(name: str = "csap", backbone: str = "test_resnet", num_classes: int = 3, seed: int = 0) -> SegModel:
    """A published design on a network of a few layers, with random weights whose logits reach some size."""
    torch.manual_seed(seed)
    model = build(preset(name, backbone=backbone), num_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def make_run(
    path: Path, *, name: str = "csap", data: str = "synthetic?train=2&val=5&size=48x64", size: tuple[int, int] = (64, 64)
) -> RunDir:
    """A training run's folder as training leaves it, with random weights and made-up numbers."""
    run = RunDir.create(path, Trial(genotype=preset(name, backbone="test_resnet"), data=data, size=size, trainer="full", seed=7))
    model = tiny_network(name, num_classes=len(run.classes))
    save_file(model.state_dict(), run.weights)
    measured = {
        "metrics": {"miou": 41.254, "macc": 55.5, "aacc": 80.125, "miou_holdout": 33.0},
        "per_class": {run.classes[0]: 90.0, run.classes[1]: 12.345},
        "protocol": {"split": "val", "images": 5, "size": list(size), "resize": "stretch", "flip": False},
        "iteration": 120,
    }
    (path / "metrics.json").write_text(json.dumps(measured))
    return run
